"""`ops` and `scan`: where a step's time goes, and the scan beside its exponentials alone."""

from collections.abc import Iterator
from typing import Any

from benchmarks.batches import batch_of
from benchmarks.options import Options

SIZES = ("nano", "micro", "mini", "small")
SHAPE = "8x256"
STATES = 16  # of every preset


def run(options: Options) -> Iterator[dict[str, Any]]:
    """A row for each op of each model size, the slowest op first."""
    for size, told in profiles(options, 4.0):
        for row in told["rows"]:
            rate = None if row["rate"] is None else row["rate"] / 1e9
            yield {
                "size": size,
                **row,
                "forward_ms": 1e3 * row["forward"],
                "backward_ms": 1e3 * row["backward"],
                "rate": rate,
                "unit": {"products": "GFLOP/s", "exp": "Gexp/s", "memory": "GB/s"}[row["bound"]],
            }


def scan(options: Options) -> Iterator[dict[str, Any]]:
    """A row for each model size: nanoseconds for a token, a channel and a state, on one thread.

    The least is an exponential and two multiply-adds, from register to register. The scan's
    times include its softplus and gate, and the product that widens dt.
    """
    for size, told in profiles(options, 2.0):
        [row] = [row for row in told["rows"] if row["op"] == "selective_scan"]
        channels, layers = told["channels"], told["layers"]
        updates = told["tokens"] * channels * layers * STATES
        least = 1e9 / told["exponentials"]
        forward, backward = (1e9 * row[way] / updates for way in ("forward", "backward"))
        yield {
            "size": size,
            "least_ns": least,
            "forward_ns": forward,
            "backward_ns": backward,
            "forward_over_least": forward / least,
            "backward_over_least": backward / least,
            "share": row["share"],
        }


def profiles(options: Options, seconds: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the worker tells of each model size."""
    for size, *_ in options.chosen([(size, SHAPE, 1) for size in SIZES]):
        settings = {"size": size, "seconds": options.time(seconds), **batch_of(SHAPE)}
        with options.calmgrad("profile", settings, calls=1) as worker:
            worker.turn()
            options.note_versions([worker])
            yield size, worker.told
