"""dump, parity, diff and convert as a user runs them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import calmgrad
from calmgrad.cli.main import cli
from calmgrad.errors import CalmgradError
from calmgrad.formats.dump import read, write
from tests.cli.conftest import Run, environment

ROWS = 4


class Done(NamedTuple):
    stdout: str
    stderr: str


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """As `run`, but in this process: what a process costs is paid by `test_dump_and_parity`."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object, code: int = 0) -> Done:
        failed, message = 0, ""
        try:
            cli.main([str(a) for a in args], prog_name="calmgrad", standalone_mode=False)
        except CalmgradError as error:
            failed, message = error.exit_code, f"error: {error}\n"
        out, err = capsys.readouterr()
        assert failed == code, message
        return Done(out, err + message)

    return call


@pytest.fixture
def model(tmp_path: Path) -> calmgrad.Model:
    m = calmgrad.new_model(d_model=16, n_layers=2, d_state=4, l_max=200, seed=1)
    m.weights += np.random.default_rng(0).normal(0, 0.1, m.weights.size).astype(np.float32)
    m.save(tmp_path / "m.cwgt")
    return m


def wrong_gelu(path: Path) -> None:
    """Another engine's dump: its GELU lets half of what is negative pass."""
    dump = read(path)
    for name in [n for n in dump.arrays if n.endswith(".gelu") and not n.startswith("grad/")]:
        x = dump.arrays[name.replace("gelu", "ffn_fc1")]
        dump.arrays[name] = np.where(x > 0, x, x / 2)
    write(path, dump, raw=path.suffix != ".npz")


def test_dump_and_parity(run: Run, dataset: Path, model: calmgrad.Model, tmp_path: Path) -> None:
    name = "pass.dump"
    done = run("dump", "-m", "m.cwgt", "-d", dataset, "-o", name, "--update", "--json")
    told = json.loads(done.stdout)
    assert told["sequences"] == ROWS
    assert told["layout"] == "raw"
    held = read(tmp_path / name)
    assert held.settings["reduction"] == "sequence"
    assert {"tokens", "grads", "adam_m", "new_weights", "blocks.1.mixer.dt"} <= set(held.arrays)
    assert held.arrays["loss"] == pytest.approx(told["loss"])
    done = run("parity", name, "-m", "m.cwgt")
    assert "within rounding" in done.stdout
    assert "mixer.selective_scan" in done.stdout
    wrong_gelu(tmp_path / name)
    done = run("parity", name, "-m", "m.cwgt", code=6)
    assert done.stderr.startswith(f"error: {name}: the first op that differs is blocks.0.gelu: ")
    assert "blocks 0-1" in done.stdout
    done = run("parity", name, "-m", "m.cwgt", "--json", code=6)
    result = json.loads(done.stdout)
    assert not result["ok"]
    assert result["first"]["op"] == "blocks.0.gelu"
    assert result["first"]["direction"] == "forward"
    assert {row["op"] for row in result["compared"] if not row["good"]} >= {"blocks.1.gelu"}


def test_an_output_is_a_file_not_standard_output(
    here: Callable[..., Done], dataset: Path, model: calmgrad.Model, tmp_path: Path
) -> None:
    """Written as a file named `-`, a dump would be hard to find and to remove."""
    for command in (
        ("dump", "-m", "m.cwgt", "-d", dataset, "-o", "-"),
        ("convert", "m.cwgt", "-"),
        ("explain", "-m", "m.cwgt", "--html", "-"),
        ("train", "-m", "m.cwgt", "-d", dataset, "-o", "-"),
        ("fisher", "-m", "m.cwgt", "-d", dataset, "-o", "-"),
        ("dataset", "build", "m.cwgt", "-o", "-"),
    ):
        assert "-: the output is a file" in here(*command, code=2).stderr
    assert not (tmp_path / "-").exists()


def test_parity_of_gradients(
    here: Callable[..., Done], dataset: Path, model: calmgrad.Model, tmp_path: Path
) -> None:
    ds = calmgrad.load_dataset(dataset)
    with calmgrad.Trainer(model, lr=0) as trainer:
        trainer.step([ds[i][0] for i in range(ROWS)], [ds[i][1] for i in range(ROWS)])
        trainer.grads.tofile(tmp_path / "grads.bin")
        (2 * trainer.get_grad(8)).tofile(tmp_path / "one.bin")
    here("parity", "grads.bin", "-m", "m.cwgt", "-d", dataset)
    here(
        "parity", "grads.bin", "-m", "m.cwgt", "-d", dataset, "--rows", "1-2", "--no-hints", code=6
    )
    command = ["parity", "one.bin", "-m", "m.cwgt", "-d", dataset, "--parameter", 8]
    done = here(*command, "--no-hints", code=6)
    assert "the gradient of blocks.0.mixer.A_log" in done.stderr
    done = here("parity", "one.bin", "-m", "m.cwgt", "-d", dataset, code=3)
    assert "--parameter names one" in done.stderr
    done = here(*command[:-1], "abc", code=2)
    assert "no parameter 'abc': expected a name or 0 to" in done.stderr


def test_parity_of_runs(
    here: Callable[..., Done], dataset: Path, model: calmgrad.Model, tmp_path: Path
) -> None:
    given = ("-m", "m.cwgt", "-d", dataset)
    here("parity", *given)
    here("parity", *given, "--backend", "reference", "--dtype", "float64")
    here("parity", *given, "--step")
    done = here("parity", *given, "--against-rules", "calm-mamba", "--rows", "0,1,2", code=6)
    assert "loss" in done.stderr
    model.weights[-1] += 1
    model.save(tmp_path / "other.cwgt")
    done = here("parity", "other.cwgt", *given, code=6)
    assert "ln_f.bias is not what it should be, at [15] (channel 15)" in done.stderr
    calmgrad.new_model(d_model=16, n_layers=1, d_state=4, l_max=200).save(tmp_path / "small.cwgt")
    done = here("parity", "small.cwgt", *given, code=3)
    assert "small.cwgt: has other sizes than the model: n_layers 1, expected 2\n" in done.stderr


def test_parity_of_a_peer(
    here: Callable[..., Done], dataset: Path, model: calmgrad.Model, tmp_path: Path
) -> None:
    """A stand-in for an interpreter with calm-mamba: it writes a dump where it is told to."""
    here("dump", "-m", "m.cwgt", "-d", dataset, "-o", "peer.npz")
    peer = tmp_path / "peer"
    peer.write_text(f"#!/bin/sh\ncp {tmp_path / 'peer.npz'} $3/dump.npz\n")
    peer.chmod(0o755)
    done = here("parity", "-m", "m.cwgt", "-d", dataset, "--peer", peer)
    assert "calm-mamba" in done.stdout
    for python in ("/no/such/python", sys.executable):
        done = here("parity", "-m", "m.cwgt", "-d", dataset, "--peer", python, code=2)
        assert f"--peer {python}: " in done.stderr


def test_wrong_uses_get_one_line(
    here: Callable[..., Done], dataset: Path, model: calmgrad.Model, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("hello")
    given = ("-m", "m.cwgt", "-d", dataset)
    for arguments, code, message in (
        (("parity", "text", *given), 3, "expected a dump, a CWGT file or float32 gradients"),
        (("parity", "none", *given), 3, "no such file"),
        (("parity", "m.cwgt", *given, "--step"), 2, "expected one of them"),
        (("parity", *given, "--parameter", "x"), 2, "goes with OTHER"),
        (("parity", "m.cwgt", *given, "--dtype", "float64"), 2, "go without OTHER"),
        (("parity", *given, "--backend", "abacus"), 2, "expected reference, cpu, cuda"),
        (("parity", *given, "--rows", "5-x"), 2, "expected numbers as 0-3"),
        (("parity", *given, "--rows", "70"), 2, "has 62 sequences"),
        (("parity", *given, "--rows", "61"), 2, "900 tokens, the model takes 200"),
        (("dump", *given, "-o", "m.cwgt"), 2, "is read by this command"),
        (("dump", *given, "-o", "none/x"), 5, "no folder"),
        (("convert", "text", "x.cwgt"), 3, "safetensors"),
        (("convert", "m.cwgt", "m.cwgt"), 2, "is read by this command"),
        (("convert", "m.cwgt", "x.cwgt"), 2, "x.cwgt: would be safetensors"),
        (("diff", "m.cwgt", "text"), 3, "text: "),
    ):
        done = here(*arguments, code=code)
        assert message in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_diff(here: Callable[..., Done], model: calmgrad.Model, tmp_path: Path) -> None:
    done = here("diff", "m.cwgt", "m.cwgt", "--exact")
    assert done.stdout.startswith("identical")
    model.parameters["blocks.1.mixer.D"][3] = np.nan
    model.save(tmp_path / "nan.cwgt")
    done = here("diff", "m.cwgt", "nan.cwgt")
    assert "blocks.1.mixer.D" in done.stdout
    assert "1 not finite" in done.stdout
    assert "1 of 31 parameters differ" in done.stdout
    done = here("diff", "m.cwgt", "nan.cwgt", "--exact", "--json", code=6)
    result = json.loads(done.stdout)
    assert [t["name"] for t in result["tensors"] if not t["identical"]] == ["blocks.1.mixer.D"]
    assert "blocks.1.mixer.D" in here("parity", "-m", "nan.cwgt", code=3).stderr
    calmgrad.new_model("nano").save(tmp_path / "nano.cwgt")
    assert "d_model: 16 in A, 64 in B" in here("diff", "m.cwgt", "nano.cwgt").stdout


def test_convert(here: Callable[..., Done], model: calmgrad.Model, tmp_path: Path) -> None:
    here("convert", "m.cwgt", "m.safetensors")
    done = here("convert", "m.safetensors", "copy.safetensors", code=2)
    assert "copy.safetensors: would be CWGT: expected a name without .safetensors" in done.stderr
    done = here("convert", "m.safetensors", "again.cwgt", "--json")
    assert json.loads(done.stdout)["format"] == "CWGT"
    assert (tmp_path / "again.cwgt").read_bytes() == (tmp_path / "m.cwgt").read_bytes()


def test_a_narrow_terminal_has_whole_numbers(
    here: Callable[..., Done], dataset: Path, model: calmgrad.Model, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "40")
    here("dump", "-m", "m.cwgt", "-d", dataset, "-o", "a.dump")
    told = here("parity", "a.dump", "-m", "m.cwgt").stdout
    assert "…" not in told
    assert "ULPs" not in told
    assert "\nmixer.selective_scan " in told
    held = read(tmp_path / "a.dump")
    held.arrays["blocks.0.gelu"] *= 2
    write(tmp_path / "bent.npz", held)
    told = here("parity", "bent.npz", "-m", "m.cwgt", code=6).stdout
    assert [line.split()[-1] for line in told.splitlines() if line[:4] in ("op  ", "gelu")] == [
        "differs", "0",
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="a shell that closes a stream")
def test_a_closed_output_is_none(tmp_path: Path, model: calmgrad.Model) -> None:
    command = [sys.executable, "-m", "calmgrad.cli", "diff", "m.cwgt", "m.cwgt"]
    shell = ["sh", "-c", '"$@" >&-', "sh", *command]
    done = subprocess.run(
        shell, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
