"""What a value or gradient should be, made from the nearest others that are known."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from calmgrad.parity.graph import Graph, Node
from calmgrad.parity.local import KINDS, Array, Backward, Context, Forward, Values
from calmgrad.parity.update import UPDATE_KINDS

FORMULAS = KINDS | UPDATE_KINDS
ROOM = 32e6  # bytes that may be remembered beside those of the block at hand


@dataclass(frozen=True, slots=True)
class Change:
    """Another formula in place of a step's own: a mistake to be tried."""

    forward: Forward | None = None
    backward: Backward | None = None


@dataclass(frozen=True, slots=True)
class Widened(Mapping[str, Array]):
    """Arrays of any float type, each in float64 for as long as somebody looks at it."""

    held: Mapping[str, Array]

    def __getitem__(self, name: str) -> Array:
        array = self.held[name]
        return np.asarray(array, np.float64) if array.dtype.kind == "f" else array

    def __contains__(self, name: object) -> bool:
        return name in self.held  # without making it

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)


@dataclass(slots=True)
class Known:
    """What one engine says: its values, its gradients, its parameters, all in float64.

    Attributes:
        values, gradients: name -> array; `gradients` has those of parameters too.
        parameters: name -> array, all of the model's.
    """

    values: Mapping[str, Array]
    gradients: Mapping[str, Array]
    parameters: Mapping[str, Array]


@dataclass
class Evaluation:
    """Values and gradients by the formulas, from what is known.

    What is known is taken as it is; the rest is made from it, and remembered. `value_of` and
    `gradient_of` make a thing in any case, from the nearest known: what it should have been.

    Attributes:
        changes: name of a node -> the mistake to make there.
    """

    graph: Graph
    context: Context
    known: Known
    changes: Mapping[str, Change] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._made: Values = {}
        self._sent: dict[str, Values] = {}

    def changed(self, changes: Mapping[str, Change]) -> "Evaluation":
        """The same with mistakes; what they cannot reach is not made again."""
        trial = Evaluation(self.graph, self.context, self.known, changes)
        first, last = self._reach(changes)
        for node in self.graph.nodes[:first]:
            made = {name: self._made[name] for name in node.outputs.values() if name in self._made}
            trial._made.update(made)
        if first == len(self.graph.nodes):  # on the way back alone: what comes before it
            for node in self.graph.nodes[last + 1 :]:
                if node.name in self._sent:
                    trial._sent[node.name] = self._sent[node.name]
        return trial

    def _reach(self, changes: Mapping[str, Change]) -> tuple[int, int]:
        """The first step that computes something else, and the last that sends it back."""
        nodes = enumerate(self.graph.nodes)
        at = [(i, changes[node.name]) for i, node in nodes if node.name in changes]
        forward = [i for i, change in at if change.forward is not None]
        return min(forward, default=len(self.graph.nodes)), max(i for i, _ in at)

    def forget(self, block: str) -> None:
        """Let go of what was made inside a block, if it is much: it can be made again.

        What leads to it stays: the stream behind each block, and its gradient.
        """
        sent = (share for shares in self._sent.values() for share in shares.values())
        if sum(array.nbytes for array in (*self._made.values(), *sent)) <= ROOM:
            return
        inside = f"{block}."
        kept = {f"{block}.residual2", f"grad/{block}.residual2"}
        for name in [n for n in self._made if n.removeprefix("grad/").startswith(inside)]:
            if name not in kept:
                del self._made[name]
        for name in [n for n in self._sent if n.startswith(inside)]:
            del self._sent[name]

    # --- forward --------------------------------------------------------------------------------

    def value(self, name: str) -> Array:
        """A value as it is known, or else as it is made."""
        if name in self.known.values:
            return self.known.values[name]
        return self.value_of(name)

    def value_of(self, name: str) -> Array:
        """A value as its step makes it."""
        if name not in self._made:
            node = self.graph.maker[name]
            made = self._forward(node)
            for role, value in node.outputs.items():
                self._made[value] = made[role]
        return self._made[name]

    def read_by(self, node: Node) -> Values:
        """All that a step reads, by the names of its formula."""
        read = {role: self.value(name) for role, name in node.inputs.items()}
        read |= {role: self.known.parameters[name] for role, name in node.parameters.items()}
        if node.name in self.changes:
            read |= {f"near.{role}": self.value(name) for role, name in node.near.items()}
        return read

    def _forward(self, node: Node) -> Values:
        change = self.changes.get(node.name)
        forward = change.forward if change is not None else None
        made = (forward or FORMULAS[node.kind].forward)(self.read_by(node), self.context)
        if not node.widths:
            return made
        edges = np.cumsum(node.widths)[:-1]
        return dict(zip(node.outputs, np.split(made["y"], edges, axis=1), strict=True))

    # --- backward -------------------------------------------------------------------------------

    def gradient(self, name: str) -> Array:
        """A gradient as it is known, or else as it is made."""
        if name in self.known.gradients:
            return self.known.gradients[name]
        return self.gradient_of(name)

    def gradient_of(self, name: str) -> Array:
        """A gradient as the steps that read the value send it back."""
        if name == "loss":
            return np.ones(())
        key = f"grad/{name}"
        if key not in self._made:
            self._made[key] = sum(
                (share for _, share in self.shares_of(name)), np.zeros(self._shape(name))
            )
        return self._made[key]

    def shares_of(self, name: str) -> Iterable[tuple[Node, Array]]:
        """Each step that reads a value or parameter, and what it sends back to it."""
        for node in self.graph.readers.get(name, ()):
            sent = self._backward(node)
            for role, read in (*node.inputs.items(), *node.parameters.items()):
                if read == name and role in sent:
                    yield node, sent[role]

    def _backward(self, node: Node) -> Values:
        if node.name not in self._sent:
            change = self.changes.get(node.name)
            backward = change.backward if change is not None else None
            arrived = {role: self.gradient(value) for role, value in node.outputs.items()}
            if node.widths:
                arrived = {"y": np.concatenate(list(arrived.values()), axis=1)}
            run = backward or FORMULAS[node.kind].backward
            self._sent[node.name] = run(self.read_by(node), arrived, self.context)
        return self._sent[node.name]

    def _shape(self, name: str) -> tuple[int, ...]:
        if name in self.known.parameters:
            return tuple(self.known.parameters[name].shape)
        return tuple(self.value(name).shape)

    # --- who took part --------------------------------------------------------------------------

    def behind_value(self, name: str) -> list[Node]:
        """The steps between a value and the nearest known ones, in order."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            node = self.graph.maker[waiting.pop()]
            if node.name not in found:
                found.add(node.name)
                waiting += [n for n in node.inputs.values() if n not in self.known.values]
        return [node for node in self.graph.nodes if node.name in found]

    def behind_gradient(self, name: str) -> list[tuple[Node, str]]:
        """The steps between a gradient and the nearest known ones, in the order of the way back.

        Each with the value or parameter to which it sends: a step may be right for one of its
        inputs and wrong for another.
        """
        found: dict[tuple[str, str], tuple[Node, str]] = {}
        waiting, seen = [name], {name}
        while waiting:
            into = waiting.pop()
            for node in self.graph.readers.get(into, ()):
                if node.kind != "targets":
                    found[node.name, into] = node, into
                fresh = set(node.outputs.values()) - seen - set(self.known.gradients)
                seen |= fresh
                waiting += sorted(fresh)
        order = {node.name: -i for i, node in enumerate(self.graph.nodes)}
        return sorted(found.values(), key=lambda pair: (order[pair[0].name], pair[1]))
