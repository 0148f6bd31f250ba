"""Memory that is asked for once: a bump allocator, and a pool of buffers in use and free."""

import math

from calmgrad.kernels.protocol import Array, ArrayModule

ALIGN = 64  # bytes: one cache line, one AVX-512 register
GROWTH = 1.5
TIGHT_GROWTH = 1.1  # on a device: there memory that is asked for is taken, used or not


def address(array: Array) -> int:
    """Where an array begins, on the host or the device."""
    return int(array.ctypes.data if hasattr(array, "ctypes") else array.data.ptr)


class Arena:
    """A bump allocator over a flat array; `reset` frees everything at once.

    When a pass needs more than there is, further blocks are taken; the next `reset` puts one
    block that holds it all in their place. So after the largest batch was seen once, training
    allocates nothing, and equal passes get equal addresses.

    Args:
        tight: take little more than is needed.
    """

    def __init__(self, xp: ArrayModule, dtype: str, tight: bool = False) -> None:
        self.xp = xp
        self._tight = tight
        self.dtype = xp.dtype(dtype)
        self._blocks: list[Array] = []
        self._used = 0  # elements of the last block
        self._lost = 0  # elements at the ends of the other blocks
        self.peak = 0  # elements, over all passes

    @property
    def capacity(self) -> int:
        """Elements this arena holds."""
        return sum(block.size for block in self._blocks)

    @property
    def nbytes(self) -> int:
        """Bytes this arena holds."""
        return int(self.capacity * self.dtype.itemsize)

    @property
    def addresses(self) -> tuple[int, ...]:
        """Where its memory begins."""
        return tuple(map(address, self._blocks))

    def take(self, shape: tuple[int, ...]) -> Array:
        """An uninitialised view of `shape`."""
        size = math.prod(shape)
        if not self._blocks or self._used + size > self._blocks[-1].size:
            self._grow(size)
        start = self._used
        step = ALIGN // self.dtype.itemsize
        self._used = -(-(start + size) // step) * step
        return self._blocks[-1][start : start + size].reshape(shape)

    def mark(self) -> tuple[int, int]:
        """Where the next `take` begins."""
        return len(self._blocks), self._used

    def release(self, mark: tuple[int, int]) -> None:
        """Free what was taken since `mark`, as far as it lies in the same block."""
        self._measure()
        if mark[0] == len(self._blocks):
            self._used = mark[1]

    def reset(self) -> None:
        """Free everything."""
        self._measure()
        if len(self._blocks) > 1:
            size = self.peak if self._tight else self.capacity
            self._blocks.clear()
            self._blocks.append(self._block(size))
        self._used = self._lost = 0

    def fill(self, value: float) -> None:
        """Write `value` everywhere: for checks that nothing uninitialised is read."""
        for block in self._blocks:
            block.fill(value)

    def _measure(self) -> None:
        used = sum(block.size for block in self._blocks[:-1]) + self._used
        self.peak = max(self.peak, used - self._lost)

    def _grow(self, size: int) -> None:
        step = ALIGN // self.dtype.itemsize
        if self._blocks:
            self._lost += self._blocks[-1].size - self._used
        growth = TIGHT_GROWTH if self._tight else GROWTH
        size = max(size, int(self.capacity * (growth - 1)), 1 << 14)
        self._blocks.append(self._block(-(-size // step) * step))
        self._used = 0

    def _block(self, size: int) -> Array:
        extra = ALIGN // self.dtype.itemsize
        flat = self.xp.empty(size + extra, self.dtype)
        skip = -address(flat) % ALIGN // self.dtype.itemsize
        return flat[skip : skip + size]


class Pool:
    """Buffers that come and go out of order: gradients and scratch. Freed ones wait by size."""

    def __init__(self, xp: ArrayModule, dtype: str, tight: bool = False) -> None:
        self.arena = Arena(xp, dtype, tight)
        self._free: dict[int, list[Array]] = {}

    def take(self, shape: tuple[int, ...]) -> Array:
        """An uninitialised, contiguous array of `shape`."""
        waiting = self._free.get(math.prod(shape))
        return waiting.pop().reshape(shape) if waiting else self.arena.take(shape)

    def give(self, array: Array) -> None:
        """Take an array of this pool back."""
        self._free.setdefault(array.size, []).append(array.reshape(-1))

    def reset(self) -> None:
        """Free everything."""
        self._free.clear()
        self.arena.reset()
