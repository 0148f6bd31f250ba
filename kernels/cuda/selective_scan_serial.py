"""The selective scan on the GPU, a thread a channel of a sequence: see selective_scan_serial.cu."""

from typing import Any, Literal

from calmgrad.kernels.cuda.launcher import Launcher, blocks, flat, row
from calmgrad.kernels.protocol import Array

Mapping = Literal["auto", "chunks", "serial"]

STATES = 16  # as in selective_scan_serial.cu
# Channels times sequences (threads) from which the serial kernels are taken: calculated for an H100
# (132 multiprocessors of 4 schedulers), not measured on any GPU. Up to 132 blocks, 16,896 threads,
# a scheduler has one warp at most, and the time is that of one warp: about 300 cycles a token
# forward and 800 backward, whatever the number of threads. The chunks' time grows with it: 24 + 43
# instructions a token and state (docs/cuda.md), for 32 threads at once, on 528 schedulers at 0.7 a
# cycle, are 0.09 cycles a token for each thread. The two meet at 12,000 threads. 16,384 errs on the
# chunks' side, as a full GPU has two warps where another has one. (`gpu_check timings` times both.)
SERIAL_FROM = 16384


class SerialScan(Launcher):
    """Attributes: mapping: which kernels scan; "auto": by the sizes."""

    mapping: Mapping = "auto"

    def is_serial(self, channels: int, sequences: int, states: int, dtype: Any) -> bool:
        """Whether the serial kernels take a scan of these sizes."""
        if self.mapping != "auto":
            return self.mapping == "serial" and states == STATES
        able = states == STATES and dtype.name == "float32"
        return able and channels * sequences >= SERIAL_FROM

    def serial_forward(
        self, out: Array, y: Array, dt: Array, checkpoints: Array, u: Array, z: Array, bc: Array,
        dt_bias: Array, A_log: Array, D: Array, offsets: Array, chunk_offsets: Array,
    ) -> None:  # fmt: skip
        chunks, _, channels = checkpoints.shape
        grid, threads = _grid(offsets, channels, dt)
        self.launch(
            "selective_scan_serial", "scan_serial_forward", grid, threads, dt.dtype,
            flat(out), flat(y), flat(dt), flat(checkpoints), u, row(u), z, row(z), bc, row(bc),
            dt_bias, A_log, D, offsets, chunk_offsets, chunks, channels,
        )  # fmt: skip

    def serial_backward(
        self, du: Array, dz: Array, ddt: Array, dbc: Array, dout: Array, y: Array, dt: Array,
        checkpoints: Array, u: Array, z: Array, bc: Array, A_log: Array, D: Array,
        offsets: Array, chunk_offsets: Array, work: Array,
    ) -> tuple[int, Array, Array, Array, Array]:  # fmt: skip
        """Leaves parts of sums in `work`.

        Returns:
            How many blocks of channels have left a part of dbc, (T, 2N) each, and these (one has
            left it in its place); of each sequence its parts of dA (N, C), ddt_bias and dD (C).
        """
        chunks, _, channels = checkpoints.shape
        tokens, sequences = dt.shape[0], offsets.shape[0] - 1
        grid, threads = _grid(offsets, channels, dt)
        width = sequences * channels
        dA, rest = work[: width * STATES], work[width * STATES :]
        dbias, dskip, parts = rest[:width], rest[width : 2 * width], rest[2 * width :]
        alone = grid[1] == 1
        self.launch(
            "selective_scan_serial", "scan_serial_backward", grid, threads, dt.dtype,
            du, row(du), dz, row(dz), flat(ddt), dA, dbias, dskip,
            dbc if alone else parts, row(dbc) if alone else 2 * STATES, tokens * 2 * STATES,
            dout, row(dout), flat(y), flat(dt), flat(checkpoints), u, row(u), z, row(z),
            bc, row(bc), A_log, D, offsets, chunk_offsets, chunks, channels,
        )  # fmt: skip
        return grid[1], parts, dA, dbias, dskip


def threads_of(dtype: Any) -> int:
    """In a block, as in selective_scan_serial.cu."""
    return 512 // int(dtype.itemsize)


def _grid(
    offsets: Array, channels: int, x: Array
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    threads = threads_of(x.dtype)
    return (offsets.shape[0] - 1, blocks(channels, threads), 1), (threads, 1, 1)
