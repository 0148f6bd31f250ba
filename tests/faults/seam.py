"""The one place where faults go in: what `os` is to the modules that write."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from calmgrad import rundir
from calmgrad.formats import files, folders

MODULES = (files, folders, rundir)
OPERATIONS = {"open", "write", "fsync", "rename", "replace", "mkdir", "unlink"}

# (number of the operation from 1 on, its name, the real function, arguments) -> its result.
Act = Callable[[int, str, Callable[..., Any], tuple[Any, ...]], Any]


class Seam:
    """`os`, but each operation on the disk goes through `act`."""

    def __init__(self, act: Act) -> None:
        self.count = 0
        self._act = act

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in OPERATIONS:
            return real

        def call(*arguments: Any) -> Any:
            self.count += 1
            return self._act(self.count, name, real, arguments)

        return call


@contextmanager
def operations(act: Act) -> Iterator[Seam]:
    """Inside, what calmgrad does to the disk goes through `act`."""
    seam = Seam(act)
    for module in MODULES:
        module.os = seam  # type: ignore[attr-defined]
    try:
        yield seam
    finally:
        for module in MODULES:
            module.os = os  # type: ignore[attr-defined]
