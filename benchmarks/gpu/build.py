"""Every kernel compiled for this device: how long it takes, and what each needs."""

import re
import time
from typing import Any

from benchmarks.gpu.subject import Failed, Subject
from calmgrad.kernels.cuda.device import OPTIONS
from calmgrad.kernels.cuda.launcher import FOLDER, source

DTYPES = ("float32", "float64")
ENTRY = re.compile(r'extern "C" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)')


def run(subject: Subject) -> dict[str, Any]:
    """Registers, shared and local (spilled) bytes of each kernel, float and double."""
    rows, failed = [], []
    for path in sorted(FOLDER.glob("*.cu")):
        for dtype in DTYPES:
            began = time.perf_counter()
            try:
                kernels = _compiled(subject, path.stem, dtype)
            except Exception as error:
                failed.append(f"{path.name}, {dtype}: {error}")
                continue
            row = {"op": path.stem, "dtype": dtype, "kernels": kernels}
            rows.append(row | {"seconds": time.perf_counter() - began})
    if failed:
        raise Failed("; ".join(failed), rows=rows)
    return {"rows": rows, "seconds": sum(row["seconds"] for row in rows)}


def _compiled(subject: Subject, op: str, dtype: str) -> dict[str, Any]:
    """What each kernel needs, as CuPy's RawKernel tells it."""
    text = source(op, dtype)
    names = ENTRY.findall(text)
    with subject.active():
        for name in names:
            subject.device.function(text, name)
        if subject.emulated:
            return {name: {} for name in names}
        module = subject.xp.RawModule(code=text, options=OPTIONS)
        return {name: _needs(module.get_function(name)) for name in names}


def _needs(kernel: Any) -> dict[str, int]:
    return {
        "registers": kernel.num_regs,
        "shared_bytes": kernel.shared_size_bytes,
        "local_bytes": kernel.local_size_bytes,
        "most_threads": kernel.max_threads_per_block,
    }
