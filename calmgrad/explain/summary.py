"""A step in numbers alone: what `calmgrad explain --json` gives."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calmgrad.explain.formulas import Direction, formula_of
from calmgrad.explain.packed import statistics
from calmgrad.explain.story import OpStory, ParameterStory, Story


def summary(story: Story) -> dict[str, Any]:
    """The step without its arrays: numbers, names, texts."""
    config = story.config
    return {
        "loss": story.loss,
        "grad_norm": story.grad_norm,
        "clip": story.clip,
        "optimizer": story.optimizer,
        "lr": story.lr,
        "weight_decay": story.weight_decay,
        "sizes": {name: getattr(config, name) for name in config.__dataclass_fields__},
        "cmd_pos": story.cmd_pos,
        "tokens": [{"token": t.token, "text": t.label, "loss": t.loss} for t in story.tokens],
        "ops": [_op(op) for op in story.ops],
        "parameters": [_parameter(p) for p in story.parameters],
        "changes": [
            {"parameter": c.parameter, "index": list(c.index), "before": c.before,
             "gradient": c.gradient, "change": c.change} for c in story.changes()
        ],
    }  # fmt: skip


def _op(op: OpStory) -> dict[str, Any]:
    formula = formula_of(op.op)
    return {
        "name": op.name,
        "op": op.op,
        "layer": op.layer,
        "room": op.room,
        "inputs": {
            symbol: {"name": i.name, "columns": list(i.columns) if i.columns else None}
            for symbol, i in op.inputs.items()
        },
        "output": op.output,
        "shape": list(op.value.shape),
        "forward": _direction(formula.forward),
        "backward": _direction(formula.backward),
        "value": _numbers(op.value),
        "gradient": _numbers(op.gradient),
        "forward_seconds": op.forward,
        "backward_seconds": op.backward,
    }


def _direction(direction: Direction) -> dict[str, Any]:
    return {"given": direction.given, "lines": list(direction.lines)}


def _parameter(p: ParameterStory) -> dict[str, Any]:
    return {
        "name": p.name,
        "shape": list(p.value.shape),
        "value": _numbers(p.value),
        "gradient": _numbers(p.gradient),
        "change_norm": float(np.linalg.norm(p.change.astype(np.float64))),
    }


def _numbers(array: NDArray[np.float32]) -> dict[str, float]:
    return {name: value for name, value in statistics(array).items() if name != "histogram"}
