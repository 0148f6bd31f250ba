"""Compare gradients with differences of the function itself, in float64."""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calmgrad.backend import Backend, Name, load, to_numpy
from calmgrad.errors import CheckFailed
from calmgrad.kernels.protocol import Array
from calmgrad.tape import Tape, Tensor

# Two central differences, at STEP and STEP / 2, combined so that the error of second order
# cancels: what is left is about STEP^4, and the rounding of the values over STEP.
STEP = 3e-4
ROUNDING = 64 * float(np.finfo(np.float64).eps)  # of a value: ops sum many terms


@dataclass(frozen=True, slots=True)
class GradientErrors:
    """What a passed check found.

    Attributes:
        worst: name of each input -> largest error of its gradient, relative to the gradient's
            norm (along random directions) or largest element (element by element).
        comparisons: how many differences were taken.
    """

    worst: dict[str, float]
    comparisons: int


def gradcheck(
    fn: Callable[..., Tensor],
    *arrays: Array,
    backend: Name | Backend = "reference",
    rtol: float = 1e-6,
    full: bool = False,
    directions: int = 3,
    names: Sequence[str] | None = None,
    seed: int = 0,
    step: float = STEP,
) -> GradientErrors:
    """Check the gradients of `fn(*tensors)` against central differences.

    The output is weighted with fixed random numbers and summed. The slope of that sum is
    compared along random directions, in each input alone and in all together; or, with `full`,
    in every single element. A direction costs four calls of `fn`, whatever the size.

    Args:
        fn: takes one Tensor for each array, returns a Tensor; the same for the same arrays.
        arrays: the point to check at, finite, and not on a kink (a tie of `max`).
        backend: what computes, in float64: "reference", "cpu", or a Backend.
        rtol: largest error allowed, relative to the norm or largest element of the input's
            gradient, besides the rounding of the difference.
        full: every element alone, for small arrays.
        directions: how many random directions for each input, and of all together.
        names: of the inputs, for messages; taken from `fn` if not given.
        seed: of the random weights and directions.
        step: length of the difference, of each element.

    Returns:
        The worst error of each input.

    Raises:
        CheckFailed: a gradient is wrong, a number is not finite, or `fn` does not repeat.
        ValueError: no arrays, or `names` does not name each.

    An input through which nothing flows has gradient 0.
    """
    if not arrays:
        raise ValueError("gradcheck: no arrays, expected at least one")
    labels = tuple(names) if names is not None else _names(fn, len(arrays))
    if len(labels) != len(arrays):
        raise ValueError(f"gradcheck: {len(labels)} names, expected {len(arrays)}")
    point = [np.array(to_numpy(array), np.float64) for array in arrays]
    for label, array in zip(labels, point, strict=True):
        _refuse_infinite(array, f"input {label}")
    engine = backend if isinstance(backend, Backend) else load(backend)
    checker = _Checker(fn, engine, point, labels, np.random.default_rng(seed), step, rtol)
    return checker.every_element() if full else checker.random_directions(directions)


class _Checker:
    """One function at one point: its formula's gradients, and differences along directions."""

    def __init__(
        self,
        fn: Callable[..., Tensor],
        backend: Backend,
        point: list[Array],
        names: tuple[str, ...],
        rng: np.random.Generator,
        step: float,
        rtol: float,
    ) -> None:
        self.fn, self.point, self.names, self.rng, self.step, self.rtol = (
            fn, point, names, rng, step, rtol,
        )  # fmt: skip
        self.forward_only = Tape(backend, "float64", record=False)
        self.comparisons = 0

        tape = Tape(backend, "float64")
        leaves = [tape.constant(array) for array in point]
        y = fn(*leaves)
        if not isinstance(y, Tensor):
            raise ValueError(f"gradcheck: fn returned {type(y).__name__}, expected a Tensor")
        value = np.array(to_numpy(y.value))
        _refuse_infinite(value, "the output")
        if not np.array_equal(value, self._values(point)):
            raise CheckFailed("gradcheck: two calls of fn with the same arrays gave other values")
        self.weights = rng.standard_normal(value.shape)
        tape.backward(y, backend.xp.asarray(self.weights))
        self.gradients = [
            np.zeros(leaf.shape) if leaf.grad is None else np.array(to_numpy(leaf.grad))
            for leaf in leaves
        ]
        for name, gradient in zip(names, self.gradients, strict=True):
            _refuse_infinite(gradient, f"the gradient of {name}")
        # The rounding of a difference: that of the values, and of the point that is moved.
        sizes = [np.abs(value * self.weights).sum()]
        sizes += [np.abs(g * x).sum() for g, x in zip(self.gradients, point, strict=True)]
        self.rounding = ROUNDING * float(sum(sizes)) / step

    def random_directions(self, count: int) -> GradientErrors:
        worst = dict.fromkeys(self.names, 0.0)
        for _ in range(count):
            draws = [self.rng.standard_normal(array.shape) for array in self.point]
            for k, name in enumerate(self.names):
                worst[name] = max(worst[name], self._compare(k, draws[k]))
            self._compare_all(draws)
        return GradientErrors(worst, self.comparisons)

    def every_element(self) -> GradientErrors:
        worst = dict.fromkeys(self.names, 0.0)
        for k, name in enumerate(self.names):
            scale = float(np.abs(self.gradients[k]).max(initial=0.0))
            for index in np.ndindex(self.point[k].shape):
                formula, difference = self._at(k, index)
                error = abs(formula - difference)
                if not error <= self.rtol * scale + self.rounding:
                    raise CheckFailed(self._message(k, index, formula, difference))
                worst[name] = max(worst[name], error / scale if scale else 0.0)
        return GradientErrors(worst, self.comparisons)

    def _compare(self, k: int, direction: Array) -> float:
        """The relative error of input k along `direction`."""
        scale = float(np.linalg.norm(self.gradients[k]))
        formula = float((self.gradients[k] * direction).sum())
        error = abs(formula - self._slope({k: direction}))
        if not error <= self.rtol * scale + self.rounding:
            index = self._locate(k, direction)
            raise CheckFailed(self._message(k, index, *self._at(k, index)))
        return error / scale if scale else 0.0

    def _compare_all(self, directions: list[Array]) -> None:
        pairs = list(zip(self.gradients, directions, strict=True))
        scale = math.sqrt(sum(float(np.square(g).sum()) for g in self.gradients))
        formula = sum(float((g * d).sum()) for g, d in pairs)
        difference = self._slope(dict(enumerate(directions)))
        if not abs(formula - difference) <= self.rtol * scale + self.rounding:
            raise CheckFailed(
                f"gradcheck: all inputs together: formula {formula:.10g},"
                f" central difference {difference:.10g}"
            )

    def _locate(self, k: int, direction: Array) -> tuple[int, ...]:
        """Halve the direction until the element with the error is left."""
        flat = np.flatnonzero(direction)
        gradient = self.gradients[k]
        while flat.size > 1:
            halves = np.array_split(flat, 2)
            errors = []
            for half in halves:
                part = np.zeros(direction.size)
                part[half] = direction.reshape(-1)[half]
                part = part.reshape(direction.shape)
                errors.append(abs(float((gradient * part).sum()) - self._slope({k: part})))
            flat = halves[int(np.argmax(errors))]
        return tuple(int(i) for i in np.unravel_index(int(flat[0]), direction.shape))

    def _at(self, k: int, index: tuple[int, ...]) -> tuple[float, float]:
        unit = np.zeros_like(self.point[k])
        unit[index] = 1
        return float(self.gradients[k][index]), self._slope({k: unit})

    def _message(self, k: int, index: tuple[int, ...], formula: float, difference: float) -> str:
        return (
            f"gradcheck: gradient of {self.names[k]} at {list(index)}:"
            f" formula {formula:.10g}, central difference {difference:.10g}"
        )

    def _slope(self, directions: dict[int, Array]) -> float:
        """The slope of the weighted sum along `directions` (input -> array)."""
        coarse, fine = (self._central(directions, self.step / n) for n in (1, 2))
        self.comparisons += 1
        return (4 * fine - coarse) / 3

    def _central(self, directions: dict[int, Array], step: float) -> float:
        plus, minus = (self._values(list(self._moved(directions, s))) for s in (step, -step))
        _refuse_infinite(plus, "the output near the point")
        _refuse_infinite(minus, "the output near the point")
        return float(((plus - minus) * self.weights).sum()) / (2 * step)

    def _moved(self, directions: dict[int, Array], step: float) -> Iterator[Array]:
        for k, array in enumerate(self.point):
            yield array + step * directions[k] if k in directions else array

    def _values(self, arrays: list[Array]) -> Any:
        tape = self.forward_only
        tape.begin()
        return np.array(to_numpy(self.fn(*(tape.constant(array) for array in arrays)).value))


def _names(fn: Callable[..., Tensor], count: int) -> tuple[str, ...]:
    """The names of the first parameters of `fn`, where it tells them."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())[:count]
    except (TypeError, ValueError):
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) == count and all(p.kind in kinds for p in parameters):
        return tuple(p.name for p in parameters)
    return tuple(f"input {k}" for k in range(count))


def _refuse_infinite(array: Array, what: str) -> None:
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        raise CheckFailed(f"gradcheck: {what} is {array[index]} at {list(index)}")
