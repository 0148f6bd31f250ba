"""What TF32 and bfloat16 products cost in accuracy: of one product, and of a training's losses."""

from typing import Any

import numpy as np

from benchmarks.gpu.network import batch, steps
from benchmarks.gpu.subject import Failed, Subject
from calmgrad.backend import load
from calmgrad.kernels.cuda.device import PRECISIONS

# What an element of a product may be off, relative to the largest: the factors keep 24, 11, 8 bits.
BOUNDS = {"float32": 5e-6, "tf32": 2e-3, "bf16": 2e-2}
SHAPE = (3000, 320, 200)  # rows, columns, terms of the product
STEPS = 50
Results = dict[str, Any]


def run(subject: Subject) -> Results:
    """For each precision the error of a product, and losses beside those in float32."""
    sequences, positions = batch("3x9" if subject.emulated else "8x256")
    count = 2 if subject.emulated else STEPS
    rows: list[Results] = []
    wrong = []
    for precision in PRECISIONS:
        error = product_error(subject, precision)
        model = subject.new_model("nano")
        losses = steps(subject.name, model, sequences, positions, count, precision)[0]
        exact = rows[0]["losses"] if rows else losses
        apart = float(np.max(np.abs(np.array(losses) / np.array(exact) - 1)))
        rows.append({
            "precision": precision, "product_error": error, "losses": losses, "loss_apart": apart,
        })  # fmt: skip
        if not (error < BOUNDS[precision] and np.isfinite(apart)):
            wrong.append(f"{precision}: a product is off by {error:.1e}, losses by {apart:.1e}")
    if wrong:
        raise Failed("; ".join(wrong), rows=rows)
    return {"rows": rows}


def product_error(subject: Subject, precision: Any) -> float:
    """The largest error of a float32 product, relative to its largest element."""
    backend = load(subject.name, precision)
    rows, columns, terms = SHAPE
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype("float32") for s in ((rows, terms), (terms, columns)))
    right = a.astype("float64") @ b.astype("float64")
    with backend.active():
        out = backend.xp.empty((rows, columns), "float32")
        backend.kernels.matmul(out, backend.xp.asarray(a), backend.xp.asarray(b))
        got = out.get()
    return float(np.abs(got - right).max() / np.abs(right).max())
