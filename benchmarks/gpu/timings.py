"""How long each kernel takes, beside the time in which its bytes could be copied."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks.batches import lengths_of
from benchmarks.gpu.about import copy_speed
from benchmarks.gpu.floors import least_bytes, microseconds
from benchmarks.gpu.subject import Subject, mapped
from calmgrad.config import ModelConfig
from calmgrad.kernels.cuda.selective_scan_serial import STATES, Mapping
from calmgrad.packing import Packing

SIZES = ("nano", "micro", "mini", "small")
SHAPES = ("8x768", "64x768")
Array = Any
Timed = tuple[str, Callable[[], object]]  # a name, and a call that only queues work


def run(subject: Subject) -> dict[str, Any]:
    """A row for each op, model size and batch."""
    speed = copy_speed(subject)
    rows = []
    for size in SIZES[:1] if subject.emulated else SIZES:
        config = subject.new_model(size).config
        for shape in ("2x20",) if subject.emulated else SHAPES:
            with subject.active():
                least = least_bytes(config, lengths_of(shape))
                for op, call in ops(subject, config, lengths_of(shape)):
                    times = subject.times(call)
                    size_bytes = least[op.split(" (")[0]]
                    floor = microseconds(size_bytes, speed)
                    rows.append({
                        "size": size, "shape": shape, "op": op, "us_median": times.median,
                        "us_least": times.least, "bytes": size_bytes, "us_floor": floor,
                        "of_floor": floor / times.median,
                    })  # fmt: skip
            subject.keep({"copy_gb_per_second": speed, "rows": rows})
    return {"copy_gb_per_second": speed, "rows": rows}


def ops(subject: Subject, config: ModelConfig, lengths: list[int]) -> Iterator[Timed]:
    """The kernels of one layer, and those around the layers."""
    tokens = sum(lengths)
    draw = _Draw(subject, tokens)
    packing = Packing.of(lengths, subject.xp)
    yield from _layer_norm(subject, draw, config.d_model)
    yield from _convolution(subject, draw, config, packing)
    yield from _scan(subject, draw, config, packing)
    yield from _gelu(subject, draw, config.d_ffn)
    yield from _loss(subject, draw, config.vocab)
    yield from _embedding(subject, draw, config)
    yield from _update(subject, config.param_count)
    yield from _product(subject, draw, config.d_model, 2 * config.d_inner)


class _Draw:
    """Float32 arrays of tokens, on the device; a million random numbers, again and again."""

    def __init__(self, subject: Subject, tokens: int) -> None:
        self.xp, self.tokens = subject.xp, tokens
        self._rng = np.random.default_rng(0)
        self._numbers = self.xp.asarray(self._rng.standard_normal(1 << 20, dtype=np.float32))

    def of(self, *shape: int) -> Array:
        size = math.prod(shape)
        return self.xp.tile(self._numbers, -(-size // (1 << 20)))[:size].reshape(shape)

    def per_token(self, columns: int, count: int) -> list[Array]:
        return [self.of(self.tokens, columns) for _ in range(count)]

    def empty(self, size: int) -> Array:
        return self.xp.empty(size, "float32")

    def numbers(self, below: int) -> Array:
        return self.xp.asarray(self._rng.integers(0, below, self.tokens))


def _layer_norm(subject: Subject, draw: _Draw, width: int) -> Iterator[Timed]:
    k = subject.backend.kernels
    x, y, dy, dx = draw.per_token(width, 4)
    weight, bias, dweight, dbias = (draw.of(width) for _ in range(4))
    mean, rstd = draw.of(draw.tokens), draw.of(draw.tokens)
    work = draw.empty(k.layer_norm_workspace(draw.tokens, width))
    yield "layer_norm", lambda: k.layer_norm_forward(y, mean, rstd, x, weight, bias, 1e-5)
    backward = (dx, dweight, dbias, dy, x, mean, rstd, weight, False, work)
    yield "layer_norm, back", lambda: k.layer_norm_backward(*backward)


def _convolution(
    subject: Subject, draw: _Draw, config: ModelConfig, packing: Packing
) -> Iterator[Timed]:
    k, width, taps = subject.backend.kernels, config.d_inner, config.d_conv
    wide, y, dy, dx = draw.of(draw.tokens, 2 * width), *draw.per_token(width, 3)
    x = wide[:, :width]
    weight, dweight = draw.of(width, taps), draw.of(width, taps)
    work = draw.empty(k.causal_conv1d_workspace(draw.tokens, width, taps))
    forward = (y, x, weight, packing.pos, work)
    yield "causal_conv1d", lambda: k.causal_conv1d_forward(*forward)
    backward = (dx, dweight, dy, x, weight, packing.pos, work)
    yield "causal_conv1d, back", lambda: k.causal_conv1d_backward(*backward)


def _scan(subject: Subject, draw: _Draw, config: ModelConfig, packing: Packing) -> Iterator[Timed]:
    """In both mappings; which of them a step would take is told by `chosen`."""
    k: Any = subject.backend.kernels
    width, states = config.d_inner, config.d_state
    u, y, out, dt, dout, du, dz, ddt = draw.per_token(width, 8)
    z = draw.of(draw.tokens, 2 * width)[:, width:]
    bc, dbc = draw.per_token(2 * states, 2)
    checkpoints = draw.of(packing.chunks, states, width)
    dt_bias, D, ddt_bias, dD = (draw.of(width) - 3 for _ in range(4))
    A_log, dA_log = draw.of(width, states), draw.of(width, states)

    def forward(mapping: Mapping, rest: tuple[Array, ...]) -> None:
        # dt is overwritten: from the second call on, it is the softplus of what it was.
        with mapped(k, mapping):
            k.selective_scan_forward(out, y, dt, checkpoints, u, z, bc, dt_bias, A_log, D, *rest)

    def backward(mapping: Mapping, rest: tuple[Array, ...]) -> None:
        with mapped(k, mapping):
            k.selective_scan_backward(
                du, dz, ddt, dbc, ddt_bias, dA_log, dD,
                dout, y, dt, checkpoints, u, z, bc, A_log, D, *rest,
            )  # fmt: skip

    serial = k.is_serial(width, len(packing.offsets) - 1, states, dt.dtype)
    mappings: tuple[Mapping, ...] = ("chunks", "serial") if states == STATES else ("chunks",)
    for mapping in mappings:
        with mapped(k, mapping):
            size = k.selective_scan_workspace(draw.tokens, packing.chunks, width, states)
        rest = (packing.offsets, packing.chunk_offsets, draw.empty(size))
        told = f"({mapping}{', chosen' if (mapping == 'serial') == serial else ''})"
        yield f"selective_scan {told}", partial(forward, mapping, rest)
        yield f"selective_scan, back {told}", partial(backward, mapping, rest)


def _gelu(subject: Subject, draw: _Draw, width: int) -> Iterator[Timed]:
    k = subject.backend.kernels
    x, y, dx = draw.per_token(width, 3)
    yield "gelu", lambda: k.gelu_forward(y, x)
    yield "gelu, back", lambda: k.gelu_backward(dx, y, x)


def _loss(subject: Subject, draw: _Draw, classes: int) -> Iterator[Timed]:
    k = subject.backend.kernels
    logits, dlogits = draw.per_token(classes, 2)
    nll, lse, dnll = (draw.of(draw.tokens) for _ in range(3))
    targets = draw.numbers(classes)
    yield "cross_entropy", lambda: k.cross_entropy_forward(nll, lse, logits, targets)
    backward = (dlogits, dnll, lse, logits, targets)
    yield "cross_entropy, back", lambda: k.cross_entropy_backward(*backward)


def _embedding(subject: Subject, draw: _Draw, config: ModelConfig) -> Iterator[Timed]:
    k = subject.backend.kernels
    table, y = draw.of(config.vocab, config.d_model), draw.of(draw.tokens, config.d_model)
    tokens = draw.numbers(config.vocab)
    yield "embedding", lambda: k.embedding_forward(y, table, tokens)
    yield "embedding, back", lambda: k.embedding_backward(table, y, tokens)


def _update(subject: Subject, size: int) -> Iterator[Timed]:
    k, xp = subject.backend.kernels, subject.xp
    p, m, v, g = (xp.zeros(size, "float32") for _ in range(4))
    numbers = (1.0, 1e-3, 0.01, 0.9, 0.999, 1e-8, 3)
    yield "adamw", lambda: k.adamw(p, m, v, g, *numbers)


def _product(subject: Subject, draw: _Draw, rows: int, columns: int) -> Iterator[Timed]:
    """in_proj; bounded by multiplying rather than by memory."""
    k = subject.backend.kernels
    x, w, y = draw.of(draw.tokens, rows), draw.of(rows, columns), draw.of(draw.tokens, columns)
    yield "in_proj", lambda: k.matmul(y, x, w)
