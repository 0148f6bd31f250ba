"""Index files: what is written comes back, and nothing else is taken for one."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from calmgrad.errors import FileError
from calmgrad.formats.index import TENSORS, About, Contents, read, write


def some(dtype: str = "float32") -> Contents:
    rows = np.random.default_rng(0).standard_normal((3, 4)).astype(dtype)
    return Contents(
        rows, "onezweitrès".encode(), np.array([3, 7, 12]), np.array([0, 0, 1], np.int32),
        np.array([1, 5, 1]), About(1, "0" * 63 + "f", "../model.cwgt", "mean", ["a", "b"]),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "x.index"
    write(path, some(dtype))
    first = path.read_bytes()
    back, expected = read(path), some(dtype)
    for name in Contents.__dataclass_fields__:
        got, wanted = getattr(back, name), getattr(expected, name)
        if isinstance(wanted, np.ndarray):
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted)
        elif name == "about":
            assert msgspec.structs.replace(got, sha256="") == wanted
        else:
            assert got == wanted
    write(path, back)
    assert path.read_bytes() == first


def parts(**changed: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors and metadata of an index, with some of them replaced; None: left out."""
    contents = some()
    tensors = {name: getattr(contents, name) for name in TENSORS}
    tensors["text"] = np.frombuffer(contents.text, np.uint8)
    about = msgspec.to_builtins(contents.about)
    for name, value in changed.items():
        home: dict[str, Any] = tensors if name in TENSORS or name == "more" else about
        home[name] = value
        if value is None:
            del home[name]
    return tensors, {"about": json.dumps(about)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"more": np.zeros(1)}, "expected the tensors embeddings, text"),
        ({"line": None}, "expected the tensors embeddings, text"),
        ({"format": 2}, "no index that this version reads: expected format 1"),
        ({"format": None}, "no index that this version reads"),
        ({"embeddings": np.zeros((3, 4))}, r"embeddings is F64 \[3, 4\]"),
        ({"embeddings": np.zeros(12, np.float32)}, r"embeddings is F32 \[12\]"),
        ({"embeddings": np.zeros((0, 4), np.float32)}, "expected a text or more"),
        ({"embeddings": np.zeros((3, 0), np.float32)}, "expected a text or more"),
        ({"embeddings": np.zeros((2, 4), np.float32)}, "an embedding for each"),
        ({"embeddings": np.full((3, 4), np.nan, np.float32)}, "expected finite numbers"),
        ({"ends": np.array([3, 2, 12])}, "ends of the texts in order"),
        ({"ends": np.array([-1, 2, 12])}, "ends of the texts in order"),
        ({"ends": np.array([3, 7, 13])}, "ends of the texts in order"),
        ({"ends": np.array([3, 12])}, "an embedding for each"),
        ({"file": np.array([0, 0, 2], np.int32)}, "file numbers from 0 to 1"),
        ({"file": np.array([0, 0, -1], np.int32)}, "file numbers from 0 to 1"),
        ({"files": []}, "damaged: .*files"),
        ({"files": [1]}, "damaged: .*files"),
        ({"files": None}, "damaged: .*files"),
        ({"model_sha256": "f" * 63}, "damaged: .*model_sha256"),
        ({"pool": "max"}, "damaged: .*pool"),
        ({"model": ""}, "damaged: .*model"),
        ({"extra": 1}, "damaged: .*extra"),
    ],
)
def test_damaged(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = tmp_path / "x.index"
    path.write_bytes(save(*parts(**changed)))
    with pytest.raises(FileError, match=message):
        read(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        b"\xff" * 64,
        b"CWGT" + b"\0" * 60,
        pickle.dumps({"embeddings": [1.0]}),
        (2).to_bytes(8, "little") + b"{}",
        (9).to_bytes(8, "little") + b"[1,2,3,4]",
        (10**6).to_bytes(8, "little") + b"[" * 10**6,
        (1 << 60).to_bytes(8, "little") + b"{}",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_no_index_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.index"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"x\.index: "):
        read(path)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    write(path, some())
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(FileError):
            read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(FileError):
        read(path)


def test_a_changed_byte_of_the_contents_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    write(path, some())
    whole = path.read_bytes()
    for at in range(8 + int.from_bytes(whole[:8], "little"), len(whole), 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(FileError, match="is damaged"):
            read(path)


@given(st.integers(0, 2000), st.integers(0, 255))
def test_a_changed_byte_is_an_error_or_another_index(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    """Never another exception."""
    path = tmp_path_factory.mktemp("index") / "x.index"
    write(path, some())
    content = bytearray(path.read_bytes())
    content[at % len(content)] = value
    path.write_bytes(content)
    try:
        read(path)
    except FileError:
        pass


def test_an_index_needs_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    for metadata in (None, {}, {"about": ""}, {"about": "[" * 9999}, {"about": "[]"}):
        path.write_bytes(save(parts()[0], metadata))
        with pytest.raises(FileError, match="is no index"):
            read(path)


def test_a_failed_write_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    write(path, some())
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write(path, replace(some(), about=object()))  # type: ignore[arg-type]
    assert path.read_bytes() == before
