// The facts, the packed arrays, and how numbers and elements are written.

const FACTS = JSON.parse(document.getElementById("facts-json").textContent);
const BYTES = (() => {
  const text = atob(document.getElementById("arrays").textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes.buffer;
})();

// float16 has 65,536 values: a table is quicker than arithmetic.
const HALF = new Float32Array(65536);
for (let bits = 0; bits < 65536; bits++) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits & 32768 ? -1 : 1;
  HALF[bits] = sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

const READ = new Map();

/** The numbers of a packed array; `at` and `count` for a part of it. */
function numbers(packed, at = 0, count = packed.shape.reduce((a, b) => a * b, 1), scale = packed.scale) {
  const key = `${packed.at} ${at} ${count} ${scale}`;
  if (!READ.has(key)) {
    const bits = new Uint16Array(BYTES, packed.at + 2 * at, count);
    READ.set(key, Float32Array.from(bits, (b) => HALF[b] * scale));
  }
  return READ.get(key);
}

/** One number of a packed array. */
const numberAt = (packed, i, scale = packed.scale) => HALF[new Uint16Array(BYTES, packed.at + 2 * i, 1)[0]] * scale;

/** A matrix for a heat map: its numbers, and which rows and columns of the whole a cell stands for. */
function matrixOf(packed, data = numbers(packed)) {
  const [rows, columns] = packed.shape.length > 1 ? packed.shape : [1, packed.shape[0]];
  const step = packed.step.length > 1 ? packed.step : [1, packed.step[0]];
  return { data, rows, columns, rowStep: step[0], columnStep: step[1] };
}

const OPS = FACTS.ops;
const BY_OUTPUT = new Map(OPS.map((op, i) => [op.output, i]));
const PARAMETERS = new Map(FACTS.parameters.map((p, i) => [p.name, i]));

/** Values or gradient of a parameter, as a matrix. */
function parameterMatrix(index, what) {
  const p = FACTS.parameters[index];
  if ("at" in p[what]) return matrixOf(p[what]);
  const flat = FACTS.flat[what], size = p.shape.reduce((a, b) => a * b, 1);
  const packed = { ...flat, shape: p.shape, step: p.shape.map(() => 1) };
  return matrixOf(packed, numbers(flat, p.start, size, flat.scale * flat.tops[index]));
}

/** Values or gradient of what an op made, with time along the columns. */
function activationMatrix(index, what) {
  const m = matrixOf(OPS[index][what]);
  if (OPS[index].shape.length < 2) return m;
  const turned = new Float32Array(m.data.length);
  for (let r = 0; r < m.rows; r++) for (let c = 0; c < m.columns; c++) turned[c * m.rows + r] = m.data[r * m.columns + c];
  return { data: turned, rows: m.columns, columns: m.rows, rowStep: m.columnStep, columnStep: m.rowStep };
}

/** The position in the sequence that a row of an op's output belongs to. */
function positionOf(op, row) {
  return op.shape[0] === FACTS.tokens.length ? row : FACTS.rows[row];
}

function tokenText(position) {
  const token = FACTS.tokens[position];
  return token.token < 256 ? `“${token.label}”` : token.label;
}

function written(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e-3 && size < 1e5 ? String(+value.toPrecision(digits)) : value.toExponential(digits - 1);
  return text.replace("-", "−").replace("e−", "e-").replace("e+", "e").replace("e-", "e−");
}

const grouped = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, ",");

function microseconds(seconds) {
  const us = seconds * 1e6;
  return us < 1000 ? `${us.toFixed(0)} µs` : `${(us / 1000).toFixed(2)} ms`;
}

/** An element; children that are text stay text, whatever is in them. */
function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "class") made.className = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** A table that scrolls, and can be scrolled by keyboard. */
function table(label, head, rows, left = 1) {
  const align = (i) => (i < left ? "left" : null);
  return el("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": label },
    el("table", {},
      el("thead", {}, el("tr", {}, ...head.map((h, i) => el("th", { scope: "col", class: align(i) }, h)))),
      el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((cell, i) =>
        i ? el("td", { class: align(i) }, cell) : el("th", { scope: "row" }, cell)))))));
}

/** `details` whose inside is made when it is first opened. */
function folded(summary, make) {
  const box = el("details", {}, el("summary", {}, summary));
  box.addEventListener("toggle", () => { if (box.open && box.children.length === 1) box.append(make()); });
  return box;
}

/** The part of the network that a parameter belongs to. */
function roomOf(name) {
  if (!name.startsWith("blocks.")) return name.startsWith("token_emb") ? "embedding" : "head";
  return /\.(mixer|ln1)/.test(name) ? "mixer" : "ffn";
}

const blockOf = (name) => (name.startsWith("blocks.") ? `block ${name.split(".")[1]}` : name.startsWith("token_emb") ? "emb" : "head");
