"""A pass with everything kept: the numbers are training's, and each op has its name and place."""

import numpy as np
import pytest

import calmgrad
from calmgrad.trace import Input, Trace, trace

TEXTS = [b"ls -la", b"git add .", b"make"]
SEQUENCES = [[calmgrad.BOS, *text, calmgrad.EOS] for text in TEXTS]
POSITIONS = [0, 4, 0]
BLOCK = [
    "blocks.0.ln1", "blocks.0.mixer.in_proj", "blocks.0.mixer.conv1d", "blocks.0.mixer.x_proj",
    "blocks.0.mixer.selective_scan", "blocks.0.mixer.out_proj", "blocks.0.ln2",
    "blocks.0.ffn_fc1", "blocks.0.gelu", "blocks.0.ffn_fc2",
]  # fmt: skip


def model() -> calmgrad.Model:
    return calmgrad.new_model(d_model=16, n_layers=1, d_state=4, seed=1)


def traced(**keys: object) -> Trace:
    m = model()
    return trace(m.config, m.weights, SEQUENCES, POSITIONS, **keys)  # type: ignore[arg-type]


def test_ops_come_in_order_with_their_names() -> None:
    names = [record.name for record in traced().records]
    assert names == ["token_emb", *BLOCK, "ln_f", "logits", "nll", "loss"]
    names = [record.name for record in traced(every_position=False).records]
    assert names == ["token_emb", *BLOCK, "targets_only", "ln_f", "logits", "nll", "loss"]


def test_inputs_name_values_columns_and_parameters() -> None:
    found = traced()
    scan = found.record("blocks.0.mixer.selective_scan")
    assert scan.inputs["u"] == Input("blocks.0.mixer.u")
    assert scan.inputs["z"] == Input("blocks.0.mixer.in_proj", (32, 64))
    assert scan.inputs["A_log"] == Input("blocks.0.mixer.A_log", None, True)
    assert scan.saved == {k: f"blocks.0.mixer.{k}" for k in ("dt", "y", "h")}
    known = {*found.values, *found.parameters}
    for record in found.records:
        assert {x.name for x in record.inputs.values()} | set(record.saved.values()) <= known
        assert record.output in found.values
        assert found.gradients[record.output].shape == found.values[record.output].shape


@pytest.mark.parametrize("reduction", ["sequence", "token"])
@pytest.mark.parametrize("every_position", [True, False])
def test_loss_and_gradient_are_the_trainers(reduction: str, every_position: bool) -> None:
    m = model()
    with calmgrad.Trainer(m, lr=0, reduction=reduction) as trainer:
        loss = trainer.step(SEQUENCES, POSITIONS)
        found = traced(reduction=reduction, every_position=every_position)
        assert found.loss == pytest.approx(loss, rel=1e-6)
        np.testing.assert_allclose(found.grads, trainer.grads, rtol=2e-4, atol=1e-7)
        assert np.array_equal(found.gradients["ln_f.bias"], found.grads[-16:])


def test_gradients_of_activations_are_whole() -> None:
    """By definition: the loss' slope, here by the one linear op behind a value."""
    found = traced(dtype="float64", backend="reference")
    block = found.parameters["blocks.0.ffn_fc2.weight"]
    after = found.gradients["blocks.0.residual2"]
    np.testing.assert_allclose(found.gradients["blocks.0.gelu"], after @ block.T, rtol=1e-12)
    rows = found.gradients["token_emb"]
    table = np.zeros((320, 16))
    np.add.at(table, found.batch.tokens, rows)
    np.add(table, found.gradients["logits"].T @ found.values["ln_f"], out=table)
    np.testing.assert_allclose(found.gradients["token_emb.weight"], table, rtol=1e-9, atol=1e-15)


def test_values_are_copies() -> None:
    """The tape gives its memory to the next op; a trace keeps what was there."""
    found = traced(dtype="float64")
    y, z = found.values["blocks.0.mixer.y"], found.values["blocks.0.mixer.in_proj"][:, 32:]
    np.testing.assert_allclose(found.values["blocks.0.mixer.gated"], y * z / (1 + np.exp(-z)))


def test_a_sequence_without_targets_gets_no_gradient() -> None:
    m = model()
    found = trace(m.config, m.weights, [[65, 66, 67]], [2])
    assert found.loss == 0
    assert not found.grads.any()
    assert not found.gradients["token_emb"].any()


def test_wrong_settings_are_refused() -> None:
    for keys in ({"dtype": "float16"}, {"reduction": "sum"}, {"backend": "abacus"}):
        with pytest.raises(ValueError, match="expected"):
            traced(**keys)
    m = model()
    with pytest.raises(ValueError, match="as many of both"):
        trace(m.config, m.weights, [], [])
