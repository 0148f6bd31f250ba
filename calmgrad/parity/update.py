"""The steps behind the gradient: penalty, clipping, optimizer, Fisher diagonal (FORMATS §7).

They stand in a graph of their own, over flat buffers in buffer order; settings that a dump tells
(lr, beta1, …) come with the context.
"""

from collections.abc import Iterator

import numpy as np

from calmgrad.config import ModelConfig
from calmgrad.layout import layout
from calmgrad.optim import clip_scale
from calmgrad.parity.graph import Graph, Node
from calmgrad.parity.local import Array, Context, Kind, Values
from calmgrad.trace import trace

# What a settings record may leave out.
DEFAULTS = dict(
    beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, grad_clip=1.0, ewc_lambda=0.0, update=1
)


def setting(c: Context, name: str) -> float:
    """A number of the settings, or its default."""
    return float(c.settings.get(name, DEFAULTS.get(name, 0.0)))


def build_update(config: ModelConfig, held: set[str], settings: dict[str, object]) -> Graph:
    """The steps whose inputs are known, when these flat buffers are held."""
    known, nodes = set(held), []
    for node in _nodes(settings):
        if set(node.inputs.values()) <= known:
            nodes.append(node)
            known |= set(node.outputs.values())
    return Graph(config, tuple(nodes))


def _nodes(settings: dict[str, object]) -> Iterator[Node]:
    if settings.get("ewc_lambda"):
        names = {n: n for n in ("grads", "weights", "fisher", "anchor")}
        yield _node("ewc", names, "ewc_grads")
    else:
        yield _node("no_ewc", {"grads": "grads"}, "ewc_grads")
    yield _node("grad_norm", {"g": "ewc_grads"}, "grad_norm")
    yield _node("clip", {"g": "ewc_grads", "norm": "grad_norm"}, "clipped_grads", raw="grads")
    if settings.get("optimizer", "adam") == "sgd":
        if "lr" in settings:
            yield _node("sgd", {"p": "weights", "g": "clipped_grads"}, "new_weights")
    else:
        for moment in ("adam_m", "adam_v"):
            names = {"before": f"{moment}_before", "g": "clipped_grads"}
            yield _node(moment, names, moment, raw="ewc_grads")
        if "lr" in settings:
            names = {"p": "weights", "m": "adam_m", "v": "adam_v"}
            yield _node("adam", names, "new_weights", g="clipped_grads")
    yield _node("fisher", {"weights": "weights"}, "new_fisher")


def _node(kind: str, inputs: dict[str, str], output: str, **near: str) -> Node:
    name = "ewc" if kind == "no_ewc" else kind
    return Node(name, kind, inputs, {}, {"y": output}, near=near)


def penalty(v: Values, c: Context) -> Array:
    """The penalty's gradient."""
    return setting(c, "ewc_lambda") * v["fisher"] * (v["weights"] - v["anchor"])


def ewc(v: Values, c: Context) -> Values:
    return {"y": v["grads"] + penalty(v, c)}


def no_ewc(v: Values, c: Context) -> Values:
    return {"y": v["grads"]}


def grad_norm(v: Values, c: Context) -> Values:
    return {"y": np.sqrt(np.square(v["g"]).sum()).reshape(1)}


def clip(v: Values, c: Context) -> Values:
    return {"y": v["g"] * clip_scale(float(v["norm"].ravel()[0]), setting(c, "grad_clip"))}


def adam_m(v: Values, c: Context) -> Values:
    beta = setting(c, "beta1")
    return {"y": beta * v["before"] + (1 - beta) * v["g"]}


def adam_v(v: Values, c: Context) -> Values:
    beta = setting(c, "beta2")
    return {"y": beta * v["before"] + (1 - beta) * v["g"] ** 2}


def decay(c: Context) -> Array:
    """lr * weight decay of each weight: 0 for A_log and D."""
    each = np.zeros(c.config.param_count)
    for entry in layout(c.config):
        each[entry.start : entry.stop] = entry.decay
    return each * setting(c, "lr") * setting(c, "weight_decay")


def corrected(v: Values, c: Context, later: int = 0) -> tuple[Array, Array]:
    """m and v with their bias corrected, as after so many updates more."""
    t = max(setting(c, "update") + later, 1)
    return v["m"] / (1 - setting(c, "beta1") ** t), v["v"] / (1 - setting(c, "beta2") ** t)


def adam(v: Values, c: Context) -> Values:
    m, square = corrected(v, c)
    step = setting(c, "lr") * m / (np.sqrt(square) + setting(c, "eps"))
    return {"y": v["p"] * (1 - decay(c)) - step}


def sgd(v: Values, c: Context) -> Values:
    return {"y": v["p"] * (1 - decay(c)) - setting(c, "lr") * v["g"]}


def per_sequence(v: Values, c: Context) -> Iterator[Array]:
    """The gradient of each sequence's own loss, in float64."""
    b, ends = c.batch, c.offsets
    for i, cmd in enumerate(b.cmd_positions):
        tokens = b.tokens[ends[i] : ends[i + 1]]
        one = trace(
            c.config, v["weights"], [tokens], [int(cmd)], backend="reference", dtype="float64"
        )
        yield one.grads


def fisher(v: Values, c: Context) -> Values:
    total = np.zeros(c.config.param_count)
    for gradient in per_sequence(v, c):
        total += gradient * gradient
    return {"y": total / len(c.batch.cmd_positions)}


def _none(v: Values, d: Values, c: Context) -> Values:
    return {}


UPDATE_KINDS = {
    f.__name__: Kind(f, _none)
    for f in (ewc, no_ewc, grad_norm, clip, adam_m, adam_v, adam, sgd, fisher)
}
