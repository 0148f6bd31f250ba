"""`memory`: what training takes, beside what was forecast; bounded by threads x one shard."""

from collections.abc import Iterator
from typing import Any

from benchmarks.batches import batch_of, lengths_of
from benchmarks.contestants import race
from benchmarks.options import Options

SHARD_TOKENS = 512
ROWS = [
    *[("mini", shape, 2, SHARD_TOKENS) for shape in ("8x256", "32x256", "128x256", "8x768")],
    *[("mini", "32x256", threads, tokens) for tokens in (256, 1024) for threads in (1, 2)],
    ("nano", "32x256", 2, SHARD_TOKENS),
    ("small", "32x256", 2, SHARD_TOKENS),
    ("mini", "shell32", 2, SHARD_TOKENS),
]


def run(options: Options) -> Iterator[dict[str, Any]]:
    """A row for each model size, shape of batch, number of threads and size of shards."""
    for size, shape, threads, shard_tokens in options.chosen(ROWS):
        settings = {
            "size": size,
            "threads": threads,
            "shard_tokens": shard_tokens,
            **batch_of(shape),
        }
        ours = options.calmgrad("train", settings, calls=1)
        race([ours], 0.0, least=2)
        options.note_versions([ours])
        before, forecast = ours.prepared_with["resident"], ours.prepared_with["forecast"]
        yield {
            "size": size,
            "shape": shape,
            "threads": threads,
            "shard_tokens": shard_tokens,
            "tokens": sum(lengths_of(shape)),
            "before_mb": before / 1e6,
            "forecast_mb": forecast / 1e6,
            "used_mb": (ours.peak - before) / 1e6,
            "peak_mb": ours.peak / 1e6,
            "off": (before + forecast) / ours.peak - 1,
        }
