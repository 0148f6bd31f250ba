// Histograms, lines and bars, drawn as SVG. Each has its numbers beside it as text or table.

/** How often values fall where: bars from the smallest to the largest. */
function histogram(stats, label) {
  const counts = stats.histogram, most = Math.max(...counts, 1), width = 480, height = 74;
  const bars = counts.map((n, i) => {
    const h = n ? Math.max(1, (n / most) * height) : 0, w = width / counts.length;
    return svg("rect", { class: "bar", x: i * w, y: height - h, width: w - 0.6, height: h });
  });
  const zero = (-stats.min / (stats.max - stats.min)) * width;
  const line = zero > 0 && zero < width ? [svg("line", { class: "cursor", x1: zero, x2: zero, y1: 0, y2: height })] : [];
  return el("div", {},
    svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", height,
      role: "img", "aria-label": `Histogram of ${label}: from ${written(stats.min)} to ${written(stats.max)}, mean ${written(stats.mean)}` }, ...bars, ...line),
    el("div", { class: "axes" }, el("span", {}, written(stats.min)), el("span", {}, written(stats.max))));
}

/** Mean, spread, extremes and norm. */
function numberList(stats) {
  const rows = [["mean", stats.mean], ["std", stats.std], ["min", stats.min], ["max", stats.max], ["L2 norm", stats.norm]];
  return el("dl", { class: "numbers" }, ...rows.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, written(value)))));
}

/** Powers of ten from below the smallest to above the largest. */
function decades(values) {
  const above = values.filter((v) => v > 0);
  const low = Math.floor(Math.log10(Math.min(...above, 1))), high = Math.ceil(Math.log10(Math.max(...above, 1e-30)));
  const shown = Math.max(low, high - 14), least = Math.min(...above, 1);
  return [least < 1.5 * 10 ** shown ? shown - 1 : shown, Math.max(high, low + 1)]; // even the least is seen
}

const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
const powerOfTen = (n) => (n === 0 ? "1" : `10${[...String(n)].map((c) => SUPERSCRIPT[c]).join("")}`);

/**
 * Values on a logarithmic scale, over places in a row that belong to groups (layers).
 *   items: [{value, name, group, room, main}], a line goes through the main ones; shape: "line" or "bars"; pick(i): an item was chosen.
 */
function logChart({ items, shape, label, pick }) {
  const width = 1000, height = 250, left = 46, right = 8, top = 8, bottom = 26;
  const [low, high] = decades(items.map((item) => item.value));
  const x = (i) => left + ((i + 0.5) / items.length) * (width - left - right);
  const y = (v) => top + (1 - (Math.log10(Math.max(v, 10 ** low)) - low) / (high - low)) * (height - top - bottom);
  const drawing = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const groups = [];
  items.forEach((item, i) => {
    const last = groups[groups.length - 1];
    if (last && last.name === item.group) last.end = i;
    else groups.push({ name: item.group, start: i, end: i });
  });
  const slot = (width - left - right) / items.length;
  groups.forEach((g, k) => {
    const from = left + g.start * slot, wide = (g.end - g.start + 1) * slot;
    if (k % 2) drawing.append(svg("rect", { class: "band", x: from, y: top, width: wide, height: height - top - bottom }));
    drawing.append(svg("text", { x: from + wide / 2, y: height - 8, "text-anchor": "middle" }, wide > 60 ? g.name : g.name.replace("block ", "")));
  });
  const every = Math.ceil((high - low) / 6);
  for (let n = low; n <= high; n += every) {
    drawing.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(10 ** n), y2: y(10 ** n) }),
      svg("text", { x: left - 8, y: y(10 ** n) + 4, "text-anchor": "end" }, powerOfTen(n)));
  }
  if (shape === "line") {
    const through = items.flatMap((item, i) => (item.main ? [`${x(i)} ${y(item.value)}`] : []));
    drawing.append(svg("path", { class: "path", d: `M${through.join("L")}` }));
    items.forEach((item, i) => drawing.append(svg("circle", { class: `dot ${item.room}`, cx: x(i), cy: y(item.value), r: 5 })));
  } else {
    items.forEach((item, i) => drawing.append(svg("rect", { class: `bar ${item.room}`, x: x(i) - slot * 0.36, width: slot * 0.72,
      y: y(item.value), height: height - bottom - y(item.value) })));
  }
  const cursor = svg("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
  drawing.append(cursor);

  const read = el("p", { class: "read", "aria-live": "polite" }, "Point at a value, or use the arrow keys, to read it; a click or Enter opens it.");
  const box = el("div", { class: "pick wide", tabindex: 0, role: "application", "aria-roledescription": "chart",
    "aria-label": `${label}. Arrow keys read the values, Enter opens one.` }, drawing);
  let at = -1;
  function go(i) {
    at = Math.min(Math.max(i, 0), items.length - 1);
    cursor.setAttribute("x1", x(at));
    cursor.setAttribute("x2", x(at));
    cursor.setAttribute("visibility", "visible");
    read.textContent = `${items[at].name}: ${written(items[at].value)}`;
  }
  box.addEventListener("pointermove", (event) => {
    const area = box.getBoundingClientRect();
    go(Math.floor((((event.clientX - area.left) / area.width) * width - left) / slot));
  });
  box.addEventListener("click", () => at >= 0 && pick(at));
  box.addEventListener("keydown", (event) => {
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: items.length - 1 }[event.key];
    if (event.key === "Enter" && at >= 0) pick(at);
    if (to === undefined) return;
    event.preventDefault();
    go(to);
    plot.scrollLeft = (x(at) / width) * box.clientWidth - plot.clientWidth / 2;
  });
  const plot = el("div", { class: "plot" }, box);
  return el("div", {}, plot, read);
}

/** A line over the tokens, without axes: its ends are written beside it. `fromZero`: 0 is shown. */
function lane(data, label, fromZero) {
  const width = 1000, height = 46, least = Math.min(...data), most = Math.max(...data);
  const from = fromZero ? Math.min(least, 0) : least, to = fromZero ? Math.max(most, 0) : most;
  // The numbers have three digits: what varies less is a level line, not the steps of rounding.
  const span = Math.max(to - from, Math.max(-from, to) / 64) || 1, low = from - (span - (to - from)) / 2;
  const y = (v) => 3 + (1 - (v - low) / span) * (height - 6), w = width / data.length;
  let path = "";
  data.forEach((v, i) => { path += `${i ? "L" : "M"}${i * w} ${y(v)}H${(i + 1) * w}`; });
  return svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", height, role: "img",
    "aria-label": `${label}: from ${written(least)} to ${written(most)}` },
    ...(fromZero ? [svg("line", { class: "grid", x1: 0, x2: width, y1: y(0), y2: y(0) })] : []),
    svg("path", { class: "path", d: path, "vector-effect": "non-scaling-stroke" }));
}
