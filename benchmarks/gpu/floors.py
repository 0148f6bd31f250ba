"""The bytes that each kernel has to read and write at least, and how long that takes.

    python -m benchmarks.gpu.floors [GIGABYTES_PER_SECOND]

prints a table for all sizes at 64x768 tokens: a calculation, not a measurement. `gpu_check timings`
holds each kernel against the same bytes, with the speed of a copy on the GPU that it finds.
"""

import sys
from collections.abc import Sequence

from calmgrad.config import PRESETS, ModelConfig
from calmgrad.kernels.protocol import CHUNK

FLOAT = 4
SHAPE = (64, 768)  # sequences, tokens of each
SPEED = 4000.0  # GB/s, of an H200-class GPU, if none is given
ONCE = ("cross_entropy", "embedding", "adamw", "squared_norm")  # in a step; the others in a layer


def least_bytes(config: ModelConfig, lengths: Sequence[int]) -> dict[str, int]:
    """Of every kernel, for a batch; "…, back" is its backward pass.

    Float32. An input counts once, however often it is read, and so does an output. What two
    passes of one kernel hand to each other does not count: it depends on how they are written.
    """
    tokens, chunks = sum(lengths), sum(-(-n // CHUNK) for n in lengths)
    width, inner, states = config.d_model, config.d_inner, config.d_state

    def matrices(count: float, columns: int) -> int:
        return int(FLOAT * count * tokens * columns)

    # u, z, dt in; dt, y and out out; B and C; a state for every chunk
    scan = matrices(6, inner) + matrices(2, states) + FLOAT * chunks * states * inner
    # dout, y, dt, u, z in; du, dz, ddt out; B, C, and their gradients
    scan_back = matrices(8, inner) + matrices(4, states) + FLOAT * chunks * states * inner
    parameters = FLOAT * config.param_count
    return {
        "layer_norm": matrices(2, width),
        "layer_norm, back": matrices(3, width),
        "causal_conv1d": matrices(2, inner),
        "causal_conv1d, back": matrices(3, inner),
        "selective_scan": scan,
        "selective_scan, back": scan_back,
        "gelu": matrices(2, config.d_ffn),
        "gelu, back": matrices(3, config.d_ffn),
        "cross_entropy": matrices(1, config.vocab),
        "cross_entropy, back": matrices(2, config.vocab),
        "embedding": matrices(1, width),
        "embedding, back": matrices(1, width),
        "squared_norm": parameters,
        "adamw": 7 * parameters,
        "in_proj": matrices(width + 2 * inner, 1) + FLOAT * width * 2 * inner,
    }


def microseconds(size: int, speed: float) -> float:
    """For bytes at GB/s."""
    return size / speed / 1e3


def table(speed: float) -> list[str]:
    """A row for each kernel, a column of microseconds for each size; then a step's sums."""
    count, length = SHAPE
    configs = {name: preset.model for name, preset in PRESETS.items()}
    found = {name: least_bytes(config, [length] * count) for name, config in configs.items()}
    lines = [f"{count}x{length} tokens at {speed:,.0f} GB/s: microseconds at least"]
    lines.append(f"{'':22}" + "".join(f"{name:>10}" for name in configs))
    for op in next(iter(found.values())):
        if op != "in_proj":
            row = "".join(f"{microseconds(sizes[op], speed):10.1f}" for sizes in found.values())
            lines.append(f"{op:22}{row}")
    sums = ""
    for name, sizes in found.items():
        total = sum(
            size * (1 if op.split(",")[0] in ONCE else times(op, configs[name].n_layers))
            for op, size in sizes.items()
            if op != "in_proj"
        )
        sums += f"{microseconds(total, speed):10.0f}"
    lines.append(f"{'a step, no products':22}{sums}")
    return lines


def times(op: str, layers: int) -> int:
    """How often an op of the layers runs in a step."""
    return 2 * layers + 1 if op.startswith("layer_norm") else layers


if __name__ == "__main__":
    print(*table(float(sys.argv[1]) if sys.argv[1:] else SPEED), sep="\n")
