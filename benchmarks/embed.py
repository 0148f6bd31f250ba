"""`embed`: vectors of 32 texts with lengths as in shell data."""

from collections.abc import Iterator
from typing import Any

from benchmarks.batches import batch_of, lengths_of
from benchmarks.contestants import race, ratios
from benchmarks.options import Options

ROWS = [
    ("nano", "shell32", 2, 12.0),
    ("mini", "shell32", 2, 15.0),
    ("nano", "shell32", 1, 8.0),
]


def run(options: Options) -> Iterator[dict[str, Any]]:
    """A row for each model size and number of threads."""
    for size, shape, threads, seconds in options.chosen(ROWS):
        settings = {"size": size, "threads": threads, **batch_of(shape)}
        ours = options.calmgrad("embed", settings, calls=10)
        contestants = [ours]
        if options.peer:
            contestants.append(options.calm_mamba("embed", settings))
        race(contestants, options.time(seconds), least=3, most=options.turns)
        options.note_versions(contestants)
        tokens = sum(lengths_of(shape))
        yield {
            "size": size,
            "shape": shape,
            "threads": threads,
            "tokens": tokens,
            **{c.name: c.result() for c in contestants},
            "tokens_per_second": tokens / min(ours.seconds),
            **(ratios(ours, contestants[1]) if options.peer else {}),
        }
