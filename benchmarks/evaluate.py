"""`evaluate`: the losses of a data set, as validation computes them while training."""

from collections.abc import Iterator
from typing import Any

from benchmarks.batches import batch_of, lengths_of
from benchmarks.contestants import race, ratios
from benchmarks.options import Options

ROWS = [("nano", "shell128", 2, 12.0), ("mini", "shell128", 2, 20.0)]


def run(options: Options) -> Iterator[dict[str, Any]]:
    """A row for each model size."""
    for size, shape, threads, seconds in options.chosen(ROWS):
        settings = {"size": size, "threads": threads, **batch_of(shape)}
        ours = options.calmgrad("evaluate", settings)
        contestants = [ours]
        if options.peer:
            contestants.append(options.calm_mamba("evaluate", settings))
        race(contestants, options.time(seconds), most=options.turns)
        options.note_versions(contestants)
        yield {
            "size": size,
            "shape": shape,
            "threads": threads,
            "tokens": sum(lengths_of(shape)),
            **{c.name: c.result() for c in contestants},
            "tokens_per_second": sum(lengths_of(shape)) / min(ours.seconds),
            **(ratios(ours, contestants[1]) if options.peer else {}),
        }
