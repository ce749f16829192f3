// The operators' console: figures by event stream, a second fresh and with their age; knobs by HTTP with If-Match.
import { call } from "./api.js";
import { draw } from "./chart.js";
import { renewed } from "./session.js";

const root = document.getElementById("console");
const words = JSON.parse(document.getElementById("words").textContent);
const lang = document.documentElement.lang;
const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const sale = `/v1/sales/${root.dataset.sale}`;
const MERGE = { "Content-Type": "application/merge-patch+json" };
const SAMPLES_MAX = 600;
// Figures older than this are marked: the stream is away, or what it tells of.
const OLD_MS = 3_000;

const $ = (id) => document.getElementById(id);
const show = (id, text) => { if ($(id).textContent !== text) $(id).textContent = text; };
const number = (value) => (value === null || value === undefined ? "–" : numbers.format(value));
const clock = (at) => new Date(at).toLocaleTimeString(lang, { hour12: false });
const say = (text, facts) => text.replace(/\{(\w+)\}/g, (_, name) => facts[name] ?? "–");

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

// --- what is

const samples = [];
let marks = [];
let figures = null;
let heardAt = 0;
let etag = null;

function render(next) {
  figures = next;
  heardAt = Date.now();
  const { line, funnel, stock } = figures;
  $("state").className = `state ${line.state}`;
  show("state", words.states[line.state] ?? line.state);
  show("reason", reason(line.reason));
  for (const name of ["waiting", "absent", "admitted", "serving"]) show(name, number(line[name]));
  show("measured", `${number(line.rate_per_second.measured)}/s`);
  show("target", `${number(line.rate_per_second.target)}/s`);
  show("active", `${number(line.active)} / ${number(line.active_max)}`);
  bar("active-bar", line.active, line.active_max);
  show("free", number(stock?.free));
  show("held", number(stock && stock.held + stock.claimed));
  show("sold", number(stock?.sold));
  show("lag", figures.record_lag_ms === null ? words.unknown : `${number(figures.record_lag_ms)} ms`);
  show("streams", number(figures.streams));
  const steps = { joined: funnel.joined, waiting: funnel.waiting, admitted: funnel.admitted, sold: funnel.sold,
    held: funnel.held === null ? null : funnel.held + funnel.claimed };
  const most = Math.max(1, ...Object.values(steps));
  for (const [name, count] of Object.entries(steps)) {
    show(`funnel-${name}`, number(count));
    bar(`funnel-bar-${name}`, count ?? 0, most);
  }
  if (stock) stack([stock.sold, stock.held + stock.claimed, stock.free]);
  samples.push({ at: Date.parse(figures.as_of), measured: line.rate_per_second.measured, target: line.rate_per_second.target });
  if (samples.length > SAMPLES_MAX) samples.shift();
  chart();
  outlook();
}

function reason(told) {
  if (!told) return "";
  const facts = Object.fromEntries(Object.entries(told.params).map(([name, value]) => [name, number(value)]));
  return say(words.reasons[told.code] ?? told.code, facts);
}

function bar(id, value, most) {
  $(id).max = Math.max(1, most);
  $(id).value = value;
}

function stack(shares) {
  const whole = Math.max(1, shares.reduce((sum, share) => sum + share, 0));
  let left = 0;
  [...$("stock-bar").children].forEach((piece, index) => {
    const width = (shares[index] / whole) * 100;
    piece.setAttribute("x", left);
    piece.setAttribute("width", width);
    left += width;
  });
}

function chart() {
  const span = Number(document.querySelector("[name=window]:checked").value) * 1000;
  const now = samples.at(-1)?.at ?? Date.now();
  draw($("chart"), { samples: samples.filter((one) => one.at >= now - span), marks, span, now, number, clock });
}

// How old each figure is: what the server said when it sent it, and the time since.
function age() {
  for (const shown of document.querySelectorAll("[data-age]")) {
    const then = figures?.lag[`${shown.dataset.age}_ms`];
    const ms = then === null || then === undefined ? null : then + Date.now() - heardAt;
    shown.textContent = ms === null ? words.unknown : say(words.age, { n: (ms / 1000).toFixed(1) });
    shown.classList.toggle("old", ms === null || ms > OLD_MS);
  }
}

// What the typed rate means for those who wait now, at best.
function outlook() {
  const rate = Number($("rate_per_second").value);
  if (!figures || $("rate_per_second").value === "") return;
  if (rate <= 0) return show("outlook", words.outlook_none);
  const seconds = Math.ceil(figures.line.waiting / rate);
  const wait = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60].map((part) => String(part).padStart(2, "0")).join(":");
  show("outlook", say(words.outlook, { waiting: number(figures.line.waiting), wait }));
}

// A stream that was refused is not opened again by the browser: its session is renewed, and another one opened.
function watch() {
  const stream = new EventSource(`${sale}/live/events`);
  stream.addEventListener("live", (event) => render(JSON.parse(event.data)));
  stream.onerror = () => {
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => renewed().catch(() => false).then(watch), 2000);
  };
}

// --- what was done

const names = { rate_centi: "rate_per_second" };
const shownValue = (name, value) => {
  if (name === "rate_centi") return number(value / 100);
  if (Array.isArray(value)) return value.join(", ") || "–";
  if (value !== null && typeof value === "object") return value[lang] ?? JSON.stringify(value);
  return typeof value === "number" ? number(value) : String(value ?? "–");
};

// What an entry changed, name by name: an audit row holds the whole settings before and after.
function changes({ from, to }) {
  const changed = Object.keys(to ?? {}).filter((name) => JSON.stringify(from?.[name]) !== JSON.stringify(to[name]));
  return changed.map((name) => `${words.settings[names[name] ?? name] ?? name}: ${shownValue(name, from?.[name])} → ${shownValue(name, to[name])}`).join(" · ");
}

async function readAudit() {
  const { body: { items } } = await call("GET", `${sale}/audit?limit=50`);
  marks = items.map((entry) => ({ at: Date.parse(entry.at), name: entry.seq }));
  $("audit").replaceChildren(...items.map((entry) => {
    const row = element("li", "");
    const what = element("div", "");
    what.append(element("strong", words.actions[entry.action] ?? entry.action), ` ${changes(entry)}`);
    if (entry.reason) what.append(" ", element("q", entry.reason));
    what.append(element("div", entry.actor, { class: "soft small" }));
    row.append(element("span", entry.seq, { class: "nth" }), element("time", clock(entry.at), { datetime: entry.at }), what);
    return row;
  }));
  if (!items.length) $("audit").replaceChildren(element("li", words.nothing_done));
}

// --- what is to be

const KNOBS = ["rate_per_second", "active_max", "pass_ttl_s", "turn_ttl_s", "absent_after_s"];
let inForce = {};

const isTyped = (name) => Number($(name).value) !== inForce[name];

// While somebody types, the form stays as it is, and so does the version it was read at: whoever changed something in
// between is not overwritten unseen. `isSeen`: that has just been refused and said; what was typed may be sent again.
async function readSettings(isSeen = false) {
  const typed = KNOBS.filter((name) => name in inForce && isTyped(name));
  const answer = await call("GET", `${sale}/admission`);
  if (!typed.length || isSeen) {
    etag = answer.etag;
    for (const name of KNOBS) if (!typed.includes(name)) $(name).value = answer.body[name];
    inForce = answer.body;
  }
  told(answer.body);
}

function told(inForce) {
  const revert = inForce.revert_at ? ` · ${words.reverts} ${clock(inForce.revert_at)}` : "";
  show("changed", inForce.changed_at ? `${words.changed} ${clock(inForce.changed_at)} ${inForce.changed_by ?? ""}${revert}` : "");
}

function said(text, isBad = false) {
  $("said").hidden = false;
  $("said").className = isBad ? "notice bad" : "notice good";
  show("said", text);
}

// Whatever an operator does: said whether it worked, and what is in force is read again.
async function act(work) {
  try {
    await work();
    said(words.done);
  } catch (error) {
    said(error.message, true);
    await readSettings(true).catch(() => {});
    return;
  }
  await Promise.all([readSettings(), readAudit()]).catch((error) => said(error.message, true));
}

const patch = (change, headers) => call("PATCH", `${sale}/admission`, change, { ...MERGE, ...headers });
const why = () => ($("why").value ? { reason: $("why").value } : {});

$("pause").onclick = () => act(() => patch({ paused: true, ...why() }));
$("resume").onclick = () => act(() => patch({ paused: false, ...why() }, { "If-Match": "*" }));
$("open").onclick = () => act(() => call("POST", `${sale}/opening`, why()));
$("drain").onclick = () => confirm(words.sure_drain) && act(() => call("POST", `${sale}/draining`, why()));
$("close").onclick = () => confirm(words.sure_close) && act(() => call("POST", `${sale}/closing`, why()));
$("rate_per_second").oninput = outlook;
$("knobs").onsubmit = (event) => {
  event.preventDefault();
  const changed = Object.fromEntries(KNOBS.map((name) => [name, Number($(name).value)]).filter(([name]) => isTyped(name)));
  const revert = $("revert_after_s").value ? { revert_after_s: Number($("revert_after_s").value) } : {};
  act(async () => {
    await patch({ rate_per_second: Number($("rate_per_second").value), ...changed, ...revert, ...why() }, { "If-Match": etag });
    // Said once: neither a reason nor a return is meant for the next act too.
    for (const id of ["why", "revert_after_s"]) $(id).value = "";
    inForce = {};
  });
};

for (const id of ["ko", "en"]) $(id).oninput = () => show(`preview-${id}`, $(id).value || "–");
$("message-form").onsubmit = (event) => {
  event.preventDefault();
  act(() => call("PUT", `${sale}/message`, { ko: $("ko").value, en: $("en").value }));
};
$("unsay").onclick = () => act(() => call("DELETE", `${sale}/message`));

// --- one person

async function find() {
  const { body: { items } } = await call("GET", `${sale}/tickets?email=${encodeURIComponent($("email").value)}`);
  $("found").replaceChildren(...(items.length ? await Promise.all(items.map(person)) : [element("p", words.nobody)]));
}

async function person(ticket) {
  const shown = element("div", "", { class: "found" });
  const state = words.tickets[ticket.state] ?? ticket.state;
  shown.append(element("strong", `${number(ticket.place)} · ${state}${ticket.is_absent ? ` (${words.absent})` : ""}`));
  const { body: { items } } = await call("GET", `${sale}/orders?buyer=${encodeURIComponent(ticket.buyer)}`);
  const times = [ticket.joined_at, ticket.admitted_at, ticket.ended_at].filter(Boolean).map(clock).join(" → ");
  const orders = items.map((order) => order.state).join(", ") || words.no_orders;
  shown.append(element("p", `${times} · ${words.orders}: ${orders}`, { class: "soft small" }));
  const revoke = element("button", words.revoke, { class: "stop", type: "button" });
  revoke.onclick = () => confirm(words.sure_revoke)
    && act(async () => { await call("POST", `/v1/tickets/${ticket.ticket}/revocation`, why()); await find(); });
  if (!ticket.ended_at) shown.append(revoke);
  return shown;
}

$("find").onsubmit = (event) => {
  event.preventDefault();
  find().catch((error) => said(error.message, true));
};

for (const choice of document.querySelectorAll("[name=window]")) choice.onchange = chart;
addEventListener("resize", chart);
setInterval(age, 200);
watch();
Promise.all([readSettings(), readAudit()]).catch((error) => said(error.message, true));
// Others change things too.
setInterval(() => Promise.all([readSettings(), readAudit()]).catch(() => {}), 5000);
