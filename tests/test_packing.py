import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calmgrad.packing import Packing


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_definition(lengths: list[int]) -> None:
    packing = Packing.of(lengths)
    offsets = [0]
    pos: list[int] = []
    for n in lengths:
        offsets.append(offsets[-1] + n)
        pos.extend(range(n))
    np.testing.assert_array_equal(packing.offsets, offsets)
    np.testing.assert_array_equal(packing.pos, pos)
    starts = [t for t, p in enumerate(pos) if p % 16 == 0]
    np.testing.assert_array_equal(packing.chunk_offsets, [*starts, len(pos)])
    assert packing.chunks == len(starts)
    dtypes = {packing.offsets.dtype, packing.pos.dtype, packing.chunk_offsets.dtype}
    assert dtypes == {np.dtype(np.int64)}


@pytest.mark.parametrize("lengths", [[], [0], [3, 0, 2], [-1]])
def test_empty_sequences_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"packing: lengths \[.*\], expected all at least 1"):
        Packing.of(lengths)


def test_arrays_live_where_they_are_asked_to() -> None:
    class Elsewhere:
        @staticmethod
        def asarray(array: object) -> tuple[str, object]:
            return "there", array

    packing = Packing.of([2], xp=Elsewhere)
    assert packing.offsets[0] == packing.pos[0] == packing.chunk_offsets[0] == "there"
