"""A short run on real shell commands, where they are there."""

from pathlib import Path

import numpy as np

import calmgrad
from calmgrad.conversion import convert_text


def test_a_short_run_learns(shared: Path, tmp_path: Path) -> None:
    text = shared / "data" / "shell.val.txt"
    summary = convert_text(text, tmp_path / "train.ctds", val_split=0.04, strict=True,
                           val_output=tmp_path / "val.ctds")  # fmt: skip
    assert summary.blocks == 4710
    result = calmgrad.train(
        model="new", size="nano", dataset=tmp_path / "train.ctds",
        val_dataset=tmp_path / "val.ctds", save_dir=tmp_path / "run", max_steps=80,
        lr=3e-3, warmup_steps=20, rules="calm-mamba",
    )  # fmt: skip
    assert result.best is not None
    # Better than any model that knows only how often each token comes.
    held_out = calmgrad.load_dataset(tmp_path / "val.ctds")
    counts = np.bincount(np.concatenate([tokens[atn + 1 :] for tokens, atn in held_out]))
    share = counts[counts > 0] / counts.sum()
    unigram = -(share * np.log(share)).sum()
    assert result.best.loss < unigram - 0.3
