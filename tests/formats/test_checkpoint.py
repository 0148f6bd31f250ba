"""Checkpoints: whole or refused, in one line; nothing in them is run."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import calmgrad
from calmgrad.errors import DiskError, DivergedError, FileError
from calmgrad.formats import checkpoint as checkpoints
from calmgrad.formats.folders import make_folder, remove_folder, remove_unfinished, write_folder

PARTS = [checkpoints.MODEL, checkpoints.TENSORS, checkpoints.STATE, checkpoints.SUMS]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint."""
    model = calmgrad.new_model(d_model=16, n_layers=1)
    with calmgrad.Trainer(model, threads=1) as trainer:
        trainer.save_checkpoint(tmp_path / "c", extra={"é": [1, None]})
    return tmp_path / "c"


def rewrite(path: Path, name: str, content: bytes) -> None:
    """Replace a part, the sums made to match."""
    was = hashlib.sha256((path / name).read_bytes()).hexdigest()
    (path / name).write_bytes(content)
    sums = (path / checkpoints.SUMS).read_text()
    sums = sums.replace(was, hashlib.sha256(content).hexdigest())
    (path / checkpoints.SUMS).write_text(sums)


def test_what_is_in_it(path: Path) -> None:
    assert sorted(p.name for p in path.iterdir()) == sorted(PARTS)
    assert [p.name for p in path.parent.iterdir()] == ["c"]
    read = checkpoints.read(path)
    assert read.state.extra == {"é": [1, None]}
    assert set(read.buffers) == {"adam_m", "adam_v"}
    calmgrad.load_model(path / "model.cwgt")
    done = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=path, capture_output=True)
    assert done.returncode == 0


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_missing_or_damaged(path: Path, name: str) -> None:
    content = (path / name).read_bytes()
    for damaged in (b"", content[:-1], content + b"\n", bytes([content[0] ^ 1]) + content[1:]):
        (path / name).write_bytes(damaged)
        with pytest.raises(FileError, match="is damaged"):
            checkpoints.read(path)
    (path / name).unlink()
    with pytest.raises(FileError, match=f"{name}: no such file"):
        checkpoints.read(path)
    (path / name).mkdir()
    with pytest.raises(FileError, match="is a directory"):
        checkpoints.read(path)


WRONG_STATES: list[tuple[dict[str, Any], str]] = [
    ({"format": 2}, "checkpoint format 2: this version reads 1"),
    ({"more": 1}, "unknown field `more`"),
    ({"a\n" + "b" * 5000: 1}, r"unknown field `a\\nbbb"),
    ({"training": {}}, "missing required field"),
    ({"training": None}, "Expected `object`, got `null`"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_STATES, ids=lambda value: str(value)[:16])
def test_a_state_of_another_kind(path: Path, change: dict[str, Any], message: str) -> None:
    state = json.loads((path / checkpoints.STATE).read_bytes())
    rewrite(path, checkpoints.STATE, json.dumps({**state, **change}).encode())
    with pytest.raises(FileError, match=message) as caught:
        checkpoints.read(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_buffers_of_another_kind(path: Path) -> None:
    import safetensors.numpy

    m = checkpoints.read(path).buffers["adam_m"]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"adam_m": m[:-1]}, r"adam_m: float32 \(\d+,\): expected float32"),
        ({"adam_m": m.astype("f8")}, "adam_m: float64"),
        ({"other": m}, "'other': expected one of adam_m"),
    ]
    for buffers, message in wrong:
        rewrite(path, checkpoints.TENSORS, safetensors.numpy.save(buffers))
        with pytest.raises(FileError, match=message):
            checkpoints.read(path)
    rewrite(path, checkpoints.TENSORS, b"\x80\x04}.")  # a pickle
    with pytest.raises(FileError, match=r"training\.safetensors: "):
        checkpoints.read(path)


def test_weights_that_are_not_finite_are_not_saved(path: Path) -> None:
    before = (path / checkpoints.MODEL).read_bytes()
    model = calmgrad.new_model(d_model=16, n_layers=1)
    with calmgrad.Trainer(model, threads=1) as trainer:
        model.weights[5] = np.inf
        with pytest.raises(DivergedError, match="not finite"):
            trainer.save_checkpoint(path)
    assert (path / checkpoints.MODEL).read_bytes() == before


def test_steps_in_a_folder(tmp_path: Path) -> None:
    for name in ("step-000002", "step-000010.old", "step-1000000", "step-3", "step-000004.unused"):
        (tmp_path / name).mkdir()
    assert list(checkpoints.steps_in(tmp_path)) == [1000000, 10, 2]
    assert checkpoints.steps_in(tmp_path / "none") == {}


def test_one_that_was_being_replaced(path: Path) -> None:
    path.rename(path.with_name("c.old"))
    assert checkpoints.read(path).state.extra == {"é": [1, None]}


# --- folders --------------------------------------------------------------------------------------


def test_a_folder_all_at_once(tmp_path: Path) -> None:
    target = tmp_path / "f"
    write_folder(target, {"a": [b"1"]})
    write_folder(target, {"b": [b"2", b"3"]})
    assert {p.name: p.read_bytes() for p in target.iterdir()} == {"b": b"23"}
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    with pytest.raises(DiskError, match="there is no folder"):
        write_folder(tmp_path / "none" / "f", {"a": [b"1"]})


def test_folders_are_made_and_removed(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "file").touch()
    remove_folder(tmp_path / "a" / "b")
    remove_folder(tmp_path / "a" / "none")
    assert list((tmp_path / "a").iterdir()) == []
    (tmp_path / ".calmgrad-1-ff.tmp").mkdir()
    (tmp_path / ".calmgrad-2-ff.tmp").touch()
    (tmp_path / ".other.tmp").touch()
    remove_unfinished(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"a", ".other.tmp"}
