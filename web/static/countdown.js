// How long a turn or a hold still lasts. The server says how much is left, so a device whose clock is wrong counts right.
const shown = document.getElementById("countdown");
const until = Date.now() + Number(shown.dataset.leftMs);

function tick() {
  const left = Math.max(0, Math.ceil((until - Date.now()) / 1000));
  shown.textContent = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
  shown.classList.toggle("soon", left <= 60);
  if (left === 0) location.reload();
  else setTimeout(tick, 500);
}

if (until > Date.now()) tick();
