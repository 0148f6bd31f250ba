"""The cache of compiled kernels does without what it cannot read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calmgrad.kernels.cpu import compile as compiling


def double(x: Any) -> None:
    for i in range(x.size):
        x[i] *= 2


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Makes the kernel as another process would, with a cache in a folder of its own."""
    from numba import config

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiling, "FOLDER", tmp_path)
    return lambda: compiling.kernel(double)


def works(kernel: Any) -> bool:
    x = np.ones(3)
    kernel(x)
    return bool((x == 2).all())


def hits(kernel: Any) -> int:
    return sum(kernel.stats.cache_hits.values())


def test_a_kernel_comes_from_the_cache(make: Callable[[], Any]) -> None:
    assert works(make())
    kernel = make()
    assert works(kernel)
    assert hits(kernel) == 1


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("content", [b"", b"\x80\x05", b"nonsense"])
def test_a_file_that_was_cut_off(
    make: Callable[[], Any], tmp_path: Path, suffix: str, content: bytes
) -> None:
    assert works(make())
    [path] = tmp_path.rglob(f"*{suffix}")
    path.write_bytes(content)
    kernel = make()
    assert works(kernel)
    assert hits(kernel) == 0
    again = make()
    assert works(again)
    assert hits(again) == 1  # it was written anew
