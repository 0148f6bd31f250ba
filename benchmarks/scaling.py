"""`scaling`: tokens per second against threads, batch, length and model size."""

from collections.abc import Iterator
from math import ceil
from statistics import median
from typing import Any

from benchmarks.batches import batch_of, lengths_of
from benchmarks.contestants import race
from benchmarks.options import Options

SECONDS = 2.0  # a row
BATCHES = [f"{count}x256" for count in (1, 2, 4, 8, 16, 32, 64)]
LENGTHS = [f"{4096 // length}x{length}" for length in (16, 32, 64, 128, 256, 512)] + ["6x768"]
THREADS = (1, 2, 4, 8, 16)  # beyond the machine's: by calculation

ROWS = [
    *[("batch", size, shape, 2) for size in ("nano", "mini") for shape in BATCHES],
    *[("length", size, shape, 2) for size in ("nano", "mini") for shape in LENGTHS],
]


def run(options: Options) -> Iterator[dict[str, Any]]:
    """Rows of (axis, size, shape, threads) and what was measured."""
    for axis, *about in ROWS:
        for size, shape, threads in options.chosen([tuple(about)]):
            ours = options.calmgrad("train", {"size": size, "threads": threads, **batch_of(shape)})
            race([ours], options.time(SECONDS), least=3, most=40)
            options.note_versions([ours])
            tokens = sum(lengths_of(shape))
            yield {
                "axis": axis,
                "size": size,
                "shape": shape,
                "threads": threads,
                "tokens": tokens,
                "ms_best": 1e3 * min(ours.seconds),
                "ms_median": 1e3 * median(ours.seconds),
                "tokens_per_second": tokens / min(ours.seconds),
            }
    yield from threads_rows(options)


def threads_rows(options: Options) -> Iterator[dict[str, Any]]:
    """Speed against threads: measured where the machine has them, else calculated.

    On one thread the parts of a step are timed: what runs before and after the shards, a shard,
    and adding its gradient, which the shards do one after the other. With n threads a step then
    takes `serial + max(ceil(shards / n) * (shard + add), shard + shards * add)`.
    """
    shape = "16x256"
    tokens = sum(lengths_of(shape))
    for size in ("nano", "micro", "mini", "small"):
        if not options.chosen([(size, shape, 1)]):
            continue
        settings = {"size": size, "threads": 1, **batch_of(shape)}
        timed = options.calmgrad("parts", settings, calls=3)
        race([timed], options.time(2 * SECONDS), least=3, most=100)
        parts = timed.told
        for threads in THREADS:
            busy = ceil(parts["shards"] / threads) * (parts["shard"] + parts["add"])
            queue = parts["shard"] + parts["shards"] * parts["add"]
            row = {
                "axis": "threads",
                "size": size,
                "shape": shape,
                "threads": threads,
                "tokens": tokens,
                "calculated": tokens / (parts["serial"] + max(busy, queue)),
                **{f"{name}_ms": 1e3 * parts[name] for name in ("serial", "shard", "add")},
                "shards": parts["shards"],
            }
            if threads in options.threads and threads <= options.cores:
                ours = options.calmgrad("train", {**settings, "threads": threads})
                race([ours], options.time(SECONDS), least=3, most=40)
                row["tokens_per_second"] = tokens / min(ours.seconds)
                row["ms_best"] = 1e3 * min(ours.seconds)
            yield row
