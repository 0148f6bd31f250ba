"""calmgrad benchmark"""

import platform
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from calmgrad import __version__
from calmgrad.cli.common import device_options, json_option, say, threads_option, to_device
from calmgrad.config import PRESETS
from calmgrad.errors import usage_errors

if TYPE_CHECKING:
    from calmgrad.kernels.cuda.device import Precision
    from calmgrad.model import Model

SEQUENCE = 256  # tokens of the forward pass and of each training sequence
BATCH = 8  # training sequences
PROMPT = 64  # tokens before the completion
HOW_COMPLETED = "greedy, by model.generate: its share of 64 after a prompt of 64, prompt included"


@click.command("benchmark")
@click.option(
    "-s",
    "--size",
    "sizes",
    multiple=True,
    type=click.Choice(list(PRESETS)),
    help="May be given more than once.  [default: all]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.0, min_open=True),
    default=3.0,
    show_default=True,
    help="To measure, for each size; starting up comes on top.",
)
@click.option("--ops", is_flag=True, help="Where a training step spends its time, op by op.")
@threads_option
@device_options("cpu")
@json_option
def command(
    sizes: tuple[str, ...],
    seconds: float,
    ops: bool,
    threads: int | None,
    device: str,
    matmul_precision: "Precision",
    as_json: bool,
) -> None:
    """How fast this machine runs and trains models of each size.

    Forward is one sequence of 256 tokens; completion the time per token after a prompt of 64;
    training the tokens per second at 8 sequences of 256. Each is given as its best and its
    median; memory is the peak of the whole process up to that size. Other programs that are
    at work make every figure worse.

    With --ops: one thread trains at 8 sequences of 256, and the time of each op is told, how
    much of the step that is, how fast it was, and which part of the speed that was measured as
    this machine's best it reached: at matrix products, at moving memory or at exponentials,
    whichever is the op's limit.

    With --device: forward and training run there; completions always on the CPU. With --ops,
    too, each op is waited for, so that the time of its launches counts.
    """
    import json

    if ops and threads not in (None, 1):
        raise click.UsageError("--ops looks at one thread: --threads does not go with it")
    with usage_errors():
        about = machine(1 if ops else threads)
    on = (device, matmul_precision)
    say(f"machine  {about['cpu']}, {about['threads']} thread(s)")
    say("kernels  compiling for this CPU if that has not been done yet (once, about 10 s)")
    rows = []
    for size in [name for name in PRESETS if name in (sizes or PRESETS)]:  # the smallest first
        say(f"size     {size}")
        rows.append(measure_ops(size, seconds, on) if ops else measure(size, seconds, threads, on))
    if as_json:
        print(json.dumps({**about, "seconds": seconds, "sizes": rows}))
    elif ops:
        print_ops(rows)
    else:
        print_table(rows)


def machine(threads: int | None) -> dict[str, Any]:
    """What the figures depend on."""
    import numba
    import numpy as np
    from threadpoolctl import threadpool_info

    from calmgrad.cli.doctor_machine import cpu_name
    from calmgrad.shards import default_threads

    blas = [
        f"{pool['internal_api']} {pool.get('version')} {pool.get('architecture') or ''}".strip()
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    ]
    return {
        "calmgrad": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "blas": ", ".join(blas) or None,
        "cpu": cpu_name(),
        "threads": threads or default_threads(),
        "completion": HOW_COMPLETED,
    }


def measure(
    size: str, seconds: float, threads: int | None, on: tuple[str, "Precision"]
) -> dict[str, Any]:
    """All figures of one size, in about so many seconds and the time to warm up.

    Args:
        on: device and precision of its products, of forward and training.
    """
    import numpy as np

    from calmgrad.model import new_model
    from calmgrad.trainer import Trainer

    before = peak_memory()
    model = to_device(new_model(size, seed=0), *on)
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 256, SEQUENCE) for _ in range(BATCH)]
    forward = timed(lambda: model.logits(sequences[0]), 0.2 * seconds)
    token = completion_times(model, sequences[0][:PROMPT].tolist(), 0.3 * seconds)
    device, precision = on
    model.close()
    with Trainer(
        model, lr=1e-4, threads=threads, device=device, matmul_precision=precision
    ) as trainer:
        where = trainer.told
        step = timed(lambda: trainer.step(sequences, [0] * BATCH), 0.5 * seconds)
    model.close()
    peak = peak_memory()
    tokens = BATCH * SEQUENCE
    return {
        "size": size,
        "device": where,
        "parameters": model.config.param_count,
        "forward_ms": {"best": 1e3 * min(forward), "median": 1e3 * median(forward)},
        "token_ms": {"best": 1e3 * min(token), "median": 1e3 * median(token)},
        "train_tokens_per_second": {"best": tokens / min(step), "median": tokens / median(step)},
        "peak_memory_mb": None if peak is None else peak / 1e6,
        "added_memory_mb": None if peak is None or before is None else (peak - before) / 1e6,
        "repeats": {"forward": len(forward), "token": len(token), "train": len(step)},
    }


def measure_ops(size: str, seconds: float, on: tuple[str, "Precision"]) -> dict[str, Any]:
    """The profile of a step of one size, and the speeds that its ops are compared with."""
    from dataclasses import asdict

    import numpy as np

    from calmgrad.model import new_model
    from calmgrad.op_profile import profile

    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 256, SEQUENCE) for _ in range(BATCH)]
    with new_model(size, seed=0) as model:
        found = profile(model, sequences, [0] * BATCH, seconds, *on)
    return {"size": size, **asdict(found)}


def timed(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, after two that do not count; at least three calls."""
    for _ in range(2):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def completion_times(model: "Model", prompt: list[int], seconds: float) -> list[float]:
    """Seconds for each token of a greedy completion as long as its prompt, prompt included."""

    def complete() -> int:
        completion = model.generate(prompt, temperature=0, max_tokens=len(prompt))[0]
        return len(completion.tokens) + (completion.ended == "end")

    count = complete()
    return [seconds / count for seconds in timed(complete, seconds)]


def peak_memory() -> int | None:
    """Most bytes this process has had in memory so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def print_table(rows: list[dict[str, Any]]) -> None:
    """A line for each size: best (median)."""

    def pair(value: dict[str, float], form: str) -> str:
        return f"{value['best']:{form}} ({value['median']:{form}})"

    print("best (median)")
    print(
        f"{'size':<6} {'parameters':>10}  {'forward, ms':>15}  {'token, ms':>15}"
        f"  {'training, tokens/s':>19}  {'memory, MB':>10}"
    )
    for row in rows:
        memory = "-" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:,.0f}"
        print(
            f"{row['size']:<6} {row['parameters']:>10,}  {pair(row['forward_ms'], '.2f'):>15}"
            f"  {pair(row['token_ms'], '.2f'):>15}"
            f"  {pair(row['train_tokens_per_second'], ',.0f'):>19}  {memory:>10}"
        )
    print(f"a token: {HOW_COMPLETED}")


UNITS = {"products": "GFLOP/s", "exp": "Gexp/s", "memory": "GB/s"}


def print_ops(profiles: list[dict[str, Any]]) -> None:
    """A table for each size: ops from the slowest on."""
    for number, found in enumerate(profiles):
        if number:
            print()
        speed = found["tokens"] / found["step"]
        on_cpu = found["device"] == "cpu"
        where = f"{found['shards']} shards on one thread" if on_cpu else "each op waited for"
        print(
            f"{found['size']}: a step of {1e3 * found['step']:.1f} ms, {speed:,.0f} tokens/s,"
            f" {where}"
        )
        products = f"products {found['products'] / 1e9:,.0f} GFLOP/s"
        beyond = f"{found['copies_large'] / 1e9:,.0f} GB/s"
        if on_cpu:
            print(
                f"this machine: {products}, exponentials {found['exponentials'] / 1e9:.2f} Gexp/s,"
                f" copies {found['copies_cached'] / 1e9:.0f} GB/s in the cache, {beyond} beyond"
            )
        else:
            print(f"{found['device']}: {products}, copies {beyond}")
        print(
            f"{'op':<20}  {'calls':>5}  {'forward, ms':>11}  {'backward, ms':>12}  {'share':>6}"
            f"  {'rate':>13}  {'of the best':>11}"
        )
        for row in found["rows"]:
            rate = best = "-"
            if row["bound"] is not None:
                rate = f"{row['rate'] / 1e9:.1f} {UNITS[row['bound']]:<7}"
                best = f"{row['of_ceiling']:.0%}"
            print(
                f"{row['op']:<20}  {row['calls']:>5}  {1e3 * row['forward']:>11.2f}"
                f"  {1e3 * row['backward']:>12.2f}  {row['share']:>6.1%}  {rate:>13}  {best:>11}"
            )
