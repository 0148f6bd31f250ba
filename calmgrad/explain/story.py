"""A training step on one sequence, told op by op: the facts, for whoever shows them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calmgrad.config import ModelConfig
from calmgrad.explain.recording import Input, RecordedOp, Recorder
from calmgrad.explain.scan import ScanStates, scan_states
from calmgrad.layout import layout, views
from calmgrad.model import Model, Tokens, checked_sequence
from calmgrad.optim import clip_scale
from calmgrad.shards import pack_targets
from calmgrad.tokenizer import NAMES, PAD
from calmgrad.trainer import Trainer

CHANNELS = 8  # of each scan, whose states are kept
LARGEST = 12  # changes that are told

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
class Story:
    """What happened in a step.

    Attributes:
        config: the model's sizes.
        tokens, cmd_pos: the sequence, and the position of ATN in it.
        loss: mean of the targets' losses, in nats.
        ops: the tape, in order; an op's value and gradient are (T, C), T the tokens read, or
            for the head those that predict something (`rows`).
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
    ops: list[RecordedOp]
    rows: list[int]
    parameters: list[ParameterStory]
    scans: list[ScanStates]
    grad_norm: float
    clip: float
    lr: float
    weight_decay: float
    optimizer: str

    def op(self, name: str) -> RecordedOp:
        """The op of this name."""
        return next(op for op in self.ops if op.name == name)

    def array(self, given: Input) -> Array:
        """What an op read: the values of an activation or a parameter."""
        value = next((p.value for p in self.parameters if p.name == given.tensor), None)
        if value is None:
            value = self.op(given.tensor).value
        return value if given.columns is None else value[:, slice(*given.columns)]

    def changes(self, count: int = LARGEST) -> list[Change]:
        """The weights that changed most, the most first."""
        flat = np.concatenate([np.abs(p.change).ravel() for p in self.parameters])
        starts = [p.start for p in self.parameters]
        rows = []
        for at in np.argsort(-flat, kind="stable")[:count]:
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
    shards, counts = pack_targets([array], [cmd_pos])
    if not shards:
        raise ValueError(f"no target after position {cmd_pos}: there is nothing to learn")
    [shard] = shards
    assert shard.targets is not None
    after = Model(replace(model.data(), weights=model.weights.copy()))
    options = {"optimizer": optimizer, "weight_decay": weight_decay, "grad_clip": grad_clip}
    with Trainer(after, lr=lr, threads=1, **options) as trainer:  # type: ignore[arg-type]
        loss = trainer.step([array], [cmd_pos])
        grads, norm = trainer.grads.copy(), trainer.grad_norm
    seed = np.full(int(counts[0]), 1 / counts[0], np.float32)
    ops = Recorder(model).run(shard, seed)
    rows = np.flatnonzero(shard.targets >= 0).tolist()
    losses = {row + 1: float(nll) for row, nll in zip(rows, ops[-1].value, strict=True)}
    named = views(config, grads), views(config, after.weights - model.weights)
    story = Story(
        config=config,
        tokens=[TokenStory(int(t), label(int(t)), losses.get(i)) for i, t in enumerate(array)],
        cmd_pos=cmd_pos,
        loss=loss,
        ops=ops,
        rows=rows,
        parameters=[
            ParameterStory(e.name, e.start, model.parameters[e.name].copy(), named[0][e.name],
                           named[1][e.name], e.decay)
            for e in layout(config)
        ],
        scans=[],
        grad_norm=norm,
        clip=clip_scale(norm, grad_clip),
        lr=lr,
        weight_decay=weight_decay,
        optimizer=optimizer,
    )  # fmt: skip
    story.scans.extend(_scans(story, list(channels)))
    return story


def _scans(story: Story, channels: list[int]) -> list[ScanStates]:
    found = []
    for op in story.ops:
        if op.op != "selective_scan":
            continue
        assert op.gradient is not None
        weight = np.abs(op.value * op.gradient).sum(axis=0)
        chosen = channels or np.argsort(-weight, kind="stable")[:CHANNELS].tolist()
        arrays = {given.symbol: story.array(given) for given in op.inputs}
        found.append(scan_states(layer_of(op.scope) or 0, chosen, arrays))
    return found


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
