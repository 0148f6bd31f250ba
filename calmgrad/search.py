"""Search by meaning: an index of embedded texts, and the nearest of them to a query."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast

import numpy as np
from numpy.typing import NDArray

from calmgrad.errors import FileError, UsageError
from calmgrad.formats import index as index_files
from calmgrad.formats.files import display
from calmgrad.formats.index import FORMAT, About, Contents
from calmgrad.model import Model
from calmgrad.texts import Text

ROWS = 1 << 16  # of an index, widened to float32 at a time


@dataclass(frozen=True, slots=True)
class Hit:
    """A text that was found: cosine of its embedding and the query's, and where it is from."""

    score: float
    text: str
    file: str
    line: int


def fingerprint(model: Model) -> str:
    """SHA-256, in hex, of the sizes and weights: what decides a model's embeddings."""
    digest = hashlib.sha256(repr(model.config).encode())
    digest.update(model.weights.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


class Index:
    """Texts and their embeddings by one model.

    `Index.build(model, texts)`, `save`, `Index.load`, `search`.
    """

    def __init__(self, contents: Contents, name: str = "index") -> None:
        self.contents = contents
        self.name = name

    @classmethod
    def build(
        cls,
        model: Model,
        texts: Iterable[Text | str],
        pool: str = "mean",
        dtype: str = "float32",
        threads: int | None = None,
        model_path: str | os.PathLike[str] = "model.cwgt",
    ) -> Self:
        """Embed every text that is not blank; the texts are kept in memory, and in the index.

        Args:
            texts: plain ones, or with the places they are from.
            pool: "mean" over all positions, or "last".
            dtype: of the embeddings in the file: "float32", or "float16" for half the size.
            model_path: what the index shall say of where its model is.

        Raises:
            ValueError: there is no text but blank ones, or an argument does not fit.
        """
        if dtype not in ("float32", "float16"):
            raise ValueError(f"dtype {dtype!r}: expected float32 or float16")
        content = bytearray()
        ends: list[int] = []
        places: list[tuple[int, int]] = []
        files: dict[str, int] = {}

        def kept() -> Iterable[bytes]:
            for number, item in enumerate(texts, 1):
                text = item if isinstance(item, Text) else Text(item, "", number)
                if not text.text.strip():
                    continue
                encoded = text.text.encode("utf-8", "surrogateescape")
                content.extend(encoded)
                ends.append(len(content))
                places.append((files.setdefault(text.file, len(files)), text.line))
                yield encoded

        blocks = model.embed_blocks(kept(), pool, threads=threads)
        rows = [block.astype(dtype, copy=False) for block in blocks]
        if not rows:
            raise ValueError("nothing to index: no text but blank ones")
        file, line = np.array(places, np.int64).T
        how = cast(Literal["mean", "last"], pool)  # `embed_blocks` has seen that it is
        about = About(FORMAT, fingerprint(model), os.fspath(model_path), how, list(files))
        return cls(
            Contents(
                np.concatenate(rows), bytes(content), np.array(ends, np.int64),
                file.astype(np.int32), line.copy(), about,
            )
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it, whole or not at all (docs/embeddings.md says what is in the file)."""
        index_files.write(path, self.contents)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an index.

        Raises:
            FileError: it is missing, or is no whole index.
        """
        return cls(index_files.read(path), display(path))

    def __len__(self) -> int:
        return len(self.contents.ends)

    def text(self, row: int) -> str:
        """The text of a row; bytes that are not UTF-8 as U+FFFD."""
        ends = self.contents.ends
        start = int(ends[row - 1]) if row else 0
        return self.contents.text[start : int(ends[row])].decode("utf-8", "replace")

    def check_model(self, model: Model) -> None:
        """Refuse a model that is not the one the index was made with.

        Raises:
            UsageError: it is another one.
        """
        if fingerprint(model) != self.contents.about.model_sha256:
            raise UsageError(
                f"{self.name}: made with another model: scores between the two mean nothing;"
                " give that model, or make the index anew (calmgrad embed)"
            )

    def search(
        self, model: Model, queries: Sequence[str], k: int = 10, threads: int | None = None
    ) -> list[list[Hit]]:
        """The k nearest texts to each query, the nearest first; of equal ones the first in file.

        Raises:
            UsageError: the index was made with another model.
        """
        self.check_model(model)
        if not queries:
            return []
        wanted = model.embed(list(queries), self.contents.about.pool, threads=threads)
        scores = np.empty((len(queries), len(self)), np.float32)
        for start in range(0, len(self), ROWS):
            part = self.contents.embeddings[start : start + ROWS].astype(np.float32, copy=False)
            scores[:, start : start + ROWS] = wanted @ part.T
        return [[self._hit(row, own) for row in best_of(own, k)] for own in scores]

    def _hit(self, row: int, scores: NDArray[np.float32]) -> Hit:
        c = self.contents
        return Hit(float(scores[row]), self.text(row), c.about.files[c.file[row]], int(c.line[row]))


def best_of(scores: NDArray[np.float32], k: int) -> list[int]:
    """Indices of the k highest, the highest first; of equal ones the lower index first."""
    count = min(k, scores.size)
    if count < 1:
        return []
    least = np.partition(scores, scores.size - count)[scores.size - count]
    candidates = np.flatnonzero(scores >= least)
    order = np.argsort(-scores[candidates], kind="stable")[:count]
    return [int(i) for i in candidates[order]]


def model_of(index: Index, index_path: str) -> str:
    """Where the model is that the index was made with.

    Raises:
        FileError: it is not there any more.
    """
    path = os.path.join(os.path.dirname(index_path), index.contents.about.model)
    if not os.path.exists(path):
        raise FileError(f"{display(index_path)}: its model is not at {display(path)}: name it (-m)")
    return path
