"""Whether training bears products of rounded factors: loss curves, on the CPU.

A GPU's tensor cores round the factors of a product ("tf32" to 10 bits of mantissa, "bf16" to 7)
and sum in float32. Here the CPU's products are given factors rounded so, forward and backward: so
the curves can be seen without a GPU. It says nothing about speed, and sums in another order.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

import calmgrad
from benchmarks import result_files
from benchmarks.options import ROOT, commit
from calmgrad.kernels import cpu

BITS = {"float32": 23, "tf32": 10, "bf16": 7}  # of mantissa that are kept
RESULTS = ROOT / "benchmarks" / "results" / "rounding.json"


def rounded(x: Any, bits: int) -> Any:
    """float32 numbers to the nearest with `bits` bits of mantissa, ties to even."""
    drop = 23 - bits
    if drop == 0:
        return x
    words = np.ascontiguousarray(x).view(np.uint32)
    words = words + np.uint32((1 << drop - 1) - 1) + (words >> np.uint32(drop) & np.uint32(1))
    return (words >> np.uint32(drop) << np.uint32(drop)).view(np.float32)


@contextmanager
def products(bits: int) -> Iterator[None]:
    """Inside, the CPU's products round their factors."""
    exact = cpu.matmul

    def matmul(out: Any, a: Any, b: Any, add: Any = None) -> None:
        exact(out, rounded(a, bits), rounded(b, bits), add)

    cpu.matmul = matmul
    try:
        yield
    finally:
        cpu.matmul = exact


def curve(precision: str, data: Path, val: Path, size: str, steps: int, seed: int) -> list[float]:
    """Validation losses (token mean) every tenth of a run."""
    losses: list[float] = []
    with products(BITS[precision]), tempfile.TemporaryDirectory() as folder:
        calmgrad.train(
            dataset=str(data), val_dataset=str(val), size=size, max_steps=steps, seed=seed,
            eval_every=max(1, steps // 10), save_dir=str(Path(folder, "run")), device="cpu",
            on_eval=lambda evaluated: losses.append(evaluated.loss),
        )  # fmt: skip
    return losses


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.rounding", description=__doc__)
    parser.add_argument("data", type=Path, help="CTDS to train on")
    parser.add_argument("val", type=Path, help="CTDS to validate on")
    parser.add_argument("--size", default="nano")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    found: dict[str, Any] = {
        "commit": commit(), "size": options.size, "steps": options.steps, "curves": {},
        "note": "factors rounded on the CPU, not a GPU's own rounding",
    }  # fmt: skip
    for seed in range(options.seeds):  # in turn, so that what is there is comparable
        for precision in BITS:
            losses = curve(precision, options.data, options.val, options.size, options.steps, seed)
            found["curves"].setdefault(precision, []).append(losses)
            result_files.write(options.output, found)
            print(f"seed {seed} {precision:8} {losses[-1]:.4f}", flush=True)
    for precision, curves in found["curves"].items():
        print(f"{precision:8} mean of the last losses {mean(c[-1] for c in curves):.4f}")


if __name__ == "__main__":
    main()
