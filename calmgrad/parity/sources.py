"""A pass of an engine as parity sees it: from a dump, or from a run of this engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calmgrad.config import ModelConfig
from calmgrad.errors import FileError
from calmgrad.formats.dump import Dump
from calmgrad.layout import layout, views
from calmgrad.parity.difference import RTOL
from calmgrad.parity.evaluate import Known, Widened
from calmgrad.parity.graph import Graph
from calmgrad.parity.local import Array, Values
from calmgrad.parity.meaning import FLAT
from calmgrad.trace import Trace

GRAD = "grad/"
# What a dump holds besides values and gradients.
INPUTS = ("tokens", "offsets", "cmd_positions")
_NUMBERS = {"lr", "beta1", "beta2", "eps", "weight_decay", "grad_clip", "ewc_lambda", "update"}
_NOT_COMPARED = ("h", "mean", "rstd", "lse")  # last parts of names that only explain


@dataclass
class Source:
    """What one engine says, sorted.

    Attributes:
        known: its values and gradients, cut into the parts that `graph` names.
        inputs: tokens, offsets, cmd_positions, as far as it tells them.
        flat: its flat buffers, and the scalars of an update.
        has_parameters: whether `known.parameters` are its own.
        ignored: names that mean nothing here.
        dtype: of its numbers.
        settings: of the run.
    """

    known: Known
    inputs: dict[str, Array]
    flat: Widened
    has_parameters: bool
    ignored: list[str]
    dtype: str
    settings: dict[str, Any] = field(default_factory=dict)


def from_dump(
    dump: Dump, graph: Graph, weights: Array, name: str, tokens: int | None = None
) -> Source:
    """Sort a dump.

    Args:
        weights: flat; the parameters that it does not hold.
        name: of the file, for messages.
        tokens: how many were read, if the dump does not tell.

    Raises:
        FileError: an array has another shape than its name asks for.
    """
    config, entries = graph.config, {e.name: e.shape for e in layout(graph.config)}
    flat = {n: dump.arrays[n] for n in (*FLAT, "grad_norm") if n in dump.arrays}
    for key, array in flat.items():
        if array.size != (1 if key == "grad_norm" else config.param_count):
            raise FileError(f"{name}: {key}: {array.size} numbers, expected {config.param_count}")
    inputs = {
        n: _whole(dump.arrays[n].reshape(-1), f"{name}: {n}") for n in INPUTS if n in dump.arrays
    }
    own = _named(config, flat.get("weights"), "")
    gradients = _named(config, flat.get("grads"), GRAD)
    tokens = int(inputs["tokens"].size) if "tokens" in inputs else tokens
    values: Values = {}
    ignored = []
    for key, array in dump.arrays.items():
        bare = key.removeprefix(GRAD)
        if key in flat or key in INPUTS:
            continue
        if bare in entries:
            (gradients if key != bare else own)[bare] = _shaped(array, entries[bare], key, name)
            continue
        parts = _parts(graph, bare, array, tokens, f"{name}: {key}")
        if not parts:
            ignored.append(key)
        (gradients if key != bare else values).update(parts)
    parameters = {k: _floats(v) for k, v in views(config, weights).items()}
    known = Known(Widened(values), Widened(gradients), Widened(parameters | own))
    return Source(
        known, inputs, Widened({k: _floats(v) for k, v in flat.items()}), bool(own),
        ignored, _dtype(dump), _checked(dump.settings, name),
    )  # fmt: skip


def to_dump(trace: Trace) -> Dump:
    """A run of this engine as a dump: values, gradients, flat buffers, inputs, settings."""
    b = trace.batch
    arrays: dict[str, Array] = {
        "tokens": b.tokens,
        "offsets": np.asarray(b.packing.offsets),
        "cmd_positions": b.cmd_positions,
        "targets": b.targets,
        "weights": trace.weights,
        "grads": trace.grads,
    }
    arrays |= {k: v for k, v in trace.values.items() if k.rsplit(".", 1)[-1] not in _NOT_COMPARED}
    made = {record.output for record in trace.records}
    arrays |= {f"{GRAD}{k}": v for k, v in trace.gradients.items() if k in made}
    from calmgrad import __version__

    settings = {
        "engine": f"calmgrad {__version__}",
        "backend": trace.backend,
        "dtype": trace.dtype,
        "reduction": trace.reduction,
    }
    return Dump(arrays, dict(settings))


def _named(config: ModelConfig, flat: Array | None, prefix: str) -> Values:
    if flat is None:
        return {}
    return {k: _floats(v) for k, v in views(config, flat.reshape(-1)).items()}


def _floats(array: Array) -> Array:
    """An array of floats, as it came; of whole numbers, in float64."""
    return array if array.dtype.kind == "f" else np.asarray(array, np.float64)


def _parts(graph: Graph, name: str, array: Array, tokens: int | None, where: str) -> Values:
    """A value by the names of the graph: cut where a dump holds it in one piece."""
    whole = graph.whole().get(name)
    if whole is None and name not in graph.maker:
        return {}
    if name == "loss":
        if array.size != 1:
            raise FileError(f"{where}: {array.size} numbers, expected 1")
        return {name: _floats(array).reshape(())}
    rows = tokens if tokens is not None else (len(array) if array.ndim else 1)
    node = graph.maker[whole[0] if whole else name]
    columns = _columns(graph, name)
    if array.size != rows * columns or (array.ndim > 1 and array.shape[-1] not in (columns, 1)):
        raise FileError(f"{where}: shape {array.shape}, expected {(rows, columns)}")
    if name == "targets":
        targets = _whole(array.reshape(rows), where)
        if targets.max(initial=-1) >= graph.config.vocab:
            raise FileError(f"{where}: {targets.max()}: expected -1 to {graph.config.vocab - 1}")
        return {name: targets}
    if name == "nll":
        return {name: _floats(array.reshape(rows))}
    wide = _floats(array.reshape(rows, columns))
    if whole is None:
        return {name: wide}
    edges = np.cumsum(node.widths)[:-1]
    return dict(zip(whole, np.split(wide, edges, axis=1), strict=True))


def _whole(array: Array, where: str) -> Array:
    """Numbers that count something, of whatever type they were written."""
    if array.dtype.kind == "f":
        wrong = ~(np.abs(array) < 1 << 31) | (array != np.round(array))
        if wrong.any():
            raise FileError(f"{where}: {array[wrong][0]}: expected whole numbers")
    return array.astype(np.int64)


def _columns(graph: Graph, name: str) -> int:
    c = graph.config
    last = name.rsplit(".", 1)[-1]
    wide = dict(
        x=c.d_inner, z=c.d_inner, conv1d=c.d_inner, u=c.d_inner, dt_raw=c.dt_rank, B=c.d_state,
        C=c.d_state, dt_proj=c.d_inner, dt=c.d_inner, y=c.d_inner, gated=c.d_inner,
        in_proj=2 * c.d_inner, x_proj=c.dt_rank + 2 * c.d_state, ffn_fc1=c.d_ffn, gelu=c.d_ffn,
        logits=c.vocab, nll=1, targets=1,
    )  # fmt: skip
    return wide.get(last, c.d_model)


def _shaped(array: Array, shape: tuple[int, ...], key: str, name: str) -> Array:
    if array.shape != shape and array.shape != (int(np.prod(shape)),):
        more = ": it is transposed" if array.shape == shape[::-1] else ""
        raise FileError(f"{name}: {key}: shape {array.shape}, expected {shape}{more}")
    return _floats(array.reshape(shape))


def _checked(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Settings of a dump; those that parity reckons with are what they should be."""
    for key in _NUMBERS & settings.keys():
        value = settings[key]
        if isinstance(value, (str, bool, type(None))) or not 0 <= value < 1e300:
            raise FileError(f"{name}: settings: {key} {value!r}: expected a number, 0 or more")
    for key in ("beta1", "beta2"):
        if settings.get(key, 0) >= 1:
            raise FileError(f"{name}: settings: {key} {settings[key]!r}: expected less than 1")
    if (update := settings.get("update", 1)) != int(update) or update < 1:
        raise FileError(f"{name}: settings: update {update!r}: expected 1, 2, …")
    if settings.get("optimizer", "adam") not in ("adam", "sgd"):
        told = settings["optimizer"]
        raise FileError(f"{name}: settings: optimizer {told!r}: expected adam or sgd")
    return dict(settings)


def _dtype(dump: Dump) -> str:
    """What the numbers were computed with: as the settings say, or the narrowest float type."""
    if (told := dump.settings.get("dtype")) in RTOL:
        return str(told)
    widths = [array.dtype.itemsize for array in dump.arrays.values() if array.dtype.kind == "f"]
    return {2: "float16", 8: "float64"}.get(min(widths, default=4), "float32")
