// What one op does: its formulas, what it read and made, how long it took.

class Panel {
  constructor(choose) {
    this.choose = choose;
    this.box = document.getElementById("panel");
    this.what = "value";
    Chosen.watchers.add(() => this.rule());
  }

  /** Show an op; `focus`: go there, as after a choice by keyboard. */
  show(i, focus = false) {
    const op = OPS[i], formula = FACTS.formulas[op.op];
    this.index = i;
    this.tensor = "output";
    this.viewer = el("div");
    this.box.replaceChildren(
      el("h3", { id: "panel-title" }, op.name),
      el("p", { class: "where" }, `${op.op}, op ${i + 1} of ${OPS.length}${formula.file ? ` · ${formula.file}` : ""}`),
      formula.summary ? el("p", {}, formula.summary.replaceAll("`", "")) : "",
      el("h4", {}, `Forward, ${microseconds(op.forward)}`), formulaBox(formula.forward, "forward"),
      el("h4", {}, `Backward, ${microseconds(op.backward)}`), formulaBox(formula.backward, "backward"),
      el("h4", {}, "What it reads, and what it makes"), this.operands(op, formula),
      el("h4", {}, "Look at"), this.chooser(op), this.viewer,
      formula.source ? el("p", { class: "where" }, `Source: ${formula.source}`) : "",
      el("p", {}, el("button", { type: "button", class: "link", onclick: () => document.getElementById(`op-${i}`).focus() }, "Back to the graph")));
    this.draw();
    this.box.scrollTop = 0;
    if (focus) {
      this.box.focus({ preventScroll: true });
      const { top } = this.box.getBoundingClientRect();
      if (top > innerHeight * 0.7 || top < 0) this.box.scrollIntoView({ block: "start" });
    }
  }

  operands(op, formula) {
    const code = (text) => (text || "").replaceAll("`", "");
    const row = (symbol, shape, meaning, ...name) => el("div", {}, el("dt", {}, symbol),
      el("dd", {}, el("p", {}, ...name), el("p", { class: "where" }, shape, meaning ? ` · ${meaning}` : "")));
    const rows = op.inputs.map((input) => {
      const from = BY_OUTPUT.get(input.tensor);
      const columns = input.columns ? `, columns ${input.columns[0]} to ${input.columns[1] - 1}` : "";
      const name = from === undefined ? el("span", { class: "mono" }, input.tensor) : this.link(from, input.tensor);
      return row(input.symbol, this.shapeOf(input), code(formula.arguments[input.symbol]), name, columns);
    });
    const users = OPS.flatMap((user, k) => (user.inputs.some((input) => input.tensor === op.output) ? [k] : []));
    const used = users.flatMap((k, n) => [n ? ", " : " → ", this.link(k, OPS[k].name)]);
    const symbol = (formula.returns.match(/^(\w+),/) || [0, "→"])[1];
    rows.push(row(symbol, op.shape.join(" × "), code(formula.returns), el("b", { class: "mono" }, op.output), ...used));
    return el("dl", { class: "operands" }, ...rows);
  }

  /** A button that opens another op. */
  link(i, text) {
    return el("button", { type: "button", class: "link mono", onclick: () => this.choose(i, true) }, text);
  }

  shapeOf(input) {
    if (input.parameter) return FACTS.parameters[PARAMETERS.get(input.tensor)].shape.join(" × ");
    const { shape } = OPS[BY_OUTPUT.get(input.tensor)];
    return (input.columns ? [shape[0], input.columns[1] - input.columns[0]] : shape).join(" × ");
  }

  chooser(op) {
    const select = el("select", { id: "tensor", onchange: () => { this.tensor = select.value; this.draw(); } },
      el("option", { value: "output" }, `output: ${op.output}`),
      ...op.inputs.map((input, k) => el("option", { value: k }, `${input.symbol}: ${input.tensor}`)));
    return el("div", { class: "choices" }, el("label", {}, "tensor", select),
      toggle("kind", { value: "Values", gradient: "Gradient" }, this.what, (what) => { this.what = what; this.draw(); }));
  }

  /** The heat map, histogram and numbers of what is chosen. */
  draw() {
    const op = OPS[this.index], input = op.inputs[this.tensor];
    const name = input ? input.tensor : op.output;
    const parameter = PARAMETERS.get(name), from = BY_OUTPUT.get(name);
    const source = parameter !== undefined ? FACTS.parameters[parameter] : OPS[from];
    const m = parameter !== undefined ? parameterMatrix(parameter, this.what) : activationMatrix(from, this.what);
    const stats = source[this.what], title = `${this.what === "value" ? "values" : "gradient"} of ${name}`;
    this.timed = parameter === undefined && source.shape.length > 1 ? source : null;
    this.step = m.columnStep;
    const say = (r, c, value) => `${this.place(source, parameter, r * m.rowStep, c * m.columnStep)}: ${written(value)}`;
    this.map = heatMap({ matrix: m, height: heightFor(m.rows), label: title, say,
      onpick: this.timed && ((r, c) => chooseToken(positionOf(source, c * m.columnStep))) });
    const axes = parameter !== undefined ? (source.shape.length > 1 ? ["rows ↓", "columns →"] : ["elements →"]) : ["channels ↓", "tokens →"];
    const thin = m.rowStep * m.columnStep > 1 ? el("p", { class: "where" }, `A cell stands for ${m.rowStep} × ${m.columnStep} numbers, and shows the one of the largest magnitude.`) : "";
    this.viewer.replaceChildren(
      this.map.box, el("div", { class: "axes" }, ...axes.map((a) => el("span", {}, a))), this.map.read, thin,
      legend("signed", written(-this.map.top, 2), written(this.map.top, 2)),
      numberList(stats), histogram(stats, title),
      folded("As a table", () => this.table(m, source, parameter)));
    this.rule();
  }

  place(source, parameter, row, column) {
    if (parameter !== undefined) return source.shape.length > 1 ? `[${row}, ${column}]` : `[${column}]`;
    if (source.shape.length < 2) return `token ${positionOf(source, column)} ${tokenText(positionOf(source, column))}`;
    const position = positionOf(source, column);
    return `token ${position} ${tokenText(position)}, channel ${row}`;
  }

  /** Mean, spread and extremes for each token, or each row of a parameter. */
  table(m, source, parameter) {
    const byColumn = parameter === undefined && source.shape.length > 1;
    const count = byColumn ? m.columns : m.rows === 1 ? m.columns : m.rows, rows = [];
    for (let k = 0; k < count; k++) {
      const line = byColumn ? Array.from({ length: m.rows }, (_, r) => m.data[r * m.columns + k])
        : m.rows === 1 ? [m.data[k]] : m.data.subarray(k * m.columns, (k + 1) * m.columns);
      const mean = line.reduce((a, b) => a + b, 0) / line.length;
      const spread = Math.sqrt(line.reduce((a, b) => a + (b - mean) ** 2, 0) / line.length);
      const place = parameter === undefined ? `${positionOf(source, k * m.columnStep)} ${tokenText(positionOf(source, k * m.columnStep))}`
        : String(k * (m.rows === 1 ? m.columnStep : m.rowStep));
      rows.push([place, ...[mean, spread, Math.min(...line), Math.max(...line)].map((v) => written(v))]);
    }
    return table("Numbers by row", [parameter === undefined ? "token" : "row", "mean", "std", "min", "max"], rows);
  }

  /** Rule off the chosen token. */
  rule() {
    if (!this.map) return;
    if (!this.timed || Chosen.token === null) { this.map.mark(null); return; }
    const rows = this.timed.shape[0] === FACTS.tokens.length ? null : FACTS.rows;
    const row = rows ? rows.indexOf(Chosen.token) : Chosen.token;
    this.map.mark(row < 0 ? null : Math.floor(row / this.step));
  }
}

/** Formulas, a line each, with the remarks beside them. */
function formulaBox({ given, lines }, direction) {
  if (!lines.length) return el("p", {}, "No formula stands in its docstring.");
  const code = (text) => text.replaceAll("`", "");
  return el("div", { class: `formula ${direction}`, tabindex: 0, role: "group", "aria-label": `${direction} formula` },
    given ? el("p", {}, code(given)) : "",
    ...lines.map((line) => {
      const row = el("div");
      for (const part of line) {
        if (part.text !== undefined) row.append(el("span", {}, code(part.text)));
        else row.insertAdjacentHTML("beforeend", part.math); // made by calmgrad.explain.typeset
      }
      return row;
    }));
}

/** Two or three choices side by side, as radio buttons. */
function toggle(name, choices, chosen, onchange) {
  return el("fieldset", { class: "toggle" }, ...Object.entries(choices).map(([value, text]) =>
    el("label", {}, el("input", { type: "radio", name, value, ...(value === chosen ? { checked: "" } : {}), onchange: () => onchange(value) }), el("span", {}, text))));
}
