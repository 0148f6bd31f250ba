"""The kernels in CUDA, launched through CuPy: one `.cu` file an op, its launcher beside it."""

from calmgrad.kernels.cuda.causal_conv1d import CausalConv1d
from calmgrad.kernels.cuda.cross_entropy import CrossEntropy
from calmgrad.kernels.cuda.embedding import Embedding
from calmgrad.kernels.cuda.gelu import Gelu
from calmgrad.kernels.cuda.l2_normalize import L2Normalize
from calmgrad.kernels.cuda.layer_norm import LayerNorm
from calmgrad.kernels.cuda.linear import Linear
from calmgrad.kernels.cuda.optimizer import Optimizer
from calmgrad.kernels.cuda.pool import Pool
from calmgrad.kernels.cuda.select_rows import SelectRows
from calmgrad.kernels.cuda.selective_scan import SelectiveScan


class CudaKernels(
    CausalConv1d,
    CrossEntropy,
    Embedding,
    Gelu,
    L2Normalize,
    LayerNorm,
    Linear,
    Optimizer,
    Pool,
    SelectRows,
    SelectiveScan,
):
    """All kernels, on one device."""
