"""A short run on real shell commands, where they are there."""

import re
from pathlib import Path

import numpy as np

import calmgrad
from calmgrad import ATN, BOS, CMD, CWD, END, EOS, EXIT, GIT, HIST

FRAMES = {"CWD": CWD, "GIT": GIT, "HIST": HIST, "CMD": CMD}


def sequences_of(text: str) -> tuple[list[list[int]], list[int]]:
    """Blocks of `<CWD>`, `<GIT>`, `<HIST>` and `<CMD>` lines as sequences (FORMATS §6)."""
    sequences, positions = [], []
    for block in re.split(r"\n\s*\n", text.strip()):
        tokens, position = [BOS], 0
        for line in block.splitlines():
            frame, body = re.match(r"<([A-Z]+)>(.*)", line.strip()).groups()  # type: ignore[union-attr]
            if frame == "CMD":
                position = position or len(tokens)
                tokens.append(ATN)
            command, _, code = body.partition("<EXIT>")
            tokens += [FRAMES[frame], *command.encode()]
            tokens += [EXIT, *code.encode()] if code else []
            tokens.append(END)
        sequences.append([*tokens, EOS])
        positions.append(position)
    return sequences, positions


def test_a_short_run_learns(shared: Path, tmp_path: Path) -> None:
    text = (shared / "data" / "shell.val.txt").read_text(encoding="utf-8")
    sequences, positions = sequences_of(text)
    assert len(sequences) == 4710
    held_out = range(200)
    calmgrad.write_dataset(tmp_path / "train.ctds", sequences[200:], positions[200:])
    calmgrad.write_dataset(tmp_path / "val.ctds", sequences[:200], positions[:200])
    result = calmgrad.train(
        model="new", size="nano", dataset=tmp_path / "train.ctds",
        val_dataset=tmp_path / "val.ctds", save_dir=tmp_path / "run", max_steps=80,
        lr=3e-3, warmup_steps=20, rules="calm-mamba",
    )  # fmt: skip
    assert result.best is not None
    # Better than any model that knows only how often each token comes.
    targets = [t for i in held_out for t in sequences[i][positions[i] + 1 :]]
    counts = np.bincount(targets)
    share = counts[counts > 0] / len(targets)
    unigram = -(share * np.log(share)).sum()
    assert result.best.loss < unigram - 0.3
