// The flat buffers as a map: every weight is a cell, or a few neighbours are.

class Buffer {
  constructor() {
    this.what = "value";
    this.holder = el("div");
    const names = FACTS.parameters.map((p, i) => el("option", { value: i }, p.name));
    this.select = el("select", { id: "buffer-parameter", onchange: () => this.jump(+this.select.value) }, el("option", { value: "" }, "choose …"), ...names);
    document.getElementById("buffer").replaceChildren(
      el("div", { class: "choices" },
        toggle("buffer-kind", { value: "Values", gradient: "Gradient" }, this.what, (what) => { this.what = what; this.draw(); }),
        el("label", {}, "show where it lies", this.select)),
      this.holder, folded("As a table", () => this.table()));
    this.draw();
  }

  draw() {
    const packed = FACTS.flat[this.what], [count] = packed.shape, { step } = FACTS.flat;
    const columns = Math.min(document.getElementById("buffer").clientWidth >= 800 ? 512 : 256, count);
    const rows = Math.ceil(count / columns), data = new Float32Array(rows * columns);
    data.set(numbers(packed, 0, count, 1));
    this.shape = { columns, rows, step, count };
    // Each parameter is divided by its largest number; a root shows the small ones too.
    const coloured = Float32Array.from(data, (v) => Math.sign(v) * Math.sqrt(Math.abs(v)));
    const cell = this.holder.clientWidth / columns || 1.5;
    this.map = heatMap({ matrix: { data: coloured, rows, columns }, top: 1, height: Math.round(rows * Math.max(cell, 0.8)), page: 16,
      label: `All ${this.what === "value" ? "weights" : "gradients"} in buffer order`, say: (r, c) => this.say(r * columns + c) });
    this.regions = [0, 1, 2].map(() => el("div", { class: "region" }));
    this.map.box.append(...this.regions);
    this.map.read.classList.add("above");
    this.holder.replaceChildren(this.map.read, this.map.box, legend("signed", "− the largest of its parameter", "+ the largest"));
    this.map.read.textContent = "Nothing is chosen yet.";
    if (step > 1) this.holder.append(el("p", { class: "where" }, `A cell stands for ${step} neighbouring numbers, and shows the one of the largest magnitude.`));
  }

  /** The parameter that a cell belongs to. */
  parameterAt(cell) {
    let low = 0, high = FACTS.parameters.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (FACTS.flat.starts[middle] <= cell) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  say(cell) {
    const { step, count } = this.shape;
    if (cell >= count) return "past the end";
    const i = this.parameterAt(cell), p = FACTS.parameters[i], element = p.start + (cell - FACTS.flat.starts[i]) * step;
    this.outline(i);
    const index = [];
    let rest = element - p.start;
    for (const n of [...p.shape].reverse()) { index.unshift(rest % n); rest = Math.floor(rest / n); }
    const [value, gradient] = ["value", "gradient"].map((what) => {
      const flat = FACTS.flat[what];
      return written(numberAt(flat, cell, flat.scale * flat.tops[i]));
    });
    const place = step > 1 ? `one of ${step} from element ${element} on` : `element ${element}`;
    return `${p.name}[${index.join(", ")}]: value ${value}, gradient ${gradient} (${place} of the buffer)`;
  }

  /** Lay a tint over a parameter: the end of a row, whole rows, the beginning of one. */
  outline(i) {
    if (this.outlined === this.regions && this.shown === i) return;
    this.outlined = this.regions;
    this.shown = i;
    const { columns, rows, count } = this.shape, from = FACTS.flat.starts[i], to = FACTS.flat.starts[i + 1] ?? count;
    const [r0, r1] = [Math.floor(from / columns), Math.floor((to - 1) / columns)];
    const spans = r0 === r1 ? [[r0, 1, from % columns, to - from]]
      : [[r0, 1, from % columns, columns - (from % columns)], [r0 + 1, r1 - r0 - 1, 0, columns], [r1, 1, 0, to - r1 * columns]];
    this.regions.forEach((region, k) => {
      const span = spans[k];
      region.style.display = span && span[1] > 0 ? "block" : "none";
      if (span) Object.assign(region.style, { top: `${(100 * span[0]) / rows}%`, height: `${(100 * span[1]) / rows}%`,
        left: `${(100 * span[2]) / columns}%`, width: `${(100 * span[3]) / columns}%` });
    });
  }

  jump(i) {
    if (Number.isNaN(i)) return;
    const { columns } = this.shape, cell = FACTS.flat.starts[i];
    this.map.go(Math.floor(cell / columns), cell % columns);
    this.outline(i);
  }

  table() {
    return table("All parameters", ["parameter", "shape", "from element", "L2 norm", "of the gradient", "of the update", "update / values", "decays"],
      FACTS.parameters.map((p) => [p.name, p.shape.join(" × "), grouped(p.start), written(p.value.norm), written(p.gradient.norm),
        written(p.change), p.value.norm ? `${written((100 * p.change) / p.value.norm, 2)} %` : "–", p.decay ? "yes" : "no"]));
  }
}
