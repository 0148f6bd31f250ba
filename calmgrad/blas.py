"""Environment of the BLAS inside NumPy, to be set before NumPy is loaded."""

import os
import sys
import warnings

CORE_TYPE = "OPENBLAS_CORETYPE"
CPU_INFO = "/proc/cpuinfo"

_chosen: str | None = None
_hinted = False


def choose_core_type() -> str | None:
    """Make OpenBLAS use AVX-512 on a CPU that it takes for an older one.

    NumPy's OpenBLAS does not know AMD's Zen 5 and runs its Haswell kernels there, at half the
    speed. Does nothing on other CPUs or when the variable is set; when NumPy is loaded already it
    is too late, and a warning says so once.

    Returns:
        The core type chosen, or None.
    """
    global _chosen, _hinted
    if CORE_TYPE in os.environ:
        return None
    better = better_core_type()
    if better is None:
        return None
    if "numpy" in sys.modules:
        if not _hinted:
            _hinted = True
            warnings.warn(
                "NumPy was loaded before calmgrad, so its OpenBLAS runs at half of this CPU's"
                f" speed: import calmgrad first, or set {CORE_TYPE}={better}",
                RuntimeWarning,
                stacklevel=3,
            )
        return None
    os.environ[CORE_TYPE] = _chosen = better
    return better


def told() -> str:
    """What decides OpenBLAS's kernels, in half a line."""
    setting = os.environ.get(CORE_TYPE)
    if setting is None:
        return "OpenBLAS chooses its kernels itself"
    if setting == _chosen:
        return f"{CORE_TYPE}={setting}, chosen for this CPU; set it to choose otherwise"
    return f"{CORE_TYPE}={setting}, as the environment says"


def better_core_type() -> str | None:
    """The core type that suits this CPU better than what OpenBLAS would choose, if there is one."""
    try:
        with open(CPU_INFO, encoding="ascii", errors="replace") as file:
            text = file.read(1 << 13)  # the first CPU's
    except OSError:
        return None
    fields = {}
    for line in text.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    needed = {"avx512f", "avx512dq", "avx512bw", "avx512vl"}
    amd = fields.get("vendor_id") == "AuthenticAMD"
    family = fields.get("cpu family", "")
    if not amd or not family.isdigit() or int(family) < 26:  # 26: Zen 5
        return None
    return "SkylakeX" if needed <= set(fields.get("flags", "").split()) else None
