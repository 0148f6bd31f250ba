"""Time of one training step: calmgrad, its floor, and calm-mamba on the same batch, interleaved.

    python benchmarks/train_step.py --peer PYTHON_WITH_CALM_MAMBA > result.json

The floor is the step's own matrix products alone: same shapes, threads and BLAS. A table goes to
stderr, JSON to stdout. Machines are noisy: read the best of the rounds, and the median beside it.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
PEER = Path(__file__).parent / "peer_step.py"


def lengths_of(shape: str, seed: int = 0) -> list[int]:
    """`8x256`: eight sequences of 256 tokens; `shell32`: 32 of lengths drawn like shell data."""
    import numpy as np

    if shape.startswith("shell"):
        rng = np.random.default_rng(seed)
        drawn = np.exp(rng.normal(np.log(60), 0.7, int(shape[5:])))
        return [int(n) for n in np.clip(np.round(drawn), 8, 768)]
    count, length = map(int, shape.split("x"))
    return [length] * count


def products(config: Any, tokens: int) -> list[tuple[int, int, int]]:
    """(m, k, n) of every matrix product of forward and backward on a shard of `tokens`."""
    d, di, p = config.d_model, config.d_inner, config.dt_rank + 2 * config.d_state
    layer = [
        (d, 2 * di),
        (di, p),
        (config.dt_rank, di),
        (di, d),
        (d, config.d_ffn),
        (config.d_ffn, d),
    ]
    weights = layer * config.n_layers + [(d, config.vocab)]
    forward = [(tokens, i, o) for i, o in weights]
    return forward + [(tokens, o, i) for i, o in weights] + [(i, tokens, o) for i, o in weights]


def floor_seconds(config: Any, shards: list[int], threads: int, rounds: int) -> float:
    """Best time of the products of all shards, shards spread over threads."""
    import numpy as np

    from calmgrad.backend import one_blas_thread

    work = []
    for tokens in shards:
        work.append(
            [
                (np.ones((m, k), "f4"), np.ones((k, n), "f4"), np.empty((m, n), "f4"))
                for m, k, n in products(config, tokens)
            ]
        )

    def run(shard: list[Any]) -> None:
        for a, b, out in shard:
            np.matmul(a, b, out=out)

    times = []
    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds + 2):
            began = time.perf_counter()
            list(pool.map(run, work))
            times.append(time.perf_counter() - began)
    return min(times[2:])


class Peer:
    """calm-mamba in a process of its own, that makes one step whenever it is asked to."""

    def __init__(self, python: str, size: str, batch: dict[str, Any], threads: int) -> None:
        self.process = subprocess.Popen(
            [python, str(PEER), size, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(batch) + "\n")

    def step(self) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


def measure(size: str, shape: str, threads: int, rounds: int, python: str | None) -> dict[str, Any]:
    """One row of the table."""
    import numpy as np

    import calmgrad
    from calmgrad.shards import pack_targets

    lengths = lengths_of(shape)
    rng = np.random.default_rng(1)
    sequences = [rng.integers(0, 256, n) for n in lengths]
    positions = [0] * len(lengths)
    model = calmgrad.new_model(size, seed=0)
    trainer = calmgrad.Trainer(model, lr=1e-4, reduction="token", threads=threads)
    batch = {"tokens": [s.tolist() for s in sequences], "positions": positions}
    peer = Peer(python, size, batch, threads) if python else None
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(rounds + 1):  # the first turn warms up
        times = []
        for _ in range(5):
            began = time.perf_counter()
            trainer.step(sequences, positions)
            times.append(time.perf_counter() - began)
        ours += times if turn else []
        if peer:
            seconds = peer.step()
            theirs += [seconds] if turn else []
    if peer:
        peer.close()
    shards = [s.tokens.size for s in pack_targets(sequences, positions)[0]]
    floor = floor_seconds(model.config, shards, threads, rounds)
    tokens = sum(lengths)
    row = {
        "size": size,
        "shape": shape,
        "threads": threads,
        "tokens": tokens,
        "ms_best": 1e3 * min(ours),
        "ms_median": 1e3 * median(ours),
        "tokens_per_second": tokens / min(ours),
        "floor_ms": 1e3 * floor,
        "over_floor": min(ours) / floor,
    }
    if theirs:
        row |= {
            "peer_ms_best": 1e3 * min(theirs),
            "peer_ms_median": 1e3 * median(theirs),
            "ratio_best": min(theirs) / min(ours),
            "ratio_median": median(theirs) / median(ours),
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", nargs="+", default=["nano", "mini"])
    parser.add_argument("--shapes", nargs="+", default=["8x256"])
    parser.add_argument("--threads", nargs="+", type=int, default=[2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", metavar="PYTHON", help="of an environment with calm-mamba")
    arguments = parser.parse_args()
    from calmgrad import blas

    blas.choose_core_type()
    import numpy as np

    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    rows = []
    for size in arguments.sizes:
        for shape in arguments.shapes:
            for threads in arguments.threads:
                row = measure(size, shape, threads, arguments.rounds, arguments.peer)
                rows.append(row)
                shown = {k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()}
                print("  ".join(f"{k} {v}" for k, v in shown.items()), file=sys.stderr)
    result = {
        "commit": git.stdout.strip(),
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "numpy": np.__version__,
        "rows": rows,
    }
    print(json.dumps(result, indent=1))


def cpu_name() -> str:
    """As the system calls it."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
