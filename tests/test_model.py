"""New models, what goes into them and comes out, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

import calmgrad
from calmgrad.config import PRESETS, ModelConfig, resolve
from calmgrad.domains import DOMAINS
from calmgrad.model import Model


@pytest.mark.parametrize(
    ("size", "count"),
    [("nano", 168_064), ("micro", 649_152), ("mini", 1_876_736), ("small", 6_445_440)],
)
def test_presets(size: str, count: int) -> None:
    assert PRESETS[size].model.param_count == count
    assert calmgrad.new_model(size).weights.size == count


def test_initial_values() -> None:
    model = calmgrad.new_model("mini", seed=3)
    p = {k: v.astype(np.float64) for k, v in model.parameters.items()}
    block = "blocks.2.mixer"
    assert p["token_emb.weight"].std() == pytest.approx(0.02, rel=0.02)
    assert p[f"{block}.in_proj.weight"].std() == pytest.approx(0.02, rel=0.02)
    assert p[f"{block}.conv1d_weight"].std() == pytest.approx(0.02, rel=0.1)
    assert p[f"{block}.out_proj.weight"].std() == pytest.approx(0.02 / 12**0.5, rel=0.02)
    assert p["blocks.5.ffn_fc2.weight"].std() == pytest.approx(0.02 / 12**0.5, rel=0.02)
    dt_weight = p[f"{block}.dt_proj.weight"]
    assert 0.99 * 8**-0.5 < np.abs(dt_weight).max() <= 8**-0.5
    dt = np.log1p(np.exp(p[f"{block}.dt_proj.bias"]))  # log-uniform: as many in each decade
    assert 0.001 * 0.999 < dt.min() < dt.max() < 0.1 * 1.001
    assert (dt < 0.01).mean() == pytest.approx(0.5, abs=0.1)
    np.testing.assert_allclose(p[f"{block}.A_log"], np.log(np.arange(1, 17))[None].repeat(384, 0))
    assert (p[f"{block}.D"] == 1).all()
    assert (p["ln_f.weight"] == 1).all()
    assert (p["blocks.0.ln1.bias"] == 0).all()


def test_the_seed_decides() -> None:
    a, b, c = (calmgrad.new_model("nano", seed=s).weights.tobytes() for s in (1, 1, 2))
    assert a == b != c


def test_sizes_replace_the_presets() -> None:
    config = calmgrad.new_model("mini", d_model=48, d_state=7).config
    assert config == ModelConfig(48, 6, 4, 3, d_state=7, dt_rank=3)
    assert resolve(None, {}).expand == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "huge"}, "unknown model size 'huge': expected one of nano, micro, mini, small"),
        ({"n_layers": 17}, "n_layers = 17: expected 1 to 16"),
        ({"d_state": 0}, "d_state = 0: expected 1 to 255"),
        ({"d_model": 64.0}, "d_model: expected a whole number"),
        ({"sampler_defaults": {"heat": 1}}, "expected any of temperature, top_k"),
        ({"sampler_defaults": {"top_p": 2}}, "top_p = 2: expected from 0 to 1"),
    ],
)
def test_bad_sizes(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calmgrad.new_model(**arguments)  # type: ignore[arg-type]


def test_metadata_of_a_new_model(tmp_path: Path) -> None:
    model = calmgrad.new_model(
        d_model=16, n_layers=1, domain="shell", sampler_defaults={"temperature": 0.8}
    )
    assert model.metadata == DOMAINS["shell"].metadata
    assert model.sampler.temperature == 0.8
    assert model.sampler.top_k == 5
    model.save(tmp_path / "m.cwgt")
    again = calmgrad.load_model(tmp_path / "m.cwgt")
    assert (again.metadata, again.sampler) == (model.metadata, model.sampler)
    assert calmgrad.new_model(d_model=16).metadata.to_bytes() == b""


def test_long_sequences_keep_their_last_tokens() -> None:
    model = calmgrad.new_model(d_model=16, n_layers=2, l_max=32)
    tokens = np.random.default_rng(0).integers(0, 320, 50)
    assert model.logits(tokens).shape == (32, 320)
    np.testing.assert_array_equal(model.logits(tokens), model.logits(tokens[-32:]))
    np.testing.assert_array_equal(model.embed(tokens), model.embed(tokens[-32:]))
    with pytest.raises(ValueError, match="50 tokens, expected at most l_max = 32"):
        model.loss(tokens)


def test_loss_is_the_mean_over_the_targets() -> None:
    model = calmgrad.new_model(d_model=16, n_layers=2, seed=5)
    tokens = [257, 72, 105, 259, 264, 108, 115, 256, 258]
    logits = model.logits(tokens).astype(np.float64)
    nll = np.log(np.exp(logits).sum(1))[:-1] - logits[np.arange(8), tokens[1:]]
    wanted = [3, 4, 5, 7]  # from ATN on; PAD (position 6 would predict it) is no target
    assert model.loss(tokens, 3) == pytest.approx(nll[wanted].mean(), rel=1e-6)
    assert model.loss(tokens, 8) == 0
    assert model.loss([65], 0) == 0


def test_embed_has_length_one() -> None:
    model = calmgrad.new_model(d_model=16, n_layers=2)
    assert np.linalg.norm(model.embed([257, 65, 258])) == pytest.approx(1, rel=1e-6)
    raw = model.embed([257, 65, 258], pool="last", normalize=False)
    unit = model.embed([257, 65, 258], pool="last")
    np.testing.assert_allclose(raw / np.linalg.norm(raw), unit, rtol=1e-5)
    with pytest.raises(ValueError, match="pool 'max': expected mean or last"):
        model.embed([65], pool="max")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "expected \\(n,\\) with n at least 1"),
        ([65, 320], "token 320 at position 1: expected 0 to 319"),
        (np.array([65, 2**64 - 1], np.uint64), "token 18446744073709551615 at position 1"),
        ([-1], "token -1 at position 0"),
        ([1.5], "expected whole numbers"),
        ([[1, 2]], "shape \\(1, 2\\)"),
    ],
)
def test_bad_tokens(tokens: list[int], message: str) -> None:
    model = calmgrad.new_model(d_model=16, n_layers=1)
    for use in (model.logits, model.loss, lambda tokens: model.embed([[65], tokens])):
        with pytest.raises(ValueError, match=message):
            use(tokens)


def test_forward_passes_take_no_new_memory() -> None:
    model = calmgrad.new_model(d_model=16, n_layers=3)
    sizes = set()
    for _ in range(3):
        model.logits(np.arange(200))
        sizes.add(forward_capacity(model))
    assert len(sizes) == 1
    # Blocks give their memory back: six layers need hardly more than three.
    deep = calmgrad.new_model(d_model=16, n_layers=6)
    deep.logits(np.arange(200))
    assert forward_capacity(deep) < 1.3 * sizes.pop()


def forward_capacity(model: Model) -> int:
    """Elements that the arena of the model's one worker holds."""
    assert model._runner is not None
    [worker] = model._runner._workers
    return worker.forward_tape.values.capacity


def test_a_closed_model_keeps_its_weights() -> None:
    with calmgrad.new_model(d_model=16, n_layers=1) as model:
        before = model.logits([65, 66])
    np.testing.assert_array_equal(model.logits([65, 66]), before)
