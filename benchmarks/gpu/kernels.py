"""Each op and update on the GPU, in float32 and float64, against the reference in float64."""

import itertools
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.subject import Failed, Subject, mapped
from calmgrad.backend import Backend, load, to_numpy
from calmgrad.kernels.cuda.selective_scan_serial import STATES
from calmgrad.op_cases import BUILDERS, Case, Sizes, cases
from calmgrad.tape import Tape

# What a result may be off, relative to its largest element.
TOLERANCES = {"float32": 5e-6, "float64": 1e-11}
# Two blocks of channels, two tiles of states; a convolution longer than the shortest sequence.
WIDTHS = {"channels": 160, "states": 17, "taps": 4, "rank": 5}
TINY_WIDTHS = {"channels": 37, "states": 17, "taps": 4, "rank": 2}
LENGTHS = [(1,), (255,), (256,), (257,), (768,), (255, 1, 256, 17, 257, 768, 16, 15)]
TINY_LENGTHS = [(1,), (20, 1, 18)]
SCAN, SERIAL = "selective_scan.selective_scan", "selective_scan, serial"
Results = dict[str, Any]


def run(subject: Subject) -> Results:
    """The worst error of every op, and of every update, at each length."""
    rows: list[Results] = []
    try:
        with subject.active():
            for row in itertools.chain(_ops(subject), _updates(subject)):
                rows.append(row)
    except Exception as error:
        last = f"after {rows[-1]['op']} ({rows[-1]['dtype']})" if rows else "at once"
        told = "".join(traceback.format_exception_only(error)).strip()
        trace = traceback.format_exc()
        raise Failed(f"{last}: {told}", rows=rows, traceback=trace) from error
    wrong = [row for row in rows if not row["error"] <= TOLERANCES[row["dtype"]]]
    if wrong:
        names = sorted({f"{row['op']} ({row['dtype']}): {row['where']}" for row in wrong})
        raise Failed(f"beyond the tolerance: {', '.join(names)}", rows=rows)
    return {"rows": rows, "worst": max(row["error"] for row in rows if row["dtype"] == "float32")}


def ops() -> list[str]:
    """Those with kernels of their own."""
    return [name for name in BUILDERS if not name.startswith("basic.")]


def _ops(subject: Subject) -> Iterator[Results]:
    widths = TINY_WIDTHS if subject.emulated else WIDTHS
    for lengths in TINY_LENGTHS if subject.emulated else LENGTHS:
        for name in ops():
            yield from _compared(subject, name, Sizes(lengths, **widths))
        with mapped(subject.backend.kernels, "serial"):
            for row in _compared(subject, SCAN, Sizes(lengths, **(widths | {"states": STATES}))):
                yield row | {"op": SERIAL}


def _compared(subject: Subject, name: str, sizes: Sizes) -> Iterator[Results]:
    reference = load("reference")
    pairs = zip(cases(name, sizes), cases(name, sizes, subject.xp), strict=True)
    for way, (expected_of, case) in enumerate(pairs):
        # Both get numbers that float32 holds.
        for one in (expected_of, case):
            for key, value in one.inputs.items():
                one.inputs[key] = np.asarray(value, "float32").astype("float64")
        right = one_pass(reference, expected_of, "float64")
        for dtype in TOLERANCES:
            with subject.active():
                got = one_pass(subject.backend, case, dtype)
            error, where = worst(got, right)
            yield {
                "op": name.split(".")[1], "way": way, "lengths": sizes.lengths, "dtype": dtype,
                "error": error, "where": where,
            }  # fmt: skip


def one_pass(backend: Backend, case: Case, dtype: str) -> Results:
    """The output of a case and its gradients, on the host."""
    tape = Tape(backend, dtype)
    leaves = {name: tape.constant(value) for name, value in case.inputs.items()}
    y = case(*leaves.values())
    value = to_numpy(y.value.copy())
    seed = np.random.default_rng(1).standard_normal(y.shape).astype("float32")
    tape.backward(y, backend.xp.asarray(seed, dtype))
    gradients = {f"gradient of {name}": to_numpy(x.grad) for name, x in leaves.items()}
    return {"output": value, **gradients}


def worst(got: Results, right: Results) -> tuple[float, str]:
    """The largest error, relative to the largest element of its array (or 1e-3), and where."""
    errors = []
    for name, array in right.items():
        scale = float(np.abs(array).max(initial=0)) + 1e-3
        error = float(np.abs(got[name] - array).max(initial=0)) / scale
        errors.append((error if np.isfinite(error) else np.inf, name))
    return max(errors)


def _updates(subject: Subject) -> Iterator[Results]:
    size = 1000 if subject.emulated else 1_000_003
    rng = np.random.default_rng(2)
    numbers = {
        name: rng.standard_normal(size).astype("float32").astype("float64")
        for name in ("p", "m", "g", "anchor")
    }
    numbers["v"], numbers["fisher"] = numbers["m"] ** 2, numbers["anchor"] ** 2
    for name, call in UPDATES.items():
        right = call(load("reference"), numbers, "float64")
        for dtype in TOLERANCES:
            with subject.active():
                got = call(subject.backend, numbers, dtype)
            error, where = worst(got, right)
            yield {"op": name, "lengths": [size], "dtype": dtype, "error": error, "where": where}


def _adamw(backend: Backend, numbers: Results, dtype: str) -> Results:
    x = _on(backend, numbers, dtype)
    rates = (0.5, 1e-3, 0.01, 0.9, 0.999, 1e-8)
    backend.kernels.adamw(x["p"], x["m"], x["v"], x["g"], *rates, 3)
    return {name: to_numpy(x[name]) for name in "pmv"}


def _sgd(backend: Backend, numbers: Results, dtype: str) -> Results:
    x = _on(backend, numbers, dtype)
    backend.kernels.sgd(x["p"], x["g"], 0.5, 1e-3, 0.01)
    return {"p": to_numpy(x["p"])}


def _ewc_gradient(backend: Backend, numbers: Results, dtype: str) -> Results:
    x = _on(backend, numbers, dtype)
    backend.kernels.ewc_gradient(x["g"], x["p"], x["fisher"], x["anchor"], 0.3)
    return {"g": to_numpy(x["g"])}


def _squared_norm(backend: Backend, numbers: Results, dtype: str) -> Results:
    x = _on(backend, numbers, dtype)
    return {"norm": np.array([backend.kernels.squared_norm(x["g"])])}


UPDATES: dict[str, Callable[[Backend, Results, str], Results]] = {
    "adamw": _adamw,
    "sgd": _sgd,
    "ewc_gradient": _ewc_gradient,
    "squared_norm": _squared_norm,
}


def _on(backend: Backend, numbers: Results, dtype: str) -> Results:
    """Copies, where the backend computes."""
    return {name: backend.xp.array(x.astype(dtype)) for name, x in numbers.items()}
