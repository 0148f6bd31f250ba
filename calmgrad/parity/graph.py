"""The network once more, in its smallest steps: what each reads, and what it makes.

The engine's ops do several things at once (convolution and SiLU; the step size, the scan and the
gate). Other engines cut elsewhere, so parity knows each step by itself. Values have the names of
`trace`, and these besides (M: blocks.0.mixer, L: blocks.0)::

    M.x, M.z            the halves of M.in_proj        M.conv1d       before SiLU; M.u after
    M.dt_raw, M.B, M.C  the parts of M.x_proj          M.dt_proj      before softplus; M.dt after
    M.y, M.gated        before, after the gate         M.h            (T, C, N) after each token
    M.out_proj, L.ffn_fc2                              before they are added to the residual
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from calmgrad.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Node:
    """One step of the network.

    Attributes:
        name: of the op ("blocks.0.mixer.softplus").
        kind: which formula (`local.KINDS`).
        inputs, parameters: what the formula calls it -> name of the value or parameter.
        outputs: the same of what it makes; several when one product is cut into parts.
        widths: columns of each output.
        near: what the formula does not read but a mistake could -> name of the value.
    """

    name: str
    kind: str
    inputs: dict[str, str]
    parameters: dict[str, str]
    outputs: dict[str, str]
    widths: tuple[int, ...] = ()
    near: dict[str, str] = field(default_factory=dict)

    @property
    def block(self) -> str:
        """ "blocks.0"; empty outside of them."""
        return self.name[: self.name.index(".", 7)] if self.name.startswith("blocks.") else ""

    @property
    def role(self) -> str:
        """The name without the block's number: "mixer.softplus"."""
        parts = self.name.split(".")
        return ".".join(parts[2:]) if parts[0] == "blocks" else self.name


@dataclass(frozen=True, slots=True)
class Graph:
    """All nodes in the order of the forward pass, and who makes and who reads each value."""

    config: ModelConfig
    nodes: tuple[Node, ...]
    maker: dict[str, Node] = field(default_factory=dict)
    readers: dict[str, list[Node]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.nodes:
            for value in node.outputs.values():
                self.maker[value] = node
            for name in (*node.inputs.values(), *node.parameters.values()):
                self.readers.setdefault(name, []).append(node)

    def whole(self) -> dict[str, list[str]]:
        """Value that dumps hold in one piece -> its parts, in the order of the columns."""
        return {
            node.name: list(node.outputs.values()) for node in self.nodes if len(node.outputs) > 1
        }


def build(config: ModelConfig) -> Graph:
    """The network of these sizes."""
    return Graph(config, tuple(_nodes(config)))


def _nodes(config: ModelConfig) -> Iterator[Node]:
    yield Node("token_emb", "embedding", {}, {"table": "token_emb.weight"}, {"y": "token_emb"})
    x = "token_emb"
    for layer in range(config.n_layers):
        yield from _block(config, f"blocks.{layer}", x)
        x = f"blocks.{layer}.residual2"
    yield _norm("ln_f", x)
    yield Node(
        "logits", "logits", {"x": "ln_f"}, {"table": "token_emb.weight"}, {"y": "logits"},
        near={"stream": x},
    )  # fmt: skip
    yield Node("targets", "targets", {}, {}, {"y": "targets"})
    inputs = {"logits": "logits", "targets": "targets"}
    yield Node("nll", "cross_entropy", inputs, {}, {"y": "nll"})
    yield Node("loss", "reduction", {"nll": "nll", "targets": "targets"}, {}, {"y": "loss"})


def _block(config: ModelConfig, block: str, x: str) -> Iterator[Node]:
    yield _norm(f"{block}.ln1", x)
    yield from _mixer(config, f"{block}.mixer", f"{block}.ln1")
    yield _sum(f"{block}.residual1", f"{block}.mixer.out_proj", x, {"normed": f"{block}.ln1"})
    yield _norm(f"{block}.ln2", f"{block}.residual1", {"other": x})
    yield _linear(f"{block}.ffn_fc1", f"{block}.ln2", {"other": f"{block}.residual1"})
    yield _plain(f"{block}.gelu", "gelu", f"{block}.ffn_fc1", f"{block}.gelu")
    yield _linear(f"{block}.ffn_fc2", f"{block}.gelu", {"other": f"{block}.ffn_fc1"})
    near = {"normed": f"{block}.ln2", "other": x}
    yield _sum(f"{block}.residual2", f"{block}.ffn_fc2", f"{block}.residual1", near)


def _mixer(config: ModelConfig, m: str, x: str) -> Iterator[Node]:
    c, n, rank = config.d_inner, config.d_state, config.dt_rank
    yield Node(
        f"{m}.in_proj", "linear", {"x": x}, {"weight": f"{m}.in_proj.weight"},
        {"x": f"{m}.x", "z": f"{m}.z"}, (c, c),
    )  # fmt: skip
    weight = {"weight": f"{m}.conv1d_weight"}
    yield Node(
        f"{m}.conv1d", "conv1d", {"x": f"{m}.x"}, weight, {"y": f"{m}.conv1d"},
        near={"other": f"{m}.z"},
    )  # fmt: skip
    yield _plain(f"{m}.silu", "silu", f"{m}.conv1d", f"{m}.u")
    yield Node(
        f"{m}.x_proj", "linear", {"x": f"{m}.u"}, {"weight": f"{m}.x_proj.weight"},
        {"dt_raw": f"{m}.dt_raw", "B": f"{m}.B", "C": f"{m}.C"}, (rank, n, n),
        {"other": f"{m}.x"},
    )  # fmt: skip
    parameters = {"weight": f"{m}.dt_proj.weight", "bias": f"{m}.dt_proj.bias"}
    yield Node(f"{m}.dt_proj", "dt_proj", {"x": f"{m}.dt_raw"}, parameters, {"y": f"{m}.dt_proj"})
    yield _plain(f"{m}.softplus", "softplus", f"{m}.dt_proj", f"{m}.dt")
    yield Node(
        f"{m}.selective_scan", "selective_scan",
        {key: f"{m}.{key}" for key in ("u", "dt", "B", "C")},
        {key: f"{m}.{key}" for key in ("A_log", "D")},
        {"y": f"{m}.y"},
        near={"x": f"{m}.x", "z": f"{m}.z"},
    )  # fmt: skip
    yield Node(
        f"{m}.gate", "gate", {"y": f"{m}.y", "z": f"{m}.z"}, {}, {"y": f"{m}.gated"},
        near={"x": f"{m}.x", "u": f"{m}.u"},
    )  # fmt: skip
    yield _linear(f"{m}.out_proj", f"{m}.gated", {"other": f"{m}.y"})


def _norm(name: str, x: str, near: dict[str, str] | None = None) -> Node:
    parameters = {"weight": f"{name}.weight", "bias": f"{name}.bias"}
    return Node(name, "layer_norm", {"x": x}, parameters, {"y": name}, near=near or {})


def _linear(name: str, x: str, near: dict[str, str] | None = None) -> Node:
    weight = {"weight": f"{name}.weight"}
    return Node(name, "linear", {"x": x}, weight, {"y": name}, near=near or {})


def _plain(name: str, kind: str, x: str, y: str) -> Node:
    return Node(name, kind, {"x": x}, {}, {"y": y})


def _sum(name: str, x: str, residual: str, near: dict[str, str]) -> Node:
    inputs = {"x": x, "residual": residual}
    return Node(name, "residual", inputs, {}, {"y": name}, near=near)
