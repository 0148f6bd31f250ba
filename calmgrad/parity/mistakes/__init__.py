"""Known mistakes: what an engine's numbers are held against when a step is wrong.

A mistake that gives an engine's very numbers, from that engine's own inputs, tells its author
more than any distance. Those of one kind of step are in the modules
beside this; what can happen to any array is here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from calmgrad.parity.difference import difference
from calmgrad.parity.evaluate import Change
from calmgrad.parity.graph import Node
from calmgrad.parity.local import Array
from calmgrad.parity.mistakes import activations, loss, mixer, products, scan
from calmgrad.parity.mistakes.activations import clamped
from calmgrad.parity.mistakes.products import parts_in_another_order, parts_not_sent
from calmgrad.parity.mistakes.update import UPDATE_MISTAKES

_ROOMS = (products, activations, mixer, scan, loss)
FORWARD = {kind: entries for room in _ROOMS for kind, entries in room.FORWARD.items()}
BACKWARD = {kind: entries for room in _ROOMS for kind, entries in room.BACKWARD.items()}

# Factors that have a reason, and what it may be.
_FACTORS = {
    -1.0: "the sign is wrong",
    0.5: "half",
    2.0: "twice",
    1 / math.log(2): "in bits, not nats",
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """A change of a step's formula, and how it is told."""

    text: str
    change: Change


def mistakes(
    node: Node, got: Array, backward: bool = False, right: bool = False
) -> Iterator[Mistake]:
    """What may be wrong with a step.

    Args:
        got: what it made, for limits that can be seen in it.
        backward: it is wrong on the way back: mistakes that concern that alone come first.
        right: on the way forward it is right.
    """
    back_alone = [Mistake(text, Change(backward=f)) for text, f in BACKWARD.get(node.kind, ())]
    if backward:
        yield from back_alone
        for text, back in parts_not_sent(node):
            yield Mistake(text, Change(backward=back))
    for text, forward, back in FORWARD.get(node.kind, ()):
        if right and backward:
            if back is not None:
                yield Mistake(f"goes back as one that {text}", Change(backward=back))
        else:
            yield Mistake(text, Change(forward, back))
    if backward:
        return
    for text, forward in UPDATE_MISTAKES.get(node.kind, ()):
        yield Mistake(text, Change(forward))
    for text, forward in parts_in_another_order(node):
        yield Mistake(text, Change(forward))
    for text, forward in clamped(node, got):
        yield Mistake(text, Change(forward))


def general(expected: Array, got: Array, allowed: float) -> str | None:
    """What may have happened to the result of any step: a factor, an order, a shift, zeros."""
    if not np.isfinite(got).all():
        return f"gives {int((~np.isfinite(got)).sum())} of {got.size} numbers that are not finite"

    def fits(made: Array) -> bool:
        return made.shape == got.shape and difference(made, got, allowed).relative <= allowed

    norm = float(np.vdot(expected, expected))
    factor = float(np.vdot(expected, got)) / norm if norm else 0.0
    if factor and got.size > 1 and fits(factor * expected):
        known = [text for k, text in _FACTORS.items() if abs(factor / k - 1) < 1e-3]
        return f"gives {factor:.6g} times what it should" + (f": {known[0]}" if known else "")
    if (text := misplaced(expected, got, allowed)) is not None:
        return text
    rows = _wrong_rows(expected, got, allowed)
    if rows is not None and 0 < len(rows) <= max(len(got) // 8, 1):
        listed = ", ".join(str(i) for i in rows[:5]) + (", …" if len(rows) > 5 else "")
        return f"is wrong in {len(rows)} of {len(got)} rows alone: {listed}"
    return None


def misplaced(expected: Array, got: Array, allowed: float) -> str | None:
    """Whether the right numbers stand elsewhere, or none at all."""
    if not got.any():
        return "gives zeros alone: this is not computed, or not written"
    for text, made in _reordered(expected):
        if made.shape == got.shape and difference(got, made, allowed).relative <= allowed:
            return text
    return None


def _reordered(x: Array) -> Iterator[tuple[str, Array]]:
    if x.ndim == 2:
        yield "gives it transposed: stored in the other order", x.T.reshape(x.shape)
        yield "gives it transposed: stored in the other order", x.reshape(x.shape[::-1]).T
        yield "gives each row in reverse order", x[:, ::-1]
        half = x.shape[1] // 2
        yield "gives the two halves of each row swapped", np.roll(x, half, axis=1)
        yield "gives each number one column too far to the right", np.roll(x, 1, axis=1)
        yield "gives each number one column too far to the left", np.roll(x, -1, axis=1)
    if x.ndim >= 1:
        yield "gives each row one row too late", np.roll(x, 1, axis=0)
        yield "gives each row one row too early", np.roll(x, -1, axis=0)
        yield "gives the rows in reverse order", x[::-1]
    yield "gives it squared", x * x
    yield "gives the magnitude alone: the sign is lost", np.abs(x)


def _wrong_rows(expected: Array, got: Array, allowed: float) -> list[int] | None:
    if got.ndim == 0:
        return None
    scale = math.sqrt(float(np.square(expected).mean())) if expected.size else 0.0
    wrong = np.abs(got - expected) > allowed * (np.abs(expected) + scale)
    return [int(i) for i in np.flatnonzero(wrong.reshape(len(got), -1).any(axis=1))]
