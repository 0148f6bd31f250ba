"""What is installed, which GPU it is, and how fast it copies."""

import platform
import shutil
import subprocess
from importlib import metadata
from typing import Any

import calmgrad
from benchmarks.gpu.subject import Subject
from benchmarks.options import commit, machine, now

PACKAGES = ("numpy", "numba", "cupy-cuda13x", "cupy-cuda12x", "cupy", "nvidia-cublas")
ASKED = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit,mig.mode.current"
PROPERTIES = ("multiProcessorCount", "totalGlobalMem", "l2CacheSize", "memoryBusWidth")


def run(subject: Subject) -> dict[str, Any]:
    """Versions, properties of the device, and gigabytes a second of a large copy (read + write)."""
    return {
        "commit": commit(),
        "at": now(),
        "calmgrad": calmgrad.__version__,
        "machine": machine(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "cuda": {} if subject.emulated else _cuda(subject),
        "nvidia_smi": _nvidia_smi(),
        "device": subject.backend.told,
        "copy_gb_per_second": copy_speed(subject),
    }


def copy_speed(subject: Subject) -> float:
    """Bytes read and written in a second by the best of some copies of 1 GiB, in 10^9."""
    size = 1 << (20 if subject.emulated else 30)
    with subject.active():
        a, b = subject.xp.zeros(size // 4, "float32"), subject.xp.zeros(size // 4, "float32")
        times = subject.times(lambda: subject.xp.copyto(b, a), calls=10)
    return 2 * size / times.least / 1e3


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cuda(subject: Subject) -> dict[str, Any]:
    from cupy_backends.cuda.libs import nvrtc

    runtime, index = subject.xp.cuda.runtime, subject.device.index
    about = runtime.getDeviceProperties(index)
    return {
        "driver": runtime.driverGetVersion(),
        "runtime": runtime.runtimeGetVersion(),
        "nvrtc": ".".join(map(str, nvrtc.getVersion())),
        "name": about["name"].decode(),
        "compute_capability": f"{about['major']}.{about['minor']}",
        **{name: about[name] for name in PROPERTIES if name in about},
    }


def _nvidia_smi() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "not found"
    command = [program, f"--query-gpu={ASKED}", "--format=csv"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return (done.stdout or done.stderr).strip()
