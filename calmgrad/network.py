"""The CALM network out of ops (docs/network.md, FORMATS §1)."""

from calmgrad.config import LAYER_NORM_EPS, ModelConfig
from calmgrad.kernels.protocol import Array
from calmgrad.ops.causal_conv1d import causal_conv1d
from calmgrad.ops.cross_entropy import cross_entropy
from calmgrad.ops.embedding import embedding
from calmgrad.ops.gelu import gelu
from calmgrad.ops.l2_normalize import l2_normalize
from calmgrad.ops.layer_norm import layer_norm
from calmgrad.ops.linear import linear
from calmgrad.ops.pool import pool
from calmgrad.ops.select_rows import select_rows
from calmgrad.ops.selective_scan import selective_scan
from calmgrad.packing import Packing
from calmgrad.tape import Tensor

Parameters = dict[str, Tensor]


def mixer(p: Parameters, name: str, x: Tensor, residual: Tensor, packing: Packing) -> Tensor:
    """The Mamba mixer of one block: residual + mixer(x), all (T, d_model)."""
    d_inner = p[f"{name}.D"].shape[0]
    xz = linear(x, p[f"{name}.in_proj.weight"])
    u, z = xz.split(d_inner, d_inner)
    u = causal_conv1d(u, p[f"{name}.conv1d_weight"], packing)
    dt_b_c = linear(u, p[f"{name}.x_proj.weight"])
    y = selective_scan(
        u,
        z,
        dt_b_c,
        p[f"{name}.dt_proj.weight"],
        p[f"{name}.dt_proj.bias"],
        p[f"{name}.A_log"],
        p[f"{name}.D"],
        packing,
    )
    return linear(y, p[f"{name}.out_proj.weight"], residual)


def feed_forward(p: Parameters, name: str, x: Tensor, residual: Tensor) -> Tensor:
    """residual + fc2(gelu(fc1(x))), all (T, d_model)."""
    h = gelu(linear(x, p[f"{name}.ffn_fc1.weight"]))
    return linear(h, p[f"{name}.ffn_fc2.weight"], residual)


def normed(p: Parameters, name: str, x: Tensor) -> Tensor:
    """LayerNorm with the parameters `name`.weight and `name`.bias."""
    return layer_norm(x, p[f"{name}.weight"], p[f"{name}.bias"], LAYER_NORM_EPS)


def stream(p: Parameters, config: ModelConfig, tokens: Array, packing: Packing) -> Tensor:
    """(T,) tokens to (T, d_model): embedding and all blocks."""
    tape = p["ln_f.weight"].tape
    tape.scope = "token_emb"
    x = embedding(p["token_emb.weight"], tokens)
    for layer in range(config.n_layers):
        mark, block = tape.values.mark(), f"blocks.{layer}"
        tape.scope = f"{block}.mixer"
        x_mixed = mixer(p, f"{block}.mixer", normed(p, f"{block}.ln1", x), x, packing)
        tape.scope = f"{block}.ffn"
        x_next = feed_forward(p, block, normed(p, f"{block}.ln2", x_mixed), x_mixed)
        x = tape.keep(x_next, mark)
    tape.scope = "head"
    return x


def hidden(p: Parameters, config: ModelConfig, tokens: Array, packing: Packing) -> Tensor:
    """(T,) tokens to (T, d_model): all blocks and the final LayerNorm."""
    return normed(p, "ln_f", stream(p, config, tokens, packing))


def logits(p: Parameters, config: ModelConfig, tokens: Array, packing: Packing) -> Tensor:
    """(T,) tokens to (T, vocab) logits, through the tied embedding."""
    return linear(hidden(p, config, tokens, packing), p["token_emb.weight"], transposed=True)


def token_losses(
    p: Parameters,
    config: ModelConfig,
    tokens: Array,
    packing: Packing,
    targets: Array,
    rows: Array | None = None,
) -> Tensor:
    """(K,) negative log likelihoods in nats of K targets.

    Args:
        targets: (K,) what is to be predicted.
        rows: (K,) where; None: at every token.

    The other tokens (a prompt's) are read, but need no logits: an eighth of nano's work.
    """
    x = stream(p, config, tokens, packing)
    if rows is not None:
        x = select_rows(x, rows)
    scores = linear(normed(p, "ln_f", x), p["token_emb.weight"], transposed=True)
    return cross_entropy(scores, targets)


def embeddings(
    p: Parameters, config: ModelConfig, tokens: Array, packing: Packing, how: str, unit: bool
) -> Tensor:
    """(B, d_model): one vector a sequence, of length one if `unit`."""
    pooled = pool(hidden(p, config, tokens, packing), packing, how)
    return l2_normalize(pooled) if unit else pooled
