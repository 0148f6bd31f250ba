"""Deliberate mistakes in the CUDA kernels (see mistakes.py), and the checks that must find them."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from calmgrad.backend import load
from calmgrad.kernels.cuda import CudaKernels
from calmgrad.op_cases import Sizes, cases
from calmgrad.ops.basic import add, mul
from calmgrad.tape import Tensor
from tests.cuda_on_cpu.device import emulated
from tests.cuda_on_cpu.updates import expected_steps, run_steps, run_updates
from tests.ops.helpers import assert_near, assert_same_pass, run

# Two warps' width of columns and short sequences between; many columns; many tokens.
SIZES = [
    Sizes((22, 1, 45, 150), channels=37, states=35, taps=4),
    Sizes((3, 5), channels=150, states=4, taps=3),
    Sizes((1000,), channels=3, states=2, taps=2),
]


def check_op(op: str, schedules: Sequence[int]) -> None:
    """What tests/ops would do, on few sizes."""
    for sizes in SIZES:
        for schedule in schedules:
            backend, reference = emulated(schedule), load("reference")
            pairs = zip(cases(op, sizes, backend.xp), cases(op, sizes), strict=True)
            for own, case in pairs:
                for fn, right in ((own, case), (partial(twice, own), partial(twice, case))):
                    expected = run(reference, right, case.inputs)
                    assert_same_pass(run(backend, fn, case.inputs), expected, 1e-11)


def twice(case: object, *tensors: Tensor) -> Tensor:
    """Gradients that are added to what is there already."""
    assert callable(case)
    return add(case(*tensors), mul(case(*tensors), 0.5))


def check_updates(schedules: Sequence[int]) -> None:
    """What tests/test_cuda_kernels.py would do, on few sizes."""
    reference = load("reference").kernels
    for size in (1, 700):
        updates = run_updates(reference, np, size, "float64")
        steps = {spoilt: expected_steps(reference, size, spoilt) for spoilt in ("g", "nll")}
        for schedule in schedules:
            backend = emulated(schedule)
            kernels = backend.kernels
            assert isinstance(kernels, CudaKernels)
            for name, array in run_updates(kernels, backend.xp, size, "float64").items():
                assert_near(array, updates[name], 1e-12, name)
            for spoilt, right in steps.items():
                got = run_steps(kernels, backend.xp, size, "float64", spoilt)
                for name, array in got.items():
                    finite = np.isfinite(right[name])
                    np.testing.assert_array_equal(np.isfinite(array), finite, err_msg=name)
                    assert_near(array[finite], right[name][finite], 1e-12, name)


# (what it is, a piece of <op>.cu or common.cuh that stands there once, what becomes of it).
MISTAKES: dict[str, list[tuple[str, str, str]]] = {
    "causal_conv1d": [
        ("no check for channels beyond the last",
         "if (c >= channels || first >= tokens) return;", "if (first >= tokens) return;"),
        ("no check for tokens beyond the last", "if (t < tokens) y[t * y_row", "y[t * y_row"),
        ("the row stride of x is forgotten",
         "window.next(x[t * x_row + c], pos[t]));", "window.next(x[t * channels + c], pos[t]));"),
        ("a sequence sees the one before", "x[j] = pos ? x[j - 1] : real(0);", "x[j] = x[j - 1];"),
        ("a run sees the sequence before its own",
         "x[j] = pos > j ? from[-(j + 1) * row] : real(0);",
         "x[j] = pos ? from[-(j + 1) * row] : real(0);"),
        ("a gradient flows into the sequence before", "if (j <= p) dx_of[j] +=", "dx_of[j] +="),
        ("the slope of SiLU has the wrong sign",
         "real(1) + a * (real(1) - s)", "real(1) - a * (real(1) - s)"),
        ("the weights' gradient counts tokens twice",
         "if (k < RUN) dweight[j] +=", "dweight[j] +="),
        ("the first three gradients of a run go into the run before",
         "k >= FOUR - 1 && done < tokens", "done >= 0 && done < tokens"),
        ("sums are read before they are there",
         "  sums[threadIdx.y][threadIdx.x] = x;\n  __syncthreads();",
         "  sums[threadIdx.y][threadIdx.x] = x;"),
        ("sums are overwritten while others read them",
         "  __syncthreads();  // the sums before have been read\n", ""),
        ("the threads beyond the last token meet at no barrier",
         "  real dweight[FOUR] = {};\n", "  if (!mine) return;\n  real dweight[FOUR] = {};\n"),
        ("other numbers of taps: one tap too few",
         "j < taps && j <= pos; j++) a", "j + 1 < taps && j <= pos; j++) a"),
        ("other numbers of taps: the wrong tap on the way back",
         "sum += w[j] * da_at(t + j);", "sum += w[0] * da_at(t + j);"),
    ],
    "cross_entropy": [
        ("a row too many",
         "  if (t >= rows) return;\n  const real* scores",
         "  if (t > rows) return;\n  const real* scores"),
        ("the largest score of this lane alone", "    top = warp_max(top);\n", ""),
        ("the sum of this lane alone", "log(warp_sum(sum))", "log(sum)"),
        ("the warp's sum misses a step",
         "offset; offset /= 2) x += ", "offset > 1; offset /= 2) x += "),
        ("a mask without the upper lanes",
         "#define ALL_LANES 0xffffffffu", "#define ALL_LANES 0x0000ffffu"),
        ("half of the lanes leave before the sum",
         "    real sum = 0;\n", "    real sum = 0;\n    if (threadIdx.x >= 16) return;\n"),
        ("the target's share has the wrong sign", "p - real(1) : p", "p + real(1) : p"),
        ("rows without a target have a gradient",
         "    if (target >= 0) {\n      const real p", "    {\n      const real p"),
        ("the gradient forgets its row stride",
         "dlogits[t * dlogits_row + c]", "dlogits[t * 33 + c]"),
    ],
    "embedding": [
        ("the last tile's tokens are read beyond the end",
         "tile + lane < last && tokens", "tokens"),
        ("only the first of a tile's tokens counts", "found &= found - 1;", "found = 0;"),
        ("the gradient is not added to what is there",
         "dtable[row * dtable_row + start + c] += total",
         "dtable[row * dtable_row + start + c] = total"),
        ("columns beyond the last are read", "if (start + c < columns) sum[k]", "sum[k]"),
        ("sums are read before they are there", "= sum[k];\n    __syncthreads();", "= sum[k];"),
        ("sums are overwritten while others read them",
         "start + c] += total;\n    }\n    __syncthreads();", "start + c] += total;\n    }"),
        ("one warp's sum is left out", "w < WARPS; w++) total", "w < WARPS - 1; w++) total"),
        ("every warp looks through all tokens",
         "const index_t first = warp * part", "const index_t first = 0 * part"),
    ],
    "gelu": [
        ("a row too many",
         "  if (t >= rows) return;\n  for (index_t c = threadIdx.x; c < columns; c += WARP) "
         "{\n    const real v = x[t * x_row + c];\n    const real inner",
         "  for (index_t c = threadIdx.x; c < columns; c += WARP) {\n    const real v = x[t * "
         "x_row + c];\n    const real inner"),
        ("no derivative of the inner function", "(real(1) - h * h) * slope", "(real(1) - h * h)"),
        ("a wrong sign", "(real(1) - h * h)", "(real(1) + h * h)"),
        ("the erf form's constant", "#define CUBIC real(0.044715)", "#define CUBIC real(0.04)"),
    ],
    "l2_normalize": [
        ("the length of this lane's elements", "sqrt(warp_sum(sum))", "sqrt(sum)"),
        ("a wrong sign", "- y[b * y_row + c] * along", "+ y[b * y_row + c] * along"),
        ("not divided by the length", "change / divisor(norm[b], eps)", "change"),
    ],
    "layer_norm": [
        ("the mean is that of this lane",
         "warp_sum(sum) / real(columns);\n  real squares", "sum / real(columns);\n  real squares"),
        ("eps is forgotten", "/ real(columns) + eps)", "/ real(columns))"),
        ("one row too many",
         "const index_t last = first + ROWS < rows ? first + ROWS : rows;",
         "const index_t last = first + ROWS;"),
        ("what is there is overwritten",
         "accumulate ? dx[t * dx_row + c] + share : share", "share"),
        ("the mean of g is not taken off", "r * (g - sum - ", "r * (g - "),
        ("a wrong sign", "* r * along)", "* r * -along)"),
        ("sums are read before they are there", "= dbias;\n    __syncthreads();", "= dbias;"),
        ("sums are overwritten while others read them",
         "+ c] = total;\n    }\n    __syncthreads();", "+ c] = total;\n    }"),
        ("dweight and dbias change places",
         "(index_t(blockIdx.x) * 2 + warp)", "(index_t(blockIdx.x) * 2 + 1 - warp)"),
        ("dweight without rstd",
         "(x[t * x_row + c] - mean[t]) * rstd[t]", "(x[t * x_row + c] - mean[t])"),
    ],
    "partials": [
        ("sums are read before they are there", "= sum;\n  __syncthreads();", "= sum;"),
        ("one part is left out", "p < parts; p += WARPS", "p < parts - 1; p += WARPS"),
        ("the second result shifted", "rest[i - split] = sum", "rest[(i + 1) % split] = sum"),
        ("numbers beyond the last",
         "  if (threadIdx.y || i >= size) return;", "  if (threadIdx.y) return;"),
    ],
    "pool": [
        ("the last token is left out",
         "t < stop; t += WARPS) sum", "t < stop - 1; t += WARPS) sum"),
        ("the first position for the last", "x[(stop - 1) * x_row + c]", "x[start * x_row + c]"),
        ("sums are read before they are there", "= sum;\n  __syncthreads();", "= sum;"),
        ("columns beyond the last meet at no barrier",
         "  real sum = 0;\n", "  real sum = 0;\n  if (threadIdx.y == 3) return;\n"),
        ("the gradient goes to every position", "last && t == stop - 1 ?", "last ?"),
    ],
    "select_rows": [
        ("the rows between are not blank",
         "for (index_t t = k ? rows[k - 1] + 1 : 0;", "for (index_t t = own;"),
        ("the rows behind the last are not blank",
         "if (k > count) return;", "if (k >= count) return;"),
        ("y's row stride for x's",
         "dx[own * dx_row + c] = dy[k * dy_row + c]",
         "dx[own * dx_row + c] = dy[own * dy_row + c]"),
    ],
    "optimizer": [
        ("an element too many", "if (i < size) p[i] -=", "if (i <= size) p[i] -="),
        ("the block's sum is that of its first warp", "w < blockDim.x / WARP; w++", "w < 1; w++"),
        ("sums are read before they are there", "= x;\n  __syncthreads();", "= x;"),
        ("a gradient that is not finite goes unseen", "!isfinite(norm) || ", ""),
        ("a loss that is not finite goes unseen", " || !isfinite(control[LOSS])", ""),
        ("an update in spite of it",
         "  if (i >= size || control[HEALTHY] == 0) return;\n  const real lr = control[LR];",
         "  if (i >= size) return;\n  const real lr = control[LR];"),
        ("the step counts in spite of it",
         "  if (control[HEALTHY] == 0) return;\n  const", "  const"),
        ("health comes back",
         "control[HEALTHY] = 0;", "control[HEALTHY] = 0; else control[HEALTHY] = 1;"),
        ("the second shard's losses replace the first's",
         "control[LOSS] += sum", "control[LOSS] = sum"),
        ("never clipped", "grad_clip > 0 && clipped < 1", "grad_clip > 0 && clipped > 1"),
        ("the correction of the other moment",
         "lr / real(control[CORRECTION1])", "lr / real(control[CORRECTION2])"),
        ("weight decay without the learning rate", "lr * decay,\n", "decay,\n"),
        ("the penalty pulls the wrong way", "(p[i] - anchor[i])", "(anchor[i] - p[i])"),
    ],
}  # fmt: skip

CHECKS: dict[str, Callable[[Sequence[int]], None]] = {
    op: partial(check_op, f"{op}.{op}") for op in MISTAKES
}
CHECKS["partials"] = partial(check_op, "layer_norm.layer_norm")
CHECKS["optimizer"] = check_updates
