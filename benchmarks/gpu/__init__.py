"""The phases of `python -m benchmarks.gpu_check`."""

import sys
from importlib.util import find_spec

# What they import; `parity` alone needs Numba, too.
NEEDED = ("numpy", "msgspec", "safetensors", "threadpoolctl")

if missing := [name for name in NEEDED if find_spec(name) is None]:
    sys.exit(
        f"benchmarks.gpu: {', '.join(missing)} not installed:"
        f" {sys.executable} -m pip install {' '.join(missing)}"
    )
