"""Dumps: both layouts give back what was put in; whatever breaks a rule is refused in one line."""

import io
import re
import shutil
import subprocess
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calmgrad.errors import FileError
from calmgrad.formats import dump as dumps
from calmgrad.formats.dump import Dump, read, write

ROOT = Path(__file__).parents[2]


def example() -> Dump:
    arrays: dict[str, NDArray[Any]] = {
        "tokens": np.array([257, 65, 258], np.int64),
        "blocks.0.ln1": np.arange(6, dtype=np.float32).reshape(3, 2),
        "grad/blocks.0.ln1": np.full((3, 2), np.nan),
        "loss": np.array(1.5, np.float32),
        "empty": np.zeros((0, 4), np.float16),
        "bytes": np.array([1, 2], np.uint8),
    }
    return Dump(arrays, {"reduction": "token", "lr": 0.1, "update": 3})


@pytest.mark.parametrize("raw", [True, False])
def test_what_is_written_is_read(tmp_path: Path, raw: bool) -> None:
    path, dump = tmp_path / "a", example()
    write(path, dump, raw)
    back = read(path)
    assert back.settings == dump.settings
    assert list(back.arrays) == list(dump.arrays)
    for name, array in dump.arrays.items():
        assert back.arrays[name].dtype == array.dtype
        assert np.array_equal(back.arrays[name], array, equal_nan=array.dtype.kind == "f")
        assert back.arrays[name].shape == array.shape
    first = path.read_bytes()
    write(path, back, raw)
    assert path.read_bytes() == first


def test_big_endian_and_columns_first_are_understood(tmp_path: Path) -> None:
    path, array = tmp_path / "a.npz", np.arange(6.0).reshape(2, 3)
    np.savez(path, a=array.astype(">f8"), b=np.asfortranarray(array))
    back = read(path).arrays
    assert np.array_equal(back["a"], array)
    assert np.array_equal(back["b"], array)
    assert back["a"].dtype.isnative


def test_a_c_program_writes_one(tmp_path: Path) -> None:
    """The lines of docs/dumps.md, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    page = (ROOT / "docs" / "dumps.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```c\n(.*?)```", page, re.DOTALL)
    main = """
    int main(void)
    {
        float x[6] = {0, 1, 2, 3, 4, 5};
        int tokens[3] = {257, 65, 258};
        FILE *f = dump_begin("c.dump");
        put_tokens(f, "tokens", tokens, 3);
        put(f, "blocks.0.ln1", x, 3, 2);
        return dump_end(f);
    }
    """
    (tmp_path / "c.c").write_text(code + main)
    subprocess.run([compiler, "-Wall", "-Werror", "-o", "c", "c.c"], cwd=tmp_path, check=True)
    subprocess.run(["./c"], cwd=tmp_path, check=True)
    arrays = read(tmp_path / "c.dump").arrays
    assert arrays["tokens"].tolist() == [257, 65, 258]
    assert arrays["blocks.0.ln1"].tolist() == [[0, 1], [2, 3], [4, 5]]


HEAD, X = b"calmdump 1\n", b"x f32 2\n" + bytes(8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with"),
        (b"calmdump 2\nend\n", "begins with"),
        (HEAD, "expected another array or the line 'end'"),
        (HEAD + X, "expected another array or the line 'end'"),
        (HEAD + X + b"end", "expected a line NAME TYPE DIMENSIONS"),
        (HEAD + X + b"end\n\n", "1 bytes after the line 'end'"),
        (HEAD + b"x f32 3\n" + bytes(8) + b"end\n", "x"),
        (HEAD + b"x f32 2\n" + bytes(4), "ends at byte .*the array x"),
        (HEAD + X + X + b"end\n", "x a second time"),
        (HEAD + b"x f33 2\n" + bytes(8) + b"end\n", "type 'f33': expected f32"),
        (HEAD + b"x f32 -2\nend\n", "expected whole numbers"),
        (HEAD + b"x f32 1e3\nend\n", "expected whole numbers"),
        (HEAD + b"x f32 999999999999 999999999999\nend\n", "ends at byte"),
        (HEAD + b"x f32 1 1 1 1 1\nend\n", "expected whole numbers"),
        (HEAD + b"x\nend\n", "expected NAME TYPE DIMENSIONS"),
        (HEAD + b"x  f32\nend\n", "expected whole numbers"),
        (HEAD + b"\xff\xfe f32 0\nend\n", "expected NAME TYPE DIMENSIONS"),
        (HEAD + b"\x1b[2J f32 0\nend\n", "expected NAME TYPE DIMENSIONS"),
        (HEAD + b"a" * 600, "expected a line NAME TYPE DIMENSIONS"),
        (HEAD + b"settings json 5\n{\"a\":end\n", "expected JSON"),
        (HEAD + b"settings json 2\n[]end\n", "expected a JSON object"),
        (HEAD + b"settings json 9\n{\"a\":[1]}end\n", "expected a JSON object"),
        (HEAD + b"settings f32 0\nend\n", "expected settings json"),
    ],
)  # fmt: skip
def test_a_broken_raw_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.dump"
    path.write_bytes(content)
    with pytest.raises(FileError, match=message) as caught:
        read(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def npz(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(array: object, **keys: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array), **keys)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + bytes(40), "is no .npz file"),
        (npz({"x.npy": b"hello"}), "no array that can be read"),
        (npz({"x.npy": npy(np.array([{}], object), allow_pickle=True)}), "type object"),
        (npz({"x.npy": npy(["text"])}), "type <U4"),
        (npz({"x.npy": npy(np.zeros(3, complex))}), "type complex128"),
        (npz({"x.npy": npy(np.zeros(3))[:-4]}), "20 bytes: expected float64"),
        (npz({"x y.npy": npy(1.0)}), "expected names"),
        (npz({"settings.npy": npy(1.0)}), "expected JSON|JSON object"),
        (npz({"x.npy": bytes(10**7)}, zipfile.ZIP_DEFLATED), "no array|bytes out of"),
        (
            npz({"x.npy": npy(np.zeros(3)).replace(b"(3,)", b"(9" + b"9" * 2 + b",)")}),
            "no array|expected float64",
        ),
    ],
)
def test_a_broken_npz_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(FileError, match=message) as caught:
        read(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("raw", [True, False])
def test_mutated_files_are_read_or_refused(tmp_path: Path, raw: bool) -> None:
    path = tmp_path / "a"
    write(path, example(), raw)
    right = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(300):
        wrong = bytearray(right)
        for at in rng.integers(0, len(wrong), rng.integers(1, 4)):
            wrong[at] = rng.integers(0, 256)
        path.write_bytes(bytes(wrong[: rng.integers(1, len(wrong) + 1)]))
        with suppress(FileError):
            read(path)


def test_what_the_format_does_not_hold_is_not_written(tmp_path: Path) -> None:
    for name, array in (("a b", np.zeros(1)), ("settings", np.zeros(1)), ("a", np.zeros(1, bool))):
        with pytest.raises(ValueError, match="expected"):
            write(tmp_path / "a", Dump({name: array}), raw=True)
    assert not (tmp_path / "a").exists()


def test_an_npz_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "a.npz", loss=np.zeros(100_000))
    assert read(tmp_path / "a.npz").arrays["loss"].size == 100_000
    monkeypatch.setattr(dumps, "UNPACKED", 1000)
    with pytest.raises(FileError, match=r"800,128 bytes packed in [\d,]+: too many"):
        read(tmp_path / "a.npz")


def test_a_line_that_ends_as_on_windows_is_shown(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"calmdump 1\r\nend\r\n")
    with pytest.raises(FileError, match=r"calmdump 1\\r"):
        read(tmp_path / "a")
