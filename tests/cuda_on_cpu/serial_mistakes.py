"""Deliberate mistakes in the serial CUDA scan (see mistakes.py), and the check that finds them."""

from collections.abc import Sequence

import numpy as np

from calmgrad.backend import load
from calmgrad.kernels.cuda import CudaKernels
from tests.cuda_on_cpu.device import EmulatedDevice
from tests.cuda_on_cpu.scan import run_scan
from tests.ops.helpers import assert_near

# (what it is, a piece of selective_scan_serial.cu that stands there once, what becomes of it).
MISTAKES = [
    ("the next chunk's B and C are put where this one's are read",
     "put(tokens[(k + 1 - first) % 2], mine)", "put(tokens[(k - first) % 2], mine)"),
    ("B and C are read before they are there",
     "    __syncthreads();  // this chunk's are there, and the last one's have been read\n", ""),
    ("backward, B and C are read before they are there",
     "    __syncthreads();  // B and C are there; the sums of the chunk before have been read\n",
     ""),
    ("the sums of warps are read before they are there",
     "    __syncthreads();  // the sums are there; B and C have been read\n", ""),
    ("an empty sequence takes part",
     "  if (first == last) return;\n", ""),
    ("a sequence of one chunk does not", "first == last", "first + 1 >= last"),
    ("an empty sequence leaves no part",
     "  const real skip = active ? D[c] : real(0);\n  real bias_total",
     "  if (first == last) return;\n"
     "  const real skip = active ? D[c] : real(0);\n  real bias_total"),
    ("the checkpoint is the state behind a chunk",
     "    const Chunk chunk = chunk_of(chunk_offsets, k);\n    const Token* now",
     "    const Chunk chunk = chunk_of(chunk_offsets, k > first ? k - 1 : k);\n"
     "    const Token* now"),
    ("tokens beyond a chunk's end are written",
     "        if (t >= group.size) continue;\n", "        if (!active) continue;\n"),
    ("the second group of tokens reads the first's B and C",
     "const Token& token = now[begin + t]", "const Token& token = now[t]"),
    ("rows beyond a chunk's end are not blank",
     "B[n].at[t] = t < chunk.size ? from[n] : real(0)", "B[n].at[t] = from[n]"),
    ("C is read from B's columns", "? from[STATES + n]", "? from[n]"),
    ("the gradient is not carried on", "      carried[n][me] = g;\n", ""),
    ("dA of the first chunk alone", "dA_sum[n][me] += total", "dA_sum[n][me] = total"),
    ("the gradient is not decayed", "        g *= decay[t];\n", ""),
    ("dC of the state before the token",
     "values[CHUNK + t] = dy[t] * h[t + 1]", "values[CHUNK + t] = dy[t] * h[t]"),
    ("D is missing in du", "step[t] * ddrive[t] + skip * dy[t]", "step[t] * ddrive[t]"),
    ("silu's slope with the wrong sign",
     "(real(1) + gate * (real(1) - g))", "(real(1) - gate * (real(1) - g))"),
    ("channels beyond the last are written",
     "  if (!active) return;\n  for (int n", "  for (int n"),
    ("u's rows are those of z",
     "column_of(u, u_row, chunk, c)", "column_of(u, z_row, chunk, c)"),
    ("the parts of all blocks in one place",
     "dbc[blockIdx.y * dbc_block + (chunk", "dbc[(chunk"),
    ("the first sequence's parts alone", "dbias[s * channels + c]", "dbias[c]"),
    ("a decay of e, not 2", "#define LOG2E real(1.4426950408889634)", "#define LOG2E real(1)"),
]  # fmt: skip

# Chunks that are short and sequences of several; two blocks of channels; empty slots.
SIZES = ((20, 1, 18, 33), 66, 16)


def check(schedules: Sequence[int]) -> None:
    """What tests/test_cuda_selective_scan.py would do, on one size."""
    right = run_scan(load("reference").kernels, np, *SIZES, "float64")
    for schedule in schedules:
        device = EmulatedDevice(schedule)
        kernels = CudaKernels(device)
        kernels.mapping = "serial"
        got = run_scan(kernels, device.xp, *SIZES, "float64", empty_slots=(2, 0))
        for name, array in right.items():
            assert_near(got[name], array, 1e-12, name)
