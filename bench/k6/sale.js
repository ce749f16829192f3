// What every script shares: the sale under test, its buyers, and the last question of all: was more sold than there was?
import { SharedArray } from "k6/data";
import { Counter, Gauge } from "k6/metrics";
import http from "k6/http";

export const BASE_URL = __ENV.BASE_URL || "http://127.0.0.1:8080";
export const SALE = __ENV.SALE;
export const tokens = new SharedArray("tokens", () => open(__ENV.TOKENS_FILE).split("\n").filter((line) => line.length > 0));

export const oversold = new Gauge("oversold");
export const confirmed = new Counter("confirmed");
export const unexpected = new Counter("unexpected_answers");

export const always = { oversold: ["value==0"], unexpected_answers: ["count==0"] };

export function headersOf(buyer, more) {
  return Object.assign({ Authorization: `Bearer ${tokens[buyer % tokens.length]}`, "Content-Type": "application/json" }, more || {});
}

// Business answers are expected; anything else counts against the run.
export function expectStatus(answer, allowed) {
  if (allowed.includes(answer.status)) return true;
  unexpected.add(1, { status: String(answer.status), url: answer.request.url.replace(/[0-9a-v]{20,}/g, "{id}") });
  return false;
}

export function join(buyer) {
  const answer = http.post(`${BASE_URL}/v1/sales/${SALE}/tickets`, null, { headers: headersOf(buyer), tags: { name: "join" } });
  return expectStatus(answer, [200, 201, 409]) && answer.status < 300 ? answer.json() : null;
}

export function poll(buyer, ticket) {
  const answer = http.get(`${BASE_URL}/v1/tickets/${ticket}`, { headers: headersOf(buyer), tags: { name: "poll" } });
  return expectStatus(answer, [200]) ? answer.json() : null;
}

export function reserve(buyer, product, pass, key) {
  const body = JSON.stringify({ items: [{ product, quantity: 1 }] });
  const headers = headersOf(buyer, { "Admission-Pass": pass, "Idempotency-Key": key });
  const answer = http.post(`${BASE_URL}/v1/sales/${SALE}/orders`, body, { headers, tags: { name: "reserve" } });
  return expectStatus(answer, [201, 403, 409]) && answer.status === 201 ? answer.json() : null;
}

export function confirm(buyer, order, key) {
  const body = JSON.stringify({ payment: { provider: "sandbox", method: "card", token: "ok" } });
  const headers = headersOf(buyer, { "Idempotency-Key": key });
  const answer = http.post(`${BASE_URL}/v1/orders/${order}/confirmation`, body, { headers, tags: { name: "confirm" } });
  if (expectStatus(answer, [200, 202, 402, 409]) && answer.status === 200) confirmed.add(1);
  return answer;
}

export function products() {
  return http.get(`${BASE_URL}/v1/sales/${SALE}`).json().items;
}

// Units beyond the stock, as the public line document tells them after the run.
export function judge(items) {
  const stock = items.reduce((sum, item) => sum + item.stock, 0);
  const line = http.get(`${BASE_URL}/v1/sales/${SALE}/line`).json();
  oversold.add(Math.max(0, line.stock.sold + line.stock.held + line.stock.free - stock));
}
