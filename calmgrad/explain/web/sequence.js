// The tokens: what they cost. The one that is chosen is ruled off in every picture with time in it.

const Chosen = { token: null, watchers: new Set() };

/** Choose a position of the sequence; null: none. */
function chooseToken(position) {
  Chosen.token = position;
  for (const watcher of Chosen.watchers) watcher(position);
}

function tokenSaid(position) {
  const { loss } = FACTS.tokens[position], here = `Token ${position}, ${tokenText(position)}`;
  if (loss === null) return `${here}: part of the prompt. It is read, and not predicted.`;
  const chance = 100 * Math.exp(-loss);
  return `${here}: a loss of ${written(loss)} nats. The model had given it a probability of ${written(chance, 2)} %.`;
}

const TOP_LOSS = Math.max(...FACTS.tokens.map((t) => t.loss ?? 0), 1e-6);
const lossColour = (loss) => colourOf("positive", loss, TOP_LOSS);

function drawSequence() {
  const box = document.getElementById("tokens"), said = document.getElementById("token-said");
  const chips = FACTS.tokens.map((token, i) => {
    const kind = token.token >= 256 ? "named" : token.label.length > 1 ? "byte" : "";
    const chip = el("span", { class: `token ${kind}`, role: "option", "aria-selected": "false", tabindex: i ? -1 : 0,
      onclick: () => pick(i) }, token.label,
      el("span", { class: "hidden" }, token.loss === null ? ", prompt" : `, loss ${written(token.loss)}`));
    return chip;
  });
  function paint() {
    chips.forEach((chip, i) => {
      const { loss } = FACTS.tokens[i];
      if (loss === null) return;
      const colour = lossColour(loss);
      chip.style.background = css(colour);
      chip.style.color = inkOn(colour);
    });
    document.getElementById("token-legend").replaceChildren(
      legend("positive", "0", `${written(TOP_LOSS)} nats`), el("span", {}, `mean ${written(FACTS.step.loss, 4)}`));
  }
  function pick(i) {
    chooseToken(i);
    chips[i].focus({ preventScroll: true });
  }
  Chosen.watchers.add((position) => chips.forEach((chip, i) => {
    const here = i === position;
    if ((chip.getAttribute("aria-selected") === "true") !== here) chip.setAttribute("aria-selected", String(here));
    chip.tabIndex = here || (position === null && i === 0) ? 0 : -1;
    if (here) said.textContent = tokenSaid(i);
  }));
  box.setAttribute("role", "listbox");
  box.setAttribute("aria-label", "Tokens of the sequence");
  box.setAttribute("aria-orientation", "horizontal");
  box.append(...chips);
  box.addEventListener("keydown", (event) => {
    const at = Chosen.token ?? 0, last = chips.length - 1;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - 10, ArrowDown: at + 10, Home: 0, End: last,
      Enter: at, " ": at }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    pick(Math.min(Math.max(to, 0), last));
  });
  const rows = FACTS.tokens.map((t, i) => [i, t.label, t.token, t.loss === null ? "prompt" : written(t.loss, 4)]);
  document.getElementById("token-table").addEventListener("toggle", (event) => {
    if (event.target.children.length === 1) event.target.append(table("Losses of the tokens", ["position", "token", "number", "loss, nats"], rows, 2));
  });
  paint();
  said.textContent = "Choose a token to read its loss, and to find it in the pictures below.";
  return paint;
}
