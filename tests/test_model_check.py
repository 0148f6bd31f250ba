"""`calmgrad gradcheck` from inside: what is checked, what is found, what is told."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import calmgrad
from calmgrad import model_check
from calmgrad.backend import Backend, load
from calmgrad.cli.main import cli
from calmgrad.config import resolve
from calmgrad.differences import Function
from calmgrad.errors import CheckFailed
from calmgrad.kernels import reference
from calmgrad.kernels.protocol import Array
from calmgrad.layout import layout, views
from calmgrad.model_check import GENERATED, WHOLE, Batch, Manner, Subject
from calmgrad.op_cases import BUILDERS
from calmgrad.planted_errors import Plant, missed, plants
from calmgrad.tape import Tensor

CONFIG = resolve(None, dict(d_model=8, n_layers=1, d_state=3, dt_rank=2, expand=2))
TINY = Batch(CONFIG, [np.arange(60, 72), np.arange(80, 89), np.arange(5)], [4, 0, 0])
ARRAYS = views(CONFIG, model_check.fresh_weights(CONFIG, 0))


def subjects(backend: Backend, *ops: str) -> list[Subject]:
    return model_check.subjects(TINY, ARRAYS, backend, ops)


def test_all_ops_are_checked_and_the_model_s_on_its_own_arrays(backend: Backend) -> None:
    found = subjects(backend)
    assert {s.op for s in found} == set(model_check.names())
    assert len(model_check.names()) == len(BUILDERS) + len(WHOLE)
    made_up = {s.op for s in found if s.where == GENERATED}
    assert made_up == {name for name in BUILDERS if name.startswith("basic.")}
    places = {s.where for s in found if s.op == "linear"}
    for name in ("in_proj", "x_proj", "out_proj"):
        assert f"blocks.0.mixer.{name}" in places
    assert {s.where for s in found if s.op == "selective_scan"} == {"blocks.0.mixer"}
    norms = {s.where for s in found if s.op == "layer_norm"}
    assert norms == {"blocks.0.ln1", "blocks.0.ln2", "ln_f"}
    [loss] = subjects(backend, "loss")
    assert list(loss.arrays) == [entry.name for entry in layout(CONFIG)]


def test_an_op_gets_what_it_gets_in_the_model() -> None:
    model = calmgrad.new_model(d_model=8, n_layers=1, seed=3)
    batch = Batch(model.config, [np.arange(65, 75)], [0])
    found = model_check.subjects(batch, model.parameters, load("cpu"), ["linear"])
    head = next(s for s in found if s.head == "loss" and s.where == "token_emb")
    hidden, table = head.arrays.values()
    np.testing.assert_array_equal(table, model.parameters["token_emb.weight"])
    logits = model.logits(np.arange(65, 74))
    np.testing.assert_allclose(hidden @ table.T, logits, atol=1e-5)


def test_a_right_model_passes(backend: Backend) -> None:
    manner = Manner(backend)
    for subject in subjects(backend, "gelu", "infonce", "contrastive"):
        rows = list(model_check.check(subject, manner))
        assert [row.found.name for row in rows] == list(subject.arrays)
        for row in rows:
            assert row.line is None
            assert row.found.error < 1e-6
            assert row.found.probes > 1
            assert 0 < row.found.smallest <= row.found.largest


@pytest.mark.parametrize("op", ["gelu", "loss"])
def test_an_error_in_a_kernel_is_found(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference.gelu_backward

    def wrong(dx: Array, dy: Array, x: Array) -> None:
        right(dx, dy, x)
        dx[-1, 0] *= 1.01

    monkeypatch.setattr(reference, "gelu_backward", wrong)
    backend = load("reference")
    rows = [row for s in subjects(backend, op) for row in model_check.check(s, Manner(backend))]
    lines = [row.line for row in rows if row.line is not None]
    assert lines
    if op == "gelu":
        assert lines[0].startswith("gelu (blocks.0.ffn): gradient of x at [22, 0]: formula ")
        assert ", central difference " in lines[0]


def test_what_raises_inside_is_told_as_a_row(backend: Backend) -> None:
    subject = Subject("loss", "here", lambda x: x, {"x": np.array([np.nan])})
    [row] = model_check.check(subject, Manner(backend))
    assert row.line == "loss (here): input x is nan at [0]"


def test_planted_errors_are_found() -> None:
    backend = load("cpu")
    chosen = subjects(backend, "linear", "selective_scan", "pool", "basic.mul", *WHOLE)
    planted = list(plants(chosen, TINY, ARRAYS))
    assert {p.op for p in planted} == {s.op for s in chosen}
    assert {p.input for p in planted if p.op == "loss"} == set(ARRAYS)
    assert any(p.only is None and p.op == "selective_scan" for p in planted)
    assert list(missed(planted, Manner(backend))) == [None] * len(planted)


def test_without_an_error_nothing_is_found(backend: Backend) -> None:
    [loss] = subjects(backend, "loss")
    name = "blocks.0.mixer.D"
    nothing = Plant("none", "loss", name, loss, only=name)
    assert list(missed([nothing], Manner(backend))) == [nothing]


def test_shortened_sequences_keep_their_targets() -> None:
    long, short = np.arange(100), np.arange(7)
    sequences, positions = model_check.shortened([(long, 90), (short, 2), (long, 0)], 30)
    assert [len(s) for s in sequences] == [10, 7, 10]
    assert positions == [0, 2, 0]
    assert sequences[0][0] == 90
    assert sum(map(len, model_check.shortened([(long, 99)] * 50, 96)[0])) == 96


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.cwgt"
    calmgrad.new_model(d_model=8, n_layers=1, d_state=2).save(path)
    return str(path)


def gradcheck(*args: str) -> None:
    cli.main(["gradcheck", *args], prog_name="calmgrad", standalone_mode=False)


def test_the_table(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    gradcheck("-m", tiny, "--op", "loss", "--op", "pool")
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split()[:2] == ["op", "input"]
    assert "loss  blocks.*.mixer.A_log" in out
    assert lines[1].startswith("pool  x ")
    assert lines[-1].endswith("on cpu")
    assert "tiny.cwgt" in err


def test_json_of_a_data_set(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "a.ctds"
    calmgrad.write_dataset(data, [[1, 65, 66, 67, 68, 2]] * 3, [0, 1, 2])
    gradcheck("-m", tiny, "-d", str(data), "--op", "gelu", "--backend", "reference", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["agree"] is True
    assert found["backend"] == "reference"
    assert {row["where"] for row in found["rows"]} == {"blocks.0.ffn"}
    assert found["rows"][0]["shape"][0] == 15  # the last token of a sequence is not read


def test_a_wrong_gradient_ends_with_6(
    tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(op: Function, *tensors: Tensor) -> Tensor:
        y = op(*tensors)
        forward = y.tape.steps[-1].backward if y.tape.steps else None

        def twice() -> None:
            assert forward is not None
            y.grad[...] *= 2
            forward()

        if forward is not None:
            y.tape.steps[-1].backward = twice
        return y

    real = model_check.subjects

    def spoilt(*args: object) -> list[Subject]:
        found: list[Subject] = real(*args)  # type: ignore[arg-type]
        return [Subject(s.op, s.where, partial(wrong, s.fn), s.arrays) for s in found]

    monkeypatch.setattr(model_check, "subjects", spoilt)
    message = (
        r"gradcheck: gelu \(blocks.0.ffn\): gradient of x at \[\d+, \d+\]: formula .* and 2 more"
    )
    with pytest.raises(CheckFailed, match=message) as caught:
        gradcheck("-m", tiny, "--op", "gelu")
    assert caught.value.exit_code == 6
    assert "wrong" in capsys.readouterr().out


def test_the_self_test(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    gradcheck("-m", tiny, "--op", "basic.tanh", "--self-test")
    assert capsys.readouterr().out == "planted  4\nfound    4\n"
    with pytest.raises(CheckFailed, match="4 planted errors were not found; first: other sign"):
        gradcheck("-m", tiny, "--op", "basic.tanh", "--self-test", "--rtol", "10")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--op", "nope"], "--op nope: expected one of causal_conv1d, "),
        (["--backend", "gpu"], "unknown backend 'gpu'"),
        (["-m", "x.cwgt", "-s", "nano"], "--size: only for a new model"),
    ],
)
def test_wrong_use(args: list[str], message: str) -> None:
    with pytest.raises(calmgrad.CalmgradError, match=message):
        gradcheck(*args)
