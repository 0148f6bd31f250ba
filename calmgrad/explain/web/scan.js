// One channel of a selective scan over time: what goes in, what is kept, what is read out.

const LANES = [
  ["u", "u", "what comes in: the convolved input"],
  ["dt", "Δ (dt)", "the step: how much of the present to take in"],
  ["B", "B", "into which states"],
  ["lost", "1 − exp(Δ A)", "the share of each state that is forgotten"],
  ["h", "h", "the states"],
  ["C", "C", "what is read out of which states"],
  ["y", "y", "the read-out"],
  ["z", "z", "the gate, before SiLU"],
  ["out", "y · silu(z)", "what goes on"],
];

class Scan {
  constructor() {
    this.layer = 0;
    this.channel = 0;
    this.body = el("div");
    this.read = el("p", { class: "read above", role: "status" });
    this.layers = el("select", { id: "scan-layer", onchange: () => { this.layer = +this.layers.value; this.channel = 0; this.fill(); this.draw(); } },
      ...FACTS.scans.map((scan, i) => el("option", { value: i }, `block ${scan.layer}`)));
    this.channels = el("select", { id: "scan-channel", onchange: () => { this.channel = +this.channels.value; this.draw(); } });
    document.getElementById("scan-body").replaceChildren(
      el("div", { class: "choices" }, el("label", {}, "layer", this.layers), el("label", {}, "channel", this.channels)), this.read, this.body);
    Chosen.watchers.add(() => this.rule());
    this.fill();
    this.draw();
  }

  fill() {
    this.channels.replaceChildren(...FACTS.scans[this.layer].channels.map((c, k) => el("option", { value: k }, `channel ${c}`)));
  }

  /** A lane's numbers for the chosen channel, (T,) or (T, N). */
  data(name) {
    const packed = FACTS.scans[this.layer][name], shape = packed.shape;
    const own = name === "B" || name === "C" ? 0 : this.channel;
    const size = (name === "B" || name === "C" ? shape : shape.slice(1)).reduce((a, b) => a * b, 1);
    return { data: numbers(packed, own * size, size), tokens: name === "B" || name === "C" ? shape[0] : shape[1],
      states: shape.length === 3 || name === "B" || name === "C" ? shape[shape.length - 1] : 1,
      step: packed.step[name === "B" || name === "C" ? 0 : 1] };
  }

  draw() {
    const scan = FACTS.scans[this.layer], where = `block ${scan.layer}, channel ${scan.channels[this.channel]}`;
    this.maps = [];
    this.values = {};
    this.body.replaceChildren(this.tokens(), ...LANES.map(([name, symbol, meaning]) => {
      const { data, tokens, states, step } = this.data(name);
      const told = el("p", {}, el("b", {}, symbol), meaning);
      if (states === 1) {
        this.values[name] = { data, step };
        const box = el("div", { class: "heat", style: "height: 46px" }, lane(data, `${symbol}, ${where}`, name !== "dt"));
        const rule = el("div", { class: "rule" });
        box.append(rule);
        box.addEventListener("pointermove", (event) => {
          const area = box.getBoundingClientRect();
          this.say(Math.floor(((event.clientX - area.left) / area.width) * tokens) * step);
        });
        box.addEventListener("click", () => chooseToken(this.at));
        this.maps.push({ step, mark: (c) => {
          Object.assign(rule.style, { display: c === null ? "none" : "block", left: `${(100 * c) / tokens}%`, width: `${100 / tokens}%` });
        } });
        const ends = el("div", { class: "axes" }, el("span", {}, `${written(Math.min(...data), 2)} to ${written(Math.max(...data), 2)}`));
        return el("div", { class: "lane" }, told, el("div", {}, box, ends));
      }
      const turned = new Float32Array(data.length);
      for (let t = 0; t < tokens; t++) for (let n = 0; n < states; n++) turned[n * tokens + t] = data[t * states + n];
      const positive = name === "lost";
      const map = heatMap({ matrix: { data: turned, rows: states, columns: tokens }, kind: positive ? "positive" : "signed",
        height: name === "h" ? Math.max(96, states * 8) : Math.max(54, states * 4),
        label: `${symbol}, ${where}`, onmove: (_, c) => this.say(c * step), onpick: (_, c) => chooseToken(c * step),
        say: (n, c, value) => `${symbol} at token ${c * step} ${tokenText(c * step)}, state ${n}: ${written(value)}` });
      this.maps.push({ step, mark: (c) => map.mark(c) });
      map.read.textContent = `${positive ? "0" : written(-map.top, 2)} to ${written(map.top, 2)}`;
      return el("div", { class: "lane" }, told, el("div", {}, map.box, map.read));
    }), folded("As a table", () => this.table()));
    this.rule();
    this.read.textContent = "Time runs to the right. Point at a token to read its values; a click chooses it.";
  }

  /** The tokens above the lanes, where there is room for them. */
  tokens() {
    const row = el("div", { class: "letters", style: `grid-template-columns: repeat(${FACTS.tokens.length}, minmax(0, 1fr))` },
      ...FACTS.tokens.map((token, i) => {
        const letter = el("span", { title: tokenText(i) }, token.label.length === 1 ? token.label : "•");
        if (token.loss === null) return letter;
        const colour = lossColour(token.loss);
        letter.style.background = css(colour);
        letter.style.color = inkOn(colour);
        return letter;
      }));
    return el("div", { class: "lane above-lanes", "aria-hidden": "true" }, el("p", {}, "tokens, coloured by loss"), row);
  }

  say(position) {
    this.at = Math.min(Math.max(position, 0), FACTS.tokens.length - 1);
    const parts = Object.entries(this.values).map(([name, { data, step }]) => `${name} ${written(data[Math.floor(this.at / step)])}`);
    this.read.textContent = `Token ${this.at} ${tokenText(this.at)}: ${parts.join(", ")}`;
  }

  rule() {
    for (const { mark, step } of this.maps) mark(Chosen.token === null ? null : Math.floor(Chosen.token / step));
    if (Chosen.token !== null) this.say(Chosen.token);
  }

  table() {
    const names = ["u", "dt", "y", "z", "out"], h = this.data("h"), { step } = h;
    const rows = Array.from({ length: h.tokens }, (_, t) => {
      const states = h.data.subarray(t * h.states, (t + 1) * h.states);
      const norm = Math.sqrt(states.reduce((a, b) => a + b * b, 0));
      return [`${t * step} ${tokenText(t * step)}`, ...names.map((name) => written(this.values[name].data[t])), written(norm)];
    });
    return table("The scan, token by token", ["token", ...names, "L2 norm of h"], rows);
  }
}
