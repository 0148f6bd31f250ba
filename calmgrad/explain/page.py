"""One page of HTML that shows a step: all it needs is inside, nothing is fetched.

The page's own code is in `web/`; here the facts are put in, as JSON and as packed arrays.
"""

import json
import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np

from calmgrad import __version__
from calmgrad.explain.formulas import Direction, Formula, formula_of
from calmgrad.explain.packed import Packed, statistics, strongest
from calmgrad.explain.scan import ScanStates
from calmgrad.explain.story import OpStory, Story
from calmgrad.explain.typeset import mathml, segments
from calmgrad.explain.update import UPDATE_NOTES, update_formula

BUDGET = 650_000  # numbers of all activations and their gradients
WHOLE = 262_144  # a model of more weights is thinned
SMALL = 2_048  # cells of a parameter of such a model
CELLS = (65_536, 32_768, 16_384, 8_192, 4_096, 2_048)
SCRIPTS = "data colour heatmap charts sequence graph panel flow scan buffer main".split()


def html_page(story: Story, about: Mapping[str, str]) -> str:
    """The page.

    Args:
        story: what is shown.
        about: what to say of where it is from, name -> text: the model, the data set.
    """
    web = files("calmgrad.explain.web")

    def read(name: str) -> str:
        return (web / name).read_text(encoding="utf-8")

    facts, packed = _facts(story, about)
    parts = {
        "STYLE": read("page.css"),
        "SCRIPT": "\n".join(read(f"{name}.js") for name in SCRIPTS),
        "FACTS": script_json(facts),
        "ARRAYS": packed.text(),
    }
    pieces = read("page.html").split("%%")  # text, name, text, name, …, text
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def script_json(value: object) -> str:
    """JSON that can stand in a `<script>`: ASCII, and nothing that HTML would take for a tag."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _facts(story: Story, about: Mapping[str, str]) -> tuple[dict[str, Any], Packed]:
    packed, cells = Packed(), _cells(story)
    parameters = _parameters(story, packed)
    facts = {
        "version": __version__,
        "about": dict(about),
        "step": _step(story),
        "tokens": [
            {"token": t.token, "label": t.label, "loss": _finite(t.loss)} for t in story.tokens
        ],
        "rows": story.rows,
        "cmd": story.cmd_pos,
        "ops": [_op(op, packed, cells) for op in story.ops],
        "formulas": {op: _formula(formula_of(op)) for op in {op.op: None for op in story.ops}},
        "parameters": parameters,
        "update": _update(story),
        "flat": _flat(story, packed),
        "scans": [_scan(scan, packed) for scan in story.scans],
        "changes": [
            {"parameter": c.parameter, "index": list(c.index), "before": c.before,
             "gradient": c.gradient, "change": c.change} for c in story.changes()
        ],
    }  # fmt: skip
    return facts, packed


def _cells(story: Story) -> int:
    """The most cells that an array may have for all to stay within the budget."""
    sizes = [2 * op.value.size for op in story.ops]
    return next((c for c in CELLS if sum(min(size, 2 * c) for size in sizes) <= BUDGET), CELLS[-1])


def _step(story: Story) -> dict[str, Any]:
    config = story.config
    sizes = {name: getattr(config, name) for name in config.__dataclass_fields__}
    return {
        "sizes": sizes | {"d_inner": config.d_inner, "param_count": config.param_count},
        "loss": story.loss,
        "targets": len(story.rows),
        "norm": story.grad_norm,
        "clip": story.clip,
        "lr": story.lr,
        "decay": story.weight_decay,
        "optimizer": story.optimizer,
    }


def _update(story: Story) -> dict[str, Any]:
    name, direction = update_formula(story.optimizer)
    return {"name": name, "direction": _direction(direction), "note": UPDATE_NOTES[story.optimizer]}


def _op(op: OpStory, packed: Packed, cells: int) -> dict[str, Any]:
    return {
        "name": op.name,
        "output": op.output,
        "op": op.op,
        "layer": op.layer,
        "room": op.room,
        "inputs": [
            {"symbol": symbol, "tensor": i.name, "columns": i.columns, "parameter": i.parameter}
            for symbol, i in op.inputs.items()
        ],
        "forward": op.forward,
        "backward": op.backward,
        "shape": list(op.value.shape),
        "value": packed.add(op.value, cells) | statistics(op.value),
        "gradient": packed.add(op.gradient, cells) | statistics(op.gradient),
    }


def _formula(formula: Formula) -> dict[str, Any]:
    return {
        "file": formula.file,
        "summary": formula.summary,
        "arguments": formula.arguments,
        "returns": formula.returns,
        "source": formula.source,
        "forward": _direction(formula.forward),
        "backward": _direction(formula.backward),
    }


def _direction(direction: Direction) -> dict[str, Any]:
    """Each line as the formulas (MathML) and remarks (text) that stand in it."""
    lines = [
        [{"math": mathml(text)} if formula else {"text": text} for formula, text in segments(line)]
        for line in direction.lines
    ]
    return {"given": direction.given, "lines": lines}


def _parameters(story: Story, packed: Packed) -> list[dict[str, Any]]:
    """Of a model that is kept whole the numbers are in `flat`; of another, here in small."""
    whole = story.config.param_count <= WHOLE
    rows = []
    for p in story.parameters:
        row: dict[str, Any] = {
            "name": p.name,
            "start": p.start,
            "shape": list(p.value.shape),
            "decay": p.decay,
            "change": float(np.linalg.norm(p.change.astype(np.float64))),
            "value": statistics(p.value),
            "gradient": statistics(p.gradient),
        }
        if not whole:
            row["value"] |= packed.add(p.value, SMALL)
            row["gradient"] |= packed.add(p.gradient, SMALL)
        rows.append(row)
    return rows


def _flat(story: Story, packed: Packed) -> dict[str, Any]:
    """The whole buffer, each parameter divided by its largest number: the map's colours.

    `step` neighbours are a cell, which never holds numbers of two parameters; `starts` says with
    which cell each parameter begins.
    """
    step = -(-story.config.param_count // WHOLE)
    counts = [-(-p.value.size // step) for p in story.parameters]
    flat: dict[str, Any] = {"step": step, "starts": [0, *np.cumsum(counts)[:-1].tolist()]}
    for name in ("value", "gradient"):
        arrays = [getattr(p, name).astype(np.float64).ravel() for p in story.parameters]
        tops = [float(np.abs(a).max()) or 1.0 for a in arrays]
        pairs = zip(arrays, tops, strict=True)
        joined = np.concatenate([strongest(a / top, 0, step) for a, top in pairs])
        flat[name] = packed.add(joined, joined.size) | {"tops": tops}
    return flat


def _scan(scan: ScanStates, packed: Packed) -> dict[str, Any]:
    names = ("h", "lost", "B", "C", "dt", "u", "z", "y", "out")
    arrays = {name: packed.add(getattr(scan, name), CELLS[0]) for name in names}
    return {"layer": scan.layer, "channels": [int(c) for c in scan.channels], **arrays}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
