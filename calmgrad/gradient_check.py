"""Compare gradients with differences of the function itself, in float64."""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from calmgrad.backend import Backend, Name, load, to_numpy
from calmgrad.differences import ROUNDING, Function, Slope, WeightedSum
from calmgrad.errors import CheckFailed
from calmgrad.kernels.protocol import Array

# In units of an input's scale (differences.py). Along a direction everything moves, so in small
# steps; a single element may go further, which rounding spoils less.
STEP = 3e-4
SHORTER = (1 / 8, 1 / 64)  # tried where a difference disagrees
PROBE_STEPS = (2e-2, 2e-3, 2e-4)


@dataclass(frozen=True, slots=True)
class InputErrors:
    """What was found of one input.

    Attributes:
        name, shape: of the input.
        error: the largest, relative as `gradcheck` tells; above its `rtol` the check has failed.
        index: the element where it is largest; None: along a random direction.
        formula, difference: the two numbers that disagree most, there.
        smallest, largest: magnitudes of the gradients probed one by one, but for 0.
        limit: in a gradient smaller than this, rounding may hide an error of 1 %.
        probes: elements compared one by one.
        message: what is wrong, in one line; None: nothing.
    """

    name: str
    shape: tuple[int, ...]
    error: float = 0.0
    index: tuple[int, ...] | None = None
    formula: float = 0.0
    difference: float = 0.0
    smallest: float = math.inf
    largest: float = 0.0
    limit: float = 0.0
    probes: int = 0
    message: str | None = None


@dataclass(frozen=True, slots=True)
class GradientErrors:
    """What a passed check found.

    Attributes:
        worst: name of each input -> largest relative error of its gradient.
        comparisons: how many differences were taken.
        inputs: more of each.
    """

    worst: dict[str, float]
    comparisons: int
    inputs: tuple[InputErrors, ...] = ()


def gradcheck(
    fn: Function,
    *arrays: Array,
    backend: Name | Backend = "reference",
    rtol: float = 1e-6,
    full: bool = False,
    directions: int = 3,
    probes: int = 0,
    names: Sequence[str] | None = None,
    seed: int = 0,
    step: float = STEP,
) -> GradientErrors:
    """Check the gradients of `fn(*tensors)` against central differences.

    The output is weighted with fixed random numbers and summed. The slope of that sum is
    compared along random directions, in each input alone and in all together; or, with `full`,
    in every single element. A direction costs four calls of `fn`, whatever the size. Besides,
    `fn` has to repeat, to leave its inputs alone, to write all of each gradient, and to add where
    an input is used twice.

    Args:
        fn: takes one Tensor for each array, returns a Tensor; the same for the same arrays.
        arrays: the point to check at, finite, and not on a kink (a tie of `max`).
        backend: what computes, in float64: "reference", "cpu", or a Backend.
        rtol: largest error allowed, relative to the norm of the input's gradient (directions),
            its largest element (`full`) or the element itself (`probes`), besides the rounding of
            the difference.
        full: every element alone, for small arrays.
        directions: how many random directions for each input, and of all together.
        probes: so many elements of each input alone, from the smallest gradient to the largest:
            an error in the small ones does not show along a direction.
        names: of the inputs, for messages; taken from `fn` if not given.
        seed: of the random weights and directions.
        step: length of the difference, of each element, times the root mean square of its input
            where that is below 1.

    Returns:
        The worst error of each input.

    Raises:
        CheckFailed: a gradient is wrong, a number is not finite, or `fn` does not keep the above.
        ValueError: no arrays, something that is none, or `names` does not name each.

    An input through which nothing flows has gradient 0.
    """
    engine = backend if isinstance(backend, Backend) else load(backend)
    with engine.active():
        check = Check(fn, arrays, engine, rtol, names, seed, step)
        found = tuple(check.inputs(0 if full else directions, probes, full))
        for one in found:
            if one.message is not None:
                raise CheckFailed(f"gradcheck: {one.message}")
        for _ in range(0 if full else directions):
            check.all_together()
    return GradientErrors({one.name: one.error for one in found}, check.comparisons, found)


class Check:
    """One function at one point, to be compared input by input.

    Args:
        tick: called before each comparison.
        locate: find the element that makes a direction disagree.
    """

    def __init__(
        self,
        fn: Function,
        arrays: Sequence[Array],
        backend: Backend,
        rtol: float = 1e-6,
        names: Sequence[str] | None = None,
        seed: int = 0,
        step: float = STEP,
        tick: Callable[[], None] = lambda: None,
        locate: bool = True,
    ) -> None:
        if not arrays:
            raise ValueError("gradcheck: no arrays, expected at least one")
        self.names = tuple(names) if names is not None else _names(fn, len(arrays))
        if len(self.names) != len(arrays):
            raise ValueError(f"gradcheck: {len(self.names)} names, expected {len(arrays)}")
        self.rng = np.random.default_rng(seed)
        self.rtol, self.step, self.tick, self.locate = rtol, step, tick, locate
        self.comparisons = 0
        point = [_numbers(*pair) for pair in zip(self.names, arrays, strict=True)]
        self.sum = WeightedSum(fn, backend, point, self.names, self.rng)
        # By what is moved: an input in units of its scale.
        self.gradients = [g * s for g, s in zip(self.sum.gradients, self.sum.scales, strict=True)]

    def inputs(
        self, directions: int, probes: int, full: bool = False, only: str | None = None
    ) -> Iterator[InputErrors]:
        """Compare each input, one after the other, or one; what fails is told, not raised."""
        for k in range(len(self.names)):
            if only not in (None, self.names[k]):
                continue
            worst = InputErrors(self.names[k], self.sum.point[k].shape)
            for found in self._comparisons(k, directions, probes, full):
                worst = _worse(worst, found)
                if not worst.error <= self.rtol:
                    worst = self._failed(k, worst)
                    break
            yield worst

    def all_together(self) -> None:
        """Compare along a random direction of all inputs.

        Raises:
            CheckFailed: the slopes differ.
        """
        directions = {k: self._draw(k) for k in range(len(self.names))}
        formula = sum(float((self.gradients[k] * d).sum()) for k, d in directions.items())
        scale = math.sqrt(sum(float(np.square(g).sum()) for g in self.gradients))
        slope = self._nearest(directions, formula, scale)
        if not abs(formula - slope.value) <= self.rtol * scale + slope.allowance:
            raise CheckFailed(
                f"gradcheck: all inputs together: formula {formula:.10g},"
                f" central difference {slope.value:.10g}"
            )

    def _comparisons(
        self, k: int, directions: int, probes: int, full: bool
    ) -> Iterator[InputErrors]:
        gradient = self.gradients[k]
        for _ in range(directions):
            direction = self._draw(k)
            formula = float((gradient * direction).sum())
            norm = float(np.linalg.norm(gradient))
            slope = self._nearest({k: direction}, formula, norm)
            found = self._compared(k, formula, slope.value, norm, slope.allowance)
            if self.locate and not found.error <= self.rtol:  # together they are off by more
                there = self._element(k, self._locate(k, direction), norm)
                found = replace(there, error=max(found.error, there.error))
            yield found
        if full:
            largest = float(np.abs(gradient).max(initial=0.0))
            for index in np.ndindex(gradient.shape):
                yield self._element(k, index, largest)
        for index in self._spread(k, probes):
            yield self._probe(k, index)

    def _element(self, k: int, index: tuple[int, ...], scale: float) -> InputErrors:
        formula = float(self.gradients[k][index])
        slope = self._nearest({k: self._unit(k, index)}, formula, scale)
        return self._compared(k, formula, slope.value, scale, slope.allowance, index)

    def _probe(self, k: int, index: tuple[int, ...]) -> InputErrors:
        """One element, relative to its own gradient, as sharply as differences can."""
        formula = float(self.gradients[k][index])
        own = ROUNDING * float(np.abs(self.gradients[k]).max())  # rounding of the formula's sums
        sharpest, best = math.inf, Slope(0.0, 0.0, 0.0)
        for step in PROBE_STEPS:
            slope = self._slope({k: self._unit(k, index)}, step, 3)
            if slope.rounding + slope.remainder < sharpest:
                sharpest, best = slope.rounding + slope.remainder, slope
            if sharpest <= self.rtol * abs(formula) or best.remainder <= best.rounding:
                break
        return self._compared(k, formula, best.value, abs(formula), sharpest + own, index, True)

    def _compared(
        self,
        k: int,
        formula: float,
        difference: float,
        scale: float,
        allowance: float,
        index: tuple[int, ...] | None = None,
        probe: bool = False,
    ) -> InputErrors:
        """The error relative to `scale`; and to what could be told apart, where that is more."""
        unit = self.sum.scales[k]
        off = abs(formula - difference)
        whole = scale + allowance / self.rtol if self.rtol else scale
        return InputErrors(
            self.names[k],
            self.sum.point[k].shape,
            off / whole if whole else (0.0 if off == 0 else math.inf),
            index,
            formula / unit,
            difference / unit,
            abs(formula) / unit if probe and formula else math.inf,
            abs(formula) / unit if probe else 0.0,
            100 * allowance / unit if probe else 0.0,
            int(index is not None),
        )

    def _failed(self, k: int, worst: InputErrors) -> InputErrors:
        index = "along a direction" if worst.index is None else f"at {list(worst.index)}"
        message = (
            f"gradient of {worst.name} {index}: formula {worst.formula:.10g},"
            f" central difference {worst.difference:.10g}"
        )
        if not self.sum.reached[k]:
            message += f"; nothing flowed back to {worst.name}"
        return replace(worst, message=message)

    def _draw(self, k: int) -> Array:
        return self.rng.standard_normal(self.sum.point[k].shape)

    def _unit(self, k: int, index: tuple[int, ...]) -> Array:
        unit = np.zeros_like(self.sum.point[k])
        unit[index] = 1
        return unit

    def _nearest(self, directions: dict[int, Array], formula: float, scale: float) -> Slope:
        """The slope; where it disagrees, at shorter steps too, as a sharp bend wants them."""
        best = self._slope(directions, self.step, 2)
        for shorter in SHORTER:
            off = abs(formula - best.value) - best.allowance
            if off <= self.rtol * scale:
                break
            slope = self._slope(directions, shorter * self.step, 2)
            if abs(formula - slope.value) - slope.allowance < off:
                best = slope
        return best

    def _slope(self, directions: dict[int, Array], step: float, levels: int) -> Slope:
        self.comparisons += 1
        self.tick()
        return self.sum.slope(directions, step, levels)

    def _spread(self, k: int, count: int) -> list[tuple[int, ...]]:
        """Elements from the smallest gradient to the largest, evenly by rank; and one that is 0."""
        sizes = np.abs(self.gradients[k]).reshape(-1)
        order = np.argsort(sizes, kind="stable")
        zeros = int((sizes == 0).sum())
        chosen = [order[self.rng.integers(zeros)]] if zeros and count else []
        if zeros < sizes.size:
            ranks = np.linspace(zeros, sizes.size - 1, count).round().astype(int)
            chosen += [order[rank] for rank in sorted(set(ranks.tolist()))]
        shape = self.gradients[k].shape
        return [tuple(int(i) for i in np.unravel_index(int(at), shape)) for at in chosen]

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
                slope = self._slope({k: part}, self.step, 2)
                errors.append(abs(float((gradient * part).sum()) - slope.value))
            flat = halves[int(np.argmax(errors))]
        return tuple(int(i) for i in np.unravel_index(int(flat[0]), direction.shape))


def _worse(a: InputErrors, b: InputErrors) -> InputErrors:
    """Both together: the larger error, of either what was probed."""
    return replace(
        a if a.error >= b.error else b,
        smallest=min(a.smallest, b.smallest),
        largest=max(a.largest, b.largest),
        limit=max(a.limit, b.limit),
        probes=a.probes + b.probes,
    )


def _numbers(name: str, array: object) -> Array:
    """A float64 copy."""
    given = np.asarray(to_numpy(array))
    if given.dtype.kind not in "biuf":
        kind = f"a {type(array).__name__}" if given.dtype.kind == "O" else f"of type {given.dtype}"
        raise ValueError(
            f"gradcheck: {name} is {kind}, expected an array of real numbers"
            " (what else fn takes, give it with functools.partial or a lambda)"
        )
    return given.astype(np.float64)


def _names(fn: Function, count: int) -> tuple[str, ...]:
    """The names of the first parameters of `fn`, where it tells them."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())[:count]
    except (TypeError, ValueError):
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(parameters) == count and all(p.kind in kinds for p in parameters):
        return tuple(p.name for p in parameters)
    return tuple(f"input {k}" for k in range(count))
