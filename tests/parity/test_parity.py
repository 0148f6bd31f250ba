"""Parity with what there is: parts of a dump, gradients alone, other runs of this engine."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

import calmgrad
from calmgrad.errors import FileError
from calmgrad.formats.dump import Dump
from calmgrad.layout import initial_weights, layout
from calmgrad.parity import compare, evaluate, local
from calmgrad.parity import report as report_module
from calmgrad.parity.compare import Comparison
from calmgrad.parity.report import Report, check
from calmgrad.parity.runs import gradient_dump, pass_dump, step_dump, update_dump
from calmgrad.trace import batch_of
from tests.parity.planted import PLANTED
from tests.parity.test_planted import (
    CONFIG,
    POSITIONS,
    SEQUENCES,
    checked,
    dumped,
    passed,
    updated,
    weights,
)

INPUTS = ("tokens", "offsets", "cmd_positions")
M = "blocks.0.mixer"


def mistake(label: str, op: str) -> Dump:
    found = next(m for m in PLANTED if (m.label, m.op) == (label, op))
    return dumped("float32", found)


def part(dump: Dump, *names: str) -> Dump:
    """Of a dump, what was read and some values."""
    return Dump({k: dump.arrays[k] for k in (*INPUTS, *names)}, dump.settings)


def model() -> calmgrad.Model:
    m = calmgrad.new_model(d_model=16, n_layers=2, d_state=4, dt_rank=3, ffn_expand=2)
    m.weights[...] = weights("float32")
    return m


def certain_model() -> tuple[calmgrad.Model, list[int]]:
    """A model that is nearly sure of every target of the sequence."""
    m = model()
    m.parameters["ln_f.weight"][...] *= 14
    tokens = [calmgrad.BOS, calmgrad.ATN]
    while len(tokens) < 40:
        tokens.append(int(np.argmax(m.logits(tokens)[-1])))
    return m, tokens


@pytest.mark.parametrize("names", [None, ("logits", "loss")])
def test_a_model_that_is_sure_of_its_targets_is_right(names: tuple[str, ...] | None) -> None:
    """Logits and log-sum-exp are larger than their differences by far, as is their rounding."""
    m, tokens = certain_model()
    dump = pass_dump(m, [tokens], [1])
    assert np.abs(dump.arrays["logits"]).max() > 20
    assert 0 < dump.arrays["loss"] < 0.002
    report = check(dump if names is None else part(dump, *names), m.config, m.weights, run=False)
    assert report.ok, report.first


def test_of_such_a_model_a_mistake_is_still_found() -> None:
    m, tokens = certain_model()
    dump = pass_dump(m, [tokens], [1])
    for name in ("nll", "grad/logits"):
        dump.arrays[name] = dump.arrays[name] * np.float32(1.5)
    found = check(dump, m.config, m.weights, run=False).findings
    assert {(f.op, f.direction) for f in found} >= {("nll", "forward"), ("nll", "backward")}


# --- partial dumps --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "op", "likely"),
    [
        ("erf", "blocks.0.gelu", "erf"),
        ("taps reversed", f"{M}.conv1d", "reverse order"),
        ("D missing", f"{M}.selective_scan", "leaves out D u"),
    ],
)
def test_from_logits_alone_a_known_mistake_is_found(label: str, op: str, likely: str) -> None:
    first = checked(part(mistake(label, op), "logits")).first
    assert first is not None
    assert first.op == op
    assert likely in (first.likely or "")
    assert op in first.candidates


def test_an_unknown_mistake_leaves_candidates() -> None:
    """Of the values around the wrong op, one is missing: one of two ops it is."""
    dump = mistake("last column not written", "blocks.0.ffn_fc1")
    names = [n for n in dump.arrays if n not in (*INPUTS, "blocks.0.ffn_fc1")]
    first = checked(part(dump, *(n for n in names if not n.startswith("grad/")))).first
    assert first is not None
    assert first.candidates == ("blocks.0.ffn_fc1", "blocks.0.gelu")
    assert first.likely is None


def test_right_parts_are_right() -> None:
    dump = dumped("float32")
    for names in (["logits"], ["loss"], ["blocks.1.residual1"], ["grad/blocks.0.mixer.A_log"]):
        report = checked(part(dump, *names))
        assert report.ok, report.sentence()
        assert len(report.rows) == 1


def test_parts_of_products_may_be_dumped_alone() -> None:
    dump = dumped("float64")
    whole = dump.arrays.pop(f"{M}.x_proj")
    for name, columns in {"dt_raw": slice(0, 3), "B": slice(3, 7), "C": slice(7, 11)}.items():
        dump.arrays[f"{M}.{name}"] = whole[:, columns]
    assert checked(dump).ok
    dump.arrays[f"{M}.B"] = whole[:, 7:]
    first = checked(dump).first
    assert first is not None
    assert (first.op, first.name) == (f"{M}.x_proj", f"{M}.B")


@pytest.mark.parametrize("factor", [0, 3, np.nan])
def test_a_way_back_that_begins_with_another_number_than_1_is_told(factor: float) -> None:
    """Each step is right by what has arrived: all gradients are 0, or three times too large."""
    dump = dumped("float32")
    for name in [n for n in dump.arrays if n == "grads" or n.startswith("grad/")]:
        dump.arrays[name] = dump.arrays[name] * factor
    dump.arrays["grad/loss"] = np.asarray(factor, np.float32)
    first = checked(dump).first
    assert first is not None
    assert (first.op, first.direction, first.name) == ("loss", "backward", "loss")
    assert first.difference.expected == 1


def test_names_without_meaning_are_told() -> None:
    dump = part(dumped("float64"), "logits")
    dump.arrays["blocks.7.ln1"] = np.zeros(3)
    assert checked(dump).ignored == ["blocks.7.ln1"]
    del dump.arrays["logits"]
    with pytest.raises(FileError, match="nothing that can be compared"):
        checked(dump)


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [None, ["logits"], ["grads"], ["blocks.1.ln2", "loss", "grads"]])
def test_what_was_forgotten_is_made_again(
    names: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    m = model()
    dump = pass_dump(m, SEQUENCES, POSITIONS)
    dump.arrays["grads"] = dump.arrays["grads"].copy()
    dump.arrays["grads"][:-1000] *= 1.001
    dump = dump if names is None else part(dump, *names)
    kept = check(dump, m.config, m.weights, explain=False)
    monkeypatch.setattr(evaluate, "ROOM", 0.0)
    made_again = check(dump, m.config, m.weights, explain=False)
    assert made_again.as_json() == kept.as_json()
    assert not kept.ok or names == ["logits"]


def test_a_comparison_needs_less_than_the_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the dump itself: one block's detail in float64, and the stream."""
    monkeypatch.setattr(evaluate, "ROOM", 0.0)
    monkeypatch.setattr(local, "AT_ONCE", 1 << 14)
    m = calmgrad.new_model(d_model=32, n_layers=12, d_state=4, seed=1)
    dump = pass_dump(m, [[257, *range(32, 126), 258]], [0])
    held = sum(array.nbytes for array in dump.arrays.values())
    tracemalloc.start()
    assert check(dump, m.config, m.weights).ok
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.75 * held


# --- what was read --------------------------------------------------------------------------------


def test_other_tokens_end_the_comparison() -> None:
    dump = dumped("float64")
    dump.arrays["tokens"] = dump.arrays["tokens"].copy()
    dump.arrays["tokens"][11] = 66
    report = check(dump, CONFIG, weights(), batch_of(CONFIG, SEQUENCES, POSITIONS), run=False)
    assert report.first is not None
    assert (report.first.direction, report.first.name) == ("input", "tokens")
    assert "sequence 1, token 1" in report.sentence()


def test_other_weights_are_the_first_difference() -> None:
    """A matrix that was loaded transposed: the ops are right by what they have read."""
    dump = dumped("float64")
    named = {e.name: e for e in layout(CONFIG)}
    flat = weights()
    entry = named["blocks.1.mixer.dt_proj.weight"]
    matrix = flat[entry.start : entry.stop].reshape(entry.shape)
    dump.arrays[entry.name] = matrix.reshape(entry.shape[::-1]).T
    first = checked(dump).first
    assert first is not None
    assert (first.direction, first.name) == ("input", entry.name)
    assert "transposed" in (first.likely or "")


def test_tokens_that_make_no_batch_are_refused() -> None:
    for name, array in (
        ("offsets", [0, 5, 5, 40]), ("tokens", [400] * 40), ("cmd_positions", [0]),
    ):  # fmt: skip
        dump = dumped("float64")
        dump.arrays[name] = np.array(array)
        with pytest.raises(FileError, match=r"^dump: "):
            checked(dump)


def test_a_wrong_shape_is_refused() -> None:
    dump = dumped("float64")
    dump.arrays["blocks.0.ln1"] = dump.arrays["blocks.0.ln1"].T
    with pytest.raises(FileError, match=r"blocks\.0\.ln1: shape .*, expected"):
        checked(dump)


def test_a_dump_without_tokens_has_as_many_rows_as_were_read() -> None:
    dump, read = (
        Dump({"logits": dumped("float64").arrays["logits"]}),
        batch_of(CONFIG, SEQUENCES, POSITIONS),
    )
    assert check(dump, CONFIG, weights(), read, run=False).ok
    dump.arrays["logits"] = dump.arrays["logits"][:-1]
    with pytest.raises(FileError, match="logits: shape"):
        check(dump, CONFIG, weights(), read, run=False)
    with pytest.raises(FileError, match="has no tokens"):
        checked(dump)


# --- gradients alone ------------------------------------------------------------------------------


def test_a_flat_gradient_and_one_parameters() -> None:
    engine = passed("float32")
    read = batch_of(CONFIG, SEQUENCES, POSITIONS)

    def report(flat: np.ndarray, parameter: str | None) -> Report:
        dump = gradient_dump(CONFIG, flat, parameter)
        return check(dump, CONFIG, weights(), read, run=False, explain=False)

    flat = engine.flat(engine.dp)
    assert report(flat, None).ok
    entry = layout(CONFIG)[8]
    own = flat[entry.start : entry.stop].copy()
    assert report(own, entry.name).ok
    assert report(own, "8").ok
    first = report(own / 2, entry.name).first
    assert first is not None
    assert (first.name, first.direction) == (entry.name, "backward")
    for size, parameter in ((3, None), (3, "8")):
        with pytest.raises(FileError, match="3 numbers"):
            gradient_dump(CONFIG, flat[:size], parameter)
    with pytest.raises(ValueError, match="no parameter 'abc'"):
        gradient_dump(CONFIG, flat, "abc")


# --- runs of this engine --------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_runs_of_this_engine_are_right(backend: str, dtype: str) -> None:
    m = model()
    dump = pass_dump(m, SEQUENCES, POSITIONS, backend=backend, dtype=dtype)
    report = check(dump, m.config, m.weights)
    assert report.ok, report.sentence()
    limit = 1e-5 if dtype == "float32" else 1e-12
    assert max(row.run.relative for row in report.rows if row.run is not None) < limit


def test_an_update_of_this_engine_is_right() -> None:
    m = model()
    m.fisher, m.anchor = np.abs(m.weights), m.weights * np.float32(0.9)
    before = m.weights.copy()
    dump = pass_dump(m, SEQUENCES, POSITIONS)
    made = update_dump(m, SEQUENCES, POSITIONS, dict(lr=1e-3, ewc_lambda=2.0, grad_clip=0.1))
    assert np.array_equal(m.weights, before)
    dump.arrays.update(made.arrays)
    dump.settings.update(made.settings)
    report = check(dump, m.config, m.weights, run=False)
    assert report.ok, report.sentence()
    assert {"ewc_grads", "grad_norm", "adam_m", "adam_v", "new_weights"} <= {
        row.name for row in report.rows
    }


def test_weight_decay_on_d_is_seen_at_a_small_learning_rate() -> None:
    """It moves D by a millionth: less than what rounding may do to other steps."""
    m = model()
    dump = pass_dump(m, SEQUENCES, POSITIONS)
    made = update_dump(m, SEQUENCES, POSITIONS, dict(lr=1e-4))
    new = made.arrays["new_weights"]
    for entry in layout(m.config):
        if not entry.decay:
            new[entry.start : entry.stop] -= 1e-6 * m.weights[entry.start : entry.stop]
    dump.arrays.update(made.arrays)
    dump.settings.update(made.settings)
    first = check(dump, m.config, m.weights, run=False).first
    assert first is not None
    assert first.op == "adam"
    assert "A_log and D" in (first.likely or "")


def test_an_update_without_its_settings_is_told() -> None:
    dump = updated("float64")
    dump.settings = {"ewc_lambda": 3.0, "grad_clip": 0.5, "update": 5}
    report = checked(dump)
    assert report.ok
    assert report.notes == ["new_weights was not compared: the dump lacks lr in the settings"]


def test_one_token_at_a_time_is_the_same() -> None:
    m, read = model(), batch_of(CONFIG, SEQUENCES, POSITIONS)
    dump = step_dump(m.config, m.weights, read, "cpu")
    report = check(dump, m.config, m.weights, read)
    assert report.ok, report.sentence()
    dump.arrays["blocks.1.mixer.x"][12] *= 1.01
    report = check(dump, m.config, m.weights, read)
    assert "blocks.1" in report.sentence()
    assert "sequence 1, token 2" in report.sentence()


def test_one_token_at_a_time_without_a_window() -> None:
    config = dataclasses.replace(CONFIG, d_conv=1)
    flat = initial_weights(config, 0).astype(np.float32)
    read = batch_of(config, SEQUENCES, POSITIONS)
    report = check(step_dump(config, flat, read, "cpu"), config, flat, read)
    assert report.ok, report.sentence()


def test_rules_differ_in_the_loss() -> None:
    m = model()
    dump = pass_dump(m, SEQUENCES, POSITIONS, reduction="token")
    first = check(dump, m.config, m.weights, settings={"reduction": "sequence"}).first
    assert first is not None
    assert first.op == "loss"
    assert "reduction token" in (first.likely or "")


def test_not_a_number_is_a_difference() -> None:
    dump = dumped("float64")
    dump.arrays["blocks.0.gelu"][3, 5] = np.nan
    report = checked(dump)
    assert report.first is not None
    assert report.first.op == "blocks.0.gelu"
    assert report.first.difference.index == (3, 5)
    assert "not finite" in (report.first.likely or "")


def test_numbers_that_overflow_when_squared_are_explained_by_nothing() -> None:
    dump = part(dumped("float64"), "logits")
    dump.arrays["logits"] = np.full_like(dump.arrays["logits"], 1e300)
    first = checked(dump).first
    assert first is not None
    assert first.likely is None


def test_where_all_is_nan_no_mistake_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Comparison, "_tries", None)  # calling it would fail
    dump = dumped("float64")
    dump.arrays["blocks.0.gelu"][:] = np.nan
    first = checked(dump).first
    assert first is not None
    assert "not finite" in (first.likely or "")


def test_a_long_search_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "LONG", 0.0)
    monkeypatch.setattr(report_module, "LARGE", 0.0)
    said: list[str] = []
    check(mistake("taps reversed", f"{M}.conv1d"), CONFIG, weights(), run=False, tell=said.append)
    assert [line.partition(":")[0].split()[-1] for line in said] == ["MB", "differs"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("update", "x"), ("update", float("inf")), ("update", 0), ("update", 1.5), ("lr", None),
        ("lr", float("nan")), ("lr", True), ("weight_decay", "0.1"), ("beta1", 1.0),
        ("beta2", 10**400), ("grad_clip", -1), ("optimizer", "lion"),
    ],
)  # fmt: skip
def test_settings_that_are_none_are_refused(key: str, value: object) -> None:
    dump = dumped("float64")
    dump.settings[key] = value  # type: ignore[assignment]
    with pytest.raises(FileError, match=f"settings: {key}"):
        checked(dump)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("tokens", np.nan),
        ("tokens", 65.5),
        ("targets", 320),
        ("targets", np.inf),
        ("offsets", 1e30),
    ],
)
def test_what_counts_is_whole_and_in_range(name: str, number: float) -> None:
    dump = dumped("float64")
    array = np.array(dump.arrays[name], np.float64)
    array[1] = number
    dump.arrays[name] = array
    with pytest.raises(FileError, match=name):
        checked(dump)
