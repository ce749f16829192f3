// The waiting page. One state machine over what `share.js` hears; the page itself, refreshed, says the same without it.
import { jumps, paced } from "./changes.js";
import { ahead as aheadOf, isNewer, odds as oddsOf } from "./line.js";
import { follow } from "./share.js";

const $ = (id) => document.getElementById(id);
const page = $("waiting").dataset;
const words = JSON.parse($("words").textContent);
const lang = document.documentElement.lang;
const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const n = (value) => (value === null || value === undefined ? "–" : numbers.format(value));
const say = (text, facts) => text.replace(/\{(\w+)\}/g, (_, name) => (name in facts ? n(facts[name]) : "–"));
const show = (id, text) => { if ($(id).textContent !== text) $(id).textContent = text; };
const notice = (id, text) => { $(id).hidden = !text; show(id, text ?? ""); };

const CHANGES_MAX = 5;
const remembered = `onsale ${page.ticket}`;
const memory = JSON.parse(sessionStorage.getItem(remembered) ?? '{"changes":[]}');
let state = page.state;
let place = Number(page.place) || null;
let line = null;
let ahead = null;
let middle = null;
let seen = null;
let spoken = null;
let why = "";
let isFinished = false;

function span(ms) {
  if (ms < 60_000) return ["seconds", n(Math.max(1, Math.ceil(ms / 1000)))];
  return ms < 7_200_000 ? ["minutes", n(Math.ceil(ms / 60_000))] : ["hours", n(Math.ceil(ms / 1_800_000) / 2)];
}

function range(wait) {
  const [[unit, low], [unitHigh, high]] = [span(wait.p50), span(wait.p90)];
  const put = (name, text) => words.units[name].replace("{n}", text);
  if (unit === unitHigh) return put(unit, low === high ? low : `${low}–${high}`);
  return `${put(unit, low)} – ${put(unitHigh, high)}`;
}

function hear(kind, value, isLeading) {
  if (kind === "ticket") hearTicket(value, isLeading);
  else if (kind === "line") hearLine(value);
  else if (kind === "message") notice("message", value?.[lang]);
  else if (kind === "closed") finish(value.state, isLeading);
  else {
    show("how", words[value]);
    $("how").parentElement.classList.toggle("away", value === "away");
  }
}

function hearTicket(ticket, isLeading) {
  if (ticket.state !== state && !(ticket.state === "waiting" && state === "scheduled")) return finish(ticket.state, isLeading);
  state = ticket.state;
  place = ticket.place;
  middle = ticket.wait_ms?.p50 ?? null;
  showAhead(ticket.ahead);
  show("place", n(place));
  $("wait").classList.toggle("words", !ticket.wait_ms);
  $("range").hidden = !ticket.wait_ms;
  show("wait", ticket.wait_ms ? range(ticket.wait_ms) : words.unknown);
  const reason = ticket.reason && words.reasons[ticket.reason.code] && say(words.reasons[ticket.reason.code], ticket.reason.params);
  notice("reason", reason);
  if (reason && reason !== why) changed(reason, Date.parse(ticket.reason.at));
  why = reason;
}

function hearLine(next) {
  // Polls meet any process, and one may be a document behind another.
  if (line && !isNewer(next, line)) return;
  line = next;
  $("line-state").className = `state ${line.state}`;
  show("line-state", words.states[line.state] ?? line.state);
  show("as-of", new Date(line.as_of).toLocaleTimeString(lang));
  show("serving", n(line.serving));
  if (line.stock) show("stock", n(line.stock.free + line.stock.held));
  notice("message", line.message?.[lang]);
  if (place === null || state !== "waiting") return;
  showAhead(aheadOf(line, place));
  const look = { ahead, middle, admitted: line.admitted, measured: line.rate_per_second.measured, at: Date.parse(line.as_of) };
  if (seen) for (const [word, count] of [...jumps(seen, look), ...paced(seen, look)]) changed(say(words[word], { n: count }));
  seen = look;
  const odds = oddsOf(line, place);
  $("odds").className = `odds ${odds ?? ""}`;
  notice("odds", odds && words.odds[odds]);
}

function showAhead(count) {
  ahead = count;
  show("ahead", n(count));
  if (count === null) return;
  document.title = `(${n(count)}) ${page.title}`;
  // The bar goes from the most people ever ahead to none: it stands still when the line does.
  memory.most = Math.max(memory.most ?? 0, count);
  $("progress").hidden = memory.most === 0;
  $("progress").value = memory.most ? 1 - count / memory.most : 0;
  keep();
  // A screen reader hears the position when it has halved, not each second.
  if (spoken !== null && count > spoken / 2) return;
  spoken = count;
  show("spoken", say(words.spoken, { n: count }));
}

function changed(text, at = Date.now()) {
  if (memory.changes.some((one) => one.text === text && Math.abs(one.at - at) < 60_000)) return;
  memory.changes = [{ text, at }, ...memory.changes].slice(0, CHANGES_MAX);
  keep();
  showChanges();
  show("spoken", text);
}

function showChanges() {
  $("changes").replaceChildren(...memory.changes.map(({ text, at }) => {
    const item = document.createElement("li");
    item.textContent = `${new Date(at).toLocaleTimeString(lang)} · ${text}`;
    return item;
  }));
}

function keep() {
  try { sessionStorage.setItem(remembered, JSON.stringify(memory)); } catch { /* Full or forbidden: kept for this page. */ }
}

function finish(next, isLeading) {
  if (isFinished) return;
  isFinished = true;
  // One tab rings, not all of them.
  if (next === "admitted" && isLeading && bell.getAttribute("aria-pressed") === "true") ring();
  if (next === "admitted") document.title = `★ ${words.your_turn}`;
  // The page says what to do next: the same document that a browser without scripts gets. A line that ends, ends for
  // everybody at once: they need not all ask for it in the same second.
  setTimeout(() => location.reload(), next === "admitted" ? 900 : 4000 * Math.random());
}

const bell = $("bell");
const notices = window.Notification;
let sound = null;

// Three rising notes, and a notice where they were asked for and the tab is out of sight.
function ring() {
  if (notices?.permission === "granted" && document.hidden) {
    try { new notices(words.your_turn, { body: page.title, tag: page.ticket }); } catch { /* Phones want a worker for it. */ }
  }
  sound?.resume();
  [523, 659, 784].forEach((pitch, step) => {
    if (!sound) return;
    const [tone, loudness, at] = [sound.createOscillator(), sound.createGain(), sound.currentTime + step * 0.2];
    tone.frequency.value = pitch;
    loudness.gain.setValueAtTime(0.25, at);
    loudness.gain.exponentialRampToValueAtTime(0.001, at + 0.35);
    tone.connect(loudness).connect(sound.destination);
    tone.start(at);
    tone.stop(at + 0.35);
  });
}

// Browsers forbid sound before somebody touched a page of ours: the button says whether it will ring.
if (window.AudioContext) {
  sound = new AudioContext();
  bell.hidden = false;
  bell.setAttribute("aria-pressed", sound.state === "running");
  sound.suspend();
  bell.onclick = () => {
    const isOn = bell.getAttribute("aria-pressed") !== "true";
    bell.setAttribute("aria-pressed", isOn);
    if (!isOn) return;
    ring();
    if (notices?.permission === "default") notices.requestPermission();
  };
}

showChanges();
follow(page.ticket, hear);
