// Lines over time as SVG: two series against one scale, a mark for each change. Nothing is drawn between two samples
// that are far apart: what was not measured is not shown.
const SVG = "http://www.w3.org/2000/svg";
const GAP_MS = 5_000;
const [LEFT, BOTTOM, TOP] = [34, 18, 14];

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// A round number above the highest figure.
export function roundUp(highest) {
  const power = 10 ** Math.floor(Math.log10(Math.max(highest, 1)));
  return [1, 2, 5, 10].map((step) => step * power).find((top) => top >= highest);
}

// `samples`: {at, measured, target}; `marks`: {at, name}; `span` in ms up to `now`.
export function draw(svg, { samples, marks, span, now, number, clock }) {
  const { width, height } = svg.getBoundingClientRect();
  const from = now - span;
  const top = roundUp(Math.max(1, ...samples.map((one) => Math.max(one.measured, one.target))) * 1.05);
  const x = (at) => LEFT + ((at - from) / span) * (width - LEFT);
  const y = (value) => height - BOTTOM - (value / top) * (height - BOTTOM - TOP);
  const parts = [];
  for (const value of [0, top / 2, top]) {
    parts.push(shape("line", { class: "rule", x1: LEFT, x2: width, y1: y(value), y2: y(value) }));
    parts.push(shape("text", { x: 0, y: y(value) + 4 }, number(value)));
  }
  for (const [share, anchor] of [[0, "start"], [0.5, "middle"], [1, "end"]]) {
    parts.push(shape("text", { x: x(from + span * share), y: height - 2, "text-anchor": anchor }, clock(from + span * share)));
  }
  for (const run of runs(samples)) {
    const points = run.map((one) => `${x(one.at)},${y(one.measured)}`).join(" ");
    parts.push(shape("polygon", { class: "area", points: `${x(run[0].at)},${y(0)} ${points} ${x(run.at(-1).at)},${y(0)}` }));
    parts.push(shape("polyline", { class: "target", points: run.map((one) => `${x(one.at)},${y(one.target)}`).join(" ") }));
    parts.push(shape("polyline", { class: "measured", points }));
  }
  for (const { at, name } of marks.filter((mark) => mark.at > from)) {
    parts.push(shape("line", { class: "mark", x1: x(at), x2: x(at), y1: TOP, y2: y(0) }));
    parts.push(shape("text", { class: "mark-name", x: x(at), y: 10 }, name));
  }
  svg.replaceChildren(...parts);
}

function runs(samples) {
  const found = [];
  let before = -Infinity;
  for (const one of samples) {
    if (one.at - before > GAP_MS) found.push([]);
    found.at(-1).push(one);
    before = one.at;
  }
  return found;
}
