"""calmgrad doctor"""

import os
import platform
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import click

from calmgrad import __version__
from calmgrad.cli.common import json_option
from calmgrad.errors import CheckFailed

# What training needs, and the oldest version that will do; as in setup.cfg.
REQUIRED = {
    "numpy": "2.0",
    "numba": "0.61",
    "click": "8.1",
    "rich": "13",
    "safetensors": "0.4.3",
    "msgspec": "0.19",
    "PyYAML": "6.0.2",
    "platformdirs": "4",
    "threadpoolctl": "3.5",
}
OPTIONAL = {"matplotlib": "plot", "tensorboardX": "tensorboard"}  # distribution -> extra
OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)  # that calmgrad is tested with
LITTLE_MEMORY = 1 << 30
FEATURES = ("neon", "avx", "avx2", "fma", "avx512f")


@dataclass(frozen=True, slots=True)
class Check:
    """What was found at one place.

    Attributes:
        state: "ok"; "note": works, but could be better; "problem".
        fix: a command, or what to do; empty if there is nothing to do.
        stops: nothing can be trained on the CPU until this is fixed.
    """

    name: str
    state: Literal["ok", "note", "problem"]
    text: str
    fix: str = ""
    stops: bool = False


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """What calmgrad finds on this machine, what is missing, and what would fix it.

    Ends with exit code 6 if a problem keeps models from being trained on the CPU.
    """
    import json

    checks = [check for examine in EXAMINATIONS for check in examined(examine)]
    stops = [check.name for check in checks if check.stops]
    if as_json:
        print(json.dumps({"ok": not stops, "checks": [asdict(check) for check in checks]}))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{check.state:<7}  {check.name:<{width}}  {check.text}")
            if check.fix:
                print(f"{'':<{width + 9}}  -> {check.fix}")
    if stops:
        raise CheckFailed(f"training on the CPU will not work: {', '.join(stops)} (see above)")


def examined(examine: Callable[[], list[Check]]) -> list[Check]:
    """What an examination found; one that fails must not keep the others from being made."""
    try:
        return examine()
    except Exception as error:
        name = examine.__name__.removeprefix("check_").replace("_", " ")
        return [Check(name, "note", f"could not be examined: {one_line(error)}")]


def pip(arguments: str) -> str:
    """A pip command for this very Python."""
    return f"{shlex.quote(sys.executable)} -m pip {arguments}"


def one_line(error: BaseException) -> str:
    """An error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


# --- software ---------------------------------------------------------------------------------


def check_python() -> list[Check]:
    """The interpreter, and which calmgrad it runs."""
    place = Path(__file__).resolve().parents[1]
    calmgrad = Check("calmgrad", "ok", f"{__version__} ({place})")
    text = f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})"
    low, high = (".".join(map(str, version)) for version in (OLDEST_PYTHON, NEWEST_PYTHON))
    tested = f"{text}; calmgrad is tested with {low} to {high}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return [calmgrad, Check("Python", "problem", tested, f"install Python {high}", True)]
    if sys.version_info[:2] > NEWEST_PYTHON:
        return [calmgrad, Check("Python", "note", tested)]
    return [calmgrad, Check("Python", "ok", text)]


def check_packages() -> list[Check]:
    """The libraries of setup.cfg: there, and new enough."""
    missing, old, found = [], [], []
    for name, oldest in REQUIRED.items():
        version = version_of(name)
        if version is None:
            missing.append(name)
        elif numbers(version) < numbers(oldest):
            old.append(f"{name} {version} (needs {oldest})")
        else:
            found.append(f"{name} {version}")
    checks = [Check("packages", "ok", ", ".join(found))] if found else []
    for what, names in (("missing", missing), ("too old", old)):
        if names:
            wanted = " ".join(f"'{n.split()[0]}>={REQUIRED[n.split()[0]]}'" for n in names)
            fix = pip(f"install {wanted}")
            checks.append(Check("packages", "problem", f"{what}: {', '.join(names)}", fix, True))
    return checks


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, to compare."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def check_numpy() -> list[Check]:
    """NumPy loads; which BLAS it calls, and whether that makes use of the CPU."""
    try:
        import numpy as np
    except Exception as error:
        fix = pip("install --force-reinstall 'numpy>=2.0,<3'")
        return [Check("NumPy", "problem", f"cannot be loaded: {one_line(error)}", fix, True)]
    checks = [Check("NumPy", "ok", np.__version__)]
    from threadpoolctl import threadpool_info

    libraries = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    if not libraries:
        text = "none that threadpoolctl knows: its threads cannot be kept to one"
        return [*checks, Check("BLAS", "note", text, "set OMP_NUM_THREADS=1 if training is slow")]
    for pool in libraries:
        core = pool.get("architecture")
        text = (
            f"{pool['internal_api']} {pool.get('version') or '(version unknown)'},"
            f" kernels for {core or 'this CPU'}, {pool['num_threads']} thread(s)"
        )
        if core in ("Haswell", "Zen", "Prescott") and "avx512f" in cpu_features():
            fix = "export OPENBLAS_CORETYPE=SkylakeX"
            checks.append(Check("BLAS", "note", f"{text}; this CPU has AVX-512", fix))
        else:
            checks.append(Check("BLAS", "ok", text))
    return checks


def check_numba() -> list[Check]:
    """Numba and llvmlite load, and compile."""
    try:
        import llvmlite
        import numba

        answer = numba.njit(lambda n: n + 1)(41)
    except Exception as error:
        fix = pip("install --upgrade --force-reinstall 'numba>=0.61'")
        return [Check("Numba", "problem", f"does not work: {one_line(error)}", fix, True)]
    assert answer == 42
    versions = f"{numba.__version__}, llvmlite {llvmlite.__version__}"
    if numba.config.DISABLE_JIT:
        text = f"{versions}; NUMBA_DISABLE_JIT is set: kernels would not be compiled"
        return [Check("Numba", "problem", text, "unset NUMBA_DISABLE_JIT", True)]
    return [Check("Numba", "ok", versions)]


def check_kernel_cache() -> list[Check]:
    """The folder of compiled kernels: private, and filled."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is told here instead
        from calmgrad.kernels.cpu.compile import FOLDER
    if FOLDER is None:
        text = "none that only you can write to: every process compiles the kernels anew"
        fix = "mkdir -m 700 FOLDER; export CALMGRAD_CACHE_DIR=FOLDER"
        return [Check("kernel cache", "note", text, fix)]
    sizes = [file.stat().st_size for file in FOLDER.glob("**/*") if file.is_file()]
    older = [folder for folder in FOLDER.parent.glob("kernels-*") if folder != FOLDER]
    text = f"{FOLDER}, writable, {sum(sizes) / 1e6:.1f} MB"
    if not sizes:
        text += "; empty: the first run compiles for about 10 s"
    if older:
        text += f"; beside it {len(older)} of other versions, which may be deleted"
    return [Check("kernel cache", "ok", text)]


def check_extras() -> list[Check]:
    """Libraries that are not needed."""
    checks = []
    for name, extra in OPTIONAL.items():
        version = version_of(name)
        fix = "" if version else pip(f"install 'calmgrad[{extra}]'")
        checks.append(Check(name, "ok", f"{version or 'not installed'} (optional)", fix))
    return checks


# --- machine ----------------------------------------------------------------------------------


def cpu_name() -> str:
    """The CPU's name, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def cpu_features() -> set[str]:
    """What LLVM finds on this CPU; empty without llvmlite."""
    try:
        from llvmlite import binding

        return {name for name, there in binding.get_host_cpu_features().items() if there}
    except Exception:
        return set()


def check_cpu() -> list[Check]:
    """Its name, its vector instructions, and the cores that this process may use."""
    from calmgrad.shards import default_threads

    known = cpu_features()
    vectors = ", ".join(name for name in FEATURES if name in known) or "none found"
    checks = [Check("CPU", "ok", f"{cpu_name()}; vector instructions: {vectors}")]
    if known and not known & {"avx2", "neon", "asimd"}:
        checks = [Check("CPU", "note", f"{cpu_name()}; no AVX2 or NEON: training will be slow")]
    try:
        threads = default_threads()
    except ValueError as error:
        fix = "unset CALMGRAD_NUM_THREADS"
        return [*checks, Check("cores", "problem", str(error), fix, True)]
    text = f"{threads} thread(s) on {os.cpu_count()} core(s)"
    quota = cpu_quota()
    if quota is not None and quota < threads:
        text += f", but the container may use only {quota:.1f}"
        fix = f"export CALMGRAD_NUM_THREADS={max(1, int(quota))}"
        return [*checks, Check("cores", "note", text, fix)]
    return [*checks, Check("cores", "ok", text)]


def cpu_quota() -> float | None:
    """Cores' worth of time that the control group gives; None if it sets no bound."""
    text = first_line("/sys/fs/cgroup/cpu.max") or "max"
    quota, _, period = text.partition(" ")
    return int(quota) / int(period or 100_000) if quota.isdigit() else None


def check_memory() -> list[Check]:
    """How much there is, and how much of it is free."""
    free, total = free_memory()
    if total is None:
        return [Check("memory", "ok", "unknown on this system")]
    text = f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB" if free else f"{total / 1e9:.1f} GB"
    if (free or total) < LITTLE_MEMORY:
        return [Check("memory", "note", text, "train a small size with --threads 1")]
    return [Check("memory", "ok", text)]


def free_memory() -> tuple[int | None, int | None]:
    """Free and total bytes, of the control group if that is less; None where unknown."""
    free = total = None
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        kib = {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
        free, total = kib["MemAvailable"] * 1024, kib["MemTotal"] * 1024
    except (OSError, KeyError):
        try:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):
            return None, None
    bound = first_line("/sys/fs/cgroup/memory.max") or "max"
    used = first_line("/sys/fs/cgroup/memory.current") or "0"
    if bound.isdigit() and int(bound) < total:
        total = int(bound)
        left = total - int(used)
        free = left if free is None else min(free, left)
    return free, total


def first_line(path: str) -> str | None:
    """The first line of a small system file; None if there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()
    except OSError:
        return None


# --- GPU --------------------------------------------------------------------------------------


def check_gpu() -> list[Check]:
    """The NVIDIA driver, its library, and the CuPy that goes with it. Nothing here is needed."""
    module = first_line("/proc/driver/nvidia/version")
    found = re.search(r"\s(\d+\.\d+[.\d]*)\s", module or "")
    cuda, devices, why = cuda_driver()
    cupys = cupy_distributions()
    checks = []
    if cuda is None:
        if module is not None:
            text = f"driver {found[1] if found else module}, but its library: {why}"
            fix = "in a container: give it the GPU (docker run --gpus all)"
            checks.append(Check("GPU", "problem", text, fix))
        else:
            checks.append(Check("GPU", "ok", "no NVIDIA driver: training runs on the CPU"))
    else:
        driver = f", driver {found[1]}" if found else ""
        text = f"{devices} NVIDIA GPU(s){driver}, CUDA up to {cuda[0]}.{cuda[1]}"
        checks.append(Check("GPU", "ok" if devices else "note", text if not why else why))
    return [*checks, check_cupy(cupys, cuda, bool(devices))]


def check_cupy(cupys: dict[str, str], cuda: tuple[int, int] | None, gpu: bool) -> Check:
    """None, or one that fits the driver; two overwrite each other's files.

    Args:
        cupys: distribution -> version.
        cuda: newest version of CUDA that the driver can run; None without a driver.
        gpu: whether there is a GPU.
    """
    extra = f"cuda{13 if cuda and cuda[0] >= 13 else 12}x"
    install = pip(f"install 'calmgrad[{extra}]'")
    names = ", ".join(f"{name} {version}" for name, version in cupys.items())
    if len(cupys) > 1:
        fix = f"{pip('uninstall -y ' + ' '.join(cupys))} && {install}"
        return Check("CuPy", "problem", f"{len(cupys)} at once: {names}", fix)
    if not cupys:
        if not gpu:
            return Check("CuPy", "ok", "not installed (of use with an NVIDIA GPU only)")
        from calmgrad.backend import NAMES

        if "cuda" not in NAMES:
            text = "not installed; this version of calmgrad trains on the CPU"
            return Check("CuPy", "ok", text)
        return Check("CuPy", "note", "not installed: training runs on the CPU", install)
    (name,) = cupys
    made_for = re.fullmatch(r"cupy-cuda(\d\d)\w*", name)
    if cuda is not None and made_for and int(made_for[1]) > cuda[0]:
        text = f"{names} needs CUDA {made_for[1]}, the driver runs up to {cuda[0]}.{cuda[1]}"
        return Check("CuPy", "problem", text, f"{pip(f'uninstall -y {name}')} && {install}")
    if not gpu:
        return Check("CuPy", "note", f"{names}, but there is no NVIDIA GPU")
    return Check("CuPy", "ok", names)


def cupy_distributions() -> dict[str, str]:
    """Every installed distribution that provides CuPy, and its version."""
    found = {}
    for distribution in metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        if re.fullmatch(r"cupy|cupy-(cuda|rocm|wheel)[\w.-]*", name):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def cuda_driver() -> tuple[tuple[int, int] | None, int, str]:
    """Newest CUDA version the driver's library runs, number of GPUs, and what went wrong."""
    import ctypes

    try:
        library: Any = ctypes.CDLL("libcuda.so.1")
        version, count = ctypes.c_int(), ctypes.c_int()
        failed = library.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError) as error:
        return None, 0, str(error)
    if failed:
        return None, 0, f"libcuda.so.1 answers with error {failed}"
    cuda = (version.value // 1000, version.value % 1000 // 10)
    failed = library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count))
    return cuda, count.value, f"no usable NVIDIA GPU: CUDA error {failed}" if failed else ""


EXAMINATIONS = [
    check_python,
    check_packages,
    check_numpy,
    check_numba,
    check_kernel_cache,
    check_cpu,
    check_memory,
    check_gpu,
    check_extras,
]
