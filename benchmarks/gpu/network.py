"""Whole networks on the GPU: recorded results, the CPU's steps, and the same bytes twice."""

from pathlib import Path
from typing import Any

import numpy as np

import calmgrad
from benchmarks.batches import batch_of
from benchmarks.gpu.kernels import TINY_WIDTHS, WIDTHS, one_pass, ops
from benchmarks.gpu.subject import Failed, Subject
from benchmarks.options import ROOT
from calmgrad.cutting import pack_targets
from calmgrad.kernels.cuda.device import Precision
from calmgrad.layout import layout
from calmgrad.model import Model
from calmgrad.op_cases import Sizes, cases
from calmgrad.worker import Worker, loss_head

EXACT = 1e-9  # in float64, of a parameter's largest gradient
FORWARD = 2e-5  # in float32: logits and embeddings
STEPS = 5
LARGE, SMALL = Sizes((768,) * 8, **WIDTHS), Sizes((20, 18), **TINY_WIDTHS)
# Of float32 training: the loss, the gradient's norm, and how far the weights moved.
LOSS, NORM, MOVED = 1e-5, 1e-4, 1e-3
POOLS = ("mean", "last")
Results = dict[str, Any]


def golden(subject: Subject) -> Results:
    """Recorded gradients in float64; logits, embeddings and five steps of AdamW in float32."""
    rows, wrong = [], []
    for path in recorded(subject):
        arrays = dict(np.load(path.with_suffix(".npz")))
        positions = [int(p) for p in arrays["cmd_positions"]]
        sequences = [arrays[f"tokens_{i}"].astype(np.int64) for i in range(len(positions))]
        model = calmgrad.load_model(path)
        error, where = _gradient_error(subject, model, sequences, positions, arrays)
        row: Results = {"model": path.stem, "gradient_error": error, "where": where}
        row["forward_error"] = _forward_error(subject, path, sequences, arrays)
        if not row["forward_error"] < FORWARD:
            wrong.append(f"{path.stem}: outputs are off by {row['forward_error']:.1e}")
        if not error < EXACT:
            wrong.append(f"{path.stem}: the gradient of {where} is off by {error:.1e}")
        if "adamw_losses" in arrays:
            losses = steps(subject.name, model, sequences, positions)[0]
            row["loss_error"] = _relative(losses, arrays["adamw_losses"])
            if not row["loss_error"] < LOSS:
                wrong.append(f"{path.stem}: losses are off by {row['loss_error']:.1e}")
        rows.append(row)
    if wrong:
        raise Failed("; ".join(wrong), rows=rows)
    return {"rows": rows}


def recorded(subject: Subject) -> list[Path]:
    """The golden models: those beside the project where they are, else the project's own."""
    beside, own = ROOT.parent / "shared" / "golden", ROOT / "tests" / "golden"
    paths = sorted((beside if beside.is_dir() else own).glob("*.cwgt"))
    return [path for path in paths if path.stem == "tiny"] if subject.emulated else paths


def _gradient_error(
    subject: Subject, model: Model, sequences: Any, positions: Any, arrays: Results
) -> tuple[float, str]:
    shards, counts = pack_targets(sequences, positions, 20)
    total = np.zeros(model.weights.size)
    with subject.active():
        weights = subject.xp.asarray(model.weights.astype(np.float64))
        worker = Worker(subject.backend, model.config, weights)
        for shard in shards:
            share = 1 / (counts * len(counts))
            seed = np.repeat(share[shard.rows], shard.target_counts())
            worker.run(shard, loss_head, seed)
            total += worker.grads.get()
    return _worst(total, arrays["grad_sequence_mean"], model)


def _forward_error(subject: Subject, path: Path, sequences: Any, arrays: Results) -> float:
    """The largest of any logit or element of an embedding."""
    errors = [0.0]
    with calmgrad.load_model(path).to(subject.name) as model:
        for i, tokens in enumerate(sequences):
            pairs = [(model.logits(tokens), f"logits_{i}")]
            pairs += [(model.embed(tokens, pool=how), f"embed_{how}_{i}") for how in POOLS]
            errors += [float(np.abs(a - arrays[name]).max()) for a, name in pairs if name in arrays]
    return max(errors)


def _worst(got: Any, right: Any, model: Model) -> tuple[float, str]:
    """The largest error of a parameter, relative to its own largest element."""
    errors = []
    for entry in layout(model.config):
        a, b = (x[entry.start : entry.stop] for x in (got, right))
        errors.append((float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)), entry.name))
    return max(errors)


def parity(subject: Subject) -> Results:
    """Training steps from the same weights on the same batch, on the CPU and on the GPU."""
    shape = "3x9" if subject.emulated else "8x256"
    count = 2 if subject.emulated else STEPS
    rows, wrong = [], []
    for size in ("nano",) if subject.emulated else ("nano", "small"):
        sequences, positions = batch(shape)
        start = subject.new_model(size).weights.copy()
        on_cpu, on_gpu = (
            steps(name, subject.new_model(size), sequences, positions, count)
            for name in ("cpu", subject.name)
        )
        moved = on_cpu[2] - start
        row: Results = {
            "size": size,
            "shape": shape,
            "losses": on_gpu[0],
            "loss_error": _relative(on_gpu[0], on_cpu[0]),
            "norm_error": _relative(on_gpu[1], on_cpu[1]),
            "moved_error": float(np.linalg.norm(on_gpu[2] - on_cpu[2]) / np.linalg.norm(moved)),
        }
        for name, bound in (("loss", LOSS), ("norm", NORM), ("moved", MOVED)):
            if not row[f"{name}_error"] < bound:
                wrong.append(f"{size}: {name} is off by {row[f'{name}_error']:.1e}")
        rows.append(row)
    if wrong:
        raise Failed("; ".join(wrong), rows=rows)
    return {"rows": rows}


def determinism(subject: Subject) -> Results:
    """The same ops twice and the same steps twice: the same results, to the last bit."""
    differ = _ops_that_differ(subject)
    if differ:
        raise Failed(f"ops give other bytes the second time: {', '.join(differ)}")
    shape, count = ("3x9", 2) if subject.emulated else ("shell32", STEPS)
    sequences, positions = batch(shape)
    first, second = (
        steps(subject.name, subject.new_model("nano"), sequences, positions, count)
        for _ in range(2)
    )
    if first[0] != second[0] or first[2].tobytes() != second[2].tobytes():
        raise Failed("two runs differ", losses=[first[0], second[0]])
    return {"shape": shape, "losses": first[0]}


def _ops_that_differ(subject: Subject) -> list[str]:
    found = []
    for name in ops():
        with subject.active():
            for case in cases(name, LARGE if not subject.emulated else SMALL, subject.xp):
                first, second = (one_pass(subject.backend, case, "float32") for _ in range(2))
                if any(first[key].tobytes() != second[key].tobytes() for key in first):
                    found.append(name)
    return found


def batch(shape: str) -> tuple[list[Any], list[int]]:
    batch = batch_of(shape)
    return [np.asarray(tokens, np.int64) for tokens in batch["tokens"]], batch["positions"]


def steps(
    device: str,
    model: Model,
    sequences: Any,
    positions: Any,
    count: int = STEPS,
    precision: Precision = "float32",
) -> tuple[list[float], list[float], Any]:
    """Losses, norms of the gradient, and the weights afterwards."""
    losses, norms = [], []
    with calmgrad.Trainer(model, lr=1e-3, device=device, matmul_precision=precision) as trainer:
        for _ in range(count):
            losses.append(float(trainer.step(sequences, positions)))
            norms.append(float(trainer.grad_norm))
    return losses, norms, model.weights.copy()


def _relative(got: Any, right: Any) -> float:
    return float(np.max(np.abs(np.array(got) / np.array(right) - 1)))
