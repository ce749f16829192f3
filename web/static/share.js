// One event stream for all tabs of this browser that show the same ticket. The tab that holds a lock listens and passes
// on what it hears; when it is closed the lock goes to another. A tab that hears nothing for long takes the lock.
// Without locks (plain http off loopback, old browsers) each tab listens by itself; without streams it polls.
import { renewed } from "./session.js";

// A personal stream speaks every 5 s: a listener that heard nothing for this long has a dead connection, and a tab
// that was passed nothing for longer has a dead listener.
const DEAF_MS = 12_000;
const ORPHANED_MS = 25_000;
// A tab whose clock skipped this much was asleep, and has heard nothing because of that.
const ASLEEP_MS = 5_000;
const RETRY_MS = 2_000;

// Calls `hear(kind, value, isLeading)` with kinds ticket, line, message, closed, and how (stream, polling, away).
export function follow(ticket, hear) {
  const url = `/v1/tickets/${ticket}`;
  const name = `onsale ${ticket}`;
  const channel = "BroadcastChannel" in window ? new BroadcastChannel(name) : null;
  const last = {};
  let heardAt = Date.now();
  let tickedAt = Date.now();
  let isLeading = false;
  let stream = null;
  let timer = 0;

  function tell(kind, value) {
    if (kind !== "how") heardAt = Date.now();
    last[kind] = value;
    channel?.postMessage({ kind, value });
    hear(kind, value, isLeading);
  }

  if (channel) {
    channel.onmessage = ({ data: { kind, value } }) => {
      if (kind === "ask") {
        if (isLeading) for (const known of ["how", "ticket", "line"]) if (known in last) channel.postMessage({ kind: known, value: last[known] });
        return;
      }
      if (kind !== "how") heardAt = Date.now();
      if (!isLeading) hear(kind, value, false);
    };
    channel.postMessage({ kind: "ask" });
  }

  function later(work, ms) {
    clearTimeout(timer);
    timer = setTimeout(work, ms);
  }

  function hush() {
    clearTimeout(timer);
    stream?.close();
    stream = null;
  }

  function listen() {
    hush();
    heardAt = Date.now();
    let everOpened = false;
    stream = new EventSource(`${url}/events`);
    stream.onopen = () => { everOpened = true; tell("how", "stream"); };
    for (const kind of ["ticket", "line", "message", "closed"]) {
      stream.addEventListener(kind, (event) => tell(kind, JSON.parse(event.data)));
    }
    stream.onerror = () => {
      tell("how", "away");
      // The browser comes back by itself, when the server asked it to; but not after a refusal.
      if (stream?.readyState !== EventSource.CLOSED) return;
      hush();
      // A crowd that was refused together must not come back together.
      ask().then((ms) => ms && later(everOpened ? listen : poll, everOpened ? RETRY_MS * (0.5 + Math.random()) : ms));
    };
  }

  // A poll says why a stream was refused: the ticket has ended, the session ran out, or there is no room.
  // Answers how long to wait (ms), 0 when the page is being loaded anew.
  async function ask() {
    try {
      let answer = await fetch(url);
      if (answer.status === 401 && (await renewed())) answer = await fetch(url);
      if (answer.ok) {
        const told = await answer.json();
        tell("ticket", told);
        return told.poll_after_ms;
      }
      if (answer.status < 500 && answer.status !== 429) {
        location.reload();
        return 0;
      }
    } catch { /* No network: said below. */ }
    tell("how", "away");
    return 4000;
  }

  let polls = 0;
  async function poll() {
    tell("how", "polling");
    const ms = await ask();
    if (!ms) return;
    const line = await fetch(`/v1/sales/${location.pathname.split("/")[2]}/line`).catch(() => null);
    if (line?.ok) tell("line", await line.json());
    polls += 1;
    later("EventSource" in window && polls % 8 === 0 ? listen : poll, ms);
  }

  function lead() {
    isLeading = true;
    if ("EventSource" in window) listen();
    else poll();
  }

  function elect(steal) {
    navigator.locks.request(name, { steal }, () => { lead(); return new Promise(() => {}); }).catch(() => {
      // Another tab took the lock: this one was too slow.
      isLeading = false;
      hush();
      elect(false);
    });
  }

  if (navigator.locks && channel) elect(false);
  else lead();

  // After a sleep the clock has jumped and the connection is gone, which nobody is told.
  setInterval(() => {
    const now = Date.now();
    if (!isLeading && now - tickedAt > ASLEEP_MS) heardAt = now;
    tickedAt = now;
    const silent = now - heardAt;
    if (isLeading && stream && silent > DEAF_MS) listen();
    else if (!isLeading && silent > ORPHANED_MS) {
      heardAt = now;
      elect(true);
    }
  }, 1000);
  const look = () => isLeading && stream && !document.hidden && Date.now() - heardAt > DEAF_MS / 2 && listen();
  addEventListener("online", look);
  document.addEventListener("visibilitychange", look);
  // A page that comes back from the browser's memory shows what was.
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}
