"""Inputs for every op, of any sizes: what gradients are checked on. A new op adds its case here."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from calmgrad.kernels.protocol import Array, ArrayModule
from calmgrad.ops import basic
from calmgrad.ops.causal_conv1d import causal_conv1d
from calmgrad.ops.cross_entropy import cross_entropy
from calmgrad.ops.embedding import embedding
from calmgrad.ops.gelu import gelu
from calmgrad.ops.infonce import infonce
from calmgrad.ops.l2_normalize import l2_normalize
from calmgrad.ops.layer_norm import layer_norm
from calmgrad.ops.linear import linear
from calmgrad.ops.pool import pool
from calmgrad.ops.select_rows import select_rows
from calmgrad.ops.selective_scan import selective_scan
from calmgrad.packing import Packing
from calmgrad.tape import Tensor


@dataclass(frozen=True)
class Sizes:
    """How large a case is. Each op takes what it has a use for."""

    lengths: tuple[int, ...] = (5, 1, 17)
    channels: int = 5
    states: int = 3  # also: output channels, classes, rows of a table
    taps: int = 4
    rank: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Case:
    """An op with arrays to give it, by the names of its parameters.

    The output depends on the first or last element of each.
    """

    fn: Callable[..., Tensor]
    inputs: dict[str, Array]
    noise: float = 0.0  # rounding of float32 to allow for, where 0 is computed by cancelling

    def __call__(self, *tensors: Tensor) -> Tensor:
        return self.fn(**dict(zip(self.inputs, tensors, strict=True)))


class Draw:
    """Random arrays of the sizes of one case; whole numbers where the backend's arrays are."""

    def __init__(self, sizes: Sizes, xp: ArrayModule = np) -> None:
        self.xp = xp
        self.rng = np.random.default_rng(sizes.seed)
        self.packing = Packing.of(sizes.lengths, xp)
        self.T = sum(sizes.lengths)
        self.C, self.N, self.K, self.R = sizes.channels, sizes.states, sizes.taps, sizes.rank

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        return np.asarray(scale * self.rng.standard_normal(shape))

    def positive(self, *shape: int) -> Array:
        return np.asarray(self.rng.uniform(0.5, 2, shape))

    def apart(self, *shape: int) -> Array:
        """No two alike: a difference must not step over a kink."""
        count = int(np.prod(shape))
        return (self.rng.permutation(count).reshape(shape) - count / 2) * 0.1

    def integers(self, count: int, low: int, high: int) -> Array:
        """The first is 0; the others are at least `low` and below `high`."""
        result = self.rng.integers(low, high, count)
        result[0] = 0
        return self.xp.asarray(result)


Builder = Callable[[Draw], Case]


def _columns(x: Tensor) -> Tensor:
    """x as columns of a wider tensor, as the network cuts its projections; rows are apart."""
    wide = basic.concatenate([np.zeros((x.shape[0], 3)), x], axis=1)
    return wide.split(3, x.shape[1])[1]


def _conv(d: Draw) -> Case:
    inputs = {"x": d.normal(d.T, d.C), "weight": d.normal(d.C, d.K)}
    return Case(lambda x, weight: causal_conv1d(_columns(x), weight, d.packing), inputs)


def _scan(d: Draw) -> Case:
    inputs = {
        "u": d.normal(d.T, d.C),
        "z": d.normal(d.T, d.C),
        "p": d.normal(d.T, d.R + 2 * d.N),
        "dt_weight": d.normal(d.R, d.C, scale=0.5),
        "dt_bias": d.normal(d.C) - 1,
        "A_log": np.log(np.arange(1, d.N + 1)) + d.normal(d.C, d.N, scale=0.1),
        "D": d.normal(d.C),
    }

    def fn(z: Tensor, **tensors: Tensor) -> Tensor:
        return selective_scan(z=_columns(z), packing=d.packing, **tensors)

    return Case(fn, inputs)


def _layer_norm(d: Draw) -> Case:
    # No row of almost equal numbers, where the slope is steep and differences are coarse.
    x = d.rng.uniform(-1, 1, (d.T, d.C)) + 3 * (np.arange(d.C) % 2)
    inputs = {"x": x, "weight": d.normal(d.C), "bias": d.normal(d.C)}
    return Case(layer_norm, inputs, noise=1e-5 if d.C == 1 else 0.0)  # there rstd is 316


def _linear(d: Draw) -> Case:
    return Case(linear, {"x": d.normal(d.T, d.C), "weight": d.normal(d.C, d.N)})


def _linear_residual(d: Draw) -> Case:
    inputs = {"x": d.normal(d.T, d.C), "weight": d.normal(d.C, d.N), "residual": d.normal(d.T, d.N)}
    return Case(linear, inputs)


def _linear_transposed(d: Draw) -> Case:
    inputs = {"x": d.normal(d.T, d.C), "weight": d.normal(d.N, d.C)}
    return Case(partial(linear, transposed=True), inputs)


def _embedding(d: Draw) -> Case:
    tokens = d.integers(d.T, 0, d.N)
    return Case(partial(embedding, tokens=tokens), {"table": d.normal(d.N, d.C)})


def _select_rows(d: Draw) -> Case:
    chosen = d.rng.random(d.T) < 0.6
    chosen[-1], chosen[0] = False, True
    rows = d.xp.asarray(np.flatnonzero(chosen))
    return Case(partial(select_rows, rows=rows), {"x": d.normal(d.T, d.C)})


def _cross_entropy(d: Draw) -> Case:
    targets = d.integers(d.T, -1, d.C)
    return Case(partial(cross_entropy, targets=targets), {"logits": d.normal(d.T, d.C, scale=3)})


def _infonce(d: Draw) -> Case:
    pairs = min(d.T, 40)
    queries, positives = d.normal(pairs, d.C), d.normal(pairs, d.C)
    for rows in (queries, positives):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Case(partial(infonce, temperature=0.2), {"queries": queries, "positives": positives})


def _l2_normalize(d: Draw) -> Case:
    return Case(l2_normalize, {"x": d.positive(d.T, d.C) * d.rng.choice([-1, 1], (d.T, d.C))})


def _unary(fn: Callable[[Tensor], Tensor], positive: bool = False) -> Builder:
    def build(d: Draw) -> Case:
        return Case(fn, {"x": d.positive(d.T, d.C) if positive else d.normal(d.T, d.C)})

    return build


def _packed(fn: Callable[..., Tensor]) -> Builder:
    return lambda d: Case(partial(fn, packing=d.packing), {"x": d.normal(d.T, d.C)})


def _pairs(fn: Callable[..., Tensor], draw: Callable[..., Array] = Draw.normal) -> list[Builder]:
    """Two tensors of one shape, of shapes that broadcast, and with a constant on either side."""

    def case(d: Draw, a: tuple[int, ...], b: tuple[int, ...]) -> Case:
        return Case(fn, {"a": draw(d, *a), "b": draw(d, *b)})

    return [
        lambda d: case(d, (d.T, d.C), (d.T, d.C)),
        lambda d: case(d, (d.T, d.C), (d.C,)),
        lambda d: case(d, (d.T, 1), (2, 1, d.C)),
        lambda d: case(d, (), (d.C,)),
        lambda d: Case(lambda a: fn(a, 1.5), {"a": draw(d, d.T, d.C)}),
        lambda d: Case(lambda b: fn(np.arange(1.0, d.C + 1), b), {"b": draw(d, d.T, d.C)}),
    ]


def _maximum(rows_only: bool) -> Builder:
    """Apart by 0.5 or more; a is larger in the first row and smaller in the last."""

    def build(d: Draw) -> Case:
        a: Array = np.round(d.normal(d.T + 1, 1 if rows_only else d.C, scale=3))
        a[0], a[-1] = 50, -50
        return Case(basic.maximum, {"a": a, "b": np.round(d.normal(d.C, scale=3)) + 0.5})

    return build


def _where(d: Draw) -> Case:
    mask = d.rng.random((d.T + 1, d.C)) < 0.5
    mask[0], mask[-1] = True, False
    inputs = {"a": d.normal(d.T + 1, d.C), "b": d.normal(d.C)}
    return Case(partial(basic.where, mask), inputs)


def _reductions(
    fn: Callable[..., Tensor], draw: Callable[..., Array] = Draw.normal
) -> list[Builder]:
    def build(axis: int | tuple[int, ...] | None, keepdims: bool) -> Builder:
        return lambda d: Case(
            partial(fn, axis=axis, keepdims=keepdims), {"x": draw(d, d.R, d.T, d.C)}
        )

    axes: list[int | tuple[int, ...] | None] = [None, 0, 1, -1, (0, 2), (-1, 1)]
    return [build(axis, keepdims) for axis in axes for keepdims in (False, True)]


def _getitem(index: Callable[[Draw], object]) -> Builder:
    return lambda d: Case(lambda x: basic.getitem(x, index(d)), {"x": d.normal(d.T + 1, d.C)})


def _concatenate(d: Draw) -> Case:
    inputs = {"a": d.normal(d.T, d.C), "b": d.normal(d.T, d.R)}
    constant = d.normal(d.T, 2)
    return Case(lambda a, b: basic.concatenate([a, constant, b, a], axis=1), inputs)


def _stack_rows(d: Draw) -> Case:
    inputs = {"a": d.normal(d.T, d.C), "b": d.normal(d.R, d.C)}
    return Case(lambda a, b: basic.concatenate([a, b]), inputs)


def _matmul(d: Draw) -> Case:
    return Case(basic.matmul, {"a": d.normal(d.T, d.C), "b": d.normal(d.C, d.N)})


def _matmul_left(d: Draw) -> Case:
    right = d.normal(d.C, d.N)
    return Case(lambda a: basic.matmul(a, right), {"a": d.normal(d.T, d.C)})


def _matmul_right(d: Draw) -> Case:
    left = d.normal(d.R, d.T)
    return Case(lambda b: basic.matmul(left, b), {"b": d.normal(d.T, d.C)})


def _reshape(d: Draw) -> Case:
    return Case(lambda x: basic.reshape(x, (d.C, -1)), {"x": d.normal(d.T, d.C)})


def _transpose(axes: tuple[int, ...] | None) -> Builder:
    return lambda d: Case(partial(basic.transpose, axes=axes), {"x": d.normal(d.T, d.C, d.R)})


# Every public function of calmgrad/ops, as module.function, with its ways to be called.
BUILDERS: dict[str, list[Builder]] = {
    "basic.add": _pairs(basic.add),
    "basic.concatenate": [_concatenate, _stack_rows],
    "basic.div": _pairs(basic.div, Draw.positive),
    "basic.exp": [_unary(basic.exp)],
    "basic.getitem": [
        _getitem(lambda d: slice(None, -1, 2)),
        _getitem(lambda d: (slice(None), 0)),
        _getitem(lambda d: d.packing.pos // 2),  # some rows often, some never
        _getitem(lambda d: (d.packing.pos, d.packing.pos % d.C)),
    ],
    "basic.log": [_unary(basic.log, positive=True)],
    "basic.matmul": [_matmul, _matmul_left, _matmul_right],
    "basic.max": _reductions(basic.max, Draw.apart),
    "basic.maximum": [_maximum(rows_only=False), _maximum(rows_only=True)],
    "basic.mean": _reductions(basic.mean),
    "basic.mul": _pairs(basic.mul),
    "basic.neg": [_unary(basic.neg)],
    "basic.power": [
        _unary(lambda x: basic.power(x, 2)),
        _unary(lambda x: basic.power(x, -1.5), positive=True),
        _unary(lambda x: basic.power(x, 1)),
    ],
    "basic.reshape": [_reshape],
    "basic.sigmoid": [_unary(basic.sigmoid)],
    "basic.softplus": [_unary(basic.softplus)],
    "basic.sqrt": [_unary(basic.sqrt, positive=True)],
    "basic.sub": _pairs(basic.sub),
    "basic.sum": _reductions(basic.sum),
    "basic.tanh": [_unary(basic.tanh)],
    "basic.transpose": [_transpose(None), _transpose((1, 2, 0))],
    "basic.where": [_where],
    "causal_conv1d.causal_conv1d": [_conv],
    "cross_entropy.cross_entropy": [_cross_entropy],
    "embedding.embedding": [_embedding],
    "gelu.gelu": [_unary(gelu)],
    "infonce.infonce": [_infonce],
    "l2_normalize.l2_normalize": [_l2_normalize],
    "layer_norm.layer_norm": [_layer_norm],
    "linear.linear": [_linear, _linear_residual, _linear_transposed],
    "pool.pool": [_packed(pool), _packed(partial(pool, how="last"))],
    "select_rows.select_rows": [_select_rows],
    "selective_scan.selective_scan": [_scan],
}


def cases(name: str, sizes: Sizes, xp: ArrayModule = np) -> list[Case]:
    """All cases of the op `module.function`, for a backend with the array module `xp`."""
    return [build(Draw(sizes, xp)) for build in BUILDERS[name]]
