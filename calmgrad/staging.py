"""Small arrays on their way to a device: one copy for all of a batch, without waiting for it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from calmgrad.kernels.cuda.device import Device, Event
from calmgrad.kernels.protocol import Array

ALIGN = 8  # words of 8 bytes between two arrays' beginnings, at least
LEAST = 1 << 10  # words


class Staging:
    """Sends arrays to a device through pinned memory.

    The device copies from pinned memory by itself, so the host goes on at once. Two blocks take
    turns: before one is filled again, the copy from it, two batches ago, must be done; so the
    host is never more than two batches ahead. The device's block is one, at one address, because
    the device does its copies and kernels in order.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._blocks: list[tuple[Any, Event]] = []
        self._turn = 0
        self._there: Array = None  # on the device

    def send(self, arrays: Sequence[Any]) -> list[Array]:
        """The arrays (of 4 or 8 bytes an element) on the device, until the next call."""
        words = [-(-array.nbytes // 8) for array in arrays]
        starts = np.cumsum([0, *(-(-n // ALIGN) * ALIGN for n in words)]).tolist()
        self._make_room(starts[-1])
        block, copied = self._blocks[self._turn]
        self._turn = 1 - self._turn
        copied.synchronize()
        for array, start, n in zip(arrays, starts, words, strict=False):
            block[start : start + n].view(array.dtype)[: array.size] = array
        self._device.copy_later(self._there[: starts[-1]], block[: starts[-1]])
        copied.record()
        return [
            self._there[start : start + n].view(array.dtype)[: array.size]
            for array, start, n in zip(arrays, starts, words, strict=False)
        ]

    def _make_room(self, words: int) -> None:
        if self._blocks and self._blocks[0][0].size >= words:
            return
        for _, copied in self._blocks:
            copied.synchronize()
        size = max(LEAST, words + words // 2)
        size += -size % ALIGN
        self._there = self._device.xp.empty(size, "int64")
        self._blocks = [(self._device.pinned(size), self._device.event()) for _ in range(2)]
