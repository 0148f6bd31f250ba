// Puts the page together: what can be seen first, first; the rest when it comes near.

function drawFacts() {
  const s = FACTS.step, seconds = OPS.reduce((sum, op) => sum + op.forward + op.backward, 0);
  const rows = [
    ["loss", written(s.loss, 4), "nats"], ["perplexity", written(Math.exp(Math.min(s.loss, 700)), 3), ""],
    ["tokens", FACTS.tokens.length, `${s.targets} predicted`], ["parameters", grouped(s.sizes.param_count), ""],
    ["gradient norm", written(s.norm), s.clip < 1 ? `clipped × ${written(s.clip, 2)}` : "not clipped"],
    ["ops on the tape", OPS.length, microseconds(seconds)],
  ];
  document.getElementById("facts").replaceChildren(...rows.map(([name, value, more]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, String(value), more ? el("small", {}, ` ${more}`) : ""))));
  const about = document.getElementById("about");
  Object.values(FACTS.about).forEach((text, i) => about.append(i ? " · " : "", el("bdi", {}, text)));
  document.getElementById("foot").replaceChildren(el("p", {}, `Made by calmgrad ${FACTS.version}. The numbers in the pictures have three digits; statistics are exact.`));
}

function drawUpdate() {
  const s = FACTS.step, formula = FACTS.update;
  const clipped = s.clip < 1 ? `is over the limit, so it was multiplied by ${written(s.clip)}` : "is below the limit, so it was left as it is";
  const box = document.getElementById("update-body");
  box.replaceChildren(
    el("p", { class: "lead" }, `The norm of the whole gradient, ${written(s.norm, 4)}, ${clipped}. Then ${formula.name} changed the weights, with a learning rate of ${written(s.lr)} and a weight decay of ${written(s.decay)}.`),
    formulaBox(formula.direction, "forward"), el("p", {}, formula.note),
    el("h3", {}, "The weights that changed most"),
    table("The largest changes", ["weight", "before", "gradient", "change"], FACTS.changes.map((c) =>
      [`${c.parameter}[${c.index.join(", ")}]`, written(c.before, 4), written(c.gradient), written(c.change)])),
    el("h3", {}, "How far each parameter moved"),
    el("p", {}, "The L2 norm of the change."),
    logChart({ items: FACTS.parameters.map((p) => ({ value: p.change, name: p.name, group: blockOf(p.name), room: roomOf(p.name) })),
      shape: "bars", label: "L2 norm of each parameter's change", pick: (i) => page.buffer && page.buffer.jump(i) }));
}

const undrawn = new Map(); // section -> what draws it

function drawSection(id) {
  const draw = undrawn.get(id);
  undrawn.delete(id);
  if (draw) draw();
}

const drawAll = () => [...undrawn.keys()].forEach(drawSection);

/** Call `draw` when the section comes near the window. */
function whenNear(id, draw) {
  undrawn.set(id, draw);
  const watch = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    setTimeout(() => drawSection(id)); // each in a task of its own, so that scrolling stays smooth
  }, { rootMargin: "600px" });
  watch.observe(document.getElementById(id));
}

const page = {};

/** On paper: every section, in the light theme, the graph as wide as the sheet. */
function printWhole(redraw) {
  let shown;
  addEventListener("beforeprint", () => {
    drawAll();
    shown = theme();
    if (shown === "dark") redraw("light");
    page.graph.fit(true);
  });
  addEventListener("afterprint", () => {
    if (shown === "dark") redraw("dark");
    page.graph.fit(false);
  });
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  document.getElementById("theme").textContent = name === "dark" ? "Light theme" : "Dark theme";
}

function start() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(dark.matches ? "dark" : "light");
  const redraw = (name) => {
    setTheme(name);
    page.paint();
    page.panel.draw();
    if (page.scan) page.scan.draw();
    if (page.buffer) page.buffer.draw();
  };
  dark.addEventListener("change", () => redraw(dark.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => redraw(theme() === "dark" ? "light" : "dark"));

  drawFacts();
  page.paint = drawSequence();
  const choose = (i, focus = true) => {
    page.graph.select(i);
    page.panel.show(i, focus);
  };
  page.panel = new Panel(choose);
  page.graph = new Graph(choose);
  choose(Math.max(OPS.findIndex((op) => op.op === "selective_scan"), 0), false);
  whenNear("flow", () => drawFlow(choose));
  whenNear("scan", () => { page.scan = new Scan(); });
  whenNear("parameters", () => { page.buffer = new Buffer(); });
  whenNear("update", drawUpdate);
  printWhole(redraw);

  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const spy = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) for (const [id, a] of links) {
        if (id !== entry.target.id) a.removeAttribute("aria-current");
        else {
          a.setAttribute("aria-current", "true");
          a.parentElement.scrollLeft = a.offsetLeft - 80; // on a phone not all links have room
        }
      }
    }
  }, { rootMargin: "-30% 0px -60% 0px" });
  // A section is where its link says only if those above it have their height.
  for (const [id, a] of links) {
    spy.observe(document.getElementById(id));
    a.addEventListener("click", drawAll);
  }
  if (location.hash) drawAll();
  performance.mark("calmgrad-drawn");
}

start();
