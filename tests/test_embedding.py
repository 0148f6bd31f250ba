"""`Model.embed` of many: order, kinds of input, threads, memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import calmgrad
from calmgrad import cutting
from calmgrad.model import Model
from calmgrad.sequences import Tokens


@pytest.fixture(scope="module")
def model() -> Model:
    return calmgrad.new_model(d_model=24, n_layers=2, l_max=100, seed=1)


def sequences(count: int, longest: int = 90) -> list[Tokens]:
    rng = np.random.default_rng(count)
    return [rng.integers(0, 256, n) for n in rng.integers(1, longest, count)]


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_many_are_as_each_alone(model: Model, pool: str) -> None:
    given = sequences(50)
    rows = model.embed(given, pool)
    assert rows.shape == (50, 24)
    assert rows.dtype == np.float32
    for tokens, row in zip(given, rows, strict=True):
        np.testing.assert_allclose(row, model.embed(tokens, pool), atol=2e-6)


def test_threads_change_no_byte(model: Model) -> None:
    given = sequences(60)
    rows = [model.embed(given, threads=threads).tobytes() for threads in (1, 2, 5)]
    assert rows[0] == rows[1] == rows[2]


def test_a_text_is_bos_bytes_eos(model: Model) -> None:
    text = "naïve"
    tokens = [calmgrad.BOS, *text.encode(), calmgrad.EOS]
    np.testing.assert_array_equal(model.embed(text), model.embed(tokens))
    np.testing.assert_array_equal(model.embed(text.encode()), model.embed(tokens))
    long = "x" + "y" * 300  # the beginning counts, and EOS ends it
    np.testing.assert_array_equal(
        model.embed(long), model.embed([calmgrad.BOS, *long[:98].encode(), calmgrad.EOS])
    )


def test_what_counts_as_many(model: Model) -> None:
    one = model.embed("one")
    assert one.shape == (24,)
    several: list[Any] = [["one"], ("one",), iter(["one"]), [b"one"], np.array(["one"], object)]
    for many in several:
        np.testing.assert_array_equal(model.embed(many), one[None])
    matrix = np.full((3, 5), 65)
    assert model.embed(matrix).shape == (3, 24)
    assert model.embed([]).shape == (0, 24)
    mixed: list[Any] = [[1, 2], "text", np.array([3])]
    assert model.embed(mixed).shape == (3, 24)
    with pytest.raises(ValueError, match="input 1: token 320 at position 0"):
        model.embed([*mixed[:1], [320]])
    with pytest.raises(ValueError, match="input 2: shape"):
        model.embed([*mixed[:2], []])


def test_of_many_only_a_block_is_held(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "BLOCK_TOKENS", 1000)
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "nine more"  # 11 tokens

    stream = model.embed_blocks(endless())
    first, second = next(stream), next(stream)
    assert len(first) == len(second) == 91
    assert taken == 182


def test_long_lists_take_no_more_memory(model: Model) -> None:
    def capacity(count: int) -> int:
        model.close()
        model.embed(sequences(count), threads=1)
        assert model._runner is not None
        [worker] = model._runner._workers
        return worker.forward_tape.values.capacity

    assert capacity(800) <= 1.2 * capacity(80)
