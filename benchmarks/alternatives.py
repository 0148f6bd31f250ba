"""`alternatives`: a training step beside the fastest ways to train the same network otherwise.

calm-mamba with its loop collecting outputs in a list; calm-mamba with mambapy's parallel scan; and
the network written anew and jitted by JAX. Compiling is not counted; it stands beside it.
"""

from collections.abc import Iterator
from typing import Any

from benchmarks.batches import batch_of, lengths_of
from benchmarks.contestants import Contestant, race
from benchmarks.options import Options

ROWS = [
    ("nano", "8x256", 2, 20.0),
    ("nano", "shell32", 2, 20.0),
    ("mini", "8x256", 2, 30.0),
]


def run(options: Options) -> Iterator[dict[str, Any]]:
    """A row for each model size and shape of batch."""
    for size, shape, threads, seconds in options.chosen(ROWS):
        settings = {"size": size, "threads": threads, **batch_of(shape)}
        ours = options.calmgrad("train", settings)
        others: list[Contestant] = []
        if options.peer:
            others += [options.calm_mamba("train", settings, scan=s) for s in ("stack", "pscan")]
        if options.jax:
            others.append(Contestant("jax", "run_jax.py", options.jax, settings))
        contestants = [ours, *others]
        race(contestants, options.time(seconds), least=3, most=options.turns)
        options.note_versions(contestants)
        row: dict[str, Any] = {
            "size": size,
            "shape": shape,
            "threads": threads,
            "tokens": sum(lengths_of(shape)),
            **{c.name: c.result() for c in contestants},
            "faster_than": {c.name: min(c.seconds) / min(ours.seconds) for c in others},
        }
        for contestant in others:
            row[contestant.name]["first_call_s"] = contestant.first
        row["ratio_best"] = min(row["faster_than"].values(), default=None)
        yield row
