// Why a figure jumped that no reason of the shop explains: from two line documents, what happened to the people ahead.
// `ahead` of each document for one place, `admitted` and `measured` as the documents say. Pure.

// Ranks beyond 256 are told within 1 %: a smaller step than this is no news.
const least = (ahead) => Math.max(5, Math.ceil(ahead / 33));
const FASTER = 1.5;

// A list of [word, number], often empty.
export function jumps(before, after) {
  const told = [];
  const passed = Math.max(0, after.admitted - before.admitted);
  const expected = Math.max(0, before.ahead - passed);
  const off = after.ahead - expected;
  if (off >= least(before.ahead)) told.push(["back", off]);
  else if (-off >= least(before.ahead)) told.push(["gone", -off]);
  return told;
}

// Whether the estimate moved by more than the time that passed: the pace of the line changed. `middle` is the p50 (ms).
export function paced(before, after) {
  if (!before.middle || !after.middle || !after.measured) return [];
  const expected = Math.max(10_000, before.middle - (after.at - before.at));
  if (Math.abs(after.middle - expected) < 20_000) return [];
  if (after.middle > expected * FASTER) return [["slower", after.measured]];
  if (after.middle * FASTER < expected) return [["faster", after.measured]];
  return [];
}
