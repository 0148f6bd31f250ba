import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import calmgrad
from calmgrad.explain import Story, summary, tell_step
from calmgrad.explain import story as story_module
from calmgrad.explain.story import label, layer_of
from calmgrad.trace import Trace, trace
from tests.explain.conftest import CMD_POS, TOKENS


def test_it_is_the_step_that_a_trainer_makes(model: calmgrad.Model, story: Story) -> None:
    before = model.weights.copy()
    twin = calmgrad.Model(replace(model.data(), weights=before.copy()))
    with calmgrad.Trainer(twin, lr=1e-3, threads=1) as trainer:
        loss = trainer.step([TOKENS], [CMD_POS])
        assert story.loss == loss
        assert story.grad_norm == trainer.grad_norm
        gradients = np.concatenate([p.gradient.ravel() for p in story.parameters])
        np.testing.assert_array_equal(gradients, trainer.grads)
        changes = np.concatenate([p.change.ravel() for p in story.parameters])
        np.testing.assert_array_equal(changes, twin.weights - before)
    np.testing.assert_array_equal(model.weights, before)  # the model itself stays


def test_losses_belong_to_the_tokens_that_were_predicted(
    model: calmgrad.Model, story: Story
) -> None:
    prompt = [t.loss for t in story.tokens[: CMD_POS + 1]]
    assert prompt == [None] * (CMD_POS + 1)
    logits = model.logits(TOKENS).astype(np.float64)
    for position in range(CMD_POS + 1, len(TOKENS)):
        row = logits[position - 1]
        nll = np.log(np.exp(row - row.max()).sum()) + row.max() - row[TOKENS[position]]
        assert story.tokens[position].loss == pytest.approx(nll, rel=1e-4)
    losses = [t.loss for t in story.tokens if t.loss is not None]
    assert np.mean(losses) == pytest.approx(story.loss, rel=1e-6)


def test_the_ops_are_a_chain(story: Story) -> None:
    made = {p.name for p in story.parameters}
    for op in story.ops:
        assert {given.name for given in op.inputs.values()} <= made, op.name
        made.add(op.output)
        assert op.value.shape == op.gradient.shape
        assert 0 < op.forward < 10
        assert 0 < op.backward < 10
    assert {op.room for op in story.ops} == {"embedding", "mixer", "ffn", "head"}
    assert {op.layer for op in story.ops} == {None, 0, 1}


def test_the_states_of_the_scan_give_what_the_op_gave(model: calmgrad.Model, story: Story) -> None:
    scans = [op for op in story.ops if op.op == "selective_scan"]
    assert [scan.layer for scan in story.scans] == [0, 1]
    for op, scan in zip(scans, story.scans, strict=True):
        expected = op.value.T[scan.channels]
        np.testing.assert_allclose(scan.out, expected, atol=2e-6 * np.abs(expected).max())
        assert scan.h.shape == (len(scan.channels), len(TOKENS), 16)
        # What is told of the states is how they follow from each other.
        again = (1 - scan.lost[:, 1:]) * scan.h[:, :-1]
        again += (scan.dt * scan.u)[:, 1:, None] * scan.B[1:]
        np.testing.assert_allclose(scan.h[:, 1:], again, rtol=1e-9, atol=1e-12)
        weight = np.abs(op.value * op.gradient).sum(axis=0)
        assert scan.channels[0] == int(weight.argmax())
    chosen = tell_step(model, TOKENS, CMD_POS, channels=[5, 2])
    assert [scan.channels for scan in chosen.scans] == [[5, 2], [5, 2]]


def test_the_largest_changes(story: Story) -> None:
    changes = story.changes(20)
    sizes = [abs(c.change) for c in changes]
    assert sizes == sorted(sizes, reverse=True)
    everything = np.sort(np.abs(np.concatenate([p.change.ravel() for p in story.parameters])))
    np.testing.assert_array_equal(sizes, everything[::-1][:20])
    for c in changes:
        p = next(p for p in story.parameters if p.name == c.parameter)
        assert (p.value[c.index], p.gradient[c.index], p.change[c.index]) == (
            c.before,
            c.gradient,
            c.change,
        )
    assert len(story.changes(10**9)) == everything.size


def test_clipping_and_the_other_optimizer(model: calmgrad.Model) -> None:
    story = tell_step(
        model, TOKENS, CMD_POS, optimizer="sgd", lr=0.5, grad_clip=0.01, weight_decay=0.0
    )
    assert story.clip == pytest.approx(0.01 / story.grad_norm, rel=1e-3)
    for p in story.parameters:
        expected = -0.5 * story.clip * p.gradient
        np.testing.assert_allclose(p.change, expected, atol=3e-7)


@pytest.mark.parametrize(
    ("tokens", "cmd_pos", "channels", "message"),
    [
        ([257, 65], 1, [], "nothing to learn"),
        ([257, 65, 66], 0, [32], "channel 32: expected 0 to 31"),
        ([257, 400], 0, [], "token 400"),
        ([65] * 800, 0, [], "at most l_max"),
    ],
)
def test_what_cannot_be_told(
    model: calmgrad.Model, tokens: list[int], cmd_pos: int, channels: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        tell_step(model, tokens, cmd_pos, channels=channels)


def test_that_there_is_nothing_to_learn_is_told_after_one_pass(
    model: calmgrad.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []

    def counted(*args: Any, **options: Any) -> Trace:
        passes.append(args)
        return trace(*args, **options)

    monkeypatch.setattr(story_module, "trace", counted)
    with pytest.raises(ValueError, match="nothing to learn"):
        tell_step(model, [calmgrad.BOS, 65], 1)
    assert len(passes) == 1


def test_labels() -> None:
    assert [label(t) for t in (65, 32, 10, 0, 255, 258, 300)] == [
        "A", "␣", "\\n", "00", "FF", "EOS", ":300:",
    ]  # fmt: skip
    assert all(label(t).isprintable() for t in range(320))
    assert len({label(t) for t in range(320)}) == 320
    assert (layer_of("blocks.12.ln1"), layer_of("ln_f"), layer_of("blocks.3")) == (12, None, 3)


def test_the_summary_has_a_line_for_each_op_and_parameter(story: Story) -> None:
    told = summary(story)
    assert [op["name"] for op in told["ops"]] == [op.name for op in story.ops]
    scan = next(op for op in told["ops"] if op["op"] == "selective_scan")
    assert scan["inputs"]["u"]["name"] == "blocks.0.mixer.u"
    assert scan["inputs"]["z"]["columns"] == [32, 64]
    assert scan["value"]["max"] == pytest.approx(float(story.ops[5].value.max()))
    assert sum(p["gradient"]["norm"] ** 2 for p in told["parameters"]) ** 0.5 == pytest.approx(
        story.grad_norm, rel=1e-5
    )
