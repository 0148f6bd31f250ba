"""calmgrad doctor"""

import json
import os
import subprocess
import sys
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import pytest

from calmgrad import nvidia
from calmgrad.cli import doctor, doctor_gpu, doctor_machine
from calmgrad.cli.doctor_check import Check
from tests.cli.conftest import ROOT, Run, environment


def test_a_machine_that_runs_the_tests_is_well(run: Run) -> None:
    result = json.loads(run("doctor", "--json").stdout)
    assert result["ok"] is True
    found = {check["name"]: check for check in result["checks"]}
    needed = {"Python", "calmgrad", "packages", "NumPy", "BLAS", "Numba", "kernel cache"}
    assert needed | {"CPU", "cores", "memory", "GPU", "CuPy", "matplotlib"} <= set(found)
    assert all(check["state"] in ("ok", "note", "problem") for check in found.values())
    assert not any(check["stops"] for check in found.values())
    for name in needed - {"BLAS"}:
        assert found[name]["state"] == "ok", found[name]
    assert metadata.version("numpy") in found["NumPy"]["text"]


def test_text(run: Run) -> None:
    done = run("doctor")
    assert done.stderr == ""
    for line in done.stdout.splitlines():
        assert line.split()[0] in ("ok", "note", "problem", "->")


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_problem_that_stops_training_ends_with_6(tmp_path: Path, option: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "calmgrad.cli", "doctor", *option],
        cwd=tmp_path,
        env=environment(tmp_path) | {"CALMGRAD_NUM_THREADS": "many"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 6
    assert done.stderr == "error: training on the CPU will not work: cores (see above)\n"
    if option:
        result = json.loads(done.stdout)
        assert result["ok"] is False
        (cores,) = (check for check in result["checks"] if check["name"] == "cores")
        assert (cores["state"], cores["fix"]) == ("problem", "unset CALMGRAD_NUM_THREADS")


def test_without_numpy_and_numba_it_still_answers(tmp_path: Path) -> None:
    for name in ("numpy", "numba"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('two\\nlines')")
    env = environment(tmp_path)
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "calmgrad.cli", "doctor"],
        cwd=tmp_path, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 6
    assert done.stderr == "error: training on the CPU will not work: NumPy, Numba (see above)\n"
    assert "cannot be loaded: ImportError: two lines" in done.stdout
    assert "pip install --force-reinstall 'numpy>=2.0,<3'" in done.stdout


def test_required_packages_are_those_of_setup_cfg() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = {}
    for line in config["options"]["install_requires"].split("\n"):
        if line:
            name, _, version = line.partition(",")[0].partition(">=")
            listed[name.strip()] = version.strip()
    assert listed == doctor.REQUIRED
    assert set(doctor.OPTIONAL.values()) <= set(config["options.extras_require"])
    low = ".".join(map(str, doctor.OLDEST_PYTHON))
    assert config["options"]["python_requires"] == f">={low}"


def test_missing_and_old_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = dict.fromkeys(doctor.REQUIRED, "99") | {"rich": "9.12", "numpy": "2.0.0rc1"}
    del versions["msgspec"]
    monkeypatch.setattr(doctor, "version_of", versions.get)
    good, missing, old = doctor.check_packages()
    assert (good.state, missing.text, old.text) == (
        "ok", "missing: msgspec", "too old: rich 9.12 (needs 13)")  # fmt: skip
    assert missing.stops
    assert old.stops
    assert missing.fix.endswith("-m pip install 'msgspec>=0.19'")


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10), "problem"), ((3, 12), "ok"), ((3, 14), "note")]
)
def test_python(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], state: str) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    check = doctor.check_python()[1]
    assert (check.state, check.stops) == (state, state == "problem")


def test_an_examination_that_fails_is_a_note() -> None:
    def check_the_moon() -> list[Check]:
        raise OSError("too\nfar")

    (check,) = doctor.examined(check_the_moon)
    assert (check.name, check.state) == ("the moon", "note")
    assert check.text == "could not be examined: OSError: too far"


def test_cupys_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = nvidia.cupy_distributions()
    for name, version in (("cupy_cuda12x", "14.2.0"), ("CuPy-Wheel", "1"), ("cupyx-tools", "3")):
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert nvidia.cupy_distributions() == before | {"cupy-cuda12x": "14.2.0", "cupy-wheel": "1"}


@pytest.mark.parametrize(
    ("cupys", "cuda", "gpu", "state", "text"),
    [
        ([], None, False, "ok", "not installed"),
        (["cupy-cuda12x"], (12, 4), True, "ok", "cupy-cuda12x 14"),
        (["cupy-cuda12x"], (13, 0), True, "ok", "cupy-cuda12x 14"),
        (["cupy"], (12, 4), True, "ok", "cupy 14"),
        (["cupy-cuda13x"], (12, 4), True, "problem", "needs CUDA 13, the driver runs up to 12.4"),
        (["cupy-cuda12x"], None, False, "note", "no NVIDIA GPU"),
        (["cupy", "cupy-cuda12x"], (12, 4), True, "problem", "2 at once: cupy 14, cupy-cuda12x 14"),
    ],
)
def test_cupy_and_driver(
    cupys: list[str], cuda: tuple[int, int] | None, gpu: bool, state: str, text: str
) -> None:
    check = doctor_gpu.check_cupy(dict.fromkeys(cupys, "14"), cuda, gpu)
    assert check.state == state
    assert text in check.text
    assert not check.stops
    assert bool(check.fix) == (state == "problem")
    if len(cupys) > 1:
        assert "uninstall -y cupy cupy-cuda12x && " in check.fix
        assert "'calmgrad[cuda12x]'" in check.fix


@pytest.mark.parametrize(
    ("text", "quota"),
    [("max 100000", None), ("50000 100000", 0.5), ("400000 100000", 4), ("", None)],
)
def test_cpu_quota(monkeypatch: pytest.MonkeyPatch, text: str, quota: float | None) -> None:
    monkeypatch.setattr(doctor_machine, "first_line", lambda path: text or None)
    assert doctor_machine.cpu_quota() == quota


def test_a_small_quota_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine, "cpu_quota", lambda: 1.5)
    monkeypatch.setenv("CALMGRAD_NUM_THREADS", "8")
    cores = doctor_machine.check_cpu()[1]
    assert (cores.state, cores.fix) == ("note", "export CALMGRAD_NUM_THREADS=1")
