"""Sixteen lanes of float32 or float64 as one Numba value, and masks for the last few columns.

`load(x, (t, c), lanes)` is x[t, c : c+16] as a value that has + - * / and the functions below.
LLVM splits it into what the machine has: one AVX-512 register, two of AVX, four of NEON. Loops
written with it need no luck with the auto-vectoriser, and the same source serves both dtypes.

`lanes` is `all_lanes()`, or `first_lanes(n)` for the last n < 16 columns of a row; the two have
different *types*, so the common case carries no mask at all. Masked-off lanes load as 0. The
last axis of every array must be contiguous.
"""

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import (
    intrinsic,
    lower_builtin,
    models,
    register_model,
)

WIDTH = 16
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_MASK = ir.VectorType(ir.IntType(1), WIDTH)


class Lanes(types.Type):  # type: ignore[misc]
    """Numba type of sixteen values of `dtype`."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"lanes({dtype})")


class AllLanes(types.Type):  # type: ignore[misc]
    """Numba type that stands for: no mask."""

    def __init__(self) -> None:
        super().__init__(name="all_lanes")


class SomeLanes(types.Type):  # type: ignore[misc]
    """Numba type of a mask."""

    def __init__(self) -> None:
        super().__init__(name="some_lanes")


_ALL, _SOME = AllLanes(), SomeLanes()


class _Float:
    """What the code below must know about a lane's float type."""

    def __init__(self, dtype: Any) -> None:
        double = dtype == types.float64
        self.scalar = ir.DoubleType() if double else ir.FloatType()
        self.vector = ir.VectorType(self.scalar, WIDTH)
        self.integer = _I64 if double else _I32
        self.integers = ir.VectorType(self.integer, WIDTH)
        self.numpy: Any = np.float64 if double else np.float32
        self.suffix = "v16f64" if double else "v16f32"
        self.mantissa = 52 if double else 23
        self.magic = 1.5 * 2.0**self.mantissa  # x + magic - magic rounds x to an integer
        self.lowest_exponent = -1022.0 if double else -126.0
        self.exp2_degree = 12 if double else 6
        self.decay_degree = 12 if double else 5
        self.log1p_degree = 18 if double else 9

    def constant(self, value: float) -> Any:
        return ir.Constant(self.vector, [float(self.numpy(value))] * WIDTH)

    def integer_constant(self, value: int) -> Any:
        return ir.Constant(self.integers, [value] * WIDTH)


def _float_of(lanes: Lanes) -> _Float:
    return _Float(lanes.dtype)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _Float(fe_type.dtype).vector)


@register_model(SomeLanes)
class _SomeLanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _MASK)


register_model(AllLanes)(models.OpaqueModel)


# --- LLVM helpers -----------------------------------------------------------------------------


def _splat(builder: Any, f: _Float, scalar: Any) -> Any:
    undefined = ir.Constant(f.vector, ir.Undefined)
    zeros = ir.Constant(ir.VectorType(_I32, WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(
        builder.insert_element(undefined, scalar, ir.Constant(_I32, 0)), undefined, zeros
    )


def _call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _fma(builder: Any, f: _Float, x: Any, y: Any, z: Any) -> Any:
    return _call(builder, f"llvm.fmuladd.{f.suffix}", f.vector, x, y, z)


def _polynomial(builder: Any, f: _Float, x: Any, coefficients: list[float]) -> Any:
    value = f.constant(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = _fma(builder, f, value, x, f.constant(c))
    return value


def _exp2_coefficients(degree: int) -> list[float]:
    """Near-minimax polynomial of (2^x - 1) / x on [-1/2, 1/2], constant first."""
    from numpy.polynomial import chebyshev

    def quotient(x: Any) -> Any:
        half = x / 2
        return np.where(
            half == 0, math.log(2), np.expm1(half * math.log(2)) / np.where(half == 0, 1, half)
        )

    powers = chebyshev.cheb2poly(chebyshev.chebinterpolate(quotient, degree - 1))
    return [float(c) * 2.0**k for k, c in enumerate(powers)]


def _exp2_parts(builder: Any, f: _Float, x: Any, negative: bool = False) -> tuple[Any, Any]:
    """2^x = scale * (1 + q): q a polynomial of the fraction, scale a power of two.

    `negative`: x is known to be at most 0, and needs no upper bound.

    Written so that NaN stays NaN (an ordered comparison keeps it, and no float becomes an int).
    """
    low, high = f.constant(f.lowest_exponent), f.constant(-f.lowest_exponent)
    x = builder.select(builder.fcmp_ordered("<", x, low), low, x)
    if not negative:
        x = builder.select(builder.fcmp_ordered(">", x, high), high, x)
    shifted = builder.fadd(x, f.constant(f.magic))
    fraction = builder.fsub(x, builder.fsub(shifted, f.constant(f.magic)))
    degree = f.decay_degree if negative else f.exp2_degree
    poly = _polynomial(builder, f, fraction, _exp2_coefficients(degree))
    exponent = builder.shl(builder.bitcast(shifted, f.integers), f.integer_constant(f.mantissa))
    return builder.fmul(poly, fraction, flags=("contract",)), exponent


def _scaled(builder: Any, f: _Float, x: Any, exponent: Any) -> Any:
    """x * 2^n, by adding n to the exponent bits of x (x normal, result normal)."""
    return builder.bitcast(builder.add(builder.bitcast(x, f.integers), exponent), f.vector)


# --- operators --------------------------------------------------------------------------------


def _operand(value: Any, lanes: Lanes) -> Any:
    if value == lanes:
        return lanes
    return lanes.dtype if isinstance(value, types.Float | types.Integer) else None


def _register(op: Any, instruction: str) -> None:
    class Template(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            lanes = next((a for a in args if isinstance(a, Lanes)), None)
            if lanes is None or len(args) != 2:
                return None
            operands = [_operand(a, lanes) for a in args]
            return None if None in operands else signature(lanes, *operands)

    infer_global(op)(Template)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        f = _float_of(sig.return_type)
        vectors = [
            value if isinstance(kind, Lanes) else _splat(builder, f, value)
            for value, kind in zip(args, sig.args, strict=True)
        ]
        return getattr(builder, instruction)(*vectors, flags=("contract",))

    for left, right in ((Lanes, Lanes), (Lanes, types.Float), (types.Float, Lanes)):
        lower_builtin(op, left, right)(lower)


_register(operator.add, "fadd")
_register(operator.iadd, "fadd")
_register(operator.sub, "fsub")
_register(operator.mul, "fmul")
_register(operator.truediv, "fdiv")


# --- memory -----------------------------------------------------------------------------------


@intrinsic
def all_lanes(typingctx):
    """Every lane takes part."""
    return _ALL(), lambda context, builder, sig, args: context.get_dummy_value()


def _mask(builder: Any, count: Any) -> Any:
    vector = ir.VectorType(_I64, WIDTH)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, count, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, WIDTH), [0] * WIDTH)
    limit = builder.shuffle_vector(first, undefined, zeros)
    return builder.icmp_signed("<", ir.Constant(vector, list(range(WIDTH))), limit)


@intrinsic
def first_lanes(typingctx, count):
    """The first `count` lanes take part."""
    return _SOME(types.int64), lambda context, builder, sig, args: _mask(builder, args[0])


@intrinsic
def lanes_up_to(typingctx, kind, count):
    """Lanes of the kind of `kind`: all of them, or the first `count`."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _mask(builder, args[1]) if isinstance(kind, SomeLanes) else args[0]

    return kind(kind, types.int64), code


def _address(
    context: Any, builder: Any, array_type: Any, array: Any, index_type: Any, index: Any
) -> Any:
    """Pointer to one element; `index` is an integer or a tuple of them."""
    if isinstance(index_type, types.BaseTuple):
        parts = cgutils.unpack_tuple(builder, index, len(index_type))
        kinds = list(index_type)
    else:
        parts, kinds = [index], [index_type]
    parts = [context.cast(builder, p, k, types.intp) for p, k in zip(parts, kinds, strict=True)]
    record = cgutils.create_struct_proxy(array_type)(context, builder, value=array)
    return cgutils.get_item_pointer(context, builder, array_type, record, parts, wraparound=False)


def _is_float_array(array: Any) -> bool:
    return isinstance(array, types.Array) and isinstance(array.dtype, types.Float)


@intrinsic
def load(typingctx, array, index, lanes):
    """The sixteen elements of `array` from `index` on; 0 where `lanes` leaves one out."""
    if not _is_float_array(array):
        return None
    kind = Lanes(array.dtype)

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        f = _float_of(sig.return_type)
        pointer = _address(context, builder, sig.args[0], args[0], sig.args[1], args[1])
        pointer = builder.bitcast(pointer, f.vector.as_pointer())
        size = ir.Constant(_I32, f.integer.width // 8)
        if isinstance(sig.args[2], SomeLanes):
            name = f"llvm.masked.load.{f.suffix}.p0"
            return _call(builder, name, f.vector, pointer, size, args[2], f.constant(0.0))
        value = builder.load(pointer)
        value.align = f.integer.width // 8
        return value

    return kind(array, index, lanes), code


@intrinsic
def store(typingctx, array, index, value, lanes):
    """Write the lanes that take part to `array` from `index` on."""
    if not _is_float_array(array) or value != Lanes(array.dtype):
        return None

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        f = _float_of(sig.args[2])
        pointer = _address(context, builder, sig.args[0], args[0], sig.args[1], args[1])
        pointer = builder.bitcast(pointer, f.vector.as_pointer())
        size = ir.Constant(_I32, f.integer.width // 8)
        if isinstance(sig.args[3], SomeLanes):
            name = f"llvm.masked.store.{f.suffix}.p0"
            _call(builder, name, ir.VoidType(), args[2], pointer, size, args[3])
        else:
            builder.store(args[2], pointer, align=f.integer.width // 8)
        return context.get_dummy_value()

    return types.void(array, index, value, lanes), code


@intrinsic
def splat(typingctx, array, index):
    """The one element `array[index]` in all sixteen lanes."""
    if not _is_float_array(array):
        return None

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _address(context, builder, sig.args[0], args[0], sig.args[1], args[1])
        return _splat(builder, _float_of(sig.return_type), builder.load(pointer))

    return Lanes(array.dtype)(array, index), code


@intrinsic
def constant(typingctx, array, value):
    """`value` in all lanes, in the dtype of `array`."""
    if not _is_float_array(array):
        return None

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, _float_of(sig.return_type), args[1])

    return Lanes(array.dtype)(array, array.dtype), code


# --- functions of lanes -----------------------------------------------------------------------


def _of_lanes(emit: Callable[..., Any], scalar: bool = False) -> Any:
    """An intrinsic of one value of lanes, to lanes or to a `scalar`.

    `emit(builder, f, x)` makes its instructions; name and docstring are those of `emit`.
    """

    def typed(typingctx, x):
        if not isinstance(x, Lanes):
            return None

        def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return emit(builder, _float_of(x), args[0])

        return (x.dtype if scalar else x)(x), code

    typed.__name__, typed.__doc__ = emit.__name__, emit.__doc__
    return intrinsic(typed)


_to_a_scalar = partial(_of_lanes, scalar=True)


def _exp2(builder: Any, f: _Float, x: Any, negative: bool = False) -> Any:
    q, exponent = _exp2_parts(builder, f, x, negative)
    return _scaled(builder, f, builder.fadd(q, f.constant(1.0), flags=("contract",)), exponent)


@_of_lanes
def exp2(builder: Any, f: _Float, x: Any) -> Any:
    """2^x, about 1e-7 (float32) or 1e-15 (float64) relative; clamped to normal numbers."""
    return _exp2(builder, f, x)


@_of_lanes
def exp2_of_negative(builder: Any, f: _Float, x: Any) -> Any:
    """2^x for x <= 0, about 3e-7 or 1e-15: the decays of the scan, of which there are most.

    It saves the upper clamp and, in float32, a degree of the polynomial.
    """
    return _exp2(builder, f, x, negative=True)


@_of_lanes
def exp2_minus_1(builder: Any, f: _Float, x: Any) -> Any:
    """2^x - 1, about 2e-7 or 4e-15 relative, near 0 too."""
    q, exponent = _exp2_parts(builder, f, x)
    scale = _scaled(builder, f, f.constant(1.0), exponent)
    return _fma(builder, f, scale, q, builder.fsub(scale, f.constant(1.0)))


def _log1p_coefficients(degree: int) -> list[float]:
    """Near-minimax polynomial of log(1 + x) / x on [0, 1], constant first."""
    from numpy.polynomial import Polynomial, chebyshev

    def quotient(u: Any) -> Any:
        x = (u + 1) / 2
        return np.log1p(x) / x  # the nodes leave out the ends

    powers = chebyshev.cheb2poly(chebyshev.chebinterpolate(quotient, degree))
    return [float(c) for c in Polynomial(powers)(Polynomial([-1.0, 2.0])).coef]


@_of_lanes
def log1p(builder: Any, f: _Float, x: Any) -> Any:
    """log(1 + x) for 0 <= x <= 1, about 2e-7 or 3e-15 relative."""
    return builder.fmul(x, _polynomial(builder, f, x, _log1p_coefficients(f.log1p_degree)))


@_of_lanes
def sqrt(builder: Any, f: _Float, x: Any) -> Any:
    """Square root."""
    return _call(builder, f"llvm.sqrt.{f.suffix}", f.vector, x)


@intrinsic
def greater(typingctx, x, y, then, otherwise):
    """Lane by lane: `then` where x > y, else `otherwise`."""
    if not isinstance(x, Lanes):
        return None

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return x(x, x, x, x), code


def _fold(builder: Any, f: _Float, x: Any, combine: Any) -> Any:
    """Halve the vector until one lane is left: a fixed order of operations."""
    undefined = ir.Constant(f.vector, ir.Undefined)
    half = WIDTH // 2
    while half:
        lanes = [(k + half) % WIDTH for k in range(WIDTH)]
        moved = builder.shuffle_vector(x, undefined, ir.Constant(ir.VectorType(_I32, WIDTH), lanes))
        x = combine(x, moved)
        half //= 2
    return builder.extract_element(x, ir.Constant(_I32, 0))


@_to_a_scalar
def total(builder: Any, f: _Float, x: Any) -> Any:
    """Sum of the sixteen lanes."""
    return _fold(builder, f, x, builder.fadd)


@_to_a_scalar
def largest(builder: Any, f: _Float, x: Any) -> Any:
    """Largest of the sixteen lanes; NaN in the first is kept, in others it may be lost."""

    def pick(a: Any, b: Any) -> Any:
        return builder.select(builder.fcmp_unordered(">", a, b), a, b)

    return _fold(builder, f, x, pick)


@intrinsic
def row_totals(typingctx, array, index):
    """Lane n = sum of array[index + 16 n : index + 16 n + 16], for sixteen rows back to back.

    A butterfly of shuffles: sixteen horizontal sums for the price of four adds a row.
    """
    if not _is_float_array(array):
        return None

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        f = _float_of(sig.return_type)
        pointer = _address(context, builder, sig.args[0], args[0], sig.args[1], args[1])
        pointer = builder.bitcast(pointer, f.vector.as_pointer())
        rows = []
        for n in range(WIDTH):
            row = builder.load(builder.gep(pointer, [ir.Constant(_I32, n)], source_etype=f.vector))
            row.align = f.integer.width // 8
            rows.append(row)
        width, kind = WIDTH, ir.VectorType(_I32, WIDTH)
        while len(rows) > 1:
            half, groups = width // 2, WIDTH // width
            low = [
                side * WIDTH + g * width + k
                for side in (0, 1)
                for g in range(groups)
                for k in range(half)
            ]
            high = [k + half for k in low]
            rows = [
                builder.fadd(
                    builder.shuffle_vector(a, b, ir.Constant(kind, low)),
                    builder.shuffle_vector(a, b, ir.Constant(kind, high)),
                )
                for a, b in zip(rows[::2], rows[1::2], strict=True)
            ]
            width = half
        return rows[0]

    return Lanes(array.dtype)(array, index), code
