// The gradient on its way back, and what of it reaches the parameters.

function drawFlow(choose) {
  const ops = OPS.map((op) => ({
    value: op.gradient.norm / Math.sqrt(op.shape.reduce((a, b) => a * b, 1)),
    name: op.output, group: op.layer === null ? ROOMS[op.room] : `block ${op.layer}`, room: op.room,
    main: ["embedding", "select_rows"].includes(op.op) || op.inputs.some((input) => input.symbol === "residual"),
  }));
  document.getElementById("flow-ops").replaceChildren(
    logChart({ items: ops, shape: "line", label: "Root mean square of the gradient at each op", pick: (i) => choose(i, true) }),
    folded("As a table", () => table("Gradient at each op", ["tensor", "rms of the gradient", "rms of the values", "forward", "backward"],
      OPS.map((op, i) => [op.output, written(ops[i].value), written(op.value.norm / Math.sqrt(op.shape.reduce((a, b) => a * b, 1))),
        microseconds(op.forward), microseconds(op.backward)]))));
  const parameters = FACTS.parameters.map((p) => ({ value: p.gradient.norm, name: p.name, group: blockOf(p.name), room: roomOf(p.name) }));
  const user = (i) => OPS.findIndex((op) => op.inputs.some((input) => input.tensor === FACTS.parameters[i].name));
  document.getElementById("flow-parameters").replaceChildren(
    logChart({ items: parameters, shape: "bars", label: "L2 norm of each parameter's gradient", pick: (i) => choose(user(i), true) }),
    folded("As a table", () => table("Gradient of each parameter", ["parameter", "L2 norm of the gradient", "largest", "L2 norm of the values"],
      FACTS.parameters.map((p) => [p.name, written(p.gradient.norm), written(Math.max(p.gradient.max, -p.gradient.min)), written(p.value.norm)]))));
}
