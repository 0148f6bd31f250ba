"""Indexes of texts: built, saved, searched."""

from pathlib import Path

import numpy as np
import pytest

import calmgrad
from calmgrad.errors import FileError, UsageError
from calmgrad.model import Model
from calmgrad.search import Index, best_of, fingerprint, model_of
from calmgrad.texts import Text, read_texts

TEXTS = ["the quick brown fox", "zzzz", "1234567890", "  \n", "naïve café"]


@pytest.fixture(scope="module")
def model() -> Model:
    return calmgrad.new_model(d_model=24, n_layers=2, seed=1)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_text_finds_itself(model: Model, tmp_path: Path, dtype: str) -> None:
    index = Index.build(model, TEXTS, dtype=dtype)
    index.save(tmp_path / "x.index")
    index = Index.load(tmp_path / "x.index")
    assert len(index) == 4  # blank texts are left out
    kept = [text for text in TEXTS if text.strip()]
    assert [index.text(row) for row in range(4)] == kept
    for hits, text in zip(index.search(model, kept, k=2), kept, strict=True):
        assert hits[0].text == text
        assert hits[0].score == pytest.approx(1, abs=1e-3)
        assert hits[0].line == TEXTS.index(text) + 1
        assert hits[0].score >= hits[1].score


def test_scores_are_cosines(model: Model) -> None:
    index = Index.build(model, TEXTS)
    query = model.embed("query")
    [hits] = index.search(model, ["query"], k=100)
    assert len(hits) == 4
    for hit in hits:
        assert hit.score == pytest.approx(float(query @ model.embed(hit.text)), abs=1e-5)


def test_threads_change_no_byte(model: Model, tmp_path: Path) -> None:
    files = []
    for threads in (1, 3):
        Index.build(model, TEXTS * 50, threads=threads).save(tmp_path / "x.index")
        files.append((tmp_path / "x.index").read_bytes())
    assert files[0] == files[1]


def test_another_model_is_refused(model: Model) -> None:
    index = Index.build(model, TEXTS)
    other = calmgrad.new_model(d_model=24, n_layers=2, seed=2)
    with pytest.raises(UsageError, match="made with another model"):
        index.search(other, ["query"])
    # What does not decide embeddings does not matter.
    same = calmgrad.new_model(d_model=24, n_layers=2, seed=1, domain="prose")
    assert fingerprint(same) == fingerprint(model)
    assert index.search(same, ["query"])


def test_nothing_to_index(model: Model) -> None:
    for texts in ([], ["", " \t"]):
        with pytest.raises(ValueError, match="nothing to index"):
            Index.build(model, texts)
    with pytest.raises(ValueError, match="dtype 'int8'"):
        Index.build(model, TEXTS, dtype="int8")


def test_the_best_and_their_order() -> None:
    scores = np.array([0.5, 0.9, 0.5, -1, 0.9], np.float32)
    assert best_of(scores, 1) == [1]
    assert best_of(scores, 3) == [1, 4, 0]
    assert best_of(scores, 99) == [1, 4, 0, 2, 3]
    assert best_of(scores[:0], 3) == []


def test_where_the_model_is(model: Model, tmp_path: Path) -> None:
    index = Index.build(model, TEXTS, model_path="../models/m.cwgt")
    (tmp_path / "models").mkdir()
    (tmp_path / "here").mkdir()
    with pytest.raises(FileError, match=r"its model is not at .*m\.cwgt: name it"):
        model_of(index, str(tmp_path / "here" / "x.index"))
    model.save(tmp_path / "models" / "m.cwgt")
    found = model_of(index, str(tmp_path / "here" / "x.index"))
    assert Path(found).samefile(tmp_path / "models" / "m.cwgt")


# --- texts out of files -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("line", [("a", 1), ("", 2), ("", 3), ("b c", 4), ("d\udcff", 5)]),
        ("paragraph", [("a", 1), ("b c\nd\udcff", 4)]),
        ("file", [("a\n\n\nb c\nd\udcff", 1)]),
    ],
)
def test_texts(tmp_path: Path, by: str, expected: list[tuple[str, int]]) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"a\n\n\r\nb c\r\nd\xff")
    got = list(read_texts([str(path), str(path)], by))
    assert got == [Text(text, str(path), line) for text, line in expected] * 2


def test_passages(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    passage = "first line of it\nand the second"
    path.write_text(f"<QUERY>question\n<ATN>\n<REF>{passage}\n\n<QUERY>lost\n\n")
    assert [(t.text, t.line) for t in read_texts([str(path)], "passage")] == [(passage, 1)]


def test_no_such_way_or_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="by 'word'"):
        list(read_texts([], "word"))
    with pytest.raises(FileError, match="no such file"):
        list(read_texts([str(tmp_path / "none")]))
