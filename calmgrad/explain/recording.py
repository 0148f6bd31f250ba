"""One forward and backward pass, op by op: what went in, what came out, and how long it took."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calmgrad import backend as backends
from calmgrad.layout import views
from calmgrad.model import Model
from calmgrad.shards import Shard, Worker, loss_head
from calmgrad.tape import Step, Tensor

PASSES = 5  # of which the quickest counts
NAMED_BY_WEIGHT = {"layer_norm", "linear", "causal_conv1d", "embedding"}


@dataclass(frozen=True, slots=True)
class Input:
    """What an op reads: its name in the formula, whose value it is, and which columns of it."""

    symbol: str
    tensor: str
    columns: tuple[int, int] | None = None


@dataclass(slots=True)
class RecordedOp:
    """An op on the tape.

    Attributes:
        name: where it stands and what it does there, "blocks.0.mixer.in_proj"; also the name
            of its output.
        op, scope: as on the tape.
        inputs: in the order of the op's arguments.
        value: its output; gradient: of the loss in that output.
        seconds: of the way forward and of the way back, the best of some passes.
    """

    name: str
    op: str
    scope: str
    inputs: list[Input]
    value: NDArray[np.float32]
    gradient: NDArray[np.float32] | None = None
    seconds: list[float] = field(default_factory=lambda: [np.inf, np.inf])


class Recorder:
    """Runs a shard forward and backward and keeps what each op did."""

    def __init__(self, model: Model) -> None:
        self.worker = Worker(backends.load("cpu"), model.config, model.weights)
        named = self.worker.parameters.items()
        self._names = {id(tensor): name for name, tensor in named}
        self.ops: list[RecordedOp] = []

    def run(self, shard: Shard, seed: NDArray[np.float32]) -> list[RecordedOp]:
        """The ops of a pass whose output's gradient is `seed`, in order."""
        tape = self.worker.tape
        with backends.one_blas_thread(), backends.silent_overflow():
            self.worker.run(shard, loss_head, seed)  # compiles, and takes the memory
            tape.observer = self._look
            self.worker.run(shard, loss_head, seed)
            for _ in range(PASSES):
                tape.observer = _Clock(self.ops)
                self.worker.run(shard, loss_head, seed)
            tape.observer = None
        return self.ops

    def gradients(self) -> NDArray[np.float32]:
        """The flat gradient of the last pass, in buffer order."""
        return np.array(self.worker.grads)

    def _look(self, phase: str, step: Step) -> None:
        if phase != "forward":
            return
        held = _tensors_of(step)
        inputs = [self._input(symbol, tensor) for symbol, tensor in held]
        name = self._name(step, inputs)
        self._names[id(step.output)] = name
        made = RecordedOp(name, step.op, step.scope, inputs, np.array(step.output.value))
        self.ops.append(made)
        run = step.backward

        def backward() -> None:  # afterwards the gradient may be another tensor's
            made.gradient = np.array(step.output.grad)
            run()

        step.backward = backward

    def _input(self, symbol: str, tensor: Tensor) -> Input:
        whole = tensor._parent
        if whole is None:
            return Input(symbol, self._names[id(tensor)])
        columns = (tensor._columns.start, tensor._columns.stop)
        return Input(symbol, self._names[id(whole)], columns)

    def _name(self, step: Step, inputs: Sequence[Input]) -> str:
        """The op's scope and its weight, or its kind; numbered where that is not enough."""
        weights = {i.symbol: i.tensor for i in inputs if i.tensor in self.worker.parameters}
        if step.scope == "head" and step.op == "linear":
            short = "logits"  # through the embedding's weight
        elif step.op == "embedding" and not weights:
            short = "targets"  # the rows that shall predict something
        elif step.op in NAMED_BY_WEIGHT and weights:
            weight = weights.get("weight") or weights["table"]
            short = re.sub("[._]weight$", "", weight).rpartition(".")[2]
        else:
            short = step.op
        name = short if short == step.scope else f"{step.scope}.{short}"
        taken = sum(re.sub(r"\.\d+$", "", op.name) == name for op in self.ops)
        return f"{name}.{taken + 1}" if taken else name


class _Clock:
    """An observer that notes the shortest time of each op."""

    def __init__(self, ops: list[RecordedOp]) -> None:
        self.ops, self.seen = ops, 0
        self.last = time.perf_counter()

    def __call__(self, phase: str, step: Step) -> None:
        took = time.perf_counter() - self.last
        back = phase == "backward"
        op = self.ops[len(self.ops) - 1 - self.seen if back else self.seen]
        op.seconds[back] = min(op.seconds[back], took)
        self.seen = (self.seen + 1) % len(self.ops)
        self.last = time.perf_counter()


def _tensors_of(step: Step) -> list[tuple[str, Tensor]]:
    """The tensors that the way back of an op holds, by the names its source gives them."""
    function: Any = step.backward
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    held = [(name, cell.cell_contents) for name, cell in cells]
    return [(n, t) for n, t in held if isinstance(t, Tensor) and t is not step.output]


def gradients_by_name(model: Model, flat: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Views into a flat gradient, by the parameters' names."""
    named: dict[str, NDArray[np.float32]] = views(model.config, flat)
    return named
