"""The kernels in Numba: one thread each, without the GIL, so shards run side by side."""

from calmgrad.kernels.cpu.causal_conv1d import (
    causal_conv1d_backward,
    causal_conv1d_forward,
    causal_conv1d_workspace,
)
from calmgrad.kernels.cpu.cross_entropy import (
    cross_entropy_backward,
    cross_entropy_forward,
)
from calmgrad.kernels.cpu.decode import (
    decode_channels,
    decode_prepare,
    decode_tokens,
    decode_workspace,
)
from calmgrad.kernels.cpu.embedding import embedding_backward, embedding_forward
from calmgrad.kernels.cpu.gelu import gelu_backward, gelu_forward
from calmgrad.kernels.cpu.layer_norm import (
    layer_norm_backward,
    layer_norm_forward,
    layer_norm_workspace,
)
from calmgrad.kernels.cpu.linear import matmul
from calmgrad.kernels.cpu.optimizer import adamw, ewc_gradient, sgd, squared_norm
from calmgrad.kernels.cpu.pool import pool_backward, pool_forward
from calmgrad.kernels.cpu.sampling import choose
from calmgrad.kernels.cpu.select_rows import select_rows_backward, select_rows_forward
from calmgrad.kernels.cpu.selective_scan import (
    selective_scan_backward,
    selective_scan_forward,
    selective_scan_workspace,
)
from calmgrad.kernels.reference.l2_normalize import l2_normalize_backward, l2_normalize_forward

__all__ = [
    "adamw",
    "causal_conv1d_backward",
    "causal_conv1d_forward",
    "causal_conv1d_workspace",
    "choose",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "decode_channels",
    "decode_prepare",
    "decode_tokens",
    "decode_workspace",
    "embedding_backward",
    "embedding_forward",
    "ewc_gradient",
    "gelu_backward",
    "gelu_forward",
    "l2_normalize_backward",
    "l2_normalize_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "layer_norm_workspace",
    "matmul",
    "pool_backward",
    "pool_forward",
    "select_rows_backward",
    "select_rows_forward",
    "selective_scan_backward",
    "selective_scan_forward",
    "selective_scan_workspace",
    "sgd",
    "squared_norm",
]
