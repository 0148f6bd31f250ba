"""calmgrad warmup"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import calmgrad
from calmgrad.kernels.cpu import causal_conv1d, selective_scan
from tests.cli.conftest import Run


def test_nothing_is_compiled_after_it(run: Run, dataset: Path, tmp_path: Path) -> None:
    shared = Path(json.loads(run("warmup", "--json").stdout)["folder"])
    own = tmp_path / "cache"  # other tests compile into the shared one meanwhile
    folder = Path(shutil.copytree(shared, own / shared.name))
    for path in (own, folder):
        path.chmod(0o700)
    compiled = sorted(folder.rglob("*.nb[ci]"))
    assert compiled
    times = [file.stat().st_mtime_ns for file in compiled]
    train = ("train", "-m", "new", "-d", dataset, "--val-dataset", dataset, "--max-steps", 2)
    run(*train, cache=own)
    result = json.loads(run("warmup", "--json", cache=own).stdout)
    assert result["folder"] == str(folder)
    assert result["compiled"] == 0
    assert result["seconds"] > 0
    assert sorted(folder.rglob("*.nb[ci]")) == compiled
    assert [file.stat().st_mtime_ns for file in compiled] == times


@pytest.mark.parametrize("d_model", [16, 20])
def test_a_single_token_needs_no_kernel_of_its_own(d_model: int) -> None:
    """Columns of one row are contiguous, for which Numba would compile anew."""
    with calmgrad.Trainer(calmgrad.new_model(d_model=d_model, n_layers=1)) as trainer:
        trainer.step([[calmgrad.BOS, 65, 66]], [0])
        several = taken()
        trainer.step([[calmgrad.BOS, calmgrad.EOS]], [0])
        trainer.model.logits([65])
    assert taken() == several


def taken() -> list[Any]:
    """The types of which the kernels of convolution and scan are compiled in this process."""
    kernels = [
        selective_scan._forward_blocks, selective_scan._backward_blocks,
        selective_scan._forward_ragged, selective_scan._backward_ragged,
        causal_conv1d._forward_all, causal_conv1d._backward_all,
    ]  # fmt: skip
    return [list(kernel.signatures) for kernel in kernels]


def test_no_folder_to_keep_them(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("warmup", code=5, cache=tmp_path / "file" / "cache")
    assert done.stderr.splitlines()[-1].startswith("error: no private folder")
    assert done.stdout == ""


def test_verbose(run: Run) -> None:
    done = run("-v", "info", "nothing.cwgt", code=3)
    assert done.stderr.startswith("blas     ")
