// The operators' console: figures by event stream, a second fresh and with their age; knobs by HTTP with If-Match.
import { renewed } from "./session.js";

const root = document.getElementById("console");
const words = JSON.parse(document.getElementById("words").textContent);
const lang = document.documentElement.lang;
const numbers = new Intl.NumberFormat(lang, { maximumFractionDigits: 2 });
const sale = `/v1/sales/${root.dataset.sale}`;
const $ = (id) => document.getElementById(id);
const show = (id, value) => { $(id).textContent = value ?? "–"; };
const number = (value) => (value === null || value === undefined ? "–" : numbers.format(value));

let etag = null;
let lastAt = 0;
const history = [];

function said(text, isBad = false) {
  $("said").hidden = false;
  $("said").className = isBad ? "notice bad" : "notice good";
  show("said", text);
}

async function call(method, path, body, headers = {}, isRepeated = false) {
  const answer = await fetch(path, {
    method,
    headers: { ...(body === undefined ? {} : { "Content-Type": "application/json" }), "Accept-Language": lang, ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (answer.status === 401 && !isRepeated && (await renewed())) return call(method, path, body, headers, true);
  const text = await answer.text();
  const decoded = text ? JSON.parse(text) : null;
  if (!answer.ok) {
    said(`${decoded?.title ?? answer.status} ${decoded?.errors?.map((flaw) => `${flaw.pointer}: ${flaw.detail}`).join("; ") ?? decoded?.detail ?? ""}`, true);
    return null;
  }
  return { body: decoded, etag: answer.headers.get("ETag") };
}

async function readSettings(keepTyped = false) {
  const answer = await call("GET", `${sale}/admission`);
  if (!answer) return;
  etag = answer.etag;
  if (!keepTyped) {
    $("rate_per_second").value = answer.body.rate_per_second;
    $("active_max").value = answer.body.active_max;
  }
  const revert = answer.body.revert_at ? ` · ${words.reverts} ${new Date(answer.body.revert_at).toLocaleTimeString(lang)}` : "";
  show("changed", answer.body.changed_at ? `${words.changed} ${new Date(answer.body.changed_at).toLocaleTimeString(lang)} ${answer.body.changed_by ?? ""}${revert}` : "");
}

async function readAudit() {
  const answer = await call("GET", `${sale}/audit?limit=20`);
  if (!answer) return;
  $("audit").replaceChildren(...answer.body.items.map((entry) => {
    const row = document.createElement("tr");
    for (const text of [new Date(entry.at).toLocaleTimeString(lang), entry.actor, whatChanged(entry), entry.reason ?? ""]) {
      const cell = document.createElement("td");
      cell.textContent = text;
      row.append(cell);
    }
    return row;
  }));
}

// What an entry changed, name by name: an audit row holds the whole settings before and after.
function whatChanged(entry) {
  const from = entry.from ?? {};
  const names = Object.keys(entry.to ?? {}).filter((name) => JSON.stringify(from[name]) !== JSON.stringify(entry.to[name]));
  const changes = names.map((name) => `${shownName(name)}: ${shownValue(name, from[name])} → ${shownValue(name, entry.to[name])}`);
  return [entry.action, ...changes].join(" · ");
}

// The rate is kept in hundredths a second.
const shownName = (name) => (name === "rate_centi" ? "rate_per_second" : name);
const shownValue = (name, value) => (name === "rate_centi" ? number(value / 100) : JSON.stringify(value ?? null));

function render(figures) {
  const line = figures.line;
  lastAt = Date.now();
  $("state").className = `state ${line.state}`;
  show("state", words.states[line.state] ?? line.state);
  show("reason", line.reason ? words.reasons[line.reason.code] ?? line.reason.code : "");
  for (const id of ["waiting", "absent", "admitted", "serving"]) show(id, number(line[id]));
  show("rate", `${number(line.rate_per_second?.measured)} / ${number(line.rate_per_second?.target)}`);
  show("active", `${number(line.active)} / ${number(line.active_max)}`);
  const stock = figures.stock;
  show("free", number(stock?.free));
  show("held", stock ? number(stock.held + stock.claimed) : "–");
  show("sold", number(stock?.sold));
  show("lag", figures.record_lag_ms === null ? "–" : `${number(figures.record_lag_ms)} ms`);
  history.push({ waiting: line.waiting, measured: line.rate_per_second?.measured ?? 0, target: line.rate_per_second?.target ?? 0 });
  if (history.length > 240) history.shift();
  draw();
}

function draw() {
  const canvas = $("chart");
  const paint = canvas.getContext("2d");
  // As many dots as the screen shows, so that lines and figures are neither blurred nor squeezed.
  const [width, height, dots] = [canvas.clientWidth, canvas.clientHeight, window.devicePixelRatio || 1];
  [canvas.width, canvas.height] = [width * dots, height * dots];
  paint.scale(dots, dots);
  const style = getComputedStyle(document.documentElement);
  const top = Math.max(1, ...history.map((h) => Math.max(h.measured, h.target))) * 1.15;
  for (const [name, color] of [["target", "--soft"], ["measured", "--accent"]]) {
    paint.beginPath();
    paint.strokeStyle = style.getPropertyValue(color);
    paint.lineWidth = 2;
    history.forEach((h, n) => paint.lineTo((n / 239) * width, height - 4 - (h[name] / top) * (height - 8)));
    paint.stroke();
  }
  paint.fillStyle = style.getPropertyValue("--soft");
  paint.font = "13px system-ui";
  paint.fillText(`${number(top)}/s`, 8, 16);
  paint.fillText("0", 8, height - 8);
}

async function act(method, path, body, headers) {
  const answer = await call(method, path, body, headers);
  if (!answer) return;
  said(words.done);
  // Said once: neither a reason nor a return is meant for the next act too.
  for (const id of ["why", "revert_after_s"]) $(id).value = "";
  await Promise.all([readSettings(), readAudit()]);
}

$("pause").onclick = () => act("PATCH", `${sale}/admission`, { paused: true, ...($("why").value ? { reason: $("why").value } : {}) }, { "Content-Type": "application/merge-patch+json" });
$("resume").onclick = () => act("PATCH", `${sale}/admission`, { paused: false }, { "Content-Type": "application/merge-patch+json", "If-Match": etag });
$("open").onclick = () => act("POST", `${sale}/opening`);
$("drain").onclick = () => confirm(words.sure_drain) && act("POST", `${sale}/draining`);
$("close").onclick = () => confirm(words.sure_close) && act("POST", `${sale}/closing`);
$("knobs").onsubmit = (event) => {
  event.preventDefault();
  const patch = { rate_per_second: Number($("rate_per_second").value), active_max: Number($("active_max").value) };
  if ($("why").value) patch.reason = $("why").value;
  if ($("revert_after_s").value) patch.revert_after_s = Number($("revert_after_s").value);
  act("PATCH", `${sale}/admission`, patch, { "Content-Type": "application/merge-patch+json", "If-Match": etag });
};
$("message-form").onsubmit = (event) => {
  event.preventDefault();
  act("PUT", `${sale}/message`, { ko: $("ko").value, en: $("en").value });
};
$("unsay").onclick = () => act("DELETE", `${sale}/message`);

setInterval(() => show("age", lastAt ? `${((Date.now() - lastAt) / 1000).toFixed(1)} s` : "–"), 200);

// A stream that was refused is not opened again by the browser: its session is renewed, and another one opened.
function watch() {
  const stream = new EventSource(`${sale}/live/events`);
  stream.addEventListener("live", (event) => render(JSON.parse(event.data)));
  stream.onerror = () => {
    if (stream.readyState === EventSource.CLOSED) setTimeout(() => renewed().catch(() => false).then(watch), 2000);
  };
}

watch();
readSettings();
readAudit();
setInterval(() => readAudit(), 5000);
