// Everyone who was let in orders at the same moment: reserve and pay, arrivals at a constant rate (open loop).
// The line is passed first, in setup: the sale must let everyone in at once (a high rate and cap).
//   k6 run -e BASE_URL=… -e SALE=… -e TOKENS_FILE=… -e BUYERS=1000 -e PER_SECOND=200 order_burst.js
import exec from "k6/execution";
import http from "k6/http";
import { sleep } from "k6";
import { BASE_URL, SALE, always, confirm, headersOf, judge, products, reserve } from "./sale.js";

const BUYERS = Number(__ENV.BUYERS || 1000);
const PER_SECOND = Number(__ENV.PER_SECOND || 200);

export const options = {
  setupTimeout: "3m",
  scenarios: {
    burst: {
      executor: "constant-arrival-rate", rate: PER_SECOND, timeUnit: "1s",
      duration: `${Math.ceil(BUYERS / PER_SECOND)}s`, preAllocatedVUs: Math.min(BUYERS, 500), maxVUs: BUYERS,
    },
  },
  thresholds: Object.assign({
    dropped_iterations: ["count==0"],
    "http_req_duration{name:reserve}": ["p(99)<500"], "http_req_duration{name:confirm}": ["p(99)<1000"],
  }, always),
  summaryTrendStats: ["med", "p(90)", "p(95)", "p(99)", "max"],
};

function each(requests) {
  const answers = [];
  for (let n = 0; n < requests.length; n += 100) answers.push(...http.batch(requests.slice(n, n + 100)));
  return answers;
}

export function setup() {
  const items = products();
  const joined = each(Array.from({ length: BUYERS }, (_, buyer) => ["POST", `${BASE_URL}/v1/sales/${SALE}/tickets`, null, { headers: headersOf(buyer) }]));
  const passes = new Array(BUYERS).fill(null);
  for (let tries = 0; tries < 60 && passes.includes(null); tries++) {
    const open = passes.map((pass, buyer) => (pass === null ? buyer : -1)).filter((buyer) => buyer >= 0);
    each(open.map((buyer) => ["GET", `${BASE_URL}/v1/tickets/${joined[buyer].json("ticket")}`, null, { headers: headersOf(buyer) }]))
      .forEach((answer, n) => { if (answer.status === 200 && answer.json("pass")) passes[open[n]] = answer.json("pass.token"); });
    sleep(0.5);
  }
  return { items, passes };
}

export default function (data) {
  const buyer = exec.scenario.iterationInTest;
  if (buyer >= BUYERS || !data.passes[buyer]) return;
  const key = `${SALE}-${buyer}-${Date.now()}`;
  const order = reserve(buyer, data.items[0].product, data.passes[buyer], key);
  if (order) confirm(buyer, order.order, `${key}-pay`);
}

export function teardown(data) {
  judge(data.items);
}
