"""The kernels in CUDA, launched through CuPy: one `.cu` file an op, its launcher beside it."""

from calmgrad.kernels.cuda.gelu import Gelu


class CudaKernels(Gelu):
    """All kernels, on one device."""
