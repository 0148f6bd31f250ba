"""Where in a step the first NaN or infinity appeared: the step again, each op looked at.

A step whose loss or gradient is not finite changes no weight, so it can be run again as it was.
This time every op's output is looked at, then every gradient it sends back, then what is made of
the gradients; the search ends at the first number that is not finite.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np

from calmgrad import backend as backends
from calmgrad.backend import Backend, to_numpy
from calmgrad.config import ModelConfig
from calmgrad.cutting import Shard
from calmgrad.kernels.protocol import Array
from calmgrad.layout import layout, views
from calmgrad.staging import Staging
from calmgrad.tape import Step, Tape
from calmgrad.tokenizer import decode
from calmgrad.worker import Head, placed

TRAIL = 5  # ops before, whose largest numbers are told


@dataclass(frozen=True, slots=True)
class Origin:
    """The first number of a step that is not finite. What does not apply is None.

    Attributes:
        phase: "weights" (before any op), "forward", "backward", "sum" (of the shards' gradients),
            "ewc" (its gradient added) or "norm" (each gradient is finite, their norm is not).
        op, scope: the op, and where in the network it stands ("blocks.0.mixer").
        nth: 1 for the first op of this kind in its scope, 2 for the second.
        parameter: the parameter that it belongs to, when it is a weight or a weight's gradient.
        index: where in the op's output, the gradient of an activation, or the parameter.
        value: nan, inf or -inf.
        count, size: how many numbers there are not finite, of how many.
        sequence: which of the batch, from 0.
        position, token: which token of it, from 0, and its number.
        trail: the ops before, the last one last: their name, scope and largest magnitude.
        weight: a weight that was not finite to begin with, if there was one, as in a message.
    """

    phase: str
    value: float
    index: tuple[int, ...]
    count: int
    size: int
    op: str | None = None
    scope: str | None = None
    nth: int = 1
    parameter: str | None = None
    sequence: int | None = None
    position: int | None = None
    token: int | None = None
    trail: tuple[tuple[str, str, float], ...] = ()
    weight: str | None = None

    @property
    def layer(self) -> int | None:
        """The block, from 0."""
        parts = (self.scope or self.parameter or "").split(".")
        return int(parts[1]) if parts[0] == "blocks" else None

    def __str__(self) -> str:
        """One line: what, where, which token."""
        index = list(self.index)
        where = f"{_nth(self.nth)}{self.op} in {self.scope}"
        what = {
            "weights": f"the weight {self.parameter}{index}, before any op",
            "forward": f"the output of {where}",
            "backward": f"what {where} sends back",
            "sum": f"the sum of the gradients of {self.parameter}{index}",
            "ewc": f"the gradient of {self.parameter}{index} with the EWC penalty",
            "norm": f"the gradient of {self.parameter}{index}",
        }[self.phase]
        if self.phase == "norm":
            return (
                f"every gradient is finite, not their norm: the largest, {what}, is {self.value:g}"
            )
        if self.phase == "backward" and self.parameter is not None:
            what += f" to {self.parameter}{index}"
        if self.sequence is not None:
            what += f", sequence {self.sequence} of the batch, token {self.position}"
            if self.token is not None:
                what += f" ({decode([self.token], special=True)!r})"
            if len(index) > 1:
                what += f", channel {index[1]}"
        before = f"; before any op, {self.weight}" if self.weight is not None else ""
        return f"{self.value:g} first in {what}{before}"


def _nth(n: int) -> str:
    return {1: "", 2: "the 2nd ", 3: "the 3rd "}.get(n, f"the {n}th ")


class _Found(Exception):
    """Ends a shard's pass: what was found, and how many ops had been looked at by then."""

    def __init__(self, origin: Origin, ops: int) -> None:
        self.origin, self.ops = origin, ops


class _Search:
    """A shard's step, each op looked at."""

    def __init__(self, backend: Backend, config: ModelConfig, weights: Array) -> None:
        self.config = config
        self.grads = backend.xp.zeros(weights.size, weights.dtype)
        named, named_grads = views(config, weights), views(config, self.grads)
        self.tape = Tape(backend, weights.dtype.name)
        self.parameters = {k: self.tape.parameter(v, named_grads[k]) for k, v in named.items()}
        self.names = {id(tensor): name for name, tensor in self.parameters.items()}
        self.tape.observer = self._look
        self.staging = None if backend.device is None else Staging(backend.device)
        self.trail: list[tuple[str, str, float]] = []

    def run(self, shard: Shard, head: Head, seed: Array | None) -> None:
        """Forward; and backward, with a seed. Raises _Found at a number that is not finite."""
        self.shard, self.ops = shard, 0
        self.trail = []
        if self.staging is not None:
            shard, seed = placed(shard, seed, self.staging)
        self.tape.begin()
        output = head(self.parameters, self.config, shard)
        if seed is not None:
            self.tape.backward(output, seed)

    def _look(self, phase: str, step: Step) -> None:
        self.ops += 1
        if phase == "forward":
            self._check(phase, step, to_numpy(step.output.value), None)
            largest = float(np.abs(to_numpy(step.output.value)).max(initial=0))
            self.trail = [*self.trail[1 - TRAIL :], (step.op, step.scope, largest)]
            return
        for name, gradient in self._arrived(step):
            self._check(phase, step, gradient, name)
        self.trail = [*self.trail[1 - TRAIL :], (step.op, step.scope, self._largest(step))]

    def _arrived(self, step: Step) -> Iterator[tuple[str | None, Array]]:
        """The gradients held now but that of the step's output: of activations, then of weights."""
        for earlier in self.tape.steps:
            if earlier is step:
                break
            yield from ((None, to_numpy(array)) for array in earlier.output.arrived())
        for tensor in self.tape.parameters:
            name = self.names[id(tensor)]
            yield from ((name, to_numpy(array)) for array in tensor.arrived())

    def _largest(self, step: Step) -> float:
        return max((float(np.abs(g).max(initial=0)) for _, g in self._arrived(step)), default=0.0)

    def _check(self, phase: str, step: Step, array: Array, parameter: str | None) -> None:
        wrong = ~np.isfinite(array)
        if not wrong.any():
            return
        index = _first(wrong)
        self._found(phase, step, array, parameter, index, int(wrong.sum()))

    def _token_of(self, activation: Array, row: int) -> int | None:
        """Which token of the shard a row belongs to: all have one, or those with a target."""
        targets = self.shard.targets
        if len(activation) == len(self.shard.tokens):
            return row
        if targets is not None and len(activation) == (targets >= 0).sum():
            return int(np.flatnonzero(targets >= 0)[row])
        return None

    def _found(
        self,
        phase: str,
        step: Step,
        array: Array,
        parameter: str | None,
        index: tuple[int, ...],
        count: int,
    ) -> NoReturn:
        sequence = position = token = None
        if parameter is None and (at := self._token_of(array, index[0])) is not None:
            offsets = to_numpy(self.shard.packing.offsets)
            row = int(np.searchsorted(offsets, at, side="right")) - 1
            sequence, position = self.shard.rows[row], at - int(offsets[row])
            token = int(self.shard.tokens[at])
        before = self.tape.steps[: self.tape.steps.index(step) + 1]
        nth = sum((s.op, s.scope) == (step.op, step.scope) for s in before)
        raise _Found(
            Origin(
                phase, float(array[index]), index, count, array.size, step.op, step.scope, nth,
                parameter, sequence, position, token, tuple(self.trail),
            ),
            self.ops,
        )  # fmt: skip


def search(
    backend: Backend,
    config: ModelConfig,
    weights: Array,
    shards: Sequence[Shard],
    seeds: Sequence[Array],
    head: Head,
) -> Origin | Array:
    """The first number that is not finite, in the weights, or on the way forward or back.

    Args:
        weights: flat, in buffer order.
        shards, seeds: as `shards.Runner.run` takes them.

    Returns:
        Where it is; or, without any, the sum of the shards' gradients, on the host.
    """
    bad = look_at(config, to_numpy(weights), "weights")
    worker = _Search(backend, config, weights)
    total = np.zeros(weights.size, weights.dtype)
    with backends.one_blas_thread(), backends.silent_overflow():
        for wanted in ([None] * len(shards), seeds):  # all forward, before any goes back
            found = []
            for shard, seed in zip(shards, wanted, strict=True):
                try:
                    worker.run(shard, head, seed)
                except _Found as end:
                    found.append(end)
                else:
                    if seed is not None:
                        total += to_numpy(worker.grads)
            if found:  # of the shards, the one in which it was soonest
                origin = min(found, key=lambda end: end.ops).origin
                if bad is None:
                    return origin
                weight = f"the weight {bad.parameter}{list(bad.index)} was {bad.value:g}"
                return replace(origin, weight=weight)
    return bad or look_at(config, total, "sum") or total


def look_at(config: ModelConfig, flat: Array, phase: str) -> Origin | None:
    """The first number of a flat buffer that is not finite; in the phase "norm", the largest."""
    if phase == "norm":
        wrong = np.abs(flat) == np.abs(flat).max()
    else:
        wrong = ~np.isfinite(flat)
    if not wrong.any():
        return None
    at = int(np.argmax(wrong))
    entry = next(e for e in layout(config) if at < e.stop)
    index = tuple(int(i) for i in np.unravel_index(at - entry.start, entry.shape))
    return Origin(phase, float(flat[at]), index, int(wrong.sum()), flat.size, parameter=entry.name)


def _first(wrong: Array) -> tuple[int, ...]:
    """The index of the first true element, rows first."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
