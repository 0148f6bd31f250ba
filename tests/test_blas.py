"""Which kernels OpenBLAS is told to use: on a made-up CPU, and on this one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from calmgrad import blas

ROOT = Path(__file__).parents[1]
ZEN5 = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 26
flags\t\t: fpu avx2 fma avx512f avx512dq avx512bw avx512vl

processor\t: 1
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ZEN5, "SkylakeX"),
        (ZEN5.replace("26", "25"), None),  # Zen 4: OpenBLAS knows it
        (ZEN5.replace("AuthenticAMD", "GenuineIntel"), None),
        (ZEN5.replace("avx512vl", ""), None),  # a virtual machine that hides it
        ("processor : 0\nBogoMIPS : 50\n", None),  # ARM
        ("cpu family : ?\nvendor_id : AuthenticAMD\n", None),
        ("", None),
    ],
)
def test_the_cpus_it_is_for(
    text: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blas, "CPU_INFO", str(tmp_path / "cpuinfo"))
    assert blas.better_core_type() is None  # no such file, as on macOS
    (tmp_path / "cpuinfo").write_text(text)
    assert blas.better_core_type() == expected


def python(code: str, tmp_path: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run code after making `calmgrad.blas` believe in a Zen 5; `import calmgrad` comes later."""
    (tmp_path / "cpuinfo").write_text(ZEN5)
    # The module alone, without the package around it, and in its place when that comes.
    believe = f"""
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("calmgrad.blas", {str(ROOT / "calmgrad/blas.py")!r})
blas = importlib.util.module_from_spec(spec)
spec.loader.exec_module(blas)
blas.CPU_INFO = {str(tmp_path / "cpuinfo")!r}
sys.modules["calmgrad.blas"] = blas
"""
    kept = {k: v for k, v in os.environ.items() if k == "PATH"}
    done = subprocess.run(
        [sys.executable, "-c", believe + code],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


SHOW = "print(os.environ.get('OPENBLAS_CORETYPE'), '|', blas.told())"


def test_chosen_by_importing_calmgrad_before_numpy(tmp_path: Path) -> None:
    done = python("import calmgrad, numpy; calmgrad.encode;" + SHOW, tmp_path)
    assert done.stdout.startswith("SkylakeX | OPENBLAS_CORETYPE=SkylakeX, chosen for this CPU")
    assert done.stderr == ""


def test_one_hint_when_numpy_came_first(tmp_path: Path) -> None:
    code = "import numpy, calmgrad; calmgrad.encode; blas.choose_core_type();" + SHOW
    done = python(code, tmp_path)
    assert done.stdout.startswith("None | OpenBLAS chooses")
    assert done.stderr.count("import calmgrad first, or set OPENBLAS_CORETYPE=SkylakeX") == 1
    assert done.stderr.count("Warning") == 1


def test_what_the_user_says_counts(tmp_path: Path) -> None:
    done = python("import numpy, calmgrad;" + SHOW, tmp_path, OPENBLAS_CORETYPE="Haswell")
    assert done.stdout.startswith("Haswell | OPENBLAS_CORETYPE=Haswell, as the environment says")
    assert done.stderr == ""
