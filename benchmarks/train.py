"""`train`: a training step, beside calm-mamba's and beside the step's own matrix products."""

from collections.abc import Iterator
from typing import Any

from benchmarks.batches import batch_of, lengths_of
from benchmarks.contestants import race, ratios
from benchmarks.options import Options

# (size, shape, threads), and how many seconds to spend on it.
ROWS = [
    *[(size, "8x256", 2, 20.0) for size in ("nano", "micro", "mini", "small")],
    *[(size, shape, 2, 20.0) for shape in ("8x768", "shell32") for size in ("nano", "mini")],
    *[(size, "8x256", 1, 15.0) for size in ("nano", "mini")],
    ("nano", "shell32", 1, 15.0),
]


def run(options: Options) -> Iterator[dict[str, Any]]:
    """A row for each model size, shape of batch and number of threads."""
    for size, shape, threads, seconds in options.chosen(ROWS):
        yield row(options, size, shape, threads, seconds, with_peer=True)


def floors(options: Options) -> Iterator[dict[str, Any]]:
    """The same without calm-mamba, for more numbers of threads."""
    for size in ("nano", "micro", "mini", "small"):
        for threads in options.threads:
            if options.chosen([(size, "8x256", threads, 0.0)]):
                yield row(options, size, "8x256", threads, 8.0, with_peer=False)


def row(
    options: Options, size: str, shape: str, threads: int, seconds: float, with_peer: bool
) -> dict[str, Any]:
    """One comparison."""
    settings = {"size": size, "threads": threads, **batch_of(shape)}
    ours = options.calmgrad("train", settings)
    floor = options.calmgrad("floor", settings, name="floor")
    contestants = [ours, floor]
    if with_peer and options.peer:
        contestants.append(options.calm_mamba("train", settings))
    race(contestants, options.time(seconds), most=options.turns)
    options.note_versions(contestants)
    tokens = sum(lengths_of(shape))
    found: dict[str, Any] = {
        "size": size,
        "shape": shape,
        "threads": threads,
        "tokens": tokens,
        **{c.name: c.result() for c in contestants},
        "tokens_per_second": tokens / min(ours.seconds),
        "over_floor": min(ours.seconds) / min(floor.seconds),
    }
    if len(contestants) == 3:
        found |= ratios(ours, contestants[2])
    return found
