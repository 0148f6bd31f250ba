"""Every command as a user calls it."""

import fcntl
import json
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import calmgrad
from calmgrad.cli.main import COMMANDS, cli
from calmgrad.cli.runs import StopSignal
from calmgrad.demo import demo_data
from calmgrad.evaluation import evaluate
from tests.cli.conftest import Run, environment

SMALL = ["-m", "new", "--d-model", 16, "--n-layers", 1, "-b", 8]


def test_train_evaluate_info(run: Run, dataset: Path, tmp_path: Path) -> None:
    done = run("train", "-d", dataset, *SMALL, "-e", 3, "--lr", 0.01, "--warmup-steps", 4)
    assert "60 sequences" in done.stderr
    assert "left out 2 (under 4 tokens: 1, over 768 tokens: 1)" in done.stderr
    assert "24 steps in 3 epochs, batches of 8" in done.stderr
    assert "rules    c-engine" in done.stderr
    model = tmp_path / "runs" / "custom-1" / "model.cwgt"
    assert str(model.relative_to(tmp_path)) in done.stderr
    assert done.stdout == ""

    result = json.loads(run("evaluate", "-m", model, "-d", dataset, "--json").stdout)
    assert set(result) == set(
        "mean min max token_mean perplexity bits_per_byte sequences tokens".split()
    )
    assert result["sequences"] == 60
    assert result["min"] <= result["mean"] <= result["max"] < 5.5
    loaded, data = calmgrad.load_model(model), calmgrad.load_dataset(dataset).kept(768)[0]
    losses = [loaded.loss(tokens, position) for tokens, position in data]
    assert result["mean"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert result["max"] == pytest.approx(max(losses), rel=1e-5)
    counts = [len(tokens) - 1 - position for tokens, position in data]
    assert result["token_mean"] == pytest.approx(np.average(losses, weights=counts), rel=1e-5)
    assert result["perplexity"] == pytest.approx(np.exp(result["token_mean"]))
    assert result["tokens"] == sum(counts)

    info = json.loads(run("info", model, "--json").stdout)
    assert (info["d_model"], info["param_count"]) == (16, loaded.weights.size)
    assert info["domain"] == "shell"
    assert info["parameters"]["ln_f.weight"]["shape"] == [16]
    assert "blocks.0.mixer.A_log" in run("info", model).stdout
    data_info = json.loads(run("info", dataset, "--json").stdout)
    assert data_info["sequences"] == 62
    assert data_info["length_max"] == 900


def test_bits_per_byte_counts_bytes_only(run: Run, tmp_path: Path) -> None:
    calmgrad.new_model(d_model=16, n_layers=1).save(tmp_path / "m.cwgt")
    calmgrad.write_dataset(tmp_path / "d.ctds", [[257, 65, 66, 258]], [0])
    result = json.loads(run("evaluate", "-m", "m.cwgt", "-d", "d.ctds", "--json").stdout)
    model = calmgrad.load_model(tmp_path / "m.cwgt")
    first_two = model.loss([257, 65, 66], 0)
    assert result["bits_per_byte"] == pytest.approx(first_two / np.log(2), rel=1e-5)
    assert result["tokens"] == 3


@pytest.mark.parametrize("rules", ["c-engine", "calm-mamba"])
def test_the_same_bytes_again(run: Run, dataset: Path, tmp_path: Path, rules: str) -> None:
    for threads in (1, 2, 8):
        arguments = ["--rules", rules, "--max-steps", 12, "--save-dir", f"r{threads}"]
        run("train", "-d", dataset, *SMALL, "--threads", threads, *arguments)
    files = {(tmp_path / f"r{threads}" / "model.cwgt").read_bytes() for threads in (1, 2, 8)}
    assert len(files) == 1


def test_another_seed_gives_other_weights(run: Run, dataset: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        run("train", "-d", dataset, *SMALL, "--seed", seed, "--max-steps", 1, "--save-dir", seed)
    a, b = ((tmp_path / seed / "model.cwgt").read_bytes() for seed in "01")
    assert a != b


def test_rules_differ(run: Run, dataset: Path, tmp_path: Path) -> None:
    for rules in ("c-engine", "calm-mamba"):
        run("train", "-d", dataset, *SMALL, "--rules", rules, "-e", 1, "--save-dir", rules)
    a, b = ((tmp_path / r / "model.cwgt").read_bytes() for r in ("c-engine", "calm-mamba"))
    assert a != b


def test_divergence_writes_nothing(run: Run, dataset: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.cwgt"
    calmgrad.new_model(d_model=16, n_layers=1, domain="shell").save(model)
    before = model.read_bytes()
    done = run("train", "-m", model, "-d", dataset, "--lr", "1e30", "--save-dir", "r", code=4)
    assert "error: step " in done.stderr
    assert "Warning" not in done.stderr
    assert model.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"m.cwgt", "train.ctds", "r"}
    logs = {"config.toml", "metrics.jsonl", "train.log"}  # they tell what happened
    assert {p.name for p in (tmp_path / "r").iterdir()} == logs
    assert "error" not in (tmp_path / "r" / "metrics.jsonl").read_text()
    assert "ended    step " in (tmp_path / "r" / "train.log").read_text()


def test_fine_tuning_replaces_the_model_and_keeps_the_old_one(
    run: Run, dataset: Path, tmp_path: Path
) -> None:
    model = tmp_path / "m.cwgt"
    calmgrad.new_model(
        d_model=16, n_layers=1, domain="poems", template="BOS;ATN", stop_conditions="x"
    ).save(model)
    first = model.read_bytes()
    done = run("train", "-m", model, "-d", dataset, "--max-steps", 2)
    assert "lr 5e-05" in done.stderr
    assert "2 steps, 0.25 epochs, batches of 8" in done.stderr
    second = model.read_bytes()
    assert second != first
    assert (tmp_path / "m.cwgt.bak").read_bytes() == first
    assert calmgrad.load_model(model).metadata.domain == "poems"
    assert (tmp_path / "runs" / "custom-1" / "model.cwgt").read_bytes() == second
    run("train", "-m", model, "-d", dataset, "--max-steps", 2, "-o", "out.cwgt")
    assert model.read_bytes() == second
    assert (tmp_path / "out.cwgt").exists()
    run("train", "-m", model, "-d", dataset, "--max-steps", 2, "--domain", "shell")
    assert calmgrad.load_model(model).metadata.template == "BOS;ATN"
    assert calmgrad.load_model(model).metadata.domain == "shell"
    assert (tmp_path / "m.cwgt.bak").read_bytes() == first


def test_the_user_model_is_the_default(run: Run, dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / ".local" / "share" / "lilush" / "calm"
    folder.mkdir(parents=True)
    dataset.rename(folder / "train.ctds")
    done = run("train", "--max-steps", 1)
    assert f"none at {folder / 'user.cwgt'}" in done.stderr
    assert "nano, 168,064 parameters" in done.stderr
    calmgrad.new_model(d_model=16, n_layers=1).save(folder / "user.cwgt")
    done = run("train", "--max-steps", 1)
    assert f"saved    {folder / 'user.cwgt'}" in done.stderr
    assert json.loads(run("evaluate", "--json").stdout)["sequences"] == 60


def test_ewc_from_a_file(run: Run, dataset: Path, tmp_path: Path) -> None:
    model = calmgrad.new_model(d_model=16, n_layers=1)
    with calmgrad.Trainer(model) as trainer:
        trainer.compute_fisher([[257, 65, 66, 258]], [0])
    model.save(tmp_path / "m.cwgt")
    run("train", "-m", "m.cwgt", "-d", dataset, "--max-steps", 3, "-o", "a.cwgt")
    run("train", "-m", "m.cwgt", "-d", dataset, "--max-steps", 3, "-o", "b.cwgt",
        "--ewc-lambda", 1e6)  # fmt: skip
    a, b = (calmgrad.load_model(tmp_path / f"{n}.cwgt") for n in "ab")
    assert a.fisher is not None
    assert model.fisher is not None
    assert np.array_equal(a.fisher, model.fisher)
    assert not np.array_equal(a.weights, b.weights)


def test_run_directories_are_not_shared(run: Run, dataset: Path, tmp_path: Path) -> None:
    arguments = ["train", "-d", dataset, *SMALL, "--max-steps", 1]
    run(*arguments)
    run(*arguments)
    assert {p.name for p in (tmp_path / "runs").iterdir()} == {"custom-1", "custom-2"}
    before = (tmp_path / "runs" / "custom-1" / "model.cwgt").read_bytes()
    done = run(*arguments, "--seed", 5, "--save-dir", "runs/custom-1", code=2)
    wish = "--resume goes on with the run in it, --force begins a new one"
    assert f"runs/custom-1: the run directory is not empty; {wish}" in done.stderr
    assert (tmp_path / "runs" / "custom-1" / "model.cwgt").read_bytes() == before
    run(*arguments, "--seed", 5, "--save-dir", "runs/custom-1", "--force")
    assert (tmp_path / "runs" / "custom-1" / "model.cwgt").read_bytes() != before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_leaves(
    dataset: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    arguments = ["train", "-d", str(dataset), *map(str, SMALL), "-e", "100000", "--log-every", "1"]
    command = [sys.executable, "-m", "calmgrad.cli", *arguments]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step "):
                break
        time.sleep(0.1)
        process.send_signal(number)
        talk = process.stderr.read()
    assert process.returncode == code
    assert "the weights so far are in runs/custom-1/model.cwgt" in talk
    calmgrad.load_model(tmp_path / "runs" / "custom-1" / "model.cwgt")
    [again] = [line for line in talk.splitlines() if line.startswith("resume ")]
    command = shlex.split(again.removeprefix("resume").strip())
    assert command == ["calmgrad", "train", "--resume", "runs/custom-1"]
    [made] = (tmp_path / "runs" / "custom-1" / "checkpoints").iterdir()
    steps = int(made.name.removeprefix("step-"))
    done = subprocess.run(
        [sys.executable, "-m", "calmgrad.cli", *command[1:], "--max-steps", str(steps + 3)],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"resumed  runs/custom-1/checkpoints/{made.name}: {steps} updates made" in done.stderr
    assert f"trained  {steps + 3:,} steps" in done.stderr


def test_an_own_run_directory_loses_nothing(run: Run, dataset: Path, tmp_path: Path) -> None:
    """Going on in the directory the model came from: `--force` deletes no weights."""
    run("train", "-d", dataset, *SMALL, "--max-steps", 2, "--save-dir", "r")
    model = tmp_path / "r" / "model.cwgt"
    model.chmod(0o640)
    before = model.read_bytes()
    again = ["train", "-m", model, "-d", dataset, "--save-dir", "r", "--force"]
    run(*again, "--lr", "1e30", code=4)
    assert model.read_bytes() == before
    run(*again, "--max-steps", 1)
    assert model.read_bytes() != before
    backup = tmp_path / "r" / "model.cwgt.bak"
    assert backup.read_bytes() == before
    assert backup.stat().st_mode & 0o777 == 0o640


def test_a_backup_however_the_output_is_spelled(run: Run, dataset: Path, tmp_path: Path) -> None:
    calmgrad.new_model(d_model=16, n_layers=1).save(tmp_path / "m.cwgt")
    before = (tmp_path / "m.cwgt").read_bytes()
    run("train", "-m", tmp_path / "m.cwgt", "-d", dataset, "--max-steps", 1, "-o", "./m.cwgt")
    assert (tmp_path / "m.cwgt.bak").read_bytes() == before


def test_weights_that_are_not_finite_are_not_saved(run: Run, dataset: Path, tmp_path: Path) -> None:
    arguments = ["--lr", "1e39", "--warmup-steps", 0, "--max-steps", 1, "--save-dir", "r"]
    done = run("train", "-d", dataset, *SMALL, *arguments, code=4)
    assert "not finite" in done.stderr
    assert not (tmp_path / "r" / "model.cwgt").exists()


def test_one_run_one_writer(run: Run, dataset: Path, tmp_path: Path) -> None:
    from calmgrad.rundir import RunDirectory

    first = RunDirectory(str(tmp_path / "r"), "x", False)
    second = ["train", "-d", dataset, *SMALL, "--max-steps", 1, "--save-dir", "r", "--force"]
    assert "another run is writing" in run(*second, code=2).stderr
    first.close()
    run(*second)


def test_a_folder_that_cannot_be_locked_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from calmgrad.rundir import RunDirectory

    def refuse(*_: object) -> None:
        raise OSError(9, "Bad file descriptor")  # what NFS says

    monkeypatch.setattr(fcntl, "flock", refuse)
    directory = RunDirectory(str(tmp_path / "r"), "x", False)
    assert directory.path.is_dir()
    directory.close()


def test_the_reader_of_a_command_may_leave(dataset: Path, tmp_path: Path) -> None:
    calmgrad.new_model(d_model=16, n_layers=1).save(tmp_path / "m.cwgt")
    python = f"{sys.executable} -m calmgrad.cli"
    script = f"{python} info m.cwgt | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() in ("141", "0")  # 0: all was written before the reader left
    assert done.stderr == ""
    arguments = " ".join(map(str, ["train", "-d", dataset, *SMALL, "-e", 2]))
    done = subprocess.run(
        ["bash", "-c", f"{python} {arguments} 2>&1 | head -n 2"],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    calmgrad.load_model(tmp_path / "runs" / "custom-1" / "model.cwgt")  # it trained to its end


def test_a_full_device_is_told(dataset: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    command = [sys.executable, "-m", "calmgrad.cli", "info", str(dataset)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, env=environment(tmp_path), stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 5
    assert "error: the results cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_does_not_end_because_its_events_cannot_be_written(
    dataset: Path, tmp_path: Path
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    train = ["train", "-d", str(dataset), *SMALL, "-e", "1", "--save-dir", "run", "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "calmgrad.cli", *map(str, train)],
            cwd=tmp_path, env=environment(tmp_path), stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 5
    assert done.stderr.count("warning: step events cannot be written: No space left") == 1
    calmgrad.load_model(tmp_path / "run" / "model.cwgt")


BAD_CALLS = [
    (["trian"], 2, "Did you mean 'train'?"),
    (["train", "--lerning-rate", "1"], 2, "No such option"),
    (["train", "-s", "huge"], 2, "'huge' is not one of"),
    (["train", "--lr", "-1", "-d", "train.ctds"], 2, "--lr: expected at least 0, got -1.0"),
    (["train", "--grad-clip", "-1"], 2, "--grad-clip: expected at least 0, got -1.0"),
    (["train", "-m", "new", "--n-layers", "17"], 2, "--n-layers: expected at most 16, got 17"),
    (["train", "-m", "none.cwgt"], 3, "none.cwgt"),
    (["train", "-d", "none.ctds"], 3, "none.ctds"),
    (["train", "-d", "."], 3, "directory"),
    (["train", "-m", "train.ctds"], 3, "magic"),
    (["train", "-m", "nan.cwgt", "-d", "train.ctds"], 3, "D[3] is nan"),
    (["train", "-m", "good.cwgt", "-s", "mini"], 2, "only for a new model"),
    (["evaluate", "-m", "nan.cwgt", "-d", "train.ctds"], 3, "D[3] is nan"),
    (["evaluate", "-m", "good.cwgt", "-d", "short.ctds"], 3, "nothing to evaluate"),
    (["train", "-d", "short.ctds"], 3, "nothing to train on"),
    (["train"], 3, "no data set given (-d), and none at /"),
    (["generate", "-i", "x"], 3, "no model given (-m), and none at /"),
    (["evaluate", "-m", "good.cwgt"], 3, "no data set given (-d), and none at /"),
    (["train", "-d", "text.txt"], 3, "(of a text, calmgrad dataset build makes a data set)"),
    (["train", "-d", "good.cwgt"], 3, "(it is a model)"),
    (["generate", "-m", "run", "-i", "x"], 3, "is a directory: is run/model.cwgt meant?"),
    (["completion"], 2, "Choose from: bash, zsh, fish (see calmgrad completion --help)"),
    (["info", "text.txt"], 3, "expected b'CWGT' or b'CTDS'"),
    (["info", "empty"], 3, "empty"),
    (["train", "-d", "train.ctds", "--save-dir", "text.txt"], 2, "text.txt: a file"),
    (
        ["train", "-d", "train.ctds", "--max-steps", "1", "-o", "no/where.cwgt"],
        5,
        "expected a file in a writable folder",
    ),
]


@pytest.mark.parametrize(("arguments", "code", "message"), BAD_CALLS, ids=lambda v: str(v)[:40])
def test_bad_calls_say_what_is_wrong(
    run: Run, dataset: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    model = calmgrad.new_model(d_model=16, n_layers=1)
    model.save(tmp_path / "good.cwgt")
    model.parameters["blocks.0.mixer.D"][3] = np.nan
    model.save(tmp_path / "nan.cwgt")
    calmgrad.write_dataset(tmp_path / "short.ctds", [[65, 66]], [0])
    calmgrad.write_dataset(tmp_path / "mute.ctds", [[65, 66, 67, 259]], [3])
    (tmp_path / "text.txt").write_text("hello, this is text")
    (tmp_path / "run").mkdir()
    model.save(tmp_path / "run" / "model.cwgt")
    (tmp_path / "empty").touch()
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    done = run(*arguments, code=code)
    [error] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in error
    assert done.stderr.endswith(error + "\n")
    assert done.stdout == ""
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_nan_weights_can_be_looked_at(run: Run, tmp_path: Path) -> None:
    model = calmgrad.new_model(d_model=16, n_layers=1)
    model.weights[:3] = np.nan
    model.save(tmp_path / "nan.cwgt")
    assert json.loads(run("info", "nan.cwgt", "--json").stdout)["not_finite"] == 3
    model.weights[:] = np.inf
    model.save(tmp_path / "inf.cwgt")
    assert "no finite value" in run("info", "inf.cwgt").stdout


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(run: Run, command: str) -> None:
    shown = run(*([command] if command else []), "--help").stdout
    assert "Usage: calmgrad" in shown
    assert all(name in shown for name in (COMMANDS if not command else []))


def test_version(run: Run) -> None:
    assert run("--version").stdout.strip() == f"calmgrad {calmgrad.__version__}"


def test_help_loads_neither_numpy_nor_numba_nor_rich(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['calmgrad', '--help']\nfrom calmgrad.cli.main import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += "print(sorted({'numpy', 'numba', 'rich'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.stdout.strip().endswith("[]"), done.stdout


def test_demo(run: Run, tmp_path: Path) -> None:
    done = run("demo", "--steps", 3)
    assert "bits per byte 8." in done.stdout
    assert done.stdout.count("  $ ") >= 3
    assert "wrote runs/demo-1/model.cwgt" in done.stdout
    assert calmgrad.load_model(tmp_path / "runs/demo-1/model.cwgt").config.d_model == 64
    assert len(calmgrad.load_dataset(tmp_path / "runs/demo-1/train.ctds")) >= 10_000
    result = json.loads(run("demo", "--steps", 3, "--json").stdout)
    first, second = ((tmp_path / f"runs/demo-{n}/model.cwgt").read_bytes() for n in (1, 2))
    assert first == second
    assert result["weights"] == "runs/demo-2/model.cwgt"
    assert 6 < result["bits_per_byte_after"] < result["bits_per_byte_before"] < 9
    assert len(result["completions"]) >= 3
    held_out = calmgrad.load_dataset(tmp_path / "runs/demo-2/validation.ctds")
    saved = evaluate(calmgrad.load_model(tmp_path / "runs/demo-2/model.cwgt"), held_out)
    assert result["bits_per_byte_after"] == saved.bits_per_byte


def test_a_demo_that_is_stopped_at_once_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stopped(StopSignal):
        def __enter__(self) -> "Stopped":
            self.caught = signal.SIGINT
            return self

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("calmgrad.cli.demo.StopSignal", Stopped)
    monkeypatch.setattr("calmgrad.demo.demo_data", partial(demo_data, train=16, validation=8))
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--steps", "3"], standalone_mode=False)
    assert ended.value.code == 130
    assert "stopped  before the first step" in capsys.readouterr().err
    assert not list(Path("runs").iterdir())
