"""The kernels in CUDA, launched through CuPy: one `.cu` file an op, its launcher beside it."""

from calmgrad.kernels.cuda.gelu import Gelu
from calmgrad.kernels.cuda.selective_scan import SelectiveScan


class CudaKernels(Gelu, SelectiveScan):
    """All kernels, on one device."""
