"""Errors planted in gradients: a check that cannot find them proves nothing."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from calmgrad.differences import Function
from calmgrad.kernels.protocol import Array
from calmgrad.model_check import GENERATED, WHOLE, Batch, Manner, Subject, check, whole
from calmgrad.tape import Tensor


@dataclass(frozen=True, slots=True)
class Plant:
    """An error in a gradient, to be found: of which kind, in which op's input; and the subject."""

    kind: str
    op: str
    input: str
    subject: Subject
    only: str | None = None  # the input to look at; None: it shows in some parameter

    def __str__(self) -> str:
        return f"{self.kind}, {self.op} ({self.subject.where}), gradient of {self.input}"


def _sign(dx: Array) -> None:
    dx *= -1


def _thousandth(dx: Array) -> None:
    dx *= 1.001


def _one_element(dx: Array) -> None:
    """The largest, by a hundredth."""
    dx[np.unravel_index(int(np.abs(dx).argmax()), dx.shape)] *= 1.01


def _smaller_half(dx: Array) -> None:
    """By a hundredth: most of them are too small to show along a direction."""
    sizes = np.abs(dx)
    dx[sizes <= np.median(sizes[sizes > 0])] *= 1.01


KINDS: dict[str, Callable[[Array], None]] = {
    "other sign": _sign,
    "0.1 % too large": _thousandth,
    "one element": _one_element,
    "smaller half": _smaller_half,
}


def plants(subjects: Sequence[Subject], batch: Batch, arrays: dict[str, Array]) -> Iterator[Plant]:
    """Each kind of error in each input of each op; one in each parameter of the whole model, and
    one in each input of each op inside of it.

    Of an op that stands in several places the first serves.
    """
    seen: set[tuple[str, str]] = set()
    for subject in subjects:
        for k, name in enumerate(subject.arrays):
            if (subject.op, name) not in seen:
                seen.add((subject.op, name))
                kinds = list(KINDS.items())
                for kind, spoil in [kinds[k % len(kinds)]] if subject.op in WHOLE else kinds:
                    fn = partial(_with_spoilt_input, subject.fn, k, spoil)
                    spoilt = Subject(subject.op, subject.where, fn, subject.arrays)
                    yield Plant(kind, subject.op, name, spoilt, only=name)
    inner = [s for s in subjects if s.op not in WHOLE and s.where != GENERATED]
    for head in (s.op for s in subjects if s.op in WHOLE):
        for op, name in dict.fromkeys((s.op, n) for s in inner if s.head == head for n in s.arrays):
            wrap = partial(_with_spoilt_argument, op, name)
            yield Plant("0.1 % too large", op, name, whole(batch, head, arrays, wrap))


def missed(plants: Sequence[Plant], manner: Manner) -> Iterator[Plant | None]:
    """For each plant None where it was found, else the plant."""
    manner = replace(manner, locate=False, full=False)
    for plant in plants:
        rows = check(plant.subject, manner, only=plant.only)
        wrong = (row.found.name for row in rows if row.line is not None)
        found = any(plant.only in (None, name) for name in wrong)
        yield None if found else plant


def _with_spoilt_input(
    fn: Function, k: int, spoil: Callable[[Array], None], *tensors: Tensor
) -> Tensor:
    changed = list(tensors)
    changed[k] = _spoilt(changed[k], spoil)
    return fn(*changed)


def _with_spoilt_argument(name: str, argument: str, op: Function) -> Function:
    """The op; if it is the one of this name, with an error in the gradient of an argument."""
    if op.__name__ != name:
        return op
    signature = inspect.signature(op)

    def spoilt(*args: Any, **kwargs: Any) -> Tensor:
        given = signature.bind(*args, **kwargs)
        if isinstance(given.arguments.get(argument), Tensor):
            given.arguments[argument] = _spoilt(given.arguments[argument], _thousandth)
        return op(*given.args, **given.kwargs)

    return spoilt


def _spoilt(x: Tensor, spoil: Callable[[Array], None]) -> Tensor:
    """x, by way of an op whose backward spoils the gradient."""
    y = x.tape.empty(x.shape)
    y.value[...] = x.value

    @x.tape.record("planted", y, {"x": x})
    def backward() -> None:
        with x.gradient() as dx:
            dx[...] = y.grad
            spoil(dx)

    return y
