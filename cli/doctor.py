"""calmgrad doctor"""

import platform
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import click

from calmgrad import __version__
from calmgrad.cli.common import json_option
from calmgrad.cli.doctor_check import Check, one_line
from calmgrad.cli.doctor_gpu import check_gpu
from calmgrad.cli.doctor_machine import check_cpu, check_memory, cpu_features
from calmgrad.errors import CheckFailed
from calmgrad.nvidia import pip

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
