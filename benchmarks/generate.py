"""`generate`: greedy completions, token for token the same, on one thread.

Both read the same CWGT file and the same prompts. The network has random weights, larger than new
ones, so that its tokens do not hang by rounding.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.contestants import race, ratios
from benchmarks.options import Options

# size, prompt tokens + tokens to complete, threads, seconds, calls in a turn
ROWS = [
    ("nano", "32+256", 1, 15.0, 5),
    ("mini", "32+256", 1, 25.0, 2),
    ("nano", "96+12", 1, 10.0, 100),
    ("mini", "96+12", 1, 15.0, 20),
]
PROMPTS = 5


def run(options: Options) -> Iterator[dict[str, Any]]:
    """A row for each model size and shape; `p99_ms` is of a whole completion."""
    import numpy as np

    for size, shape, threads, seconds, calls in options.chosen(ROWS):
        prompt, count = map(int, shape.split("+"))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.cwgt")
            prompts = write_model(size, path, prompt)
            settings = {
                "size": size,
                "threads": threads,
                "path": os.fspath(path),
                "prompts": prompts,
                "count": count,
            }
            ours = options.calmgrad("generate", settings, calls=max(calls, PROMPTS))
            contestants = [ours]
            if options.peer:
                contestants.append(options.calm_mamba("generate", settings, calls=PROMPTS))
            race(contestants, options.time(seconds), most=options.turns)
        options.note_versions(contestants)
        p50, p99 = np.percentile(ours.seconds, [50, 99])
        row = {
            "size": size,
            "shape": shape,
            "threads": threads,
            **{c.name: c.result() for c in contestants},
            "tokens_per_second": count / min(ours.seconds),
            "p50_ms": 1e3 * float(p50),
            "p99_ms": 1e3 * float(p99),
        }
        if options.peer:
            theirs = contestants[1]
            row |= ratios(ours, theirs)
            row["peer_tokens_per_second"] = count / min(theirs.seconds)
            row["same_tokens"] = "yes" if ours.told == theirs.told else "no"
        yield row


def write_model(size: str, path: Path, prompt: int) -> list[list[int]]:
    """A model's file, and the prompts to complete."""
    import numpy as np

    import calmgrad

    rng = np.random.default_rng(2)
    model = calmgrad.new_model(size, seed=0)
    model.weights += rng.normal(0, 0.05, model.weights.size).astype(np.float32)
    model.save(path)
    return [rng.integers(0, 256, prompt).tolist() for _ in range(PROMPTS)]
