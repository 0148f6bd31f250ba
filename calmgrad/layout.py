"""THE table: name, shape, weight decay and initial values of every parameter, in buffer order.

Weights, gradients, Adam's m and v, Fisher diagonal and anchor are flat float32 buffers that all
follow it (FORMATS §2), and so does the C engine's `get_grad(index)`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from calmgrad.config import INITIALIZER_RANGE, ModelConfig


@dataclass(frozen=True, slots=True)
class Entry:
    """One parameter: elements `start` to `stop - 1` of the flat buffer, row-major in `shape`.

    `init` is the name of an initialiser below; `std` its scale where it has one.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    decay: bool
    init: str
    std: float


@lru_cache(maxsize=16)
def layout(config: ModelConfig) -> tuple[Entry, ...]:
    """The parameters of a model, in buffer order."""
    entries: list[Entry] = []
    start = 0
    for name, shape, init, std in _table(config):
        stop = start + math.prod(shape)
        decay = not name.endswith((".A_log", ".D"))
        entries.append(Entry(name, shape, start, stop, decay, init, std))
        start = stop
    return tuple(entries)


def _table(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...], str, float]]:
    d, di, n, r = config.d_model, config.d_inner, config.d_state, config.dt_rank
    std = INITIALIZER_RANGE
    residual = std / math.sqrt(2 * config.n_layers)  # GPT-2: outputs that add to the residual
    yield "token_emb.weight", (config.vocab, d), "normal", std
    for layer in range(config.n_layers):
        block, mixer = f"blocks.{layer}", f"blocks.{layer}.mixer"
        yield f"{block}.ln1.weight", (d,), "ones", 0.0
        yield f"{block}.ln1.bias", (d,), "zeros", 0.0
        yield f"{mixer}.in_proj.weight", (d, 2 * di), "normal", std
        yield f"{mixer}.conv1d_weight", (di, config.d_conv), "normal", std
        yield f"{mixer}.x_proj.weight", (di, r + 2 * n), "normal", std
        yield f"{mixer}.dt_proj.weight", (r, di), "uniform", r**-0.5
        yield f"{mixer}.dt_proj.bias", (di,), "dt_bias", 0.0
        yield f"{mixer}.A_log", (di, n), "a_log", 0.0
        yield f"{mixer}.D", (di,), "ones", 0.0
        yield f"{mixer}.out_proj.weight", (di, d), "normal", residual
        yield f"{block}.ln2.weight", (d,), "ones", 0.0
        yield f"{block}.ln2.bias", (d,), "zeros", 0.0
        yield f"{block}.ffn_fc1.weight", (d, config.d_ffn), "normal", std
        yield f"{block}.ffn_fc2.weight", (config.d_ffn, d), "normal", residual
    yield "ln_f.weight", (d,), "ones", 0.0
    yield "ln_f.bias", (d,), "zeros", 0.0


def views(config: ModelConfig, flat: Any) -> dict[str, Any]:
    """Name -> view into the flat buffer, in buffer order."""
    return {e.name: flat[e.start : e.stop].reshape(e.shape) for e in layout(config)}


def segments(config: ModelConfig) -> list[tuple[int, int, bool]]:
    """The flat buffer as the fewest runs `(start, stop, decay)` of one decay each."""
    runs: list[tuple[int, int, bool]] = []
    for entry in layout(config):
        if runs and runs[-1][2] == entry.decay:
            runs[-1] = (runs[-1][0], entry.stop, entry.decay)
        else:
            runs.append((entry.start, entry.stop, entry.decay))
    return runs


def initial_weights(config: ModelConfig, seed: int) -> Any:
    """A flat float32 buffer of seeded initial values (FORMATS §1)."""
    import numpy as np

    if seed < 0:
        raise ValueError(f"seed = {seed}: expected 0 or more")
    rng = np.random.default_rng(seed)
    flat = np.empty(config.param_count, np.float32)
    for entry in layout(config):
        shape = entry.shape
        match entry.init:
            case "normal":
                values = rng.normal(0.0, entry.std, shape)
            case "uniform":
                values = rng.uniform(-entry.std, entry.std, shape)
            case "ones":
                values = np.ones(shape)
            case "zeros":
                values = np.zeros(shape)
            case "a_log":
                values = np.broadcast_to(np.log(np.arange(1, shape[1] + 1)), shape)
            case "dt_bias":  # softplus(bias) is log-uniform in [0.001, 0.1]
                dt = np.exp(rng.uniform(math.log(1e-3), math.log(1e-1), shape))
                values = dt + np.log(-np.expm1(-dt))
            case unknown:
                raise AssertionError(unknown)
        flat[entry.start : entry.stop] = values.ravel()
    return flat
