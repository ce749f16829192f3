// Whole journeys: join, wait by polling, reserve, pay. One iteration a buyer.
//   k6 run -e BASE_URL=… -e SALE=… -e TOKENS_FILE=… -e BUYERS=200 journey.js
import exec from "k6/execution";
import { sleep } from "k6";
import { SALE, always, confirm, join, judge, poll, products, reserve } from "./sale.js";

const BUYERS = Number(__ENV.BUYERS || 200);
const BASE = Number(__ENV.FIRST_BUYER || 0);

export const options = {
  scenarios: { journey: { executor: "per-vu-iterations", vus: BUYERS, iterations: 1, maxDuration: "5m" } },
  thresholds: Object.assign({ "http_req_duration{name:reserve}": ["p(99)<500"], "http_req_duration{name:confirm}": ["p(99)<2000"] }, always),
  summaryTrendStats: ["med", "p(90)", "p(95)", "p(99)", "max"],
};

export function setup() {
  return { items: products() };
}

export default function (data) {
  const buyer = BASE + exec.vu.idInTest - 1;
  let ticket = join(buyer);
  while (ticket && (ticket.state === "scheduled" || ticket.state === "waiting")) {
    sleep(ticket.poll_after_ms / 1000);
    ticket = poll(buyer, ticket.ticket);
  }
  if (!ticket || ticket.state !== "admitted") return;
  const key = `${SALE}-${buyer}-${Date.now()}`;
  const order = reserve(buyer, data.items[0].product, ticket.pass.token, key);
  if (order) confirm(buyer, order.order, `${key}-pay`);
}

export function teardown(data) {
  judge(data.items);
}
