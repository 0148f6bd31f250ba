// A matrix as colours: read with the pointer or with the arrow keys.

/** The magnitude that most numbers stay below: a few large ones shall not wash out the rest. */
function usualTop(data) {
  const stride = Math.max(1, Math.floor(data.length / 8192)), some = [];
  for (let i = 0; i < data.length; i += stride) some.push(Math.abs(data[i]));
  some.sort((a, b) => a - b);
  return some[Math.floor(0.995 * (some.length - 1))] || some[some.length - 1] || 1;
}

/**
 * A heat map.
 *   matrix: {data, rows, columns}; kind: "signed" or "positive"; height: pixels;
 *   label: what it shows; say(row, column): what to tell of a cell;
 *   onmove(row, column): when the cursor goes somewhere. `mark(column)` rules a column off.
 */
function heatMap({ matrix, kind = "signed", top = usualTop(matrix.data), height, label, say, onmove, onpick, page = 10 }) {
  const { data, rows, columns } = matrix;
  const canvas = el("canvas", { width: columns, height: rows, "aria-hidden": "true" });
  const mark = el("div", { class: "mark" }), rule = el("div", { class: "rule" });
  const read = el("p", { class: "read", "aria-live": "polite" });
  const box = el("div", { class: "heat", tabindex: 0, role: "application", "aria-roledescription": "heat map",
    "aria-label": `${label}: ${rows} rows, ${columns} columns. Arrow keys read a cell.`, style: `height: ${height}px` },
    canvas, rule, mark);

  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer), table = scale(kind).map(([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r);
  for (let i = 0; i < data.length; i++) {
    const x = kind === "signed" ? (data[i] / top + 1) / 2 : data[i] / top;
    pixels[i] = table[x <= 0 ? 0 : x >= 1 ? 255 : Math.round(255 * x)];
  }
  context.putImageData(image, 0, 0);

  let at = null;
  function go(row, column) {
    row = Math.min(Math.max(row, 0), rows - 1);
    column = Math.min(Math.max(column, 0), columns - 1);
    if (at && at[0] === row && at[1] === column) return;
    at = [row, column];
    Object.assign(mark.style, { display: "block", left: `${(100 * column) / columns}%`, top: `${(100 * row) / rows}%`,
      width: `${100 / columns}%`, height: `${100 / rows}%` });
    read.textContent = say(row, column, data[row * columns + column]);
    if (onmove) onmove(row, column);
  }
  function point(event) {
    const area = box.getBoundingClientRect();
    go(Math.floor(((event.clientY - area.top) / area.height) * rows), Math.floor(((event.clientX - area.left) / area.width) * columns));
  }
  box.addEventListener("pointermove", point);
  box.addEventListener("pointerdown", point);
  if (onpick) box.addEventListener("click", () => at && onpick(...at));
  box.addEventListener("keydown", (event) => {
    const [row, column] = at || [0, 0];
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [-page, 0],
      PageDown: [page, 0], Home: [0, -column], End: [0, columns] };
    if (event.key === "Enter" && onpick && at) onpick(...at);
    if (!(event.key in moves)) return;
    event.preventDefault();
    if (!at) go(0, 0);
    else go(row + moves[event.key][0], column + moves[event.key][1]);
  });
  return {
    box, read, top, go,
    /** Rule off the column of a token; null: none. */
    mark(column) {
      rule.style.display = column === null || column < 0 || column >= columns ? "none" : "block";
      rule.style.left = `${(100 * column) / columns}%`;
      rule.style.width = `${100 / columns}%`;
    },
  };
}

/** How high a heat map of so many rows is to be, in pixels. */
const heightFor = (rows, most = 300) => Math.min(Math.max(rows * 4, 22), most);
