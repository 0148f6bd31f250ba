"""Time of embedding a batch of texts: calmgrad and calm-mamba in turn, on the same tokens.

    python benchmarks/embed.py --peer PYTHON_WITH_CALM_MAMBA > result.json

32 sequences with lengths as in shell data. A table goes to stderr, JSON to stdout. Machines are
noisy: read the best of the rounds, and the median beside it.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from train_step import ROOT, cpu_name, lengths_of

PEER = Path(__file__).parent / "peer_embed.py"
OURS_A_ROUND = 5  # calls for each of the peer's


class Peer:
    """calm-mamba in a process of its own, that embeds whenever it is asked to."""

    def __init__(self, python: str, size: str, sequences: list[list[int]], threads: int) -> None:
        self.process = subprocess.Popen(
            [python, str(PEER), size, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(sequences) + "\n")

    def embed(self) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("embed\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


def measure(
    size: str, rounds: int, python: str | None = None, threads: int = 2, shape: str = "shell32"
) -> dict[str, Any]:
    """One row of the table; `shape` as in train_step.lengths_of."""
    import numpy as np

    import calmgrad

    rng = np.random.default_rng(1)
    sequences = [rng.integers(0, 256, n) for n in lengths_of(shape)]
    model = calmgrad.new_model(size, seed=0)
    peer = Peer(python, size, [s.tolist() for s in sequences], threads) if python else None
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(rounds + 1):  # the first turn warms up
        times = []
        for _ in range(OURS_A_ROUND):
            began = time.perf_counter()
            model.embed(sequences, threads=threads)
            times.append(time.perf_counter() - began)
        ours += times if turn else []
        if peer:
            seconds = peer.embed()
            theirs += [seconds] if turn else []
    if peer:
        peer.close()
    model.close()
    tokens = sum(s.size for s in sequences)
    row = {
        "size": size,
        "shape": shape,
        "threads": threads,
        "tokens": tokens,
        "ms_best": 1e3 * min(ours),
        "ms_median": 1e3 * median(ours),
        "tokens_per_second": tokens / min(ours),
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
    parser.add_argument("--shapes", nargs="+", default=["shell32"])
    parser.add_argument("--threads", nargs="+", type=int, default=[2])
    parser.add_argument("--rounds", type=int, default=10)
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
                row = measure(size, arguments.rounds, arguments.peer, threads, shape)
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


if __name__ == "__main__":
    main()
