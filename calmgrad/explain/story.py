"""A training step on one sequence, told op by op: the facts, for whoever shows them."""

import gc
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calmgrad.config import ModelConfig
from calmgrad.explain.formulas import formula_of
from calmgrad.explain.scan import ScanStates, scan_states
from calmgrad.layout import layout, views
from calmgrad.model import Model
from calmgrad.optim import clip_scale
from calmgrad.sequences import Tokens, checked_sequence
from calmgrad.tokenizer import NAMES, PAD
from calmgrad.trace import Input, Record, Trace, trace
from calmgrad.trainer import Trainer

CHANNELS = 8  # of each scan, whose states are kept
LARGEST = 12  # changes that are told
PASSES = 4  # of which the quickest counts; the first one warms up

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TokenStory:
    """A token of the sequence: its number, how it is written, what predicting it cost.

    `loss` is None where nothing had to predict it: for a prompt's tokens.
    """

    token: int
    label: str
    loss: float | None


@dataclass(frozen=True, slots=True)
class ParameterStory:
    """A parameter before the update, its gradient (before clipping), and what was added to it."""

    name: str
    start: int
    value: Array
    gradient: Array
    change: Array
    decay: bool


@dataclass(frozen=True, slots=True)
class Change:
    """One weight and its update."""

    parameter: str
    index: tuple[int, ...]
    before: float
    gradient: float
    change: float


@dataclass(frozen=True, slots=True)
class OpStory:
    """An op on the tape.

    Attributes:
        name: which of the network, "blocks.0.mixer.in_proj"; `output`: of what it made.
        op: of which kind, "linear"; layer: the block, from 0, or None.
        room: "embedding", "mixer", "ffn" or "head".
        inputs: in the order of the op's arguments, by the name the op has for each.
        value: its output, (T, C): T the tokens, or those that predict something (`Story.rows`).
        gradient: of the loss, in that output.
        forward, backward: seconds, the best of some passes.
    """

    name: str
    output: str
    op: str
    layer: int | None
    room: str
    inputs: dict[str, Input]
    value: Array
    gradient: Array
    forward: float
    backward: float


@dataclass(frozen=True, slots=True)
class Story:
    """What happened in a step.

    Attributes:
        config: the model's sizes.
        tokens, cmd_pos: the sequence, and the position of ATN in it.
        loss: mean of the targets' losses, in nats.
        ops: the tape, in order.
        rows: positions of the sequence that predict the next token.
        parameters: in buffer order.
        scans: one a block.
        grad_norm: L2, before clipping; `clip`: what the gradient was multiplied with.
        lr, weight_decay, optimizer: of the update, the first of a run: no moments yet.
    """

    config: ModelConfig
    tokens: list[TokenStory]
    cmd_pos: int
    loss: float
    ops: list[OpStory]
    rows: list[int]
    parameters: list[ParameterStory]
    scans: list[ScanStates]
    grad_norm: float
    clip: float
    lr: float
    weight_decay: float
    optimizer: str

    def changes(self, count: int = LARGEST) -> list[Change]:
        """The weights that changed most, the most first."""
        flat = np.concatenate([np.abs(p.change).ravel() for p in self.parameters])
        starts = [p.start for p in self.parameters]
        rows = []
        largest = np.argpartition(-flat, min(count, flat.size) - 1)[:count]
        for at in largest[np.lexsort((largest, -flat[largest]))]:
            p = self.parameters[int(np.searchsorted(starts, at, side="right")) - 1]
            index = tuple(int(i) for i in np.unravel_index(int(at) - p.start, p.value.shape))
            numbers = (float(a[index]) for a in (p.value, p.gradient, p.change))
            rows.append(Change(p.name, index, *numbers))
        return rows


def tell_step(
    model: Model,
    tokens: Tokens,
    cmd_pos: int = 0,
    *,
    lr: float = 1e-3,
    optimizer: str = "adam",
    weight_decay: float = 0.01,
    grad_clip: float = 1.0,
    channels: Sequence[int] = (),
) -> Story:
    """Make a training step on a copy of the model, and tell it.

    Args:
        model: stays as it is.
        tokens, cmd_pos: the sequence, as `Trainer.step` takes it.
        lr, optimizer, weight_decay, grad_clip: as a Trainer has them.
        channels: of each scan, whose states are to be kept; () for those that matter most to the
            loss: the largest sum of |output * gradient|.

    Raises:
        ValueError: a token or position out of range, nothing to predict, no such channel.
        DivergedError: the loss or the gradient is not finite.
    """
    config = model.config
    array = checked_sequence(tokens, cmd_pos, config)
    wrong = [c for c in channels if not 0 <= c < config.d_inner]
    if wrong:
        raise ValueError(f"channel {wrong[0]}: expected 0 to {config.d_inner - 1}")
    pass_ = _best_pass(model, array, cmd_pos)
    rows = np.flatnonzero(pass_.batch.targets >= 0).tolist()
    after = Model(replace(model.data(), weights=model.weights.copy()))
    options = {"optimizer": optimizer, "weight_decay": weight_decay, "grad_clip": grad_clip}
    with Trainer(after, lr=lr, threads=1, **options) as trainer:  # type: ignore[arg-type]
        loss = trainer.step([array], [cmd_pos])
        grads, norm = trainer.grads.copy(), trainer.grad_norm
    losses = {row + 1: float(nll) for row, nll in zip(rows, pass_.values["nll"], strict=True)}
    named = views(config, grads), views(config, after.weights - model.weights)
    return Story(
        config=config,
        tokens=[TokenStory(int(t), label(int(t)), losses.get(i)) for i, t in enumerate(array)],
        cmd_pos=cmd_pos,
        loss=loss,
        ops=_ops(pass_),
        rows=rows,
        parameters=[
            ParameterStory(e.name, e.start, model.parameters[e.name].copy(), named[0][e.name],
                           named[1][e.name], e.decay)
            for e in layout(config)
        ],
        scans=_scans(pass_, list(channels)),
        grad_norm=norm,
        clip=clip_scale(norm, grad_clip),
        lr=lr,
        weight_decay=weight_decay,
        optimizer=optimizer,
    )  # fmt: skip


def _best_pass(model: Model, array: NDArray[np.int64], cmd_pos: int) -> Trace:
    """A pass, with the best times that each op had in some of them.

    Raises:
        ValueError: no token is to be predicted.
    """

    def once() -> Trace:
        gc.collect()  # the last tape goes before the next comes: of a large model they are much
        return trace(model.config, model.weights, [array], [cmd_pos], every_position=False)

    first = once()
    if not (first.batch.targets >= 0).any():
        raise ValueError(f"no target after position {cmd_pos}: there is nothing to learn")
    best = _times(first)
    del first
    for _ in range(PASSES - 2):
        best = np.minimum(best, _times(once()))
    pass_ = once()
    for record, (forward, backward) in zip(
        pass_.records, np.minimum(best, _times(pass_)).tolist(), strict=True
    ):
        record.forward_seconds, record.backward_seconds = forward, backward
    return pass_


def _times(pass_: Trace) -> NDArray[np.float64]:
    """(ops, 2) seconds."""
    return np.array([(r.forward_seconds, r.backward_seconds) for r in pass_.records])


def _ops(pass_: Trace) -> list[OpStory]:
    """The ops of the tape; the mean at its end is none."""
    return [
        OpStory(
            r.name, r.output, r.op, layer_of(r.name), room_of(r.scope),
            {symbol: r.inputs[symbol] for symbol in _argument_order(r)},
            pass_.values[r.output], pass_.gradients[r.output],
            r.forward_seconds, r.backward_seconds,
        )
        for r in pass_.records
        if r.op != "reduction"
    ]  # fmt: skip


def _argument_order(record: Record) -> list[str]:
    arguments = list(formula_of(record.op).arguments)
    return sorted(record.inputs, key=lambda s: arguments.index(s) if s in arguments else 99)


def _scans(pass_: Trace, channels: list[int]) -> list[ScanStates]:
    """The states of each scan, for the channels chosen or those that matter most."""
    everything = pass_.values | pass_.parameters
    found = []
    for record in pass_.records:
        if record.op != "selective_scan":
            continue
        weight = np.abs(pass_.values[record.output] * pass_.gradients[record.output]).sum(axis=0)
        chosen = channels or np.argsort(-weight, kind="stable")[:CHANNELS].tolist()
        arrays = {}
        for symbol, given in record.inputs.items():
            array = everything[given.name]
            arrays[symbol] = array if given.columns is None else array[:, slice(*given.columns)]
        found.append(scan_states(layer_of(record.name) or 0, chosen, arrays))
    return found


def room_of(scope: str) -> str:
    """The part of the network that a scope of the tape lies in."""
    last = scope.rpartition(".")[2]
    return {"token_emb": "embedding"}.get(last, last)


def layer_of(name: str) -> int | None:
    """The block that a name speaks of, from 0; None outside of the blocks."""
    match = re.match(r"blocks\.(\d+)\.", name + ".")
    return int(match[1]) if match else None


def label(token: int) -> str:
    """How a token is written: a name, a character of ASCII, or a byte in hexadecimal digits."""
    if token >= PAD:
        return NAMES.get(token, f":{token}:")
    named = {9: "\\t", 10: "\\n", 13: "\\r", 32: "␣"}
    return named.get(token) or (chr(token) if 32 < token < 127 else f"{token:02X}")
