"""The hot loops become vector instructions on every CPU that calmgrad is for.

Numba makes LLVM's code for a plain CPU, in a process of its own; from that, assembly is made for
AVX2, AVX-512 and NEON, none of which need be here, and its arithmetic is counted. The backward
scan takes longer to compile, and is looked at when CALMGRAD_TEST_PROFILE is `thorough`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite import binding as llvm

ROOT = Path(__file__).parents[1]
THOROUGH = os.environ.get("CALMGRAD_TEST_PROFILE") == "thorough"

COMPILE = """
import sys
import numpy as np
from calmgrad.kernels import cpu
from calmgrad.kernels.cpu import gelu, selective_scan

def compiled(module):  # of all kernels that have been called, without their helpers
    for dispatcher in vars(module).values():
        for text in getattr(dispatcher, "inspect_llvm", dict)().values():
            yield text

def f(*shape):
    return np.ones(shape, np.float32)

which = sys.argv[1]
if which == "gelu":
    cpu.gelu_forward(f(2, 32), f(2, 32))
    cpu.gelu_backward(f(2, 32), f(2, 32), f(2, 32))
    module = gelu
else:
    t, c, n = 32, 32, 16
    work = f(cpu.selective_scan_workspace(t, 2, c, n))
    offsets = np.array([0, t]), np.array([0, 16, t])
    module = selective_scan
    forward = [f(t, c), f(t, c), f(t, c), f(2, n, c)]
    given = [f(t, c), f(t, c), f(t, 2 * n)]
    if which == "scan forward":
        cpu.selective_scan_forward(*forward, *given, f(c), f(c, n), f(c), *offsets, work)
    else:
        cpu.selective_scan_backward(
            f(t, c), f(t, c), f(t, c), f(t, 2 * n), f(c), f(c, n), f(c), *forward, *given,
            f(c, n), f(c), *offsets, work,
        )
print(max(compiled(module), key=len))
"""

# Target -> triple, CPU, and patterns of packed, scalar and multiply-add float32 arithmetic.
X86 = "x86_64-unknown-linux-gnu"
TARGETS = {
    "AVX2": (
        X86,
        "haswell",
        r"\bv(?:add|sub|mul|fn?m(?:add|sub)\d+)ps\s.*ymm",
        r"\bv(?:add|sub|mul|fn?m(?:add|sub)\d+)ss\s",
        r"\bvfn?m(?:add|sub)\d+ps\s.*ymm",
    ),
    "AVX-512": (
        X86,
        "znver5",
        r"\bv(?:add|sub|mul|fn?m(?:add|sub)\d+)ps\s.*zmm",
        r"\bv(?:add|sub|mul|fn?m(?:add|sub)\d+)ss\s",
        r"\bvfn?m(?:add|sub)\d+ps\s.*zmm",
    ),
    "NEON": (
        "aarch64-unknown-linux-gnu",
        "cortex-a76",
        r"\b(?:fadd|fsub|fmul|fmla|fmls)\s+v\d+\.4s",
        r"\b(?:fadd|fsub|fmul|fmadd|fmsub|fnmadd|fnmsub)\s+s\d+",
        r"\bfml[as]\s+v\d+\.4s",
    ),
}


def intermediate(which: str) -> str:
    """LLVM's code of a kernel, for no CPU in particular."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE, which],
        env={
            **kept,
            "NUMBA_CPU_NAME": "generic",
            # A file, so no folder: code from the cache cannot be looked at.
            "CALMGRAD_CACHE_DIR": __file__,
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assembly(text: str, triple: str, cpu: str) -> str:
    """That code for a CPU."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
    text = re.sub(r'^target (?:triple|datalayout) = ".*"$', "", text, flags=re.MULTILINE)
    text = re.sub(r'"target-(?:cpu|features)"="[^"]*"', "", text)
    # Reference counts, which other CPUs do otherwise; no arithmetic.
    text = re.sub(r"= (?:tail )?call i8 @llvm\.x86\.atomic\.sub\.cc\..*", "= add i8 0, 0", text)
    module = llvm.parse_assembly(f'target triple = "{triple}"\n{text}')
    module.data_layout = str(machine.target_data)
    return str(machine.emit_assembly(module))


slow = pytest.mark.skipif(not THOROUGH, reason="CALMGRAD_TEST_PROFILE=thorough looks at it")


@pytest.mark.parametrize(
    "which", ["gelu", "scan forward", pytest.param("scan backward", marks=slow)]
)
def test_hot_loops_are_vector_code(which: str) -> None:
    text = intermediate(which)
    for target, (triple, cpu, packed, scalar, fused) in TARGETS.items():
        code = assembly(text, triple, cpu)
        counts = [len(re.findall(pattern, code)) for pattern in (packed, scalar, fused)]
        assert counts[2] >= 12, (target, counts)  # the exponential's polynomial alone has six
        assert counts[1] <= counts[0] / 4, (target, counts)  # what is outside of the loops
        assert not re.search(r"\b(?:exp2?f?|tanhf?|logf?)\b", code), f"{target}: a call a value"
