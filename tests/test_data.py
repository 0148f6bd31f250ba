"""A data set's order, batches and selection."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from calmgrad.data import Dataset, load_dataset, write_dataset
from calmgrad.errors import FileError

# Sequence i has i + 1 tokens, all i, and its ATN at i // 2.
ROWS = [[i] * (i + 1) for i in range(10)]
POSITIONS = [i // 2 for i in range(10)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "train.ctds", ROWS, POSITIONS)
    return tmp_path / "train.ctds"


@pytest.fixture
def dataset(path: Path) -> Dataset:
    return load_dataset(path)


def order(dataset: Dataset) -> list[int]:
    return [int(tokens[0]) for tokens, _ in dataset]


def test_sequences_in_file_order(dataset: Dataset) -> None:
    assert len(dataset) == dataset.count() == 10
    for i, (row, position) in enumerate(zip(ROWS, POSITIONS, strict=True)):
        tokens, cmd_position = dataset[i]
        assert tokens.tolist() == row
        assert tokens.dtype == np.uint16
        assert np.shares_memory(tokens, dataset.sequences.tokens)
        assert cmd_position == position
        assert type(cmd_position) is int
    assert dataset[-1][0].tolist() == ROWS[-1]
    for index in (10, -11):
        with pytest.raises(IndexError):
            dataset[index]


def test_batches_count_from_0_and_end_empty(dataset: Dataset) -> None:
    seen = []
    for index, count in enumerate([4, 4, 2, 0, 0]):
        tokens, positions = dataset.batch(index, 4)
        assert len(tokens) == len(positions) == count
        seen += [row.tolist() for row in tokens]
        assert positions == POSITIONS[4 * index : 4 * index + count]
    assert seen == ROWS
    for index, size in [(-1, 4), (0, 0), (0, -1)]:
        with pytest.raises(ValueError, match=rf"batch\({index}, {size}\): expected"):
            dataset.batch(index, size)


def test_the_seed_alone_decides_the_order(path: Path, dataset: Dataset) -> None:
    dataset.shuffle(seed=1)
    first = order(dataset)
    assert first != list(range(10))
    assert sorted(first) == list(range(10))
    assert first == np.random.default_rng(1).permutation(10).tolist()
    assert [int(row[0]) for row in dataset.batch(1, 3)[0]] == first[3:6]
    for index, i in enumerate(first):
        assert dataset[index][1] == POSITIONS[i]  # positions move along

    dataset.shuffle(seed=2)
    assert order(dataset) != first
    dataset.shuffle(seed=1)
    assert order(dataset) == first
    again = load_dataset(path)
    again.shuffle(1)
    assert order(again) == first


def test_without_a_seed_each_order_is_new(dataset: Dataset) -> None:
    orders = set()
    for _ in range(20):
        dataset.shuffle()
        orders.add(tuple(order(dataset)))
    assert len(orders) > 15


def test_only_sequences_that_can_be_trained_on_are_kept(dataset: Dataset) -> None:
    dataset.shuffle(seed=3)
    kept, left_out = dataset.kept(l_max=8)
    assert order(kept) == [3, 4, 5, 6, 7]  # lengths 4 to 8
    assert left_out == {"under 4 tokens": 3, "over 8 tokens": 2}
    assert kept.batch(0, 9)[1] == POSITIONS[3:8]
    kept.shuffle(seed=1)
    assert sorted(order(kept)) == [3, 4, 5, 6, 7]
    assert len(dataset) == 10

    assert kept.kept(8)[1] == {}
    assert dataset.kept(100)[1] == {"under 4 tokens": 3}
    none, left_out = kept.kept(3)
    assert len(none) == 0
    assert none.batch(0, 4) == ([], [])
    assert left_out == {"over 3 tokens": 5}


def test_the_fingerprint_is_that_of_the_file(path: Path, dataset: Dataset) -> None:
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert dataset.fingerprint == expected
    dataset.shuffle(seed=1)
    assert dataset.kept(8)[0].fingerprint == expected


def test_closed(path: Path) -> None:
    with load_dataset(path) as dataset:
        tokens, _ = dataset[3]
    assert tokens.tolist() == ROWS[3]
    dataset.close()
    for use in (dataset.count, dataset.shuffle, lambda: dataset[0], lambda: list(dataset)):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_errors_name_the_file(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[80:82] = b"\xff\xff"  # the 14th token: sequence 4, position 3
    path.write_bytes(data)
    with pytest.raises(FileError) as caught:
        load_dataset(path)
    message = f"{path}: token 65535 at sequence 4, position 3 (byte 80): vocabulary is 320"
    assert str(caught.value) == message
    with pytest.raises(ValueError, match="sequence 0, position 0: token 320"):
        write_dataset(path, [[320]], [0])
    assert path.read_bytes() == data
