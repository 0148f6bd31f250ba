"""Environment of the BLAS inside NumPy, to be set before NumPy is loaded."""

import os
import sys
from pathlib import Path

CORE_TYPE = "OPENBLAS_CORETYPE"


def choose_core_type() -> str | None:
    """Make OpenBLAS use AVX-512 on a CPU that it takes for an older one.

    NumPy's OpenBLAS does not know AMD's Zen 5 and runs its Haswell kernels there, at half the
    speed. Does nothing on other CPUs, when NumPy is loaded already, or when the variable is set.

    Returns:
        The core type chosen, or None.
    """
    if "numpy" in sys.modules or CORE_TYPE in os.environ:
        return None
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = {}
    for line in text.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    needed = {"avx512f", "avx512dq", "avx512bw", "avx512vl"}
    amd = fields.get("vendor_id") == "AuthenticAMD"
    if not amd or int(fields.get("cpu family", "0")) < 26:  # 26: Zen 5
        return None
    if not needed <= set(fields.get("flags", "").split()):
        return None
    os.environ[CORE_TYPE] = "SkylakeX"
    return "SkylakeX"
