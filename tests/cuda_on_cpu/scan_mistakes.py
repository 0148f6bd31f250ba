"""Deliberate mistakes in the CUDA scan (see mistakes.py), and the check that must find them."""

from collections.abc import Sequence

import numpy as np

from calmgrad.backend import load
from calmgrad.kernels.cuda import CudaKernels
from tests.cuda_on_cpu.device import EmulatedDevice
from tests.cuda_on_cpu.scan import run_scan
from tests.ops.helpers import assert_near

# (what it is, a piece of selective_scan.cu that stands there once, what becomes of it).
MISTAKES = [
    ("a state is carried from one sequence into the next",
     "  real h = 0, added[AHEAD]", "  static real h = 0; real added[AHEAD]"),
    ("no check for channels beyond the last",
     "  if (!active) return;\n  const real skip = D[c];", "  const real skip = D[c];"),
    ("no barrier before the sums of warps are read",
     "      sums[warp][n][lane] = sums_by_lane<WARP / 2>(values);\n    }\n    __syncthreads();",
     "      sums[warp][n][lane] = sums_by_lane<WARP / 2>(values);\n    }"),
    ("the butterfly keeps the wrong half",
     "kept = upper ? values[i + HALF] : values[i]", "kept = upper ? values[i] : values[i + HALF]"),
    ("the state enters a chunk one chunk late",
     "      if (k + j < last) ends[(k + j) * channels * states + i] = h;\n"
     "      h = decay[j] * h + added[j];",
     "      h = decay[j] * h + added[j];\n"
     "      if (k + j < last) ends[(k + j) * channels * states + i] = h;"),
    ("D is missing in du", "step[t] * ddrive[t] + skip * dy[t]", "step[t] * ddrive[t]"),
    # Borders of chunks, sequences and tiles.
    ("the last chunk is left out", "  while (low < high) {", "  while (low < high - 1) {"),
    ("chunks are looked for by floor, not ceiling",
     "low = (offset + CHUNK - 1) / CHUNK", "low = offset / CHUNK + 1"),
    ("chunks are looked for beyond the last", "  if (high > chunks) high = chunks;\n", ""),
    ("the time of a chunk lacks its last token",
     "    drive[t] *= step[t];\n    time += step[t];",
     "    drive[t] *= step[t];\n    if (t < CHUNK - 1) time += step[t];"),
    ("the rows of B and C beyond the chunk are not blank",
     "n < states && t < chunk.size ? from[(chunk.first + t) * row + n] : real(0)",
     "n < states ? from[(chunk.first + t) * row + n] : real(0)"),
    ("the second tile of states reads the first's C",
     "    load_tile(C, bc + states + tile, bc_row, chunk, count);\n    __syncthreads();\n"
     "    for (int n",
     "    load_tile(C, bc + states, bc_row, chunk, count);\n    __syncthreads();\n    for (int n"),
    ("the row stride of u is forgotten",
     "u_of = column_of(u, u_row, chunk, c);\n  const auto z_of",
     "u_of = column_of(u, channels, chunk, c);\n  const auto z_of"),
    ("eight chunks ahead, then nine", "k < last; k += AHEAD)", "k < last; k += AHEAD + 1)"),
    ("an empty chunk leaves no part of dA",
     "entering[(k * states + n) * channels + c] = 0;", "entering[0] += 0;"),
    ("an empty chunk leaves no part of dD", "dbias[k * channels + c] = dskip[k * channels + c] = 0",
     "dbias[k * channels + c] = 0"),
    # Barriers.
    ("a tile is overwritten while others read it",
     "    __syncthreads();\n    load_tile(B, bc + tile, bc_row, chunk, count);\n"
     "    load_tile(C, bc + states + tile, bc_row, chunk, count);\n    __syncthreads();\n"
     "    if (!active) continue;",
     "    load_tile(B, bc + tile, bc_row, chunk, count);\n"
     "    load_tile(C, bc + states + tile, bc_row, chunk, count);\n    __syncthreads();\n"
     "    if (!active) continue;"),
    ("a tile is read before it is there",
     "    load_tile(C, bc + states + tile, bc_row, chunk, count);\n    __syncthreads();\n"
     "    if (!active) continue;\n    for (int n = 0; n < count; n++) {\n"
     "      const real rate = rate_of(A_log[c * states + tile + n]);\n      real g = 0;",
     "    load_tile(C, bc + states + tile, bc_row, chunk, count);\n"
     "    if (!active) continue;\n    for (int n = 0; n < count; n++) {\n"
     "      const real rate = rate_of(A_log[c * states + tile + n]);\n      real g = 0;"),
    ("channels beyond the last leave before a shuffle",
     "      const real rate = active ? rate_of(A_log[c * states + tile + n]) : real(0);\n"
     "      real h[CHUNK + 1]",
     "      if (!active) break;\n"
     "      const real rate = active ? rate_of(A_log[c * states + tile + n]) : real(0);\n"
     "      real h[CHUNK + 1]"),
    ("the sums of slices are added before they are there",
     "  sums[threadIdx.y][threadIdx.x] = total;\n  __syncthreads();",
     "  sums[threadIdx.y][threadIdx.x] = total;"),
    # Formulas.
    ("dC of the state before the token",
     "values[CHUNK + t] = dy[t] * h[t + 1]", "values[CHUNK + t] = dy[t] * h[t]"),
    ("the gradient is not decayed", "        g *= decay[t];\n", ""),
    ("the exponent's gradient without ln 2",
     "(dexponent[t] * LN2 + x * ddrive[t])", "(dexponent[t] + x * ddrive[t])"),
    ("softplus has slope 1", "slope = -expm1(-step[t])", "slope = real(1)"),
    ("the bias's gradient without the slope", "bias_total += dstep", "bias_total += dexponent[t]"),
    ("dD of the gated gradient's square", "skip_total += dy[t] * x", "skip_total += dy[t] * dy[t]"),
    ("silu's slope with the wrong sign",
     "(real(1) + gate[t] * (real(1) - s))", "(real(1) - gate[t] * (real(1) - s))"),
    ("dA_log is dA", "dA_log[i] = total * -exp(A_log[i])", "dA_log[i] = total"),
    ("dA_log transposed",
     "column % channels * states + column / channels", "column"),
    ("a gradient is carried into the sequence before",
     "  real g = 0, added[AHEAD]", "  static real g = 0; real added[AHEAD]"),
    ("only the first slice of chunks is summed", "slice < SLICES; slice++", "slice < 1; slice++"),
    ("one block of channels is not summed",
     "block < n_blocks; block++", "block < n_blocks - 1; block++"),
    ("B's gradient goes to C's columns", "(chunk.first + t) * dbc_row + which * states",
     "(chunk.first + t) * dbc_row + (1 - which) * states"),
]  # fmt: skip

# Several chunks in flight, short sequences between, two blocks of channels, two tiles of states.
# In the second, slots are left empty: a sequence, and two chunks.
SIZES: list[tuple[tuple[int, ...], int, int]] = [
    ((20, 1, 18, 150), 130, 18), ((15, 33, 16), 37, 3), ((16,) * 12, 5, 3)
]  # fmt: skip
EMPTY = [(0, 0), (1, 2), (0, 0)]


def check(schedules: Sequence[int]) -> None:
    """What tests/test_cuda_selective_scan.py would do, on few sizes."""
    for sizes, empty in zip(SIZES, EMPTY, strict=True):
        right = run_scan(load("reference").kernels, np, *sizes, "float64")
        for schedule in schedules:
            device = EmulatedDevice(schedule)
            kernels = CudaKernels(device)
            got = run_scan(kernels, device.xp, *sizes, "float64", empty_slots=empty)
            for name, array in right.items():
                assert_near(got[name], array, 1e-12, name)
