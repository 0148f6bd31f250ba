"""What others build their suites on: the strategies, and the pytest plugin in a run of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

import calmgrad
from calmgrad import model_check
from calmgrad.backend import NAMES, load
from calmgrad.config import ModelConfig
from calmgrad.gradient_check import GradientErrors
from calmgrad.layout import views
from calmgrad.ops.causal_conv1d import causal_conv1d
from calmgrad.ops.linear import linear
from calmgrad.tape import Tape, Tensor
from calmgrad.testing import (
    SIZES,
    Batch,
    Floats,
    Packed,
    Tokens,
    arrays,
    batches,
    model_configs,
    packed_sequences,
    token_sequences,
)

ROOT = Path(__file__).parents[1]
GradCheck = Callable[..., GradientErrors]


# --- strategies -----------------------------------------------------------------------------------


@given(found=arrays("T C", "C 3", "2", T=4))
def test_letters_stand_for_sizes(found: list[Floats]) -> None:
    x, w, pair = found
    assert x.shape[0] == 4
    assert x.shape[1] == w.shape[0]
    assert w.shape[1] == 3
    assert w.shape[0] in SIZES
    assert pair.shape == (2,)
    assert not np.array_equal(x[0, :1], x[1, :1])


def test_a_size_without_a_letter_is_refused() -> None:
    @settings(database=None, max_examples=1)
    @given(found=arrays("T D", C=4))
    def check(found: list[Floats]) -> None: ...

    with pytest.raises(ValueError, match="arrays: C is in none of the shapes T D"):
        check()


@given(positive=arrays("T C", positive=True), apart=arrays("T C", apart=True, scale=2.0))
def test_numbers_to_order(positive: list[Floats], apart: list[Floats]) -> None:
    assert positive[0].min() >= 0.5
    ordered = np.sort(apart[0], axis=None)
    assert (np.diff(ordered) > 0.199).all()


@given(inputs=arrays("T I", "I O"))
def test_gradients_of_linear(calm_gradcheck: GradCheck, inputs: list[Floats]) -> None:
    calm_gradcheck(linear, *inputs, directions=1)


@given(packed=packed_sequences(channels=3))
def test_gradients_of_a_convolution(calm_gradcheck: GradCheck, packed: Packed) -> None:
    def fn(x: Tensor, weight: Tensor) -> Tensor:
        return causal_conv1d(x, weight, packed.packing)

    assert packed.values.shape == (packed.packing.offsets[-1], 3)
    calm_gradcheck(fn, packed.values, np.arange(12.0).reshape(3, 4) / 12, directions=1)


@given(sequences=token_sequences(vocab=5))
def test_token_sequences(sequences: list[Tokens]) -> None:
    assert 1 <= len(sequences) <= 6
    for tokens in sequences:
        assert 2 <= len(tokens) <= 40
        assert 0 <= tokens.min() <= tokens.max() < 5


@given(batch=batches())
def test_batches_can_be_trained_on(batch: Batch) -> None:
    with calmgrad.Trainer(calmgrad.new_model(d_model=2, n_layers=1), threads=1) as trainer:
        assert trainer.step(*batch) > 0


@given(config=model_configs(max_d_model=6), batch=batches(max_sequences=2, max_length=8))
def test_gradients_of_models_of_any_size(config: ModelConfig, batch: Batch) -> None:
    weights = model_check.fresh_weights(config, seed=0)
    whole = model_check.whole(model_check.Batch(config, *batch), "loss", views(config, weights))
    for row in model_check.check(whole, model_check.Manner(load("cpu"), probes=1)):
        assert row.line is None


# --- the plugin -----------------------------------------------------------------------------------

SUITE = """\
def test_backends(calm_backend):
    assert calm_backend.name in ("reference", "cpu")

def test_tape(calm_tape):
    x = calm_tape.constant([3.0])
    from calmgrad.ops import basic
    calm_tape.backward(basic.mul(x, x))
    assert x.grad == 6

def test_gradcheck(calm_gradcheck):
    import numpy as np
    from calmgrad.ops import basic
    calm_gradcheck(basic.exp, np.ones(3))
"""


def pytest_run(folder: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    """pytest on a suite of one file, outside of this project."""
    (folder / "test_suite.py").write_text(SUITE)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r});"
               " import pytest; sys.exit(pytest.main(sys.argv[1:]))"]  # fmt: skip
    return subprocess.run(
        [*command, "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), *args, str(folder)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_fixtures_in_another_suite(tmp_path: Path) -> None:
    done = pytest_run(tmp_path, "-p", "pytest_calmgrad")
    assert done.returncode == 0, done.stdout
    assert f"{3 * len(NAMES)} passed" in done.stdout


def test_the_plugin_costs_other_suites_nothing() -> None:
    code = (
        "import pytest, sys; before = set(sys.modules); import pytest_calmgrad\n"
        "print(*{m.split('.')[0] for m in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["pytest_calmgrad"]


def test_a_lack_of_hypothesis_is_told() -> None:
    code = "import sys; sys.modules['hypothesis'] = None; import calmgrad.testing"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert last.endswith("calmgrad.testing needs hypothesis: pip install 'calmgrad[test]'")


def test_a_tape_of_its_own(calm_tape: Tape) -> None:
    assert calm_tape.dtype == "float64"
    assert not calm_tape.steps
