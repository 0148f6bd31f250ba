"""The same network and training step, jitted by JAX, as a worker: what a skilled user could write.

Runs under a Python that has JAX, without calmgrad. One function is compiled for the whole step,
for one shape: shorter sequences are padded to the longest, as in calm-mamba. The scan over time
is `lax.scan`, eight steps of it unrolled.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from serving import serve

SIZES = {
    "nano": (64, 3, 2, 2),
    "micro": (96, 5, 3, 2),
    "mini": (128, 6, 4, 3),
    "small": (192, 8, 4, 4),
}
STATES, TAPS, VOCABULARY, PAD = 16, 4, 320, 256
UNROLL = 8
LR, BETA1, BETA2, EPS, DECAY, CLIP = 1e-4, 0.9, 0.999, 1e-8, 0.01, 1.0

Parameters = Any


def prepare(settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """One training step on the same batch."""
    longest = max(map(len, settings["tokens"]))
    padded = np.full((len(settings["tokens"]), longest), PAD, np.int32)
    for row, tokens in zip(padded, settings["tokens"], strict=True):
        row[: len(tokens)] = tokens
    ids = jnp.asarray(padded)
    parameters = new_parameters(*SIZES[settings["size"]])
    m, v = (jax.tree.map(jnp.zeros_like, parameters) for _ in range(2))
    state = [parameters, m, v, jnp.float32(0)]

    def call() -> None:
        *state[:], loss = step(*state, ids)
        loss.block_until_ready()
        jax.block_until_ready(state[0])

    return call, {"jax": jax.__version__}


def new_parameters(d: int, layers: int, ffn: int, expand: int) -> Parameters:
    """As in the model, but for the exact distribution of the initial values."""
    rng = np.random.default_rng(0)
    channels, rank = d * expand, -(-d // 16)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(0.02 * rng.standard_normal(shape), jnp.float32)

    def block() -> dict[str, jax.Array]:
        return {
            "ln1": jnp.stack([jnp.ones(d), jnp.zeros(d)]),
            "in_proj": normal(d, 2 * channels),
            "conv": normal(channels, TAPS),
            "x_proj": normal(channels, rank + 2 * STATES),
            "dt_proj": normal(rank, channels),
            "dt_bias": jnp.full(channels, -4.0),
            "A_log": jnp.log(jnp.tile(jnp.arange(1.0, STATES + 1), (channels, 1))),
            "D": jnp.ones(channels),
            "out_proj": normal(channels, d),
            "ln2": jnp.stack([jnp.ones(d), jnp.zeros(d)]),
            "fc1": normal(d, ffn * d),
            "fc2": normal(ffn * d, d),
        }

    parameters = {
        "embedding": normal(VOCABULARY, d),
        "ln_f": jnp.stack([jnp.ones(d), jnp.zeros(d)]),
        "blocks": [block() for _ in range(layers)],
    }
    # With the dtype told, also of those that are weakly typed, or the step is compiled twice.
    return jax.tree.map(lambda x: jnp.array(x, jnp.float32), parameters)


def layer_norm(x: jax.Array, p: jax.Array) -> jax.Array:
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * p[0] + p[1]


def scan(u: jax.Array, dt: jax.Array, b: jax.Array, c: jax.Array, A_log: jax.Array) -> jax.Array:
    """(B, L, channels) outputs of the selective scan, without the skip connection."""
    A = -jnp.exp(A_log)

    def one(h: jax.Array, at: Any) -> tuple[jax.Array, jax.Array]:
        ut, step, bt, ct = at
        h = jnp.exp(step[..., None] * A) * h + (step * ut)[..., None] * bt[:, None]
        return h, (h * ct[:, None]).sum(-1)

    start = jnp.zeros((u.shape[0], u.shape[2], STATES))
    by_time = [jnp.swapaxes(x, 0, 1) for x in (u, dt, b, c)]
    _, y = jax.lax.scan(one, start, tuple(by_time), unroll=UNROLL)
    return jnp.swapaxes(y, 0, 1)


def mixer(p: Parameters, x: jax.Array) -> jax.Array:
    u, z = jnp.split(x @ p["in_proj"], 2, -1)
    length, rank = u.shape[1], p["dt_proj"].shape[0]
    padded = jnp.pad(u, ((0, 0), (TAPS - 1, 0), (0, 0)))
    taps = [padded[:, TAPS - 1 - k : TAPS - 1 - k + length] * p["conv"][:, k] for k in range(TAPS)]
    u = jax.nn.silu(sum(taps))
    dt, b, c = jnp.split(u @ p["x_proj"], [rank, rank + STATES], -1)
    dt = jax.nn.softplus(dt @ p["dt_proj"] + p["dt_bias"])
    y = scan(u, dt, b, c, p["A_log"]) + p["D"] * u
    return (y * jax.nn.silu(z)) @ p["out_proj"]


def mean_loss(p: Parameters, ids: jax.Array) -> jax.Array:
    """Over all targets that are no padding."""
    x = p["embedding"][ids[:, :-1]]
    for block in p["blocks"]:
        x = x + mixer(block, layer_norm(x, block["ln1"]))
        hidden = jax.nn.gelu(layer_norm(x, block["ln2"]) @ block["fc1"], approximate=True)
        x = x + hidden @ block["fc2"]
    logits = layer_norm(x, p["ln_f"]) @ p["embedding"].T
    targets = ids[:, 1:, None]
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets, -1)
    wanted = targets != PAD
    return (nll * wanted).sum() / wanted.sum()


@partial(jax.jit, donate_argnums=(0, 1, 2))
def step(p: Parameters, m: Parameters, v: Parameters, count: jax.Array, ids: jax.Array) -> Any:
    """Gradient, clipping by norm, AdamW: the new parameters and moments, and the loss."""
    loss, g = jax.value_and_grad(mean_loss)(p, ids)
    norm = jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(g)))
    scale = jnp.minimum(1.0, CLIP / (norm + 1e-6))
    count = count + 1
    m = jax.tree.map(lambda a, b: BETA1 * a + (1 - BETA1) * b * scale, m, g)
    v = jax.tree.map(lambda a, b: BETA2 * a + (1 - BETA2) * (b * scale) ** 2, v, g)

    def updated(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        first, second = a / (1 - BETA1**count), b / (1 - BETA2**count)
        return x - LR * (first / (jnp.sqrt(second) + EPS) + DECAY * x)

    return jax.tree.map(updated, p, m, v), m, v, count, loss


if __name__ == "__main__":
    serve(prepare)
