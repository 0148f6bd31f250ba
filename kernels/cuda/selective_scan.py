"""The selective scan on the GPU, in one of two mappings: selective_scan.cu or _serial.cu."""

from collections.abc import Sequence

from calmgrad.kernels.cuda.launcher import WARP, blocks, flat, row
from calmgrad.kernels.cuda.selective_scan_serial import SerialScan
from calmgrad.kernels.protocol import Array

THREADS = 128
SLICES = 16


class SelectiveScan(SerialScan):
    def selective_scan_workspace(self, tokens: int, chunks: int, channels: int, states: int) -> int:
        """For every chunk, its time and the gradients that enter it; parts of sums.

        Of (T, C) elements that is N / 16 for the gradients, 3 / 16 for parts of sums over chunks,
        and, where there are more than 128 channels, 2 N / 128 for parts of dbc. (The serial
        mapping has parts for sequences, not chunks; and, for double, smaller blocks.)
        """
        n_blocks = blocks(channels, THREADS // 2 if self.mapping == "serial" else THREADS)
        parts = n_blocks * tokens * 2 * states if n_blocks > 1 else 0
        return chunks * channels * (states + 3) + parts

    def selective_scan_forward(
        self,
        out: Array,
        y: Array,
        dt: Array,
        checkpoints: Array,
        u: Array,
        z: Array,
        bc: Array,
        dt_bias: Array,
        A_log: Array,
        D: Array,
        offsets: Array,
        chunk_offsets: Array,
        work: Array,
    ) -> None:
        chunks, states, channels = checkpoints.shape
        if self.is_serial(channels, offsets.shape[0] - 1, states, dt.dtype):
            self.serial_forward(
                out, y, dt, checkpoints, u, z, bc, dt_bias, A_log, D, offsets, chunk_offsets
            )
            return
        times = work[: chunks * channels]
        over_chunks, threads = _over_chunks(chunks, channels)
        self.launch(
            "selective_scan", "scan_chunk_states", over_chunks, threads, dt.dtype,
            flat(dt), flat(checkpoints), times, u, row(u), bc, row(bc),
            dt_bias, A_log, chunk_offsets, channels, states,
        )  # fmt: skip
        self._join("scan_join_states", checkpoints, times, A_log, offsets, chunk_offsets)
        self.launch(
            "selective_scan", "scan_outputs", over_chunks, threads, dt.dtype,
            flat(out), flat(y), dt, checkpoints, u, row(u), z, row(z), bc, row(bc),
            A_log, D, chunk_offsets, channels, states,
        )  # fmt: skip

    def selective_scan_backward(
        self,
        du: Array,
        dz: Array,
        ddt: Array,
        dbc: Array,
        ddt_bias: Array,
        dA_log: Array,
        dD: Array,
        dout: Array,
        y: Array,
        dt: Array,
        checkpoints: Array,
        u: Array,
        z: Array,
        bc: Array,
        A_log: Array,
        D: Array,
        offsets: Array,
        chunk_offsets: Array,
        work: Array,
    ) -> None:
        chunks, states, channels = checkpoints.shape
        tokens = dt.shape[0]
        if self.is_serial(channels, offsets.shape[0] - 1, states, dt.dtype):
            n_blocks, parts, *of_sequences = self.serial_backward(
                du, dz, ddt, dbc, dout, y, dt, checkpoints, u, z, bc, A_log, D,
                offsets, chunk_offsets, work,
            )  # fmt: skip
            self._sum_parts((dA_log, ddt_bias, dD), of_sequences, A_log, offsets.shape[0] - 1)
            self._sum_blocks(dbc, parts, n_blocks)
            return
        n_blocks = blocks(channels, THREADS)
        width = chunks * channels
        entering, rest = work[: width * states], work[width * states :]
        times, dbias, dskip = rest[:width], rest[width : 2 * width], rest[2 * width : 3 * width]
        parts = rest[3 * width :]
        alone = n_blocks == 1  # the parts are the sums
        over_chunks, threads = _over_chunks(chunks, channels)
        self.launch(
            "selective_scan", "scan_chunk_gradients", over_chunks, threads, dt.dtype,
            dz, row(dz), du, row(du), entering, times, dout, row(dout), y, dt,
            z, row(z), bc, row(bc), A_log, chunk_offsets, channels, states,
        )  # fmt: skip
        self._join("scan_join_gradients", entering, times, A_log, offsets, chunk_offsets)
        self.launch(
            "selective_scan", "scan_gradients", over_chunks, threads, dt.dtype,
            du, row(du), flat(ddt), entering, dbias, dskip,
            dbc if alone else parts, row(dbc) if alone else 2 * states, tokens * 2 * states,
            dt, checkpoints, u, row(u), bc, row(bc), A_log, D, chunk_offsets, channels, states,
        )  # fmt: skip
        self._sum_parts((dA_log, ddt_bias, dD), (entering, dbias, dskip), A_log, chunks)
        self._sum_blocks(dbc, parts, n_blocks)

    def _sum_parts(
        self, sums: Sequence[Array], parts: Sequence[Array], A_log: Array, count: int
    ) -> None:
        """dA_log, ddt_bias and dD from `count` parts of dA, ddt_bias and dD."""
        channels, states = A_log.shape
        columns = channels * (states + 2)
        self.launch(
            "selective_scan", "scan_sum_chunks",
            (blocks(columns, WARP), 1, 1), (WARP, SLICES, 1), A_log.dtype,
            *sums, *parts, A_log, count, channels, states,
        )  # fmt: skip

    def _sum_blocks(self, dbc: Array, parts: Array, n_blocks: int) -> None:
        """dbc, from the parts of blocks of channels; one block has left it there."""
        if n_blocks > 1:
            self.launch(
                "selective_scan", "scan_sum_blocks",
                (blocks(dbc.size, THREADS), 1, 1), (THREADS, 1, 1), dbc.dtype,
                dbc, row(dbc), parts, n_blocks, *dbc.shape,
            )  # fmt: skip

    def _join(
        self,
        entry: str,
        per_chunk: Array,
        times: Array,
        A_log: Array,
        offsets: Array,
        chunk_offsets: Array,
    ) -> None:
        channels, states = A_log.shape
        grid = (offsets.shape[0] - 1, blocks(channels * states, THREADS), 1)
        self.launch(
            "selective_scan", entry, grid, (THREADS, 1, 1), A_log.dtype,
            per_chunk, times, A_log, offsets, chunk_offsets, chunk_offsets.shape[0] - 1,
            channels, states,
        )  # fmt: skip


def _over_chunks(chunks: int, channels: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Grid and block of the passes in which a thread has one channel of one chunk."""
    threads = min(THREADS, blocks(channels, WARP) * WARP)
    return (chunks, blocks(channels, threads), 1), (threads, 1, 1)
