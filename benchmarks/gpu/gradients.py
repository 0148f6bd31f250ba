"""gradcheck on the GPU, in float64: every op with kernels against its own differences."""

from typing import Any

from benchmarks.gpu.kernels import TINY_WIDTHS, ops
from benchmarks.gpu.subject import Failed, Subject
from calmgrad.errors import CheckFailed
from calmgrad.gradient_check import gradcheck
from calmgrad.op_cases import Sizes, cases

SIZES = Sizes((20, 1, 18), **TINY_WIDTHS)


def run(subject: Subject) -> dict[str, Any]:
    """The worst error of each op's inputs."""
    rows, wrong = [], []
    for name in ops():
        for way, case in enumerate(cases(name, SIZES, subject.xp)):
            arrays = case.inputs.values()
            row: dict[str, Any] = {"op": name.split(".")[1], "way": way}
            try:
                with subject.active():
                    found = gradcheck(
                        case, *arrays, backend=subject.backend, names=list(case.inputs),
                        directions=1 if subject.emulated else 3,
                    )  # fmt: skip
                row["worst"] = found.worst
            except CheckFailed as error:
                row["error"] = str(error)
                wrong.append(f"{name}: {error}")
            rows.append(row)
    if wrong:
        raise Failed("; ".join(wrong), rows=rows)
    return {"rows": rows}
