"""Statistics of data sets, and data sets made of data sets, on a handful of sequences."""

import numpy as np
import pytest

from calmgrad import dataset_editing, dataset_statistics
from calmgrad.dataset_statistics import Bin, Oddity
from calmgrad.formats.ctds import Sequences, pack
from calmgrad.tokenizer import ATN, BOS, EOS, PAD

ROWS = [[BOS, 1, EOS], [BOS, 2, ATN, 3, EOS], [BOS, 1, EOS], [BOS, 4, 5, EOS]]


def packed(rows: list[list[int]]) -> Sequences:
    return pack(rows, [row.index(ATN) if ATN in row else 0 for row in rows])


def rows_of(sequences: Sequences) -> list[list[int]]:
    return [row.tolist() for row in np.split(sequences.tokens, sequences.offsets[1:-1])]


@pytest.fixture
def data() -> Sequences:
    return packed(ROWS)


def test_take_keeps_tokens_and_positions(data: Sequences) -> None:
    taken = dataset_editing.take(data, np.array([3, 1]))
    assert rows_of(taken) == [ROWS[3], ROWS[1]]
    assert taken.cmd_positions.tolist() == [0, 2]
    assert dataset_editing.take(data, np.array([], np.int64)).count == 0


def test_merge(data: Sequences) -> None:
    merged = dataset_editing.merge([data, packed(ROWS[:2])])
    assert rows_of(merged) == ROWS + ROWS[:2]
    assert merged.cmd_positions.tolist() == [0, 2, 0, 0, 0, 2]


def test_split_keeps_repetitions_together() -> None:
    rows = [[BOS, i % 100, i % 7, EOS] for i in range(1400)]  # each twice
    train, validation = dataset_editing.split(packed(rows), 0.3)
    assert sorted(rows_of(train) + rows_of(validation)) == sorted(rows)
    assert not dataset_statistics.overlap(train, validation).any()
    assert 300 < validation.count < 540
    other = dataset_editing.split(packed(rows), 0.3, seed=1)[1]
    assert rows_of(other) != rows_of(validation)
    for fraction in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="share of validation is"):
            dataset_editing.split(packed(rows), fraction)


def test_sample(data: Sequences) -> None:
    chosen = rows_of(dataset_editing.sample(data, 3, seed=1))
    assert len(chosen) == 3
    assert chosen == [row for row in ROWS if row in chosen][: len(chosen)]
    assert rows_of(dataset_editing.sample(data, 4)) == ROWS
    with pytest.raises(ValueError, match="5 sequences asked for: expected 1 to 4"):
        dataset_editing.sample(data, 5)


def test_dedup(data: Sequences) -> None:
    rest, again, elsewhere = dataset_editing.dedup(data)
    assert (rows_of(rest), again, elsewhere) == ([ROWS[0], ROWS[1], ROWS[3]], 1, 0)
    rest, again, elsewhere = dataset_editing.dedup(data, [packed([ROWS[0]]), packed([ROWS[1]])])
    assert (rows_of(rest), again, elsewhere) == ([ROWS[3]], 1, 2)


def test_histogram() -> None:
    lengths = np.array([1, 10, 11, 119, 120])
    bins = dataset_statistics.length_histogram(lengths)
    assert bins[:2] == [Bin(1, 10, 2), Bin(11, 20, 1)]
    assert bins[-1] == Bin(111, 120, 2)
    assert dataset_statistics.length_histogram(np.array([1, 3])) == [
        Bin(1, 1, 1), Bin(2, 2, 0), Bin(3, 3, 1),
    ]  # fmt: skip
    assert dataset_statistics.length_histogram(np.array([768]))[-1] == Bin(701, 770, 1)


def test_token_counts_and_names(data: Sequences) -> None:
    counts = dataset_statistics.token_counts(data)
    assert (counts[BOS], counts[1], counts[ATN], counts.sum()) == (4, 2, 1, 15)
    names = [dataset_statistics.token_name(token) for token in (0, 32, 65, 127, 255, ATN, 300)]
    assert names == ["0x00", "0x20", "A", "0x7f", "0xff", "<ATN>", "<:300:>"]


def test_oddities(data: Sequences) -> None:
    again = Oddity("same tokens as an earlier sequence", 1, 2)
    short = Oddity("under 4 tokens: trainers leave it out", 2, 0)
    assert dataset_statistics.oddities(data, 768) == [short, again]
    rows = [[BOS, 1, 2, ATN], [BOS, 1, 2, 3, EOS], [BOS, ATN, 1, EOS], [1, PAD, 300, 2, EOS]]
    odd = pack(rows, [3, 2, 0, 0])
    found = {row.what.partition(":")[0]: (row.count, row.first)
             for row in dataset_statistics.oddities(odd, 4)}  # fmt: skip
    assert found == {
        "over 4 tokens": (2, 1),
        "the token at the ATN position is not ATN": (1, 1),
        "has ATN, but no ATN position": (1, 2),
        "nothing to learn": (1, 0),
        "does not begin with BOS": (1, 3),
        "does not end with EOS": (1, 0),
        "holds PAD": (1, 3),
        "holds reserved tokens": (1, 3),
    }
