"""The whole comparison: inputs, ops forward and backward, update; what comes of it in words."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calmgrad.config import ModelConfig
from calmgrad.errors import FileError
from calmgrad.formats.dump import Dump
from calmgrad.layout import layout, views
from calmgrad.parity.compare import Comparison
from calmgrad.parity.difference import RTOL, difference
from calmgrad.parity.evaluate import Evaluation, Known, Widened
from calmgrad.parity.finding import BACKWARD, FORWARD, Finding, Row, role_of
from calmgrad.parity.graph import Graph, build
from calmgrad.parity.local import Array, Context
from calmgrad.parity.meaning import meaning, token_words
from calmgrad.parity.sources import Source, from_dump
from calmgrad.parity.update import build_update
from calmgrad.trace import Batch, batch_of

UPDATE, INPUT = "update", "input"
LARGE = 64e6  # bytes of a dump whose comparison takes some seconds


@dataclass
class Report:
    """What a comparison found.

    Attributes:
        source: what was checked, for messages.
        dtype: of its numbers.
        rtol: allowed for one step.
        rows: all that was compared, in the order of execution.
        findings: the steps that did something else, the first one first.
        ignored: names in the dump that mean nothing here.
        notes: what could not be checked, and why.
        order: the ops, without the numbers of blocks, in the order of execution.
    """

    source: str
    dtype: str
    rtol: float
    rows: list[Row] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing differs by more than rounding."""
        return not self.findings

    @property
    def first(self) -> Finding | None:
        """The first op that differs."""
        return self.findings[0] if self.findings else None

    def sentence(self) -> str:
        """The result in one sentence."""
        if self.first is None:
            return (
                f"{self.source}: all {len(self.rows)} values and gradients that it tells are those"
                " of this engine, within rounding"
            )
        return f"{self.source}: {told(self.first)}"

    def elsewhere(self) -> list[str]:
        """Further ops with findings, the same op of other blocks left out."""
        assert self.first is not None
        seen = {(role_of(self.first.op), self.first.direction)}
        others = []
        for finding in self.findings[1:]:
            key = (role_of(finding.op), finding.direction)
            if key not in seen:
                seen.add(key)
                others.append(f"{finding.op} ({finding.direction})")
        return others

    def as_json(self) -> dict[str, Any]:
        """All of it, for `--json`."""
        return {
            "ok": self.ok,
            "source": self.source,
            "dtype": self.dtype,
            "rtol": self.rtol,
            "result": self.sentence(),
            "first": None if self.first is None else _plain(self.first),
            "findings": [_plain(finding) for finding in self.findings],
            "compared": [_plain(row) | {"good": row.good} for row in self.rows],
            "ignored": self.ignored,
            "notes": self.notes,
        }


def told(finding: Finding) -> str:
    """A finding in words."""
    where = f" ({finding.meaning})" if finding.meaning else ""
    index = list(finding.difference.index) or ""
    got, expected = finding.difference.got, finding.difference.expected
    if finding.direction == INPUT:
        likely = f": the engine {finding.likely}" if finding.likely else ""
        numbers = f"{got:.7g}, expected {expected:.7g}{likely}"
        return f"{finding.name} is not what it should be, at {index}{where}: {numbers}"
    way = {FORWARD: "", BACKWARD: " on the way back", UPDATE: " in the update"}[finding.direction]
    what = f"the gradient of {finding.name}" if finding.direction == BACKWARD else finding.name
    others = [op for op in finding.candidates if op != finding.op]
    either = ""
    if others and finding.likely is None:
        either = f" (or {', '.join(others[:4])}{', …' if len(others) > 4 else ''})"
    text = f"the first op that differs is {finding.op}{either}{way}: "
    text += f"{what}{index}{where} is {got:.7g}; made of what it has read, it is {expected:.7g}"
    return text + (f". It seems that the op {finding.likely}" if finding.likely else "")


def _plain(thing: Any) -> dict[str, Any]:
    """A dataclass for JSON: no infinities, which JSON has not."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not np.isfinite(value):
            return str(value)
        if isinstance(value, Mapping):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [plain(each) for each in value]
        return value

    found: dict[str, Any] = plain(dataclasses.asdict(thing))
    return found


def check(
    dump: Dump,
    config: ModelConfig,
    weights: Array,
    batch: Batch | None = None,
    *,
    run: bool = True,
    buffers: Mapping[str, Array] | None = None,
    settings: Mapping[str, Any] | None = None,
    rtol: float | None = None,
    explain: bool = True,
    own_weights: bool = False,
    name: str = "dump",
    tell: Callable[[str], None] | None = None,
) -> Report:
    """Hold what an engine says against the formulas, op by op.

    Args:
        dump: of the engine.
        config, weights: the model; weights flat, in buffer order.
        batch: what it read; None: as the dump says.
        run: also make all from the tokens on, for the distance between the two.
        buffers: fisher and anchor of the model, where the dump has none.
        settings: reduction, lr, …; those of the dump are taken where they are missing.
        rtol: allowed for one step; None: by the dump's number type.
        explain: try known mistakes, to say what a wrong op does instead.
        own_weights: the dump's weights are another model's: they need not be `weights`.
        name: of the dump, for messages.
        tell: gets a line where the comparison, or trying mistakes, takes longer.

    Raises:
        FileError: the dump does not fit the model, or does not tell what it has read.
    """
    graph = build(config)
    tokens = None if batch is None else len(batch.tokens)
    source = from_dump(dump, graph, weights, name, tokens)
    chosen = {**source.settings, **(settings or {})}
    reduction = str(chosen.get("reduction", "sequence"))
    if reduction not in ("sequence", "token"):
        raise FileError(f"{name}: settings: reduction {reduction!r}: expected sequence or token")
    told_batch = _batch(source, config, reduction, name)
    if batch is None and told_batch is None:
        raise FileError(f"{name}: has no tokens: name the data set that the engine has read")
    read = batch or told_batch
    assert read is not None
    allowed = rtol or RTOL[source.dtype]
    report = Report(name, source.dtype, allowed, ignored=source.ignored)
    held = sum(array.nbytes for array in dump.arrays.values())
    if tell is not None and held > LARGE:
        tell(f"{len(dump.arrays)} arrays, {held / 1e6:,.0f} MB: each is made again in float64")
    if batch is not None:
        _compare_inputs(report, source, batch)
    if report.findings and report.first is not None and report.first.name == "tokens":
        report.notes.append("the ops were not compared: they have read other tokens")
        return report
    if not own_weights:
        _compare_weights(report, graph, source, weights, read)
    context = Context(config, read, reduction, chosen)
    beside = _own_run(graph, context, weights) if run else None
    report.order = [role_of(node.name) for node in graph.nodes]
    ops = Comparison(
        graph, context, source.known, beside, allowed, source.dtype, explain, tell=tell
    )
    with np.errstate(all="ignore"):
        ops.forward()
        ops.backward()
    report.rows += ops.rows
    report.findings += ops.findings
    if ops.gave_up:
        report.notes.append(
            "not all known mistakes were tried: a dump of more values, or of fewer tokens, is"
            " searched faster"
        )
    _compare_update(report, context, source, weights, buffers or {}, explain)
    if not report.rows and not report.findings:
        raise FileError(f"{name}: holds nothing that can be compared (docs/dumps.md has the names)")
    return report


def _own_run(graph: Graph, context: Context, weights: Array) -> Evaluation:
    """What the formulas make of the batch from its tokens on; nothing else is known."""
    return Evaluation(graph, context, Known({}, {}, Widened(views(graph.config, weights))))


def _batch(source: Source, config: ModelConfig, reduction: str, name: str) -> Batch | None:
    """What the dump says was read."""
    if "tokens" not in source.inputs:
        return None
    tokens = source.inputs["tokens"]
    offsets = source.inputs.get("offsets", np.array([0, tokens.size]))
    rising = offsets.size > 1 and offsets[0] == 0 and (np.diff(offsets) > 0).all()
    if not rising or offsets[-1] != tokens.size:
        raise FileError(f"{name}: offsets: expected rising numbers from 0 to {tokens.size}")
    positions = source.inputs.get("cmd_positions", np.zeros(offsets.size - 1, np.int64))
    if positions.size != offsets.size - 1:
        raise FileError(f"{name}: cmd_positions: expected {offsets.size - 1} of them")
    try:
        return batch_of(config, np.split(tokens, offsets[1:-1]), positions.tolist(), reduction)
    except ValueError as error:
        raise FileError(f"{name}: {error}") from error


def _compare_inputs(report: Report, source: Source, batch: Batch) -> None:
    """Whether the engine has read what the data set holds."""
    expected = {
        "tokens": batch.tokens,
        "offsets": np.asarray(batch.packing.offsets),
        "cmd_positions": batch.cmd_positions,
    }
    for name in ("offsets", "tokens", "cmd_positions"):
        if name not in source.inputs or np.array_equal(source.inputs[name], expected[name]):
            continue
        got, right = source.inputs[name], expected[name]
        if got.size != right.size:
            raise FileError(
                f"{report.source}: {name}: {got.size} numbers, the data set has {right.size}:"
                " the engine has read other sequences"
            )
        at = int(np.argmax(got != right))
        words = token_words(at, batch) if name == "tokens" else f"sequence {at}"
        apart = difference(right, got, 0.0, np.float64)
        apart = dataclasses.replace(
            apart, index=(at,), expected=float(right[at]), got=float(got[at])
        )
        report.findings.append(Finding(name, INPUT, name, apart, words, (name,)))


def _compare_weights(
    report: Report, graph: Graph, source: Source, weights: Array, batch: Batch
) -> None:
    """Whether the engine has the model's weights, in the order of the ops."""
    if not source.has_parameters:
        return
    from calmgrad.parity.mistakes import general

    mine = views(graph.config, weights)
    seen = set()
    for node in graph.nodes:
        for name in node.parameters.values():
            if name in seen:
                continue
            seen.add(name)
            apart = difference(mine[name], source.known.parameters[name], 1e-6, source.dtype)
            if apart.relative > 1e-6:
                likely = general(mine[name], source.known.parameters[name], 1e-6)
                words = meaning(name, apart.index, graph.config, batch)
                report.findings.append(
                    Finding(node.name, INPUT, name, apart, words, (node.name,), likely)
                )


def _compare_update(
    report: Report, context: Context, source: Source, weights: Array,
    buffers: Mapping[str, Array], explain: bool,
) -> None:  # fmt: skip
    """Penalty, clipping, optimizer, Fisher diagonal, as far as the dump tells them."""
    made = ("ewc_grads", "grad_norm", "clipped_grads", "adam_m", "adam_v", "new_weights")
    if not any(name in source.flat for name in (*made, "new_fisher")):
        return
    config, settings = context.config, dict(context.settings)
    flat = {k: np.asarray(v).reshape(-1) for k, v in buffers.items()}
    flat["weights"] = np.asarray(weights)
    if all(e.name in source.known.gradients for e in layout(config)):
        named = [source.known.gradients[e.name].ravel() for e in layout(config)]
        flat["grads"] = np.concatenate(named)
    flat |= {k: v.reshape(-1) for k, v in source.flat.held.items()}
    if int(settings.get("update", 1)) == 1:
        for moment in ("adam_m_before", "adam_v_before"):
            flat.setdefault(moment, np.zeros(config.param_count))
    graph = build_update(config, set(flat), settings)
    checked = Comparison(
        graph, context, Known(Widened(flat), {}, {}), None, report.rtol, source.dtype, explain,
        onwards=UPDATE,
    )  # fmt: skip
    with np.errstate(all="ignore"):
        checked.forward()
    report.rows += checked.rows
    report.order += [node.name for node in graph.nodes]
    report.findings += checked.findings
    for name in (*made, "new_fisher"):
        if name in source.flat and name not in graph.maker:
            lacks = "lr in the settings" if "lr" not in settings else "the buffers it is made of"
            report.notes.append(f"{name} was not compared: the dump lacks {lacks}")
