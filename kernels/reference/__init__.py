"""The formulas in whole-array form, for any float type: the oracle of the tests."""

from calmgrad.kernels.reference.causal_conv1d import (
    causal_conv1d_backward,
    causal_conv1d_forward,
    causal_conv1d_workspace,
)
from calmgrad.kernels.reference.cross_entropy import (
    cross_entropy_backward,
    cross_entropy_forward,
)
from calmgrad.kernels.reference.decode import (
    decode_channels,
    decode_prepare,
    decode_tokens,
    decode_workspace,
)
from calmgrad.kernels.reference.embedding import embedding_backward, embedding_forward
from calmgrad.kernels.reference.gelu import gelu_backward, gelu_forward
from calmgrad.kernels.reference.l2_normalize import l2_normalize_backward, l2_normalize_forward
from calmgrad.kernels.reference.layer_norm import (
    layer_norm_backward,
    layer_norm_forward,
    layer_norm_workspace,
)
from calmgrad.kernels.reference.linear import matmul
from calmgrad.kernels.reference.optimizer import adamw, ewc_gradient, sgd, squared_norm
from calmgrad.kernels.reference.pool import pool_backward, pool_forward
from calmgrad.kernels.reference.sampling import choose
from calmgrad.kernels.reference.select_rows import select_rows_backward, select_rows_forward
from calmgrad.kernels.reference.selective_scan import (
    selective_scan_backward,
    selective_scan_forward,
    selective_scan_workspace,
)

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
