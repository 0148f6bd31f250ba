"""Hold one engine's pass against the formulas and another pass; name the first op that differs.

Each value is made again from what the same engine says the op read. So an op is blamed for what
it did itself: where its inputs are wrong, so is what it is expected to make of them. What is not
known is made from the nearest known values, and then the steps between are candidates together.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from calmgrad.config import ModelConfig
from calmgrad.parity.difference import Difference, difference
from calmgrad.parity.evaluate import Change, Evaluation, Known
from calmgrad.parity.finding import BACKWARD, FORWARD, Finding, Row, role_of
from calmgrad.parity.graph import Graph, Node
from calmgrad.parity.local import Context
from calmgrad.parity.meaning import meaning
from calmgrad.parity.mistakes import Mistake, general, misplaced, mistakes

PATIENCE = 30.0  # seconds for trying mistakes
LONG = 3.0  # seconds after which that is told
EXPLAINED = 1e-3  # of a difference may be left by the mistake that explains it
IDLE = 0.75  # of what is wrong: a mistake may also put things where nothing belongs
FEW = 6  # candidates between which known values leave no doubt for long
# Of several candidates the one with most that can go wrong.
_INTRICATE = "selective_scan layer_norm conv1d cross_entropy embedding gelu gate softplus".split()


@dataclass
class Comparison:
    """Checks one engine's pass.

    The graph of an update has values alone: `forward` checks them, as "update".

    Args:
        theirs: what it says.
        run: another run, for the distance column alone; None without.
        rtol: allowed for one step.
        dtype: of its numbers.
        explain: try known mistakes.
        tell: gets a line when that takes longer.
    """

    graph: Graph
    context: Context
    theirs: Known
    run: Evaluation | None
    rtol: float
    dtype: str
    explain: bool = True
    onwards: str = FORWARD
    rows: list[Row] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    tell: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        self.local = Evaluation(self.graph, self.context, self.theirs)
        self._cleared: set[tuple[str, str]] = set()
        self._trying = 0.0  # seconds that mistakes took
        self.gave_up = False  # trying mistakes took too long

    @property
    def config(self) -> ModelConfig:
        return self.graph.config

    def forward(self) -> None:
        """All values, in the order of the ops."""
        if not (self.theirs.values or self.theirs.gradients):
            return
        for block, nodes in groupby(self.graph.nodes, lambda node: node.block):
            for node in nodes:
                for name in node.outputs.values():
                    if name in self.theirs.values:
                        self._value(node, name)
            for evaluation in (self.local, self.run):
                if block and evaluation is not None:
                    evaluation.value(node.outputs["y"])  # the stream: all that follows begins here
                    evaluation.forget(block)

    def backward(self) -> None:
        """All gradients, in the order of the way back."""
        if not self.theirs.gradients:
            return
        if "loss" in self.theirs.gradients:
            self._start()
        for block, nodes in groupby(reversed(self.graph.nodes), lambda node: node.block):
            for node in nodes:
                for name in self._ready_after(node):
                    if name in self.theirs.gradients:
                        self._gradient(node, name)
            if block:
                self.local.gradient(node.inputs["x"])
                self.local.forget(block)

    def _start(self) -> None:
        """The way back begins with 1, the gradient of the loss by itself."""
        node, one, got = self.graph.maker["loss"], np.ones(()), self.theirs.gradients["loss"]
        run = None if self.run is None else self._apart(one, got)
        row = self._row("loss", BACKWARD, node.name, run, one, got, 1)
        if not row.good:
            self._find(row, [node], one, got)

    def _ready_after(self, node: Node) -> Iterator[str]:
        """What has its whole gradient once a step has gone back."""
        for name in (*node.inputs.values(), *node.parameters.values()):
            if self.graph.readers[name][0] is node:
                yield name

    def _value(self, node: Node, name: str) -> None:
        behind = self.local.behind_value(name)
        expected, got = self.local.value_of(name), self.theirs.values[name]
        run = None if self.run is None else self._apart(self.run.value(name), got)
        row = self._row(name, self.onwards, node.name, run, expected, got, len(behind))
        if row.good:
            if len(behind) <= FEW:
                self._cleared |= {(each.name, FORWARD) for each in behind}
            return
        suspects = [each for each in behind if (each.name, FORWARD) not in self._cleared]
        self._find(row, suspects or behind, expected, got)

    def _gradient(self, node: Node, name: str) -> None:
        edges = self.local.behind_gradient(name)
        back = list({node.name: node for node, _ in edges}.values())
        hidden = self._hidden_values(back)
        expected, got = self.local.gradient_of(name), self.theirs.gradients[name]
        row = self._row(name, BACKWARD, node.name, None, expected, got, len(back) + len(hidden))
        sent = {(node.name, into) for node, into in edges}
        if row.good:
            if len(back) + len(hidden) <= FEW:  # of many, an error can be too small at the end
                self._cleared |= sent | {(each.name, FORWARD) for each in hidden}
            return
        guilty = {op for op, _ in sent - self._cleared}
        suspects = [each for each in back if each.name in guilty]
        suspects += [each for each in hidden if (each.name, FORWARD) not in self._cleared]
        self._find(row, suspects or back, expected, got)

    def _hidden_values(self, back: list[Node]) -> list[Node]:
        """The steps whose values the way back needs and nobody knows."""
        read = {name for node in back for name in node.inputs.values()}
        found = {
            node.name
            for name in read
            if name not in self.theirs.values
            for node in self.local.behind_value(name)
        }
        return [node for node in self.graph.nodes if node.name in found]

    def _row(
        self, name: str, direction: str, op: str, run: Difference | None,
        expected: np.ndarray, got: np.ndarray, steps: int,
    ) -> Row:  # fmt: skip
        allowed = self.rtol * max(steps, 1) ** 0.25  # the rounding of many mostly cancels
        if op in ("adam", "sgd"):  # sums of weights and small steps: they are exact but for these
            allowed = min(allowed, 4 * float(np.finfo(self.dtype).eps))
        rounding = self._rounding(name, direction)
        local = difference(expected, got, allowed, self.dtype, rounding)
        row = Row(name, direction, op, run, local, allowed)
        self.rows.append(row)
        return row

    def _rounding(self, name: str, direction: str) -> Any:
        """What is left of the log-sum-exp's rounding where a target's logit is taken from it.

        Of a model that is sure of its targets both are far larger than their difference, and so
        are the errors beside what goes back: softmax minus 1.
        """
        back = direction == BACKWARD
        if name not in (("logits",) if back else ("nll", "loss")):
            return 0.0
        largest = np.abs(self.local.value_of("logits")).max(axis=1)
        rounding = 4 * float(np.finfo(self.dtype).eps) * np.where(np.isfinite(largest), largest, 0)
        if name == "loss":  # made of what is known of the tokens
            return 0.0 if "nll" in self.theirs.values else rounding.max(initial=0.0)
        return (rounding * np.abs(self.local.gradient_of("nll")))[:, None] if back else rounding

    def _apart(self, expected: np.ndarray, got: np.ndarray) -> Difference:
        return difference(expected, got, self.rtol, self.dtype)

    # --- who is to blame ------------------------------------------------------------------------

    def _find(self, row: Row, suspects: list[Node], expected: np.ndarray, got: np.ndarray) -> None:
        words = meaning(row.name, row.local.index, self.config, self.context.batch)
        op, likely = None, None
        if self.explain and self._worth_trying(row, suspects, got):
            op, likely = self._likely(row, suspects, expected, got)
        if op is None:
            suspects = self._able(row, suspects, expected, got)
            op = self._most_intricate(suspects).name
        candidates = tuple(dict.fromkeys(node.name for node in suspects))
        self.findings.append(
            Finding(op, row.direction, row.name, row.local, words, candidates, likely)
        )

    def _worth_trying(self, row: Row, suspects: list[Node], got: np.ndarray) -> bool:
        """Whether to try mistakes.

        Not where the same place of another block has been told, or the op is wrong forward; not
        from one number, which many would fit; and between many steps, where a try is a whole
        pass, for the first finding.
        """
        if len(suspects) > FEW and (self.findings or got.size == 1):
            return False
        told = {(role_of(f.op), f.direction, role_of(f.name)) for f in self.findings if f.likely}
        wrong = {role_of(f.op) for f in self.findings if f.direction == FORWARD}
        if row.direction == BACKWARD and {s.role for s in suspects} <= wrong:
            return False
        return not {(s.role, row.direction, role_of(row.name)) for s in suspects} <= told

    def _able(
        self, row: Row, suspects: list[Node], expected: np.ndarray, got: np.ndarray
    ) -> list[Node]:
        """Without those whose share of a gradient is 0 nearly everywhere that it is wrong."""
        shares = list(self.local.shares_of(row.name)) if row.direction == BACKWARD else []
        wrong = np.abs(got - expected) > row.allowed * np.abs(expected).max(initial=0.0)
        if len(shares) < 2 or not wrong.any():
            return suspects
        idle = {node.name for node, share in shares if (share[wrong] == 0).mean() > IDLE}
        return [each for each in suspects if each.name not in idle] or suspects

    def _most_intricate(self, suspects: list[Node]) -> Node:
        """The one with most that can go wrong; of several candidates, one found before."""
        before = {finding.op for finding in self.findings}
        known = [node for node in suspects if node.name in before]

        def rank(node: Node) -> int:
            return _INTRICATE.index(node.kind) if node.kind in _INTRICATE else len(_INTRICATE)

        return min(known or suspects, key=rank)

    def _likely(
        self, row: Row, suspects: list[Node], expected: np.ndarray, got: np.ndarray
    ) -> tuple[str | None, str | None]:
        """The step and the mistake that gives these very numbers."""
        if row.direction == BACKWARD and len(suspects) > FEW:
            likely = misplaced(expected, got, row.allowed)
            if row.name in self.theirs.parameters and likely is not None:
                return self.graph.readers[row.name][0].name, likely
        if not (np.isfinite(got).any() and np.isfinite(expected).any()):
            return None, general(expected, got, row.allowed)  # no formula tells more
        limit = max(row.allowed, EXPLAINED * min(row.local.relative, 1.0))
        best: tuple[float, str | None, str | None] = (limit, None, None)
        for node, mistake, changes in self._tries(row, suspects, got):
            made = self._made_with(row, changes)
            if made is None or made.shape != got.shape:
                continue
            apart = difference(got, made, row.allowed, self.dtype).relative  # scaled as `got`
            if apart <= best[0]:
                best = (apart, node.name, mistake.text)
                if apart <= 0.1 * row.allowed:
                    break
        if best[2] is not None:
            return best[1], best[2]
        if row.direction == BACKWARD and (missing := self._missing_share(row, got)) is not None:
            return missing
        return None, general(expected, got, row.allowed) if len(suspects) <= FEW else None

    def _tries(
        self, row: Row, suspects: list[Node], got: np.ndarray
    ) -> Iterator[tuple[Node, Mistake, dict[str, Change]]]:
        """Each mistake at all steps of one place in the blocks, and at all steps of its kind."""
        seen: set[tuple[str, str]] = set()
        for node in suspects:
            place = [each for each in suspects if each.role == node.role]
            kind = [each for each in suspects if each.kind == node.kind]
            right = (node.name, FORWARD) in self._cleared
            for mistake in mistakes(node, got, backward=row.direction == BACKWARD, right=right):
                for key, alike in ((node.role, place), (node.kind, kind)):
                    if (key, mistake.text) not in seen:
                        seen.add((key, mistake.text))
                        yield alike[0], mistake, {each.name: mistake.change for each in alike}

    def _made_with(self, row: Row, changes: dict[str, Change]) -> np.ndarray | None:
        if self._trying > PATIENCE:
            self.gave_up = True
            return None
        if self._trying >= LONG and self.tell is not None:
            self.tell(f"something differs: known mistakes are tried, for {PATIENCE:.0f} s at most")
            self.tell = None
        trial, since = self.local.changed(changes), time.monotonic()
        try:
            with np.errstate(all="ignore"):
                if row.direction != BACKWARD:
                    return np.asarray(trial.value_of(row.name))
                return np.asarray(trial.gradient_of(row.name))
        except (ValueError, IndexError, KeyError):  # a mistake that cannot be made with these sizes
            return None
        finally:
            self._trying += time.monotonic() - since

    def _missing_share(self, row: Row, got: np.ndarray) -> tuple[str, str] | None:
        """A gradient of several readers, one of which sent nothing."""
        shares = list(self.local.shares_of(row.name))
        for node, share in shares if len(shares) > 1 else []:
            rest = self.local.gradient_of(row.name) - share
            if difference(rest, got, row.allowed, self.dtype).relative <= row.allowed:
                return node.name, f"its share of the gradient of {row.name} is missing"
            double = rest + 2 * share
            if difference(double, got, row.allowed, self.dtype).relative <= row.allowed:
                return node.name, f"its share of the gradient of {row.name} is added twice"
        return None


def first(findings: Iterable[Finding]) -> Finding | None:
    """The first in the order of execution."""
    return next(iter(findings), None)
