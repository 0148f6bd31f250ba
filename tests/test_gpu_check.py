"""benchmarks.gpu_check, rehearsed on the emulator: it runs, and what is wrong does not pass."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import calmgrad
from benchmarks import gpu_check
from benchmarks.contestants import WorkerFailed
from benchmarks.gpu import build, floors, graph, kernels, network, steps, timings
from benchmarks.gpu.subject import Failed, Subject
from calmgrad.kernels.cuda import CudaKernels
from calmgrad.kernels.cuda.launcher import FOLDER
from calmgrad.kernels.cuda.launcher import source as right
from tests.cuda_on_cpu.array import DeviceArray
from tests.cuda_on_cpu.device import EmulatedDevice, compiler, emulated
from tests.cuda_on_cpu.fixtures import stand_in
from tests.test_cuda_graph import place_of_the_host, rate_of_the_host

__all__ = ["stand_in"]

ROOT = Path(__file__).parents[1]
THOROUGH = os.environ.get("CALMGRAD_TEST_PROFILE") == "thorough"
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler")


@needs_compiler
def test_a_rehearsal(tmp_path: Path) -> None:
    """All phases; with whole steps, which take longer, where CALMGRAD_TEST_PROFILE=thorough."""
    phases = list(gpu_check.PHASES)[: None if THOROUGH else -1]
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--emulate", "--output", str(tmp_path)]
    done = subprocess.run([*command, *phases], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("??-*.json"))]
    assert [result["phase"] for result in results] == phases
    for result in results:
        expected = "skipped" if result["phase"] == "sanitizer" else "passed"
        assert result["outcome"] == expected, result
        assert result["times"] == "emulated, not a measurement"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["phases"]) == phases
    about, built, checked = results[:3]
    assert about["device"] == "cuda:0 (emulated)"
    assert {row["op"] for row in built["rows"]} == {path.stem for path in FOLDER.glob("*.cu")}
    assert {row["dtype"] for row in built["rows"]} == {"float32", "float64"}
    named = {row["op"] for row in checked["rows"]}
    expected_ops = {op.split(".")[1] for op in kernels.ops()} | {kernels.SERIAL}
    assert expected_ops | set(kernels.UPDATES) == named


def run(
    monkeypatch: pytest.MonkeyPatch, output: Path, phases: dict[str, Callable[[Subject], Any]]
) -> int:
    monkeypatch.setattr(gpu_check, "PHASES", phases)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--together", "--output", str(output)])
    return gpu_check.main()


def test_after_a_phase_that_fails_the_next_is_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(_: Subject) -> dict[str, Any]:
        raise ValueError("no such thing")

    def finds(_: Subject) -> dict[str, Any]:
        raise Failed("it is off", rows=[{"op": "gelu"}])

    fakes = {"breaks": breaks, "finds": finds, "works": lambda _: {"answer": 42}}
    assert run(monkeypatch, tmp_path, fakes) == 1
    results = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("??-*.json"))]
    assert [result["outcome"] for result in results] == ["failed", "failed", "passed"]
    assert "in breaks" in results[0]["traceback"]
    assert results[1]["rows"] == [{"op": "gelu"}]
    assert results[2]["answer"] == 42
    screen = capsys.readouterr().out
    assert "breaks: failed" in screen
    assert "ValueError: no such thing" in screen
    assert run(monkeypatch, tmp_path, {"works": fakes["works"]}) == 0


def test_a_phase_that_kills_or_hangs_its_process_spares_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a bad access does, or a kernel that waits for ever."""
    hangs = "(s.keep(dict(rows=[7])), time.sleep(60))"
    phases = {"dies": "os._exit(3)", "hangs": hangs, "works": "dict(answer=42)"}
    monkeypatch.setattr(gpu_check, "PHASES", dict.fromkeys(phases))
    monkeypatch.setattr(gpu_check, "SECONDS", {"hangs": 0.1})
    start = subprocess.Popen

    def popen(command: list[str], **rest: Any) -> Any:
        chosen = {name: f"lambda s: {does}" for name, does in phases.items()}
        table = ", ".join(f"{name!r}: {does}" for name, does in chosen.items())
        text = "import os, sys, time; from benchmarks import gpu_check"
        text += f"; gpu_check.PHASES = {{{table}}}; sys.argv = {command[2:]!r}"
        text += "; print('seen', flush=True); gpu_check.main()"
        process = start([command[0], "-c", text], **rest)
        while "hangs" in command and not list(tmp_path.glob("??-hangs.json")):
            assert process.poll() is None
            time.sleep(0.01)
        return process

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output", str(tmp_path)])
    assert gpu_check.main() == 1
    results = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("??-*.json"))]
    messages = ["ended with code 3", "not done after 0.1 s", ""]
    assert [result["message"] for result in results] == messages
    assert results[0]["output"].startswith("seen")
    assert (results[1]["outcome"], results[1]["rows"]) == ("failed", [7])
    assert results[2]["answer"] == 42
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary["phases"]) == list(phases)
    assert "hangs: failed" in capsys.readouterr().out


def test_what_is_not_installed_is_one_line() -> None:
    text = "import importlib.util as u; real = u.find_spec\n"
    text += "u.find_spec = lambda name, *rest: None if name == 'msgspec' else real(name, *rest)\n"
    text += "import benchmarks.gpu"
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    expected = f"benchmarks.gpu: msgspec not installed: {sys.executable} -m pip install msgspec\n"
    assert done.stderr == expected


def test_where_calm_mamba_fails_calmgrad_is_still_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def row(_: Subject, options: Any, size: str, shape: str) -> dict[str, Any]:
        asked.append((shape, options.peer))
        if options.peer:
            raise WorkerFailed("no Triton")
        return {"size": size, "shape": shape}

    monkeypatch.setattr(steps, "_row", row)
    monkeypatch.setattr(steps, "SIZES", ("nano",))
    monkeypatch.setattr(steps, "SHAPES", ("8x768", "64x768"))
    with pytest.raises(Failed, match="nano 8x768: no Triton") as failed:
        steps.run(Subject(peer="python"))
    assert [r["shape"] for r in failed.value.found["rows"]] == ["8x768", "64x768"]
    assert asked == [(s, p) for s in ("8x768", "64x768") for p in ("python", None)]
    monkeypatch.setattr(steps, "BUDGET", -1.0)
    with pytest.raises(Failed, match="nano 64x768: not begun") as failed:
        steps.run(Subject(peer="python"))
    assert failed.value.found["rows"] == []


def test_a_rehearsal_leaves_the_results_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["gpu_check", "--emulate", "--output", str(gpu_check.RESULTS / "gpu-x")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as exit_:
        gpu_check.main()
    assert exit_.value.code == 2
    assert "do not go to benchmarks/results" in capsys.readouterr().err
    assert not gpu_check.default_folder(Subject(emulated=True)).is_relative_to(ROOT)


def broken(name: str, change: Callable[..., None]) -> Subject:
    """A rehearsal in which one kernel does something more."""
    backend = emulated()

    class Broken(CudaKernels):
        pass

    def call(self: Any, *arguments: Any) -> None:
        getattr(CudaKernels, name)(self, *arguments)
        change(*arguments)

    setattr(Broken, name, call)
    device = EmulatedDevice()
    kernels: Any = Broken(device)  # without those that decode
    subject = Subject(emulated=True)
    vars(subject)["backend"] = replace(backend, xp=device.xp, kernels=kernels, device=device)
    return subject


def spoil(array: Any) -> None:
    array.held.flat[-1] *= 1 + 1e-4


@needs_compiler
@pytest.mark.parametrize(
    ("kernel", "change", "told"),
    [
        ("gelu_forward", lambda y, *_: spoil(y), r"gelu \(float32\): output"),
        ("selective_scan_backward", lambda *a: spoil(a[5]), r"selective_scan \(.*A_log"),
        ("adamw", lambda p, m, *_: spoil(m), r"adamw \(float32\): m"),
        ("sgd", lambda p, *_: p.held.fill(float("nan")), r"sgd \(float64\): p"),
    ],
)
def test_a_wrong_kernel_does_not_pass(kernel: str, change: Callable[..., None], told: str) -> None:
    with pytest.raises(Failed, match=told) as failed:
        kernels.run(broken(kernel, change))
    assert failed.value.found["rows"]


@needs_compiler
def test_what_was_right_before_a_kernel_breaks_down_is_kept() -> None:
    def breaks(*_: Any) -> None:
        raise RuntimeError("cudaErrorIllegalAddress")

    told = r"after \w+ \(float\d\d\): RuntimeError: cudaErrorIllegalAddress"
    with pytest.raises(Failed, match=told) as failed:
        kernels.run(broken("layer_norm_backward", breaks))
    assert failed.value.found["rows"]
    assert "layer_norm" in failed.value.found["traceback"]


@needs_compiler
def test_a_kernel_that_does_not_compile_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def source(op: str, dtype: str) -> str:
        wrong = (op, dtype) == ("gelu", "float64")
        return right(op, dtype).replace("tanh(", "no_such_function(" if wrong else "tanh(")

    monkeypatch.setattr(build, "source", source)
    with pytest.raises(Failed, match=r"gelu.cu, float64: (?s:.)*no_such_function") as failed:
        build.run(broken("sgd", lambda *_: None))
    assert len(failed.value.found["rows"]) == 2 * len(list(FOLDER.glob("*.cu"))) - 1


@pytest.mark.parametrize(
    ("mistake", "told"),
    [(rate_of_the_host, "weights differ"), (place_of_the_host, "losses and norms differ")],
)
def test_a_graph_that_does_something_else_does_not_pass(
    stand_in: EmulatedDevice,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[[pytest.MonkeyPatch], None],
    told: str,
) -> None:
    graph.run(Subject(emulated=True))
    mistake(monkeypatch)
    with pytest.raises(Failed, match=told):
        graph.run(Subject(emulated=True))


def test_that_nothing_is_replayed_does_not_pass(
    stand_in: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Any:
        raise RuntimeError("cudaErrorStreamCaptureUnsupported")

    monkeypatch.setattr(stand_in, "capture", refuse)
    with pytest.raises(Failed, match=r"nothing was replayed: .*CaptureUnsupported"):
        graph.run(Subject(emulated=True))


class Spy:
    """Kernels that note the bytes of the arrays they are given, scratch left out."""

    mapping = "auto"

    def __init__(self) -> None:
        self.bytes = 0

    def is_serial(self, *_: Any) -> bool:
        return False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.endswith("_workspace"):
            return lambda *_: 0
        return self.note

    def note(self, *arguments: Any) -> None:
        self.bytes = sum(x.nbytes for x in arguments if isinstance(x, DeviceArray))


def test_floors_are_what_the_kernels_are_given() -> None:
    """But for small arrays, what is written where it is read, and logits that stay unread."""
    device, spy = EmulatedDevice(), Spy()
    subject = Subject(emulated=True)
    fake: Any = SimpleNamespace(xp=device.xp, kernels=spy)
    vars(subject)["backend"] = fake
    lengths = [768] * 16
    config = calmgrad.new_model("nano").config
    least = floors.least_bytes(config, lengths)
    unit = 4 * sum(lengths) * config.d_inner
    twice = {"selective_scan": unit, "adamw": 3 * 4 * config.param_count}
    twice |= {"embedding, back": 0}
    for name, call in timings.ops(subject, config, lengths):
        call()
        op = name.split(" (")[0]
        assert least[op] == pytest.approx(spy.bytes + twice.get(op, 0), rel=0.08), op


def test_a_table_of_floors() -> None:
    text = floors.table(2000.0)
    assert "at 2,000 GB/s" in text[0]
    gelu = next(line.split() for line in text if line.startswith("gelu "))
    assert float(gelu[1]) == pytest.approx(64 * 768 * 128 * 8 / 2000e3, abs=0.1)


def test_runs_that_differ_do_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([[1.0], [1.0 + 1e-15]])
    weights = SimpleNamespace(tobytes=lambda: b"same")
    monkeypatch.setattr(network, "steps", lambda *_: (next(losses), [], weights))
    monkeypatch.setattr(network, "_ops_that_differ", lambda _: [])
    with pytest.raises(Failed, match="two runs differ"):
        network.determinism(Subject(emulated=True))


@needs_compiler
def test_ops_that_differ_do_not_pass() -> None:
    calls = itertools.count()

    def change(y: Any, *_: Any) -> None:
        y.held.flat[-1] *= 1 + 1e-6 * next(calls)

    with pytest.raises(Failed, match=r"the second time: gelu\.gelu$"):
        network.determinism(broken("gelu_forward", change))


class FakeCuda:
    """CuPy's events, that note the order of all that happens."""

    def __init__(self) -> None:
        self.log: list[str] = []
        log = self.log

        class Event:
            def record(self) -> None:
                log.append("event")

            def synchronize(self) -> None:
                log.append("wait")

        self.Event = Event
        self.get_elapsed_time = lambda begin, end: 0.25


def test_times_are_taken_between_events_behind_other_work() -> None:
    fake = FakeCuda()
    xp = SimpleNamespace(
        cuda=fake, zeros=lambda *_: None, copyto=lambda *_: fake.log.append("copy")
    )
    subject = Subject()
    vars(subject)["backend"] = SimpleNamespace(xp=xp)
    times = subject.times(lambda: fake.log.append("call"), calls=2, warm=1)
    one = [*["copy"] * 4, "event", "call", "event", "wait"]
    assert fake.log == ["call", *one, *one]
    assert (times.median, times.least, times.calls) == (250.0, 250.0, 2)


def test_names_that_cupy_has() -> None:
    """What the script asks of CuPy and the emulator does not have."""
    cupy = pytest.importorskip("cupy")
    for name in ("Event", "get_elapsed_time", "set_allocator", "runtime"):
        assert hasattr(cupy.cuda, name), name
    for name in ("driverGetVersion", "runtimeGetVersion", "getDeviceProperties"):
        assert hasattr(cupy.cuda.runtime, name), name
    for name in ("num_regs", "shared_size_bytes", "local_size_bytes", "max_threads_per_block"):
        assert hasattr(cupy.RawKernel, name), name
    assert hasattr(cupy.RawModule, "get_function")
    assert all(hasattr(cupy, name) for name in ("copyto", "tile", "zeros", "empty", "asarray"))
    assert hasattr(cupy, "get_default_memory_pool")


@needs_compiler
def test_every_kernel_of_a_step_is_timed() -> None:
    """But those that are too small to matter, and those of the contrastive loss."""
    subject = broken("sgd", lambda *_: None)
    rows = timings.run(subject)["rows"]
    timed = {row["op"].split(" (")[0].removesuffix(", back") for row in rows}
    apart = {"pool", "l2_normalize", "infonce", "select_rows", "linear"}
    assert {op.split(".")[1] for op in kernels.ops()} - apart < timed
    for row in rows:
        assert row["bytes"] > 0, row
        assert row["us_floor"] == pytest.approx(row["of_floor"] * row["us_median"])


def test_the_lines_of_whole_steps() -> None:
    row = {
        "size": "nano",
        "shape": "8x768",
        "tokens": 6144,
        "calmgrad tf32": {"ms_median": 0.5},
        "calm-mamba AMP": {"ms_median": 5.0},
        "times_faster": {"calmgrad tf32": {"calm-mamba AMP": 10.0}},
    }
    first, second = gpu_check.table("steps", {"rows": [row]})
    assert first.split() == "nano 8x768 calmgrad tf32 0.500 ms 10.0x calm-mamba AMP".split()
    assert second.split() == "nano 8x768 calm-mamba AMP 5.000 ms".split()
