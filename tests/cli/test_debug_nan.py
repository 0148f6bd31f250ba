"""train --debug-nan"""

from pathlib import Path

import calmgrad
from tests.cli.conftest import Run


def test_a_run_that_diverges(run: Run, dataset: Path, tmp_path: Path) -> None:
    calmgrad.new_model(d_model=16, n_layers=2).save(tmp_path / "m.cwgt")
    before = (tmp_path / "m.cwgt").read_bytes()
    arguments = ["train", "-m", "m.cwgt", "-d", dataset, "--lr", "1e30", "--max-steps", 5]
    plain = run(*arguments, code=4).stderr.splitlines()[-1]
    assert plain.startswith("error: step 2: loss nan, gradient norm nan: ")
    assert plain.endswith("; --debug-nan finds where it began")
    said = run(*arguments, "--debug-nan", code=4).stderr.splitlines()
    assert said[-1].startswith(plain.partition("; --debug-nan")[0])
    assert "inf first in the output of linear in " in said[-1]
    assert ", sequence " in said[-1]
    assert said[-1].endswith(" of the data)")
    assert any(line.startswith("before   embedding in token_emb: up to 1e+30") for line in said)
    assert (tmp_path / "m.cwgt").read_bytes() == before
