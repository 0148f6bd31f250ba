"""Record what the forward pass did; undo it in reverse order.

A Tensor is a value and, during the backward pass, its gradient. An op computes its output and
records a step that turns the output's gradient into those of its inputs. `backward` runs the
steps from last to first. An activation's gradient is written by the last op that used it, added
to by the others, and given back as soon as the op that made it is done: so few are alive at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

from calmgrad.arena import Arena, Pool, address
from calmgrad.backend import Backend, Name, load
from calmgrad.kernels.protocol import Array

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Tensor:
    """A value on a tape, and its gradient once something has flowed back to it.

    A view, made by `split`, is some columns of its parent: it has no memory of its own.
    """

    __slots__ = (
        "_buffer",
        "_columns",
        "_filled",
        "_parent",
        "_persistent",
        "_views",
        "tape",
        "value",
    )

    def __init__(self, value: Array, tape: Tape, buffer: Array | None = None) -> None:
        self.value = value
        self.tape = tape
        self._buffer = buffer  # where the gradient is, or will be
        self._persistent = buffer is not None  # the buffer is the caller's, for many passes
        self._filled = False  # whether the buffer holds something of this pass
        self._views: list[Tensor] = []  # none, or together all columns
        self._parent: Tensor | None = None  # of a view, as is the next
        self._columns = slice(None)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def grad(self) -> Array:
        """The gradient, same shape as the value; None where nothing has flowed back."""
        self._settle()
        return self._buffer if self._filled else None

    def __array__(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("a Tensor is not an array: use its .value, or a function of calmgrad.ops")

    def __array_ufunc__(self, ufunc: object, *_: object, **__: object) -> NoReturn:
        self.__array__()

    def gradient(self) -> AbstractContextManager[Array]:
        """`with x.gradient() as dx:` an array to write this op's share of the gradient to.

        Where another op has left its share already, `dx` is scratch that is added at the end.
        """
        return _Share(self)

    def gradient_to_add(self) -> tuple[Array, bool]:
        """The gradient itself, and whether it holds something that must be added to."""
        self._settle()
        buffer, held = self._open()
        self._filled = True
        return buffer, held

    def arrived(self) -> Iterator[Array]:
        """What of the gradient is there so far: all of it, or that of some of its views."""
        if self._filled:
            yield self._buffer
        else:
            for view in self._views:
                yield from view.arrived()

    def split(self, *sizes: int) -> list[Tensor]:
        """Views of the first `sizes[0]` columns, the next `sizes[1]`, … of all columns.

        Raises:
            ValueError: the sizes are not those of all columns, or the tensor is split already.
        """
        if self._views:
            raise ValueError("split: the tensor is split already")
        if sum(sizes) != self.shape[1]:
            raise ValueError(f"split: sizes {sizes}, expected to sum to {self.shape[1]} columns")
        start = 0
        for size in sizes:
            view = Tensor(self.value[:, start : start + size], self.tape)
            view._parent, view._columns = self, slice(start, start + size)
            self._views.append(view)
            start += size
        return list(self._views)

    def take_over(self, other: Tensor) -> None:
        """Add the gradient of `other`, a tensor of the same shape that needs it no more."""
        given = other.grad
        movable = other._parent is None and not other._persistent
        if movable and self._buffer is None and self._parent is None:
            self._buffer, self._filled, other._buffer = given, True, None
        else:
            with self.gradient() as mine:
                mine[...] = given

    def drop(self) -> None:
        """Forget the gradient, that of views too, and give its memory back."""
        if self._parent is None and self._buffer is not None:
            self.tape.pool.give(self._buffer)
        self._buffer, self._filled = None, False
        for view in self._views:
            view.drop()

    def _open(self) -> tuple[Array, bool]:
        """The buffer, taken from the pool if there is none yet, and whether it is filled."""
        if self._buffer is None:
            if self._parent is None:
                self._buffer = self.tape.pool.take(self.shape)
            else:
                whole, self._filled = self._parent._open()
                self._buffer = whole[:, self._columns]
        return self._buffer, self._filled

    def _settle(self) -> None:
        """When views have been written, the whole has been: with 0 where no view was."""
        if self._filled or all(view.grad is None for view in self._views):
            return
        for view in self._views:
            buffer, filled = view._open()
            if not filled:
                buffer.fill(0)
                view._filled = True
        self._filled = True


class _Share:
    """One op's share of a gradient."""

    __slots__ = ("held", "scratch", "tensor", "total")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __enter__(self) -> Array:
        self.total, self.held = self.tensor.gradient_to_add()
        if not self.held:
            return self.total
        self.scratch = self.tensor.tape.pool.take(self.tensor.shape)
        return self.scratch

    def __exit__(self, *exc: object) -> None:
        if self.held:
            self.tensor.tape.backend.xp.add(self.total, self.scratch, out=self.total)
            self.tensor.tape.pool.give(self.scratch)


class _Scratch:
    """A flat array for the time of a kernel call."""

    __slots__ = ("array", "pool")

    def __init__(self, pool: Pool, size: int) -> None:
        self.pool = pool
        self.array = pool.take((size,))

    def __enter__(self) -> Array:
        return self.array

    def __exit__(self, *exc: object) -> None:
        self.pool.give(self.array)


@dataclass(slots=True)
class Step:
    """One op on the tape: its name, where in the network it stands, and its way back.

    `inputs` and `saved`, each by the name that the op has for it, are for observers alone.
    """

    op: str
    scope: str
    output: Tensor
    backward: Callable[[], None]
    inputs: Mapping[str, Tensor]  # weights are among them
    saved: Mapping[str, Array]  # what the op keeps for its way back, besides


class Tape:
    """The steps of one forward pass, and the memory its values and gradients live in.

    Args:
        backend: arrays and kernels to compute with, or their name, "reference" or "cpu".
        dtype: "float32" or "float64".
        record: False for a forward pass alone, which frees memory as it goes.

    Attributes:
        scope: where in the network the next ops stand ("blocks.0.mixer"); the caller sets it.
        observer: called with ("forward" | "backward", step) after each step: for profiles,
            traces and the search for the first NaN.
    """

    def __init__(
        self, backend: Backend | Name = "cpu", dtype: str = "float32", record: bool = True
    ) -> None:
        self.backend = load(backend) if isinstance(backend, str) else backend
        self.dtype = dtype
        self.recording = record
        tight = self.backend.device is not None
        self.values = Arena(self.backend.xp, dtype, tight)
        self.pool = Pool(self.backend.xp, dtype, tight)
        self.steps: list[Step] = []
        self.scope = ""
        self._gone_back = False
        self.observer: Callable[[str, Step], None] | None = None
        self.parameters: list[Tensor] = []

    @property
    def addresses(self) -> tuple[int, ...]:
        """Where its memory begins; after `begin` they stay, as long as passes grow no larger."""
        return self.values.addresses + self.pool.arena.addresses

    def begin(self) -> None:
        """Forget the previous pass."""
        for step in self.steps:
            # A tensor and its views hold each other, and with them blocks the arena has outgrown.
            step.output._views.clear()
        self.steps.clear()
        self._gone_back = False
        self.values.reset()
        self.pool.reset()
        for parameter in self.parameters:
            parameter._filled = False
            parameter._views.clear()
            if not parameter._persistent:
                parameter._buffer = None  # the pool's, and free again

    def parameter(self, value: Array, gradient: Array | None = None) -> Tensor:
        """A tensor that outlives the passes; each pass overwrites `gradient` with its own.

        Without `gradient`, only this pass' gradient exists, as with any other tensor.
        """
        for array in (value, gradient):
            if array is None or array.ndim == 0 or array.shape[-1] == 1:
                continue
            if array.strides[-1] != array.itemsize:
                raise ValueError("parameter: the last axis must be contiguous")
        tensor = Tensor(value, self, buffer=gradient)
        self.parameters.append(tensor)
        return tensor

    def constant(self, value: Array) -> Tensor:
        """A tensor of this pass that holds a copy of `value`, an array or a number."""
        array = self.backend.xp.asarray(value, self.dtype)
        tensor = self.empty(array.shape)
        tensor.value[...] = array
        return tensor

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """A tensor with an uninitialised value, to be an op's output."""
        return Tensor(self.values.take(shape), self)

    def scratch(self, size: int) -> AbstractContextManager[Array]:
        """`with tape.scratch(n) as work:` n uninitialised elements."""
        return _Scratch(self.pool, size)

    def record(
        self,
        op: str,
        output: Tensor,
        inputs: Mapping[str, Tensor] = NOTHING,
        saved: Mapping[str, Array] = NOTHING,
    ) -> Callable[[Callable[[], None]], None]:
        """Decorate the backward step of `op`, right after its forward computation.

        Those who look on (traces, explanations) see what `inputs` and `saved` name.

        Raises:
            ValueError: an input is a tensor of another tape.
        """
        for name, x in inputs.items():
            if x.tape is not self:
                raise ValueError(f"{op}: {name} is a tensor of another tape")

        def append(backward: Callable[[], None]) -> None:
            step = Step(op, self.scope, output, backward, inputs, saved)
            if self.recording:
                self.steps.append(step)
            if self.observer is not None:
                self.observer("forward", step)

        return append

    def keep(self, x: Tensor, mark: tuple[int, int]) -> Tensor:
        """When not recording, free all values made since `mark` but that of `x`."""
        if self.recording:
            return x
        self.values.release(mark)
        moved = self.empty(x.shape)
        if address(moved.value) == address(x.value):
            return moved
        if self.backend.device is None:
            moved.value[...] = x.value  # NumPy copies correctly where the two overlap
        else:
            with self.scratch(x.value.size) as copy:
                copy[...] = x.value.reshape(-1)
                moved.value[...] = copy.reshape(x.shape)
        return moved

    def backward(self, output: Tensor, seed: Array | None = None) -> None:
        """Carry the gradient `seed` of `output` back to every parameter of the tape.

        Afterwards each parameter's gradient holds that of this pass: 0 where none arrived. The
        seed of a single number is 1 if not given.

        Raises:
            ValueError: no seed for more than one number; an output of another tape; a tape that
                does not record; or the second time after one forward pass.
        """
        self._check_start(output, seed)
        self._gone_back = True
        with output.gradient() as gradient:
            gradient[...] = 1 if seed is None else seed
        for step in reversed(self.steps):
            if step.output.grad is not None:
                self._go_back(step)
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter._open()[0].fill(0)

    def _go_back(self, step: Step) -> None:
        try:
            step.backward()
        except Exception as error:
            where = f" in {step.scope}" if step.scope else ""
            error.add_note(f"in the backward step of {step.op}{where}")
            raise
        if self.observer is not None:
            self.observer("backward", step)
        step.output.drop()

    def _check_start(self, output: Tensor, seed: Array | None) -> None:
        if output.tape is not self:
            raise ValueError("backward: the output was computed on another tape")
        if not self.recording:
            raise ValueError("backward: the tape does not record (record=False)")
        if self._gone_back:
            raise ValueError(
                "backward: this pass has gone back already; begin() and compute the output again"
            )
        if seed is None and output.value.size != 1:
            raise ValueError(
                f"backward: the output has shape {output.shape}: expected a seed of this shape,"
                " or a single number, as basic.sum makes it"
            )
