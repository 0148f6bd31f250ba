"""The first NaN or infinity of a step is found: op, layer, sequence, token."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calmgrad
from calmgrad import nan_search
from calmgrad.errors import DivergedError
from calmgrad.kernels import cpu
from calmgrad.trainer import Trainer

TEXTS = [b"ls -la", b"git add .", b"make", b"cd zoo", b"vim a.c", b"git commit", b"ls"]
SEQUENCES = [[calmgrad.BOS, *text, calmgrad.EOS] for text in TEXTS]
POSITIONS = [0] * len(TEXTS)
FIRST_Z = (3, 4)  # sequence and position of the only "z"


def trainer(**keys: Any) -> Trainer:
    """Three blocks, and shards of two or three sequences."""
    model = calmgrad.new_model(d_model=16, n_layers=3, seed=1)
    return Trainer(model, shard_tokens=20, threads=2, **keys)


def fail(t: Trainer) -> nan_search.Origin:
    """A step that fails, and where it did."""
    before = t.model.weights.copy()
    with pytest.raises(DivergedError):
        t.step(SEQUENCES, POSITIONS)
    gradient = t.grads.copy()
    origin = t.find_nan(SEQUENCES, POSITIONS)
    assert origin is not None
    assert np.array_equal(t.model.weights, before, equal_nan=True)
    assert np.array_equal(t.grads, gradient, equal_nan=True)
    assert "\n" not in str(origin)
    return origin


def test_a_finite_step_has_none() -> None:
    with trainer() as t:
        assert t.find_nan(SEQUENCES, POSITIONS) is None
        assert not t.grads.any()


MIXER, FFN = "blocks.1.mixer", "blocks.1.ffn"
SCAN = "selective_scan"


@pytest.mark.parametrize(
    ("name", "op", "nth", "scope"),
    [
        ("blocks.1.ln1.weight", "layer_norm", 1, MIXER),
        (f"{MIXER}.in_proj.weight", "linear", 1, MIXER),
        (f"{MIXER}.conv1d_weight", "causal_conv1d", 1, MIXER),
        (f"{MIXER}.x_proj.weight", "linear", 2, MIXER),
        (f"{MIXER}.A_log", SCAN, 1, MIXER),
        (f"{MIXER}.out_proj.weight", "linear", 3, MIXER),
        ("blocks.1.ln2.bias", "layer_norm", 1, FFN),
        ("blocks.1.ffn_fc1.weight", "linear", 1, FFN),
        ("blocks.1.ffn_fc2.weight", "linear", 2, FFN),
        ("ln_f.bias", "layer_norm", 1, "head"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight(name: str, op: str, nth: int, scope: str, value: float) -> None:
    """Every token meets it; the search names the first, and the weight."""
    if (op, value) == (SCAN, np.inf):
        pytest.skip("a state that forgets at once: exp(-inf) is 0, and the step is finite")
    with trainer() as t:
        t.model.parameters[name].flat[-1] = value
        origin = fail(t)
    assert (origin.op, origin.nth, origin.scope) == (op, nth, scope)
    assert origin.phase == "forward"
    assert origin.layer == (None if scope == "head" else 1)
    assert origin.position in (0, 1, 3)  # where the convolution's last tap is
    assert origin.weight is not None
    assert origin.weight.startswith(f"the weight {name}[")
    assert not np.isfinite(origin.value)


def test_the_one_token_that_meets_a_weight() -> None:
    with trainer() as t:
        t.model.parameters["token_emb.weight"][ord("z"), 5] = np.nan
        origin = fail(t)
    assert (origin.op, origin.scope, origin.layer) == ("embedding", "token_emb", None)
    assert (origin.sequence, origin.position) == FIRST_Z
    assert (origin.token, origin.index[1], origin.count) == (ord("z"), 5, 1)
    assert str(origin) == (
        "nan first in the output of embedding in token_emb, sequence 3 of the batch, token 4 ('z'),"
        f" channel 5; before any op, the weight token_emb.weight[{ord('z')}, 5] was nan"
    )


def test_a_weight_that_no_token_meets_is_named() -> None:
    with trainer() as t:
        t.model.parameters["token_emb.weight"][ord("z"), 5] = np.inf
        origin = t.find_nan([SEQUENCES[0]], [0])  # the logits of every token meet it
        assert origin is not None
        assert (origin.op, origin.scope) == ("linear", "head")


def overflow(fn: Callable[..., None], call: int, row: int, column: int) -> Callable[..., None]:
    """The kernel, but for one number of one of its calls."""
    calls = 0

    def spoilt(out: Any, *args: Any) -> None:
        nonlocal calls
        fn(out, *args)
        calls += 1
        if calls == call:
            out[row, column] = np.inf

    return spoilt


def test_an_op_that_overflows_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call for the second shard is its second layer."""
    with trainer() as t:
        shards, _ = t._checked(SEQUENCES, POSITIONS)
        shard = shards[1]
        row = int(shard.packing.offsets[1]) + 2
        monkeypatch.setattr(cpu, "gelu_forward", overflow(cpu.gelu_forward, 5, row, 7))
        origin = t.find_nan(SEQUENCES, POSITIONS)
    assert origin is not None
    assert (origin.phase, origin.op, origin.scope, origin.layer) == ("forward", "gelu", FFN, 1)
    assert (origin.sequence, origin.position) == (shard.rows[1], 2)
    assert origin.token == SEQUENCES[shard.rows[1]][2]
    assert (origin.index, origin.value, origin.count) == ((row, 7), np.inf, 1)
    assert origin.weight is None
    assert [op for op, _, _ in origin.trail][-2:] == ["layer_norm", "linear"]
    assert all(np.isfinite(largest) for _, _, largest in origin.trail)


def test_an_op_that_overflows_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third backward call is that of the first layer: blocks come back in reverse."""
    with trainer() as t:
        shards, _ = t._checked(SEQUENCES, POSITIONS)
        monkeypatch.setattr(cpu, "gelu_backward", overflow(cpu.gelu_backward, 3, 4, 1))
        origin = t.find_nan(SEQUENCES, POSITIONS)
    assert origin is not None
    assert (origin.phase, origin.op, origin.scope) == ("backward", "gelu", "blocks.0.ffn")
    row = int(np.searchsorted(shards[0].packing.offsets, 4, side="right")) - 1
    assert origin.sequence == shards[0].rows[row]
    assert origin.position == shards[0].packing.pos[4]
    assert str(origin).startswith("inf first in what gelu in blocks.0.ffn sends back, sequence ")


def test_a_weights_gradient_that_overflows(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cpu.causal_conv1d_backward

    def spoilt(dx: Any, dweight: Any, *args: Any) -> None:
        real(dx, dweight, *args)
        dweight[3, 2] = np.nan

    with trainer() as t:
        monkeypatch.setattr(cpu, "causal_conv1d_backward", spoilt)
        origin = fail(t)
    assert (origin.phase, origin.op, origin.layer) == ("backward", "causal_conv1d", 2)
    assert (origin.parameter, origin.index) == ("blocks.2.mixer.conv1d_weight", (3, 2))
    assert (origin.sequence, origin.position) == (None, None)
    assert "sends back to blocks.2.mixer.conv1d_weight[3, 2]" in str(origin)


@pytest.mark.parametrize(
    ("strength", "phase", "words"),
    [
        (1e15, "ewc", "inf first in the gradient of ln_f.bias[2] with the EWC penalty"),
        (1e3, "norm", "not their norm: the largest, the gradient of ln_f.bias[2], is 1e+33"),
    ],
)
def test_the_penalty(strength: float, phase: str, words: str) -> None:
    with trainer(ewc_lambda=0.0) as t:
        t.compute_fisher(SEQUENCES, POSITIONS)
        t.ewc_lambda = strength
        assert t.model.fisher is not None
        t.model.fisher[-14] = 1e30
        t.model.weights[-14] += 1.0
        origin = fail(t)
    assert (origin.phase, origin.parameter, origin.index) == (phase, "ln_f.bias", (2,))
    assert words in str(origin)


def test_a_row_of_the_head_is_a_token_with_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens before ATN are not in the head; the position is that in the sequence all the same."""
    with trainer() as t:
        real = cpu.cross_entropy_backward

        def spoilt(dlogits: Any, *args: Any) -> None:
            real(dlogits, *args)
            dlogits[1, 300] = np.nan

        monkeypatch.setattr(cpu, "cross_entropy_backward", spoilt)
        origin = t.find_nan([SEQUENCES[0], SEQUENCES[5]], [3, 6])
    assert origin is not None
    assert (origin.phase, origin.op, origin.scope) == ("backward", "cross_entropy", "head")
    assert (origin.sequence, origin.position) == (0, 4)
    assert origin.token == SEQUENCES[0][4]
    assert origin.index == (1, 300)


def test_an_exploding_learning_rate() -> None:
    with trainer(lr=1e30) as t:
        t.step(SEQUENCES, POSITIONS)
        origin = fail(t)
    assert (origin.phase, origin.op, origin.scope) == ("forward", "linear", "blocks.0.mixer")
    assert origin.trail[0][:2] == ("embedding", "token_emb")
    assert origin.trail[0][2] > 1e29


# --- runs -----------------------------------------------------------------------------------------


def test_the_number_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was left out and however they were shuffled."""
    monkeypatch.chdir(tmp_path)
    rows = [[65], *SEQUENCES, [66]]
    calmgrad.write_dataset("d.ctds", rows, [0] * len(rows))
    model = calmgrad.new_model(d_model=16, n_layers=1, seed=1)
    model.parameters["token_emb.weight"][ord("z")] = 3e38  # finite, so far
    model.save("m.cwgt")
    with pytest.raises(DivergedError) as caught:
        calmgrad.train(model="m.cwgt", dataset="d.ctds", batch_size=9, debug_nan=True)
    assert ", token 4 ('z')" in str(caught.value)
    assert str(caught.value).endswith(f"(sequence {FIRST_Z[0] + 1} of the data)")
