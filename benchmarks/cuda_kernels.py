"""What the CUDA kernels take of a GPU, as the compiler says: no GPU is needed.

    python -m benchmarks.cuda_kernels

compiles every kernel with nvcc and writes benchmarks/results/cuda_kernels.json. The tests hold
the table against the sources and against limits (tests/test_cuda_compile.py).
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from calmgrad.kernels.cuda.launcher import FOLDER, REALS, source

FLAGS = ("-std=c++17", "-ftz=true")  # as CuPy compiles: it adds the second one to ours
RESULTS = Path(__file__).parent / "results" / "cuda_kernels.json"
ARCHITECTURES = ("sm_80", "sm_90")
ENTRY = re.compile(r"Compiling entry function '(\w+)' for")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
DOUBLE = re.compile(r"^\s*(?:@!?%\w+\s+)?([\w.]*\bf64\b[\w.]*)\s", re.MULTILINE)


@dataclass(frozen=True, order=True)
class Kernel:
    """One kernel, compiled: registers of a thread; bytes of its stack frame, spilled, shared."""

    op: str
    entry: str
    real: str
    architecture: str
    registers: int
    stack: int
    spilled: int
    shared: int


def ops() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.cu"))


def digest(op: str) -> str:
    """Changes when what the compiler sees of an op does."""
    return hashlib.sha256(source(op, "float32").encode()).hexdigest()[:16]


def version() -> str | None:
    """nvcc's, if there is one."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    told = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"V([\d.]+)", told)
    return found[1] if found else None


def compiled(op: str, dtype: str, *flags: str) -> tuple[str, bytes]:
    """What nvcc says about an op's kernels, and what it makes of them.

    Raises:
        RuntimeError: it refuses them.
    """
    with tempfile.TemporaryDirectory() as folder:
        written, made = Path(folder, f"{op}.cu"), Path(folder, "made")
        written.write_text(source(op, dtype), encoding="utf-8")
        command = ["nvcc", *FLAGS, *flags, str(written), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise RuntimeError(f"nvcc refuses {op}.cu:\n{done.stderr}")
        return done.stderr, made.read_bytes()


def kernels(op: str, dtype: str, architecture: str) -> Iterator[Kernel]:
    told, _ = compiled(op, dtype, "-cubin", f"-arch={architecture}", "-Xptxas", "-v")
    for part in ENTRY.split(told)[1:]:
        if part.isidentifier():
            entry = part
            continue
        stack, used = STACK.search(part), USED.search(part)
        if stack is None or used is None:
            raise RuntimeError(f"nvcc says something else than expected: {part}")
        yield Kernel(
            op, entry, REALS[dtype], architecture,
            registers=int(used[1]), stack=int(stack[1]), spilled=int(stack[2]) + int(stack[3]),
            shared=int(used[2] or 0),
        )  # fmt: skip


def double_arithmetic(op: str) -> dict[str, set[str]]:
    """Entry -> the instructions on doubles in its code for float."""
    _, made = compiled(op, "float32", "-ptx", "-arch=compute_90")
    parts = re.split(r"\.entry (\w+)", made.decode())
    return {
        entry: set(DOUBLE.findall(text.split("\n}")[0]))  # behind it may stand a function
        for entry, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def main() -> int:
    nvcc = version()
    if nvcc is None:
        print("no nvcc: it comes with the CUDA toolkit", file=sys.stderr)
        return 1
    rows = sorted(
        kernel
        for op in ops()
        for dtype in REALS
        for architecture in ARCHITECTURES
        for kernel in kernels(op, dtype, architecture)
    )
    table = {
        "nvcc": nvcc,
        "sources": {op: digest(op) for op in ops()},
        "kernels": [asdict(row) for row in rows],
    }
    lines = ",\n  ".join(json.dumps(row) for row in table.pop("kernels"))
    head = json.dumps(table, indent=1).removesuffix("\n}")
    RESULTS.write_text(f'{head},\n "kernels": [\n  {lines}\n ]\n}}\n', encoding="utf-8")
    worst = max(rows, key=lambda row: row.registers)
    print(f"{len(rows)} kernels, at most {worst.registers} registers ({worst.entry}): {RESULTS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
