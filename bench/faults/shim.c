/* What a machine's disk and clock do to a program, put between it and the kernel (LD_PRELOAD). For trials alone.
 *
 * FAULT_SHIM names a folder. Its file `control` holds three 32-bit numbers: milliseconds that each fsync takes longer;
 * whether the disk is full (1: writes to regular files fail with ENOSPC); seconds by which the time of day is off, which
 * may be negative (the monotonic clock never is). After each fsync or fdatasync that succeeded, the file named by the
 * inode's number holds the size (64 bits) that the file had when it began: what is beyond may be lost with the power.
 *
 *     cc -shared -fPIC -O2 -o shim.so shim.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control { uint32_t delay_ms; uint32_t is_full; int32_t off_s; };
static const char *folder;
static struct control nothing;
/* Never null: clocks are read before any constructor has run. */
static volatile struct control *control = &nothing;

__attribute__((constructor)) static void begin(void) {
  char path[512];
  folder = getenv("FAULT_SHIM");
  if (folder == NULL) return;
  /* A copy: Redis writes its title over the environment. */
  folder = strdup(folder);
  snprintf(path, sizeof path, "%s/control", folder);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  void *shared = mmap(NULL, sizeof(struct control), PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (shared != MAP_FAILED) control = shared;
}

static int sync_with(const char *name, int fd) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  struct stat before;
  int known = fstat(fd, &before) == 0 && S_ISREG(before.st_mode);
  uint32_t delay_ms = control->delay_ms;
  if (delay_ms > 0) {
    struct timespec wait = {delay_ms / 1000, (delay_ms % 1000) * 1000000L};
    nanosleep(&wait, NULL);
  }
  int result = real(fd);
  int kept = errno;
  if (result == 0 && known && folder != NULL) {
    char path[512];
    int64_t size = before.st_size;
    snprintf(path, sizeof path, "%s/%llu", folder, (unsigned long long)before.st_ino);
    int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (file >= 0) {
      if (pwrite(file, &size, sizeof size, 0) < 0) { /* The older mark stands: more than need be counts as lost. */ }
      close(file);
    }
  }
  errno = kept;
  return result;
}

int fsync(int fd) { return sync_with("fsync", fd); }
int fdatasync(int fd) { return sync_with("fdatasync", fd); }

static int refuses(int fd) {
  struct stat one;
  if (!control->is_full || fstat(fd, &one) != 0 || !S_ISREG(one.st_mode)) return 0;
  errno = ENOSPC;
  return 1;
}

ssize_t write(int fd, const void *data, size_t length) {
  static ssize_t (*real)(int, const void *, size_t);
  if (!real) real = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
  /* Standard output and error are not the disk under trial. */
  return fd > 2 && refuses(fd) ? -1 : real(fd, data, length);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) {
  static ssize_t (*real)(int, const void *, size_t, off64_t);
  if (!real) real = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
  return refuses(fd) ? -1 : real(fd, data, length, at);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at) { return pwrite64(fd, data, length, at); }

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
  static ssize_t (*real)(int, const struct iovec *, int, off64_t);
  if (!real) real = (ssize_t (*)(int, const struct iovec *, int, off64_t))dlsym(RTLD_NEXT, "pwritev64");
  return refuses(fd) ? -1 : real(fd, parts, count, at);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return pwritev64(fd, parts, count, at); }

/* By system call: looking the real function up may itself ask for the time. */
int clock_gettime(clockid_t clock, struct timespec *now) {
  int result = (int)syscall(SYS_clock_gettime, clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += control->off_s;
  return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec exact;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return -1;
  now->tv_sec = exact.tv_sec;
  now->tv_usec = exact.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *kept) {
  struct timespec exact;
  clock_gettime(CLOCK_REALTIME, &exact);
  if (kept != NULL) *kept = exact.tv_sec;
  return exact.tv_sec;
}
