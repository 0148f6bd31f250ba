"""General arithmetic with NumPy's broadcasting, for readers and checks.

An operand is a Tensor, or an array or number that counts as a constant; at least one must be a
Tensor. Where an operand was broadcast, its gradient is summed back to its own shape. Every
function raises ValueError for shapes that do not fit.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from calmgrad.kernels.protocol import Array
from calmgrad.tape import Tape, Tensor

Operand = Tensor | Array
Axis = int | tuple[int, ...] | None
Share = Callable[[Array, Array], Array]  # (dy, y) -> the gradient of an operand, broadcast
Shares = Callable[[Array, Array, Array, Array], tuple[Array, Array]]  # (dy, y, a, b): of both


def add(a: Operand, b: Operand) -> Tensor:
    """y = a + b;  da = dy,  db = dy."""
    return _pair("add", operator.add, a, b, lambda dy, y, a, b: (dy, dy))


def sub(a: Operand, b: Operand) -> Tensor:
    """y = a - b;  da = dy,  db = -dy."""
    return _pair("sub", operator.sub, a, b, lambda dy, y, a, b: (dy, -dy))


def mul(a: Operand, b: Operand) -> Tensor:
    """y = a b;  da = dy b,  db = dy a."""
    return _pair("mul", operator.mul, a, b, lambda dy, y, a, b: (dy * b, dy * a))


def div(a: Operand, b: Operand) -> Tensor:
    """y = a / b;  da = dy / b,  db = -dy y / b."""
    return _pair("div", operator.truediv, a, b, lambda dy, y, a, b: (dy / b, -dy * y / b))


def maximum(a: Operand, b: Operand) -> Tensor:
    """y = a where a >= b, else b;  the larger one gets dy: `a` if they are equal."""
    larger = _tape("maximum", a, b).backend.xp.maximum
    return _pair("maximum", larger, a, b, lambda dy, y, a, b: (dy * (a >= b), dy * (a < b)))


def neg(x: Tensor) -> Tensor:
    """y = -x;  dx = -dy."""
    return _record("neg", -x.value, (x, lambda dy, y: -dy))


def exp(x: Tensor) -> Tensor:
    """y = e^x;  dx = dy y."""
    return _record("exp", _xp(x).exp(x.value), (x, lambda dy, y: dy * y))


def log(x: Tensor) -> Tensor:
    """y = ln x;  dx = dy / x."""
    return _record("log", _xp(x).log(x.value), (x, lambda dy, y: dy / x.value))


def sqrt(x: Tensor) -> Tensor:
    """y = sqrt(x);  dx = dy / (2 y)."""
    return _record("sqrt", _xp(x).sqrt(x.value), (x, lambda dy, y: dy / (2 * y)))


def tanh(x: Tensor) -> Tensor:
    """y = tanh(x);  dx = dy (1 - y^2)."""
    return _record("tanh", _xp(x).tanh(x.value), (x, lambda dy, y: dy * (1 - y * y)))


def sigmoid(x: Tensor) -> Tensor:
    """y = 1 / (1 + e^-x);  dx = dy y (1 - y)."""
    xp = _xp(x)
    y = xp.exp(-xp.logaddexp(0, -x.value))  # accurate where y is small, without overflow
    return _record("sigmoid", y, (x, lambda dy, y: dy * y * (1 - y)))


def softplus(x: Tensor) -> Tensor:
    """y = ln(1 + e^x);  dx = dy (1 - e^-y), which is dy sigmoid(x)."""
    xp = _xp(x)
    return _record("softplus", xp.logaddexp(0, x.value), (x, lambda dy, y: dy * -xp.expm1(-y)))


def power(x: Tensor, exponent: float) -> Tensor:
    """y = x^k;  dx = dy k x^(k-1)."""
    slope = exponent - 1 if exponent else 1  # x^0 has gradient 0, at x = 0 too
    return _record("power", x.value**exponent, (x, lambda dy, y: dy * (exponent * x.value**slope)))


def matmul(a: Operand, b: Operand) -> Tensor:
    """y = a @ b for matrices (I, J) and (J, O);  da = dy @ bᵀ,  db = aᵀ @ dy."""
    tape = _tape("matmul", a, b)
    va, vb = _array(tape, a), _array(tape, b)
    if va.ndim != 2:
        raise ValueError(f"matmul: a has shape {va.shape}, expected (I, J)")
    if vb.ndim != 2 or vb.shape[0] != va.shape[1]:
        raise ValueError(
            f"matmul: b has shape {vb.shape}, expected (J, O) with J = {va.shape[1]} from a"
        )
    product = tape.backend.kernels.matmul
    y = tape.empty((va.shape[0], vb.shape[1]))
    product(y.value, va, vb)

    @tape.record("matmul", y, _named(a, b))
    def backward() -> None:
        if isinstance(a, Tensor):
            with a.gradient() as da:
                product(da, y.grad, vb.T)
        if isinstance(b, Tensor):
            with b.gradient() as db:
                product(db, va.T, y.grad)

    return y


def transpose(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """y = x with its axes in another order (reversed if not given);  dx = dy put back."""
    order = list(reversed(range(len(x.shape)))) if axes is None else list(axes)
    if sorted(order) != list(range(len(x.shape))):
        raise ValueError(f"transpose: axes {order}, expected all axes of x, shape {x.shape}")
    back = [order.index(axis) for axis in range(len(order))]
    return _record("transpose", x.value.transpose(order), (x, lambda dy, y: dy.transpose(back)))


def reshape(x: Tensor, shape: int | tuple[int, ...]) -> Tensor:
    """y = the numbers of x, row by row, in another shape;  dx = those of dy in that of x."""
    try:
        value = x.value.reshape(shape)
    except ValueError:
        raise ValueError(
            f"reshape: x has shape {x.shape}, expected one of as many numbers as {shape}"
        ) from None
    return _record("reshape", value, (x, lambda dy, y: dy.reshape(x.shape)))


def sum(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = sum of x over `axis` (over all if None);  dx = dy at each of the summed."""
    axes = _axes("sum", x, axis)
    value = x.value.sum(axis=axes, keepdims=keepdims)
    return _record("sum", value, (x, lambda dy, y: _spread(dy, x, axes, keepdims)))


def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = sum of n numbers / n;  dx = dy / n at each of them."""
    axes = _axes("mean", x, axis)
    value = x.value.mean(axis=axes, keepdims=keepdims)
    n = math.prod(x.shape[i] for i in axes)
    return _record("mean", value, (x, lambda dy, y: _spread(dy, x, axes, keepdims) / n))


def max(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """y = the largest over `axis`;  dx = dy / m at each of the m that are as large, 0 elsewhere."""
    axes = _axes("max", x, axis)
    value = x.value.max(axis=axes, keepdims=keepdims)

    def share(dy: Array, y: Array) -> Array:
        top = x.value == _spread(y, x, axes, keepdims)
        return _spread(dy, x, axes, keepdims) * top / top.sum(axis=axes, keepdims=True)

    return _record("max", value, (x, share))


def getitem(x: Tensor, index: Any) -> Tensor:
    """y = x[index], slices or integer arrays;  dx[index] gets dy, summed where an entry repeats."""
    try:
        value = x.value[index]
    except IndexError as error:
        raise ValueError(f"getitem: x has shape {x.shape}: {error}") from None
    tape = x.tape
    y = tape.empty(value.shape)
    y.value[...] = value

    @tape.record("getitem", y, {"x": x})
    def backward() -> None:
        dx, held = x.gradient_to_add()
        if not held:
            dx.fill(0)
        tape.backend.xp.add.at(dx, index, y.grad)

    return y


def concatenate(tensors: Sequence[Operand], axis: int = 0) -> Tensor:
    """y = all tensors one after the other along `axis`;  each gets its part of dy."""
    tape = _tape("concatenate", *tensors)
    values = [_array(tape, tensor) for tensor in tensors]
    try:
        value = tape.backend.xp.concatenate(values, axis=axis)
    except ValueError:
        raise ValueError(
            f"concatenate: tensors have shapes {[v.shape for v in values]},"
            f" expected equal ones but for axis {axis}"
        ) from None
    shares: list[tuple[Operand, Share]] = []
    ends = list(itertools.accumulate(v.shape[axis] for v in values))
    for tensor, part, end in zip(tensors, values, ends, strict=True):
        index = [slice(None)] * value.ndim
        index[axis] = slice(end - part.shape[axis], end)
        shares.append((tensor, lambda dy, y, index=tuple(index): dy[index]))  # type: ignore[misc]
    return _record("concatenate", value, *shares)


def where(mask: Array, a: Operand, b: Operand) -> Tensor:
    """y = a where the mask is true, else b;  dy goes to the one that was taken."""
    tape = _tape("where", a, b)
    xp = tape.backend.xp
    va, vb, mask = _array(tape, a), _array(tape, b), xp.asarray(mask, bool)
    try:
        value = xp.where(mask, va, vb)
    except ValueError:
        raise ValueError(
            f"where: mask, a and b have shapes {mask.shape}, {va.shape} and {vb.shape},"
            " expected ones that broadcast"
        ) from None
    taken = (a, lambda dy, y: xp.where(mask, dy, 0)), (b, lambda dy, y: xp.where(mask, 0, dy))
    return _record("where", value, *taken)


def _array(tape: Tape, operand: Operand) -> Array:
    value = operand.value if isinstance(operand, Tensor) else operand
    return tape.backend.xp.asarray(value, tape.dtype)


def _xp(x: Tensor) -> Any:
    return x.tape.backend.xp


def _tape(op: str, *operands: Operand) -> Tape:
    tapes = {operand.tape for operand in operands if isinstance(operand, Tensor)}
    if len(tapes) > 1:
        raise ValueError(f"{op}: the arguments are tensors of {len(tapes)} tapes, expected one")
    if not tapes:
        raise ValueError(f"{op}: no argument is a Tensor, expected at least one")
    return tapes.pop()


def _axes(op: str, x: Tensor, axis: Axis) -> tuple[int, ...]:
    """The axes as a sorted tuple of numbers from 0."""
    rank = len(x.shape)
    given = tuple(range(rank)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = {i % rank for i in given if -rank <= i < rank}
    if len(axes) != len(given):
        raise ValueError(f"{op}: axis {axis}, expected different axes of x, shape {x.shape}")
    return tuple(sorted(axes))


def _spread(reduced: Array, x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Array:
    """What was reduced over `axes`, repeated along them."""
    xp = _xp(x)
    return xp.broadcast_to(reduced if keepdims else xp.expand_dims(reduced, axes), x.shape)


def _sum_to(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Undo a broadcast from `shape`: sum over the axes that it added or stretched."""
    added = gradient.ndim - len(shape)
    stretched = [added + i for i, n in enumerate(shape) if n == 1 != gradient.shape[added + i]]
    axes = (*range(added), *stretched)
    return gradient.sum(axis=axes).reshape(shape) if axes else gradient


def _named(*operands: Operand) -> dict[str, Tensor]:
    """The tensors among the operands, by where they stand: x0, x1, …"""
    return {f"x{i}": x for i, x in enumerate(operands) if isinstance(x, Tensor)}


def _pair(
    op: str, f: Callable[[Array, Array], Array], a: Operand, b: Operand, shares: Shares
) -> Tensor:
    tape = _tape(op, a, b)
    va, vb = _array(tape, a), _array(tape, b)
    try:
        value = f(va, vb)
    except ValueError:
        raise ValueError(
            f"{op}: b has shape {vb.shape}, expected one that broadcasts with that of a, {va.shape}"
        ) from None
    return _record(
        op, value,
        (a, lambda dy, y: shares(dy, y, va, vb)[0]), (b, lambda dy, y: shares(dy, y, va, vb)[1]),
    )  # fmt: skip


def _record(op: str, value: Array, *shares: tuple[Operand, Share]) -> Tensor:
    tape = _tape(op, *(operand for operand, _ in shares))
    y = tape.empty(value.shape)
    y.value[...] = value

    @tape.record(op, y, _named(*(operand for operand, _ in shares)))
    def backward() -> None:
        for operand, share in shares:
            if isinstance(operand, Tensor):
                with operand.gradient() as gradient:
                    gradient[...] = _sum_to(share(y.grad, y.value), operand.shape)

    return y
