"""Another engine: CALM in plain NumPy, token by token where that is the plain way.

It shares no formula with calmgrad: written from FORMATS §1 and §7, with each step a method, so
that a test can replace one by a wrong one. It writes what it did as a dump.
"""

from dataclasses import dataclass, field

import numpy as np

from calmgrad.config import ModelConfig
from calmgrad.formats.dump import Dump
from calmgrad.kernels.protocol import Array as Array
from calmgrad.layout import layout

PAD = 256
GELU = float(np.sqrt(2 / np.pi))  # a NumPy number would widen float32


@dataclass
class Batch:
    sequences: list[list[int]]
    cmd_positions: list[int]

    @property
    def tokens(self) -> Array:
        return np.array([t for s in self.sequences for t in s], np.int64)

    @property
    def starts(self) -> list[int]:
        return [sum(len(s) for s in self.sequences[:i]) for i in range(len(self.sequences) + 1)]


@dataclass
class Settings:
    lr: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.1
    grad_clip: float = 0.5
    ewc_lambda: float = 3.0
    update: int = 5
    optimizer: str = "adam"


@dataclass
class Engine:
    """One pass; `v` and `g` are its values and gradients by name, `p` and `dp` its parameters'."""

    config: ModelConfig
    weights: Array
    batch: Batch
    reduction: str = "sequence"
    v: dict[str, Array] = field(default_factory=dict)
    g: dict[str, Array] = field(default_factory=dict)
    dp: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tokens, self.starts = self.batch.tokens, self.batch.starts
        self.p = self.unpack(self.weights)

    def unpack(self, flat: Array) -> dict[str, Array]:
        return {e.name: flat[e.start : e.stop].reshape(e.shape) for e in layout(self.config)}

    # --- steps --------------------------------------------------------------------------------

    def embed(self, table: Array) -> Array:
        return np.array([table[t] for t in self.tokens])

    def embed_back(self, dy: Array, table: Array) -> Array:
        dtable = np.zeros_like(table)
        for t, row in zip(self.tokens, dy, strict=True):
            dtable[t] += row
        return dtable

    def norm(self, x: Array, w: Array, b: Array) -> Array:
        out = np.empty_like(x)
        for t, row in enumerate(x):
            centred = row - row.mean()
            out[t] = centred / np.sqrt((centred * centred).mean() + 1e-5) * w + b
        return out

    def norm_back(self, dy: Array, x: Array, w: Array, b: Array) -> tuple[Array, Array, Array]:
        dx, dw, db = np.empty_like(x), np.zeros_like(w), np.zeros_like(b)
        for t, row in enumerate(x):
            centred = row - row.mean()
            s = 1 / np.sqrt((centred * centred).mean() + 1e-5)
            n = centred * s
            dw += dy[t] * n
            db += dy[t]
            dn = dy[t] * w
            dx[t] = s * (dn - dn.mean() - n * (dn * n).mean())
        return dx, dw, db

    def matmul(self, x: Array, w: Array, name: str) -> Array:
        return x @ w

    def matmul_back(self, dy: Array, x: Array, w: Array, name: str) -> tuple[Array, Array]:
        return dy @ w.T, x.T @ dy

    def residual(self, x: Array, r: Array, name: str) -> Array:
        return x + r

    def residual_back(self, dy: Array, name: str) -> tuple[Array, Array]:
        return dy, dy

    def conv(self, x: Array, w: Array) -> Array:
        out = np.zeros_like(x)
        for first, end in zip(self.starts, self.starts[1:], strict=False):
            for t in range(first, end):
                for j in range(w.shape[1]):
                    if t - j >= first:
                        out[t] += w[:, j] * x[t - j]
        return out

    def conv_back(self, dy: Array, x: Array, w: Array) -> tuple[Array, Array]:
        dx, dw = np.zeros_like(x), np.zeros_like(w)
        for first, end in zip(self.starts, self.starts[1:], strict=False):
            for t in range(first, end):
                for j in range(w.shape[1]):
                    if t - j >= first:
                        dx[t - j] += w[:, j] * dy[t]
                        dw[:, j] += x[t - j] * dy[t]
        return dx, dw

    def silu(self, x: Array) -> Array:
        return x / (1 + np.exp(-x))

    def silu_back(self, dy: Array, x: Array) -> Array:
        s = 1 / (1 + np.exp(-x))
        return dy * (s + x * s * (1 - s))

    def dt_proj(self, x: Array, w: Array, b: Array) -> Array:
        return x @ w + b

    def dt_proj_back(self, dy: Array, x: Array, w: Array, b: Array) -> tuple[Array, Array, Array]:
        return dy @ w.T, x.T @ dy, dy.sum(axis=0)

    def softplus(self, x: Array) -> Array:
        return np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20))))

    def softplus_back(self, dy: Array, x: Array) -> Array:
        return dy / (1 + np.exp(-x))

    def split(self, p: Array) -> tuple[Array, Array, Array]:
        r, n = self.config.dt_rank, self.config.d_state
        return p[:, :r], p[:, r : r + n], p[:, r + n :]

    def scan(self, u: Array, dt: Array, B: Array, C: Array, A_log: Array, D: Array) -> Array:
        y = np.zeros_like(u)
        A = -np.exp(A_log)
        for first, end in zip(self.starts, self.starts[1:], strict=False):
            h = np.zeros_like(A)
            for t in range(first, end):
                h = np.exp(dt[t][:, None] * A) * h + np.outer(dt[t] * u[t], B[t])
                y[t] = h @ C[t] + D * u[t]
        return y

    def scan_back(
        self, dy: Array, u: Array, dt: Array, B: Array, C: Array, A_log: Array, D: Array
    ) -> dict[str, Array]:
        g = {k: np.zeros_like(x) for k, x in dict(u=u, dt=dt, B=B, C=C, A_log=A_log, D=D).items()}
        A = -np.exp(A_log)
        for first, end in zip(self.starts, self.starts[1:], strict=False):
            hs = [np.zeros_like(A)]
            for t in range(first, end):
                hs.append(np.exp(dt[t][:, None] * A) * hs[-1] + np.outer(dt[t] * u[t], B[t]))
            carried = np.zeros_like(A)
            for t in reversed(range(first, end)):
                before, after = hs[t - first], hs[t - first + 1]
                dh = carried + np.outer(dy[t], C[t])
                decay = np.exp(dt[t][:, None] * A)
                g["C"][t] = after.T @ dy[t]
                g["B"][t] = dh.T @ (dt[t] * u[t])
                g["D"] += dy[t] * u[t]
                g["u"][t] = dt[t] * (dh @ B[t]) + D * dy[t]
                ddecay = dh * before
                g["dt"][t] = (ddecay * decay * A).sum(axis=1) + u[t] * (dh @ B[t])
                g["A_log"] += ddecay * decay * dt[t][:, None] * A
                carried = dh * decay
        return g

    def gate(self, y: Array, z: Array) -> Array:
        return y * (z / (1 + np.exp(-z)))

    def gate_back(self, dy: Array, y: Array, z: Array) -> tuple[Array, Array]:
        s = 1 / (1 + np.exp(-z))
        return dy * z * s, dy * y * (s + z * s * (1 - s))

    def gelu(self, x: Array) -> Array:
        return x / 2 * (1 + np.tanh(GELU * (x + 0.044715 * x * x * x)))

    def gelu_back(self, dy: Array, x: Array) -> Array:
        k = GELU
        t = np.tanh(k * (x + 0.044715 * x * x * x))
        return dy * ((1 + t) / 2 + x / 2 * (1 - t * t) * k * (1 + 0.134145 * x * x))

    def logits(self, x: Array, table: Array) -> Array:
        return x @ table.T

    def logits_back(self, dy: Array, x: Array, table: Array) -> tuple[Array, Array]:
        return dy @ table, dy.T @ x

    def targets(self) -> Array:
        wanted = np.full(len(self.tokens), -1, np.int64)
        for i, cmd in enumerate(self.batch.cmd_positions):
            for t in range(self.starts[i] + cmd, self.starts[i + 1] - 1):
                if self.tokens[t + 1] != PAD:
                    wanted[t] = self.tokens[t + 1]
        return wanted

    def cross_entropy(self, scores: Array, wanted: Array) -> Array:
        nll = np.zeros(len(scores), scores.dtype)
        for t, w in enumerate(wanted):
            if w >= 0:
                row = scores[t] - scores[t].max()
                nll[t] = np.log(np.exp(row).sum()) - row[w]
        return nll

    def cross_entropy_back(self, dnll: Array, scores: Array, wanted: Array) -> Array:
        out = np.zeros_like(scores)
        for t, w in enumerate(wanted):
            if w >= 0:
                e = np.exp(scores[t] - scores[t].max())
                out[t] = e / e.sum()
                out[t, w] -= 1
                out[t] *= dnll[t]
        return out

    def shares(self, wanted: Array) -> Array:
        share = np.zeros(len(wanted), self.weights.dtype)
        count = [
            (wanted[a:b] >= 0).sum() for a, b in zip(self.starts, self.starts[1:], strict=False)
        ]
        for i, n in enumerate(count):
            rows = slice(self.starts[i], self.starts[i + 1])
            each = 1 / sum(count) if self.reduction == "token" else 1 / (max(n, 1) * len(count))
            share[rows] = (wanted[rows] >= 0) * each
        return share

    def loss(self, nll: Array, wanted: Array) -> Array:
        return np.array((nll * self.shares(wanted)).sum())

    def loss_back(self, wanted: Array) -> Array:
        return self.shares(wanted)

    # --- the network --------------------------------------------------------------------------

    def forward(self) -> None:
        p, v = self.p, self.v
        x = v["token_emb"] = self.embed(p["token_emb.weight"])
        for layer in range(self.config.n_layers):
            x = self.block(f"blocks.{layer}", x)
        v["ln_f"] = self.norm(x, p["ln_f.weight"], p["ln_f.bias"])
        v["logits"] = self.logits(v["ln_f"], p["token_emb.weight"])
        v["targets"] = self.targets()
        v["nll"] = self.cross_entropy(v["logits"], v["targets"])
        v["loss"] = self.loss(v["nll"], v["targets"])

    def block(self, b: str, x: Array) -> Array:
        p, v, m = self.p, self.v, f"{b}.mixer"
        di = self.config.d_inner
        h = v[f"{b}.ln1"] = self.norm(x, p[f"{b}.ln1.weight"], p[f"{b}.ln1.bias"])
        xz = v[f"{m}.in_proj"] = self.matmul(h, p[f"{m}.in_proj.weight"], "in_proj")
        v[f"{m}.conv1d"] = self.conv(xz[:, :di], p[f"{m}.conv1d_weight"])
        u = v[f"{m}.u"] = self.silu(v[f"{m}.conv1d"])
        proj = v[f"{m}.x_proj"] = self.matmul(u, p[f"{m}.x_proj.weight"], "x_proj")
        raw, B, C = self.split(proj)
        v[f"{m}.dt_proj"] = self.dt_proj(raw, p[f"{m}.dt_proj.weight"], p[f"{m}.dt_proj.bias"])
        dt = v[f"{m}.dt"] = self.softplus(v[f"{m}.dt_proj"])
        v[f"{m}.y"] = self.scan(u, dt, B, C, p[f"{m}.A_log"], p[f"{m}.D"])
        v[f"{m}.gated"] = self.gate(v[f"{m}.y"], xz[:, di:])
        v[f"{m}.out_proj"] = self.matmul(v[f"{m}.gated"], p[f"{m}.out_proj.weight"], "out_proj")
        x = v[f"{b}.residual1"] = self.residual(v[f"{m}.out_proj"], x, "residual1")
        v[f"{b}.ln2"] = self.norm(x, p[f"{b}.ln2.weight"], p[f"{b}.ln2.bias"])
        v[f"{b}.ffn_fc1"] = self.matmul(v[f"{b}.ln2"], p[f"{b}.ffn_fc1.weight"], "ffn_fc1")
        v[f"{b}.gelu"] = self.gelu(v[f"{b}.ffn_fc1"])
        v[f"{b}.ffn_fc2"] = self.matmul(v[f"{b}.gelu"], p[f"{b}.ffn_fc2.weight"], "ffn_fc2")
        v[f"{b}.residual2"] = self.residual(v[f"{b}.ffn_fc2"], x, "residual2")
        return v[f"{b}.residual2"]

    def backward(self) -> None:
        p, v, g, dp = self.p, self.v, self.g, self.dp
        g["nll"] = self.loss_back(v["targets"])
        g["logits"] = self.cross_entropy_back(g["nll"], v["logits"], v["targets"])
        table = p["token_emb.weight"]
        g["ln_f"], dtable = self.logits_back(g["logits"], v["ln_f"], table)
        last = f"blocks.{self.config.n_layers - 1}.residual2"
        g[last] = self.norm_to("ln_f", v[last])
        for layer in reversed(range(self.config.n_layers)):
            into = f"blocks.{layer - 1}.residual2" if layer else "token_emb"
            g[into] = self.block_back(f"blocks.{layer}", v[into])
        dp["token_emb.weight"] = dtable + self.embed_back(g["token_emb"], table)

    def norm_to(self, name: str, x: Array) -> Array:
        w, b = self.p[f"{name}.weight"], self.p[f"{name}.bias"]
        dx, self.dp[f"{name}.weight"], self.dp[f"{name}.bias"] = self.norm_back(
            self.g[name], x, w, b
        )
        return dx

    def product(self, name: str, x: Array) -> Array:
        """Through a product; its weight's gradient is kept."""
        w = self.p[f"{name}.weight"]
        dx, self.dp[f"{name}.weight"] = self.matmul_back(
            self.g[name], x, w, name.rpartition(".")[2]
        )
        return dx

    def block_back(self, b: str, x: Array) -> Array:
        p, v, g, dp, m = self.p, self.v, self.g, self.dp, f"{b}.mixer"
        di = self.config.d_inner
        g[f"{b}.ffn_fc2"], past = self.residual_back(g[f"{b}.residual2"], "residual2")
        g[f"{b}.gelu"] = self.product(f"{b}.ffn_fc2", v[f"{b}.gelu"])
        g[f"{b}.ffn_fc1"] = self.gelu_back(g[f"{b}.gelu"], v[f"{b}.ffn_fc1"])
        g[f"{b}.ln2"] = self.product(f"{b}.ffn_fc1", v[f"{b}.ln2"])
        g[f"{b}.residual1"] = past + self.norm_to(f"{b}.ln2", v[f"{b}.residual1"])
        g[f"{m}.out_proj"], past = self.residual_back(g[f"{b}.residual1"], "residual1")
        g[f"{m}.gated"] = self.product(f"{m}.out_proj", v[f"{m}.gated"])
        z = v[f"{m}.in_proj"][:, di:]
        g[f"{m}.y"], dz = self.gate_back(g[f"{m}.gated"], v[f"{m}.y"], z)
        u, dt = v[f"{m}.u"], v[f"{m}.dt"]
        raw, B, C = self.split(v[f"{m}.x_proj"])
        s = self.scan_back(g[f"{m}.y"], u, dt, B, C, p[f"{m}.A_log"], p[f"{m}.D"])
        dp[f"{m}.A_log"], dp[f"{m}.D"], g[f"{m}.dt"] = s["A_log"], s["D"], s["dt"]
        g[f"{m}.dt_proj"] = self.softplus_back(g[f"{m}.dt"], v[f"{m}.dt_proj"])
        draw, dp[f"{m}.dt_proj.weight"], dp[f"{m}.dt_proj.bias"] = self.dt_proj_back(
            g[f"{m}.dt_proj"], raw, p[f"{m}.dt_proj.weight"], p[f"{m}.dt_proj.bias"]
        )
        g[f"{m}.x_proj"] = np.concatenate([draw, s["B"], s["C"]], axis=1)
        g[f"{m}.u"] = s["u"] + self.product(f"{m}.x_proj", u)
        g[f"{m}.conv1d"] = self.silu_back(g[f"{m}.u"], v[f"{m}.conv1d"])
        dx, dp[f"{m}.conv1d_weight"] = self.conv_back(
            g[f"{m}.conv1d"], v[f"{m}.in_proj"][:, :di], p[f"{m}.conv1d_weight"]
        )
        g[f"{m}.in_proj"] = np.concatenate([dx, dz], axis=1)
        g[f"{b}.ln1"] = self.product(f"{m}.in_proj", v[f"{b}.ln1"])
        return past + self.norm_to(f"{b}.ln1", x)

    # --- the update ---------------------------------------------------------------------------

    def flat(self, named: dict[str, Array]) -> Array:
        return np.concatenate([named[e.name].ravel() for e in layout(self.config)])

    def decays(self) -> Array:
        return self.flat(
            {
                k: np.full(x.shape, float(k[-5:] != "A_log" and k[-2:] != ".D"))
                for k, x in self.p.items()
            }
        )

    def ewc(self, grads: Array, fisher: Array, anchor: Array, s: Settings) -> Array:
        return grads + s.ewc_lambda * fisher * (self.weights - anchor)

    def norm_of(self, grads: Array) -> Array:
        return np.sqrt((grads * grads).sum())

    def clip(self, grads: Array, norm: Array, s: Settings) -> Array:
        return grads * min(1, s.grad_clip / (norm + 1e-6))

    def moment1(self, before: Array, grads: Array, s: Settings) -> Array:
        return s.beta1 * before + (1 - s.beta1) * grads

    def moment2(self, before: Array, grads: Array, s: Settings) -> Array:
        return s.beta2 * before + (1 - s.beta2) * grads * grads

    def adam(self, m: Array, v: Array, s: Settings) -> Array:
        m_hat, v_hat = m / (1 - s.beta1**s.update), v / (1 - s.beta2**s.update)
        kept = self.weights * (1 - s.lr * s.weight_decay * self.decays())
        return kept - s.lr * m_hat / (np.sqrt(v_hat) + s.eps)

    def fisher(self) -> Array:
        total = np.zeros_like(self.weights)
        for tokens, cmd in zip(self.batch.sequences, self.batch.cmd_positions, strict=True):
            one = Engine(self.config, self.weights, Batch([tokens], [cmd]))
            one.forward()
            one.backward()
            total += one.flat(one.dp) ** 2
        return total / len(self.batch.sequences)

    def update(self, s: Settings) -> dict[str, Array]:
        """An update from a state that a seed gives; all its flat buffers."""
        rng = np.random.default_rng(s.update)
        size, dtype = self.weights.size, self.weights.dtype
        f: dict[str, Array] = {"weights": self.weights, "grads": self.flat(self.dp)}
        f["fisher"] = rng.uniform(0, 1, size).astype(dtype) ** 2
        f["anchor"] = (self.weights + rng.normal(0, 0.01, size)).astype(dtype)
        f["ewc_grads"] = self.ewc(f["grads"], f["fisher"], f["anchor"], s)
        f["grad_norm"] = self.norm_of(f["ewc_grads"])
        f["clipped_grads"] = self.clip(f["ewc_grads"], f["grad_norm"], s)
        f["adam_m_before"] = (1e-3 * rng.normal(0, 1, size)).astype(dtype)
        f["adam_v_before"] = (1e-6 * rng.uniform(0, 1, size)).astype(dtype)
        f["adam_m"] = self.moment1(f["adam_m_before"], f["clipped_grads"], s)
        f["adam_v"] = self.moment2(f["adam_v_before"], f["clipped_grads"], s)
        f["new_weights"] = self.adam(f["adam_m"], f["adam_v"], s)
        f["new_fisher"] = self.fisher()
        return {k: np.asarray(x, dtype) for k, x in f.items()}

    # --- the dump -----------------------------------------------------------------------------

    def dump(self) -> Dump:
        arrays: dict[str, Array] = {
            "tokens": self.tokens,
            "offsets": np.array(self.starts, np.int64),
            "cmd_positions": np.array(self.batch.cmd_positions, np.int64),
        }
        arrays |= self.v
        arrays |= {f"grad/{k}": x for k, x in {**self.g, **self.dp}.items()}
        settings = {
            "engine": "plain",
            "reduction": self.reduction,
            "dtype": self.weights.dtype.name,
        }
        return Dump(arrays, dict(settings))
