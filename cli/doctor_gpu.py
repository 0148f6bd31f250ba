"""What `calmgrad doctor` looks at of a GPU: driver, CuPy, toolkit, devices. Nothing is needed."""

import re
from typing import Literal

from calmgrad import nvidia
from calmgrad.cli.doctor_check import Check, first_line, one_line
from calmgrad.errors import DeviceError


def check_gpu() -> list[Check]:
    """The NVIDIA driver, its library, and the CuPy that goes with it."""
    module = first_line("/proc/driver/nvidia/version")
    found = re.search(r"\s(\d+\.\d+[.\d]*)\s", module or "")
    driver, cupys = nvidia.driver(), nvidia.cupy_distributions()
    checks = []
    if driver.cuda is None:
        if module is not None:
            text = f"driver {found[1] if found else module}, but its library: {driver.why}"
            fix = "in a container: give it the GPU (docker run --gpus all)"
            checks.append(Check("GPU", "problem", text, fix))
        else:
            checks.append(Check("GPU", "ok", "no NVIDIA driver: training runs on the CPU"))
    elif (old := nvidia.too_old(driver.cuda)) is not None:
        checks.append(Check("GPU", "problem", old))
    else:
        version = f", driver {found[1]}" if found else ""
        cuda = f"{driver.cuda[0]}.{driver.cuda[1]}"
        text = driver.why or f"{driver.devices} NVIDIA GPU(s){version}, CUDA up to {cuda}"
        checks.append(Check("GPU", "ok" if driver.devices else "note", text))
    cupy = check_cupy(cupys, driver.cuda, driver.devices > 0)
    checks.append(cupy)
    if len(cupys) == 1 and cupy.state != "problem":
        checks += check_toolkit(next(iter(cupys)), driver.devices > 0)
        checks += check_devices(driver.devices)
    return checks


def check_cupy(cupys: dict[str, str], cuda: tuple[int, int] | None, gpu: bool) -> Check:
    """None, or one that fits the driver; two overwrite each other's files.

    Args:
        cupys: distribution -> version.
        cuda: newest version of CUDA that the driver can run; None without a driver.
        gpu: whether there is a GPU.
    """
    names = ", ".join(f"{name} {version}" for name, version in cupys.items())
    if len(cupys) > 1:
        fix = nvidia.replace_cupy(cupys, cuda)
        return Check("CuPy", "problem", f"{len(cupys)} at once: {names}", fix)
    if not cupys:
        if not gpu:
            return Check("CuPy", "ok", "not installed (of use with an NVIDIA GPU only)")
        text = "not installed: training runs on the CPU"
        return Check("CuPy", "note", text, nvidia.install_cupy(cuda))
    made_for = nvidia.made_for(next(iter(cupys)))
    if cuda is not None and made_for is not None and made_for > cuda[0]:
        text = f"{names} needs CUDA {made_for}, the driver runs up to {cuda[0]}.{cuda[1]}"
        return Check("CuPy", "problem", text, nvidia.replace_cupy(cupys, cuda))
    if not gpu:
        return Check("CuPy", "note", f"{names}, but there is no NVIDIA GPU")
    return Check("CuPy", "ok", names)


def check_toolkit(cupy: str, gpu: bool) -> list[Check]:
    """The libraries of CUDA that come beside CuPy: the compiler, and the one for products."""
    fix = nvidia.pip(f"install '{cupy}[ctk]'")
    state: Literal["problem", "note"] = "problem" if gpu else "note"
    try:
        from cupy_backends.cuda.api import runtime
        from cupy_backends.cuda.libs import cublas, nvrtc  # noqa: F401

        major, minor = nvrtc.getVersion()
        built = runtime.runtimeGetVersion()
    except Exception as error:
        text = f"NVRTC or cuBLAS is missing: {one_line(error)[:100]}"
        return [Check("CUDA toolkit", state, text, fix)]
    runtime_version = f"{built // 1000}.{built % 1000 // 10}"
    text = f"NVRTC {major}.{minor}, CUDA runtime {runtime_version}, cuBLAS"
    return [Check("CUDA toolkit", "ok", text)]


def check_devices(count: int) -> list[Check]:
    """Each GPU: whether it can be used, and its memory."""
    from calmgrad import devices

    checks = []
    for index in range(count):
        try:
            device = devices.open_device(index, "float32")
            free, total = device.memory()
        except DeviceError as error:
            checks.append(Check(f"cuda:{index}", "problem", str(error)))
            continue
        text = f"{device.name}, {free / 1e9:.1f} GB free of {total / 1e9:.1f} GB"
        checks.append(Check(f"cuda:{index}", "ok", text))
    return checks
