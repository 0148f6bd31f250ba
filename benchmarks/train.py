"""`train`: a training step, beside calm-mamba's and beside the step's own matrix products."""

from collections.abc import Iterator
from typing import Any

from benchmarks.batches import batch_of, lengths_of
from benchmarks.contestants import Contestant, race
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
    ours = Contestant(
        "calmgrad", "run_calmgrad.py", options.python, {"task": "train", **settings}, calls=5
    )
    floor = Contestant(
        "floor", "run_calmgrad.py", options.python, {"task": "floor", **settings}, calls=5
    )
    contestants = [ours, floor]
    if with_peer and options.peer:
        contestants.append(
            Contestant(
                "calm-mamba", "run_calm_mamba.py", options.peer, {"task": "train", **settings}
            )
        )
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


def ratios(ours: Contestant, theirs: Contestant) -> dict[str, float]:
    """How many times faster, and how many times smaller."""
    mine, other = ours.result(), theirs.result()
    return {
        "ratio_best": other["ms_best"] / mine["ms_best"],
        "ratio_median": other["ms_median"] / mine["ms_median"],
        "ratio_memory": other["peak_mb"] / mine["peak_mb"],
    }
