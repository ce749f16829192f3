// A waiting crowd that polls: everyone joins once, then asks again and again at a constant rate (open loop).
// The sale should let nobody in meanwhile (rate 0, or paused).
//   k6 run -e BASE_URL=… -e SALE=… -e TOKENS_FILE=… -e BUYERS=1000 -e PER_SECOND=2000 -e SECONDS=30 poll_soak.js
import exec from "k6/execution";
import http from "k6/http";
import { BASE_URL, SALE, always, headersOf, judge, poll, products } from "./sale.js";

const BUYERS = Number(__ENV.BUYERS || 1000);
const PER_SECOND = Number(__ENV.PER_SECOND || 1000);

export const options = {
  setupTimeout: "2m",
  scenarios: {
    soak: {
      executor: "constant-arrival-rate", rate: PER_SECOND, timeUnit: "1s", duration: `${__ENV.SECONDS || 20}s`,
      preAllocatedVUs: 100, maxVUs: 1000,
    },
  },
  thresholds: Object.assign({ "http_req_duration{name:poll}": ["p(99)<250"] }, always),
  summaryTrendStats: ["med", "p(90)", "p(95)", "p(99)", "max"],
};

export function setup() {
  const tickets = [];
  for (let first = 0; first < BUYERS; first += 100) {
    const requests = Array.from({ length: Math.min(100, BUYERS - first) }, (_, n) => ["POST", `${BASE_URL}/v1/sales/${SALE}/tickets`, null, { headers: headersOf(first + n) }]);
    http.batch(requests).forEach((answer) => tickets.push(answer.json("ticket")));
  }
  return { items: products(), tickets };
}

export default function (data) {
  const buyer = exec.scenario.iterationInTest % BUYERS;
  poll(buyer, data.tickets[buyer]);
}

export function teardown(data) {
  judge(data.items);
}
