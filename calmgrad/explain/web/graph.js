// The tape as a graph: an op is a button, a tensor is a line from the op that made it.

const ROOMS = { embedding: "embedding", mixer: "mixer", ffn: "feed-forward", head: "head" };

/** The columns of the graph, from left to right: the embedding, each block, the head. */
function columnsOf() {
  const columns = [];
  OPS.forEach((op, i) => {
    const title = op.layer === null ? ROOMS[op.room] || op.room : `block ${op.layer}`;
    let column = columns[columns.length - 1];
    if (!column || column.title !== title) columns.push(column = { title, rooms: [] });
    let room = column.rooms[column.rooms.length - 1];
    if (!room || room.name !== op.room) column.rooms.push(room = { name: op.room, ops: [] });
    room.ops.push(i);
  });
  return columns;
}

/** The shape of a histogram, small. */
function spark(stats) {
  const counts = stats.histogram, most = Math.max(...counts, 1), w = 34 / counts.length;
  const d = counts.map((n, i) => `L${i * w} ${22 - 21 * Math.sqrt(n / most)}H${(i + 1) * w}`).join("");
  return svg("svg", { class: "spark", viewBox: "0 0 34 22", "aria-hidden": "true" }, svg("path", { d: `M0 22${d}V22Z` }));
}

class Graph {
  constructor(choose) {
    this.choose = choose;
    this.slowest = Math.max(...OPS.map((op) => op.forward + op.backward));
    this.columns = columnsOf();
    this.nodes = OPS.map((op, i) => this.node(op, i));
    this.lines = svg("svg", { "aria-hidden": "true" });
    this.canvas = el("div", { class: "canvas" }, this.lines, ...this.columns.map((column) =>
      el("div", { class: "column" }, el("h3", {}, column.title), ...column.rooms.map((room) =>
        el("div", { class: `room ${room.name}` }, ...room.ops.map((i) => this.nodes[i]))))));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    const box = document.getElementById("graph");
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", `Graph of ${OPS.length} ops. Arrow keys go from op to op, Enter goes to its panel.`);
    box.append(this.canvas, el("div", { class: "key" },
      ...Object.entries(ROOMS).map(([name, title]) => el("span", { class: name }, title)),
      el("span", { class: "plain" }, "shape: histogram of the values"), el("span", { class: "plain" }, "bar below: time")));
    this.edges = [];
    new ResizeObserver(() => this.route()).observe(this.canvas); // also tells of the first size
  }

  node(op, i) {
    const took = op.forward + op.backward, last = op.name.split(".").pop();
    return el("button", { type: "button", class: "node", id: `op-${i}`, tabindex: i ? -1 : 0, "aria-pressed": "false",
      title: op.name, onclick: () => this.choose(i) },
      el("b", {}, el("span", { class: "hidden" }, op.layer === null ? "" : `block ${op.layer}, `), ...last.split(/(?<=_)/).flatMap((part, k) => (k ? [el("wbr"), part] : [part]))), el("i", {}, op.shape.join(" × ")), spark(op.value),
      el("span", { class: "clock", style: `width: ${(100 * took) / this.slowest}%` }));
  }

  /** Draw the lines between the buttons, wherever these are now. */
  route() {
    const home = this.canvas.getBoundingClientRect();
    const boxes = this.nodes.map((node) => {
      const r = node.getBoundingClientRect();
      return { left: r.left - home.left, right: r.right - home.left, top: r.top - home.top, bottom: r.bottom - home.top,
        x: (r.left + r.right) / 2 - home.left, y: (r.top + r.bottom) / 2 - home.top };
    });
    this.edges = [];
    const drawn = [];
    OPS.forEach((op, to) => op.inputs.forEach((input) => {
      const from = BY_OUTPUT.get(input.tensor);
      if (from === undefined) return;
      const d = this.path(boxes[from], boxes[to], to - from);
      const line = svg("path", { class: "edge", d });
      const reach = svg("path", { class: "reach", d, onclick: () => this.choose(from) },
        svg("title", {}, `${input.tensor} → ${op.name} (${input.symbol})`));
      this.edges.push({ from, to, line });
      drawn.push(line, reach);
    }));
    this.lines.replaceChildren(...drawn);
    this.light();
  }

  /** Let the columns be as wide as they must, and (on paper alone) all as small as to fit a sheet. */
  fit(paper) {
    this.canvas.classList.toggle("narrow", paper);
    this.canvas.style.setProperty("--fit", Math.min(1, 660 / this.canvas.offsetWidth));
    this.route();
  }

  path(a, b, apart) {
    if (Math.abs(a.left - b.left) < 2) {
      if (apart === 1) return `M${a.x} ${a.bottom}V${b.top}`;
      // Past the ops between: what skips the most ops the farthest out; the residual on the left.
      const residual = apart > 3, out = residual ? -(8 + 2 * apart) : 6 + 5 * apart;
      const side = residual ? "left" : "right", x = a[side] + out;
      return `M${a[side]} ${a.y}C${x} ${a.y} ${x} ${a.y + 14} ${x} ${a.y + 22}V${b.y - 22}C${x} ${b.y - 14} ${x} ${b.y} ${b[side]} ${b.y}`;
    }
    const middle = (a.right + b.left) / 2;
    return `M${a.right} ${a.y}C${middle + 12} ${a.y} ${middle - 12} ${b.y} ${b.left} ${b.y}`;
  }

  /** Show an op as chosen. */
  select(i) {
    this.at = i;
    this.nodes.forEach((node, k) => {
      node.setAttribute("aria-pressed", String(k === i));
      node.tabIndex = k === i ? 0 : -1;
    });
    this.light();
  }

  light() {
    for (const { from, to, line } of this.edges) {
      line.setAttribute("class", to === this.at ? "edge in" : from === this.at ? "edge out" : "edge");
    }
  }

  key(event) {
    const at = this.nodes.indexOf(document.activeElement);
    if (at < 0) return;
    const lists = this.columns.map((column) => column.rooms.flatMap((room) => room.ops));
    const c = lists.findIndex((ops) => ops.includes(at)), r = lists[c].indexOf(at);
    const beside = (k) => lists[k] && lists[k][Math.min(r, lists[k].length - 1)];
    const to = { ArrowUp: at - 1, ArrowDown: at + 1, ArrowLeft: beside(c - 1), ArrowRight: beside(c + 1), Home: 0,
      End: OPS.length - 1 }[event.key];
    if (!(event.key.startsWith("Arrow") || event.key === "Home" || event.key === "End")) return;
    event.preventDefault();
    if (!this.nodes[to]) return;
    this.nodes[to].focus();
    this.choose(to, false);
  }
}
