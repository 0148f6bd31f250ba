"""Where a training step spends its time, op by op, and how near each op is to the machine's best.

A trainer with one thread makes real steps; its tape's observer notes when each op is done. What
an op has to do at least - multiply, exponentiate, move memory - follows from the model's sizes
(`WORK`); the speeds at which this machine can do that are measured (`ceilings`).

On a GPU each op is waited for, so its time has the launches in it: some ten microseconds each,
which replayed steps do not have. Exponentials are not looked at there.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from calmgrad import ceilings, device_ceilings
from calmgrad.backend import Backend
from calmgrad.config import ModelConfig
from calmgrad.kernels.cuda.device import Precision
from calmgrad.model import Model
from calmgrad.sequences import Tokens
from calmgrad.tape import Step
from calmgrad.trainer import Trainer

REST = "sums, update, Python"

# The products of a block, in the order in which the network makes them: by the last part of the
# tape's scope.
LINEAR = {
    "mixer": ("in_proj", "x_proj", "out_proj"),
    "ffn": ("ffn_fc1", "ffn_fc2"),
    "head": ("logits",),
}


class Speeds(NamedTuple):
    """What a machine can do at best, a second.

    Attributes:
        products: floating-point operations.
        exponentials: with what goes with them; None: they are no limit.
        copies: of arrays of so many bytes: bytes, read and written together.
    """

    products: float
    exponentials: float | None
    copies: Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Work:
    """What must be done at least: forward and backward together, for all layers."""

    flops: float = 0.0  # of matrix products
    exps: float = 0.0  # exponentials, and what goes with them
    bytes: float = 0.0  # read and written
    array: float = 0.0  # bytes of one of the arrays that are moved

    def seconds(self, speeds: Speeds) -> tuple[float, str]:
        """The least time at these speeds, and what it is spent on."""
        exponentials = self.exps / speeds.exponentials if speeds.exponentials else 0.0
        computed = self.flops / speeds.products + exponentials
        moved = self.bytes / speeds.copies(_power_of_two(self.array)) if self.bytes else 0.0
        if moved > computed:
            return moved, "memory"
        return computed, "exp" if exponentials > computed / 2 else "products"


def work(config: ModelConfig, tokens: int, shards: int) -> dict[str, Work]:
    """For each op of a step on so many tokens, in so many shards."""
    d, di, n, f = config.d_model, config.d_inner, config.d_state, config.d_ffn
    rank, layers, t = config.dt_rank, config.n_layers, tokens
    t_shard = tokens / shards

    def product(i: int, o: int, count: int = layers) -> Work:
        # y = x W; dx = dy W'; dW = x' dy
        moved = 3 * (t * (i + o) + shards * i * o)
        return Work(count * 6.0 * t * i * o, 0, 4.0 * count * moved, 4.0 * t_shard * max(i, o))

    def moving(columns: int, arrays: int, exps: float = 0.0, count: int = layers) -> Work:
        elements = float(count * t * columns)
        return Work(0, exps * elements, 4 * arrays * elements, 4.0 * t_shard * columns)

    parameters = config.param_count
    return {
        "embedding": moving(d, 2 + 3, count=1),
        "layer_norm": moving(d, 2 + 3, count=2 * layers + 1),
        "in_proj": product(d, 2 * di),
        "causal_conv1d": moving(di, 2 + 3, exps=2),  # silu, again on the way back
        "x_proj": product(di, rank + 2 * n),
        "selective_scan": Work(
            6.0 * layers * t * rank * di,  # dt_proj
            2.0 * layers * t * di * (n + 3),  # decays, softplus, silu; recomputed on the way back
            4.0 * layers * t * di * (5 + 7),
            4.0 * t_shard * di,
        ),
        "out_proj": product(di, d),
        "ffn_fc1": product(d, f),
        "gelu": moving(f, 2 + 3, exps=2),
        "ffn_fc2": product(f, d),
        "logits": product(d, config.vocab, 1),
        "cross_entropy": moving(config.vocab, 1 + 2, exps=2, count=1),
        # add a shard's gradient; zero, norm, AdamW
        REST: Work(0, 0, 4.0 * parameters * (3 * shards + 1 + 1 + 7), 4.0 * parameters),
    }


@dataclass(frozen=True, slots=True)
class OpTime:
    """One row of the profile; times in seconds a step."""

    op: str
    calls: int
    forward: float
    backward: float
    share: float  # of the step
    rate: float | None  # floating-point operations, exponentials or bytes a second
    bound: str | None  # "products", "exp" or "memory": what the least time goes into
    of_ceiling: float | None  # least time / measured time


@dataclass(frozen=True, slots=True)
class Profile:
    """A step on one thread, or a GPU: its seconds, its rows, and the speeds they are held against.

    Attributes:
        device: "cpu", or the GPU's name.
        exponentials, copies_cached: None on a GPU.
    """

    device: str
    step: float
    tokens: int
    shards: int
    products: float
    exponentials: float | None
    copies_cached: float | None
    copies_large: float
    rows: list[OpTime]


class _Watch:
    """An observer of a tape that adds up seconds by op and direction.

    Args:
        wait: until all is done that was begun.
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        self._wait = wait
        self.seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._names: dict[int, str] = {}
        self._seen: Counter[tuple[str, str]] = Counter()
        self._last = 0.0
        self.shards = 0

    def start(self) -> None:
        """A shard begins."""
        self.shards += 1
        self._names.clear()
        self._seen.clear()
        self._wait()
        self._last = time.perf_counter()

    def __call__(self, direction: str, step: Step) -> None:
        self._wait()
        now = time.perf_counter()
        if direction == "forward":
            name = self._names[id(step)] = self._name(step)
            self.calls[name] += 1
        name = self._names[id(step)]
        self.seconds[name, direction] += now - self._last
        self._last = time.perf_counter()

    def _name(self, step: Step) -> str:
        if step.op != "linear":
            return step.op
        names = LINEAR.get(step.scope.rpartition(".")[2], ())
        index = self._seen[step.scope, step.op]
        self._seen[step.scope, step.op] += 1
        return names[index] if index < len(names) else step.op


def profile(
    model: Model,
    sequences: Sequence[Tokens],
    cmd_positions: Sequence[int],
    seconds: float = 1.0,
    device: str = "cpu",
    matmul_precision: Precision = "float32",
) -> Profile:
    """Make training steps for about so many seconds; of each op, the best time counts.

    The model is trained by it.
    """
    best: dict[tuple[str, str], float] = {}
    step = float("inf")
    with Trainer(
        model, threads=1, device=device, matmul_precision=matmul_precision, cuda_graph=False
    ) as trainer:
        for _ in range(2):
            trainer.step(sequences, cmd_positions)
        [worker] = trainer.runner._workers
        compute, wait = worker.compute, device_ceilings.waiting(trainer.runner.backend)
        end = time.perf_counter() + seconds
        while True:
            watch = _Watch(wait)
            worker.tape.observer = watch
            worker.compute = _started(compute, watch)  # type: ignore[method-assign]
            with trainer.runner.backend.active():
                began = time.perf_counter()
                trainer.step(sequences, cmd_positions)
                took = time.perf_counter() - began
            watch.seconds[REST, "forward"] = took - sum(watch.seconds.values())
            step = min(step, took)
            for key, value in watch.seconds.items():
                best[key] = min(value, best.get(key, value))
            if time.perf_counter() > end:
                break
        tokens = sum(len(s) - 1 for s in sequences)
        speeds = _speeds(trainer.runner.backend, model.config, tokens // watch.shards)
        told = trainer.told
    watch.calls[REST] = 1
    least = work(model.config, tokens, watch.shards)
    total = sum(best.values())
    rows = [
        _row(name, count, best, total, least.get(name), speeds)
        for name, count in watch.calls.items()
    ]
    rows.sort(key=lambda row: -row.share)
    cached = speeds.copies(ceilings.CACHED) if told == "cpu" else None
    return Profile(
        told, step, tokens, watch.shards, speeds.products, speeds.exponentials, cached,
        speeds.copies(ceilings.LARGE), rows,
    )  # fmt: skip


def _speeds(backend: Backend, config: ModelConfig, tokens: int) -> Speeds:
    if backend.device is None:
        products = ceilings.products(config, tokens)
        return Speeds(products, ceilings.exponentials(), ceilings.copies)
    copied = device_ceilings.copies(backend)
    return Speeds(device_ceilings.products(backend, config, tokens), None, lambda _: copied)


def _started(run: Callable[..., Any], watch: _Watch) -> Callable[..., Any]:
    def started(*arguments: Any) -> Any:
        watch.start()
        return run(*arguments)

    return started


def _row(
    name: str,
    calls: int,
    best: dict[tuple[str, str], float],
    total: float,
    least: Work | None,
    speeds: Speeds,
) -> OpTime:
    forward, backward = best.get((name, "forward"), 0.0), best.get((name, "backward"), 0.0)
    took = forward + backward
    if least is None:  # an op this table does not know
        return OpTime(name, calls, forward, backward, took / total, None, None, None)
    seconds, bound = least.seconds(speeds)
    done = {"products": least.flops, "exp": least.exps, "memory": least.bytes}[bound]
    return OpTime(name, calls, forward, backward, took / total, done / took, bound, seconds / took)


def _power_of_two(size: float) -> int:
    """The nearest at or above, from 64 KB to 64 MB."""
    return min(max(1 << (int(size) - 1).bit_length(), 1 << 16), ceilings.LARGE)
