"""A small model, a step on it told once for all tests of this folder."""

from pathlib import Path

import numpy as np
import pytest

import calmgrad
from calmgrad.explain import Story, tell_step

ROOT = Path(__file__).parents[2]
LINE = b"<x>/\xff\xd7\x90 \x00'\""
TOKENS = [calmgrad.BOS, calmgrad.CWD, *b"/src", calmgrad.END, calmgrad.ATN, calmgrad.CMD, *LINE,
          300, calmgrad.EOS]  # fmt: skip
CMD_POS = TOKENS.index(calmgrad.ATN)


@pytest.fixture(scope="session")
def model() -> calmgrad.Model:
    """Two blocks, with weights that are not those of the beginning."""
    model = calmgrad.new_model(d_model=16, n_layers=2, seed=3)
    model.weights += np.random.default_rng(0).normal(0, 0.1, model.weights.size).astype("float32")
    return model


@pytest.fixture(scope="session")
def story(model: calmgrad.Model) -> Story:
    return tell_step(model, TOKENS, CMD_POS)
