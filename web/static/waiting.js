// The waiting page: one state machine over the personal event stream, or over polling where streams do not work.
// The page itself, refreshed, says the same without this script.
import { ahead as aheadOf, isNewer } from "./line.js";

const section = document.getElementById("waiting");
const words = JSON.parse(document.getElementById("words").textContent);
const lang = document.documentElement.lang;
const url = `/v1/tickets/${section.dataset.ticket}`;
const numbers = new Intl.NumberFormat(lang);
let state = section.dataset.state;
let spokenAhead = null;
let lineShown = null;

const $ = (id) => document.getElementById(id);
const show = (id, text) => { $(id).textContent = text; };
const notice = (id, text) => { $(id).hidden = !text; show(id, text ?? ""); };

function minutes(ms) {
  if (ms < 60_000) return words.seconds.replace("{n}", numbers.format(Math.max(1, Math.ceil(ms / 1000))));
  return words.minutes.replace("{n}", numbers.format(Math.ceil(ms / 60_000)));
}

function render(ticket) {
  if (ticket.state !== state && !(ticket.state === "waiting" && state === "scheduled")) return finish(ticket.state);
  state = ticket.state;
  show("ahead", ticket.ahead === null ? "–" : numbers.format(ticket.ahead));
  show("place", ticket.place === null ? "–" : numbers.format(ticket.place));
  $("wait").classList.toggle("words", !ticket.wait_ms);
  show("wait", ticket.wait_ms ? `${minutes(ticket.wait_ms.p50)} – ${minutes(ticket.wait_ms.p90)}` : words.unknown);
  notice("reason", ticket.reason ? words.reasons[ticket.reason.code] ?? ticket.reason.code : null);
  speak(ticket.ahead);
}

// A screen reader hears the position when it has halved, not each second.
function speak(ahead) {
  if (ahead === null || (spokenAhead !== null && ahead > spokenAhead / 2)) return;
  spokenAhead = ahead;
  show("spoken", words.spoken.replace("{n}", numbers.format(ahead)));
}

function renderLine(line) {
  // Polls meet any process, and one may be a document behind another.
  if (lineShown && isNewer(lineShown, line)) return;
  lineShown = line;
  $("line-state").className = `state ${line.state}`;
  show("line-state", words.states[line.state] ?? line.state);
  show("as-of", new Date(line.as_of).toLocaleTimeString(lang));
  if (line.stock) show("stock", numbers.format(line.stock.free + line.stock.held));
  notice("message", line.message?.[lang] ?? null);
  if (section.dataset.place !== "None" && line.living && state === "waiting") {
    show("ahead", numbers.format(aheadOf(line, Number(section.dataset.place))));
  }
}

function finish(next) {
  if (next === "admitted") {
    document.title = `★ ${words.your_turn}`;
    sound();
  }
  // The page says what to do next: the same document that a browser without scripts gets.
  setTimeout(() => location.reload(), next === "admitted" ? 400 : 0);
}

function sound() {
  try {
    const audio = new AudioContext();
    const tone = audio.createOscillator();
    tone.connect(audio.destination);
    tone.start();
    tone.stop(audio.currentTime + 0.3);
  } catch { /* A browser may forbid sound before the first touch: the title tells the turn as well. */ }
}

async function poll() {
  show("how", words.by_polling);
  for (;;) {
    let pause = 4000;
    try {
      const answer = await fetch(url, { headers: { Accept: "application/json" } });
      if (answer.ok) {
        const ticket = await answer.json();
        render(ticket);
        pause = ticket.poll_after_ms;
        const line = await fetch(section.dataset.line);
        if (line.ok) renderLine(await line.json());
      } else if (answer.status < 500 && answer.status !== 429) return location.reload();
      else show("how", words.away);
    } catch { show("how", words.away); }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

function listen() {
  const stream = new EventSource(`${url}/events`);
  let everOpened = false;
  stream.onopen = () => { everOpened = true; show("how", words.by_stream); };
  stream.addEventListener("ticket", (event) => render(JSON.parse(event.data)));
  stream.addEventListener("line", (event) => renderLine(JSON.parse(event.data)));
  stream.addEventListener("message", (event) => notice("message", JSON.parse(event.data)?.[lang] ?? null));
  stream.addEventListener("closed", () => { stream.close(); location.reload(); });
  stream.onerror = () => {
    show("how", words.away);
    if (!everOpened || stream.readyState === EventSource.CLOSED) { stream.close(); poll(); }
  };
}

section.dataset.line = `/v1/sales/${location.pathname.split("/")[2]}/line`;
if ("EventSource" in window) listen(); else poll();
