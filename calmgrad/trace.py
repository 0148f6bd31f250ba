"""One forward and backward pass with everything kept: each op, its values, their gradients.

The ops are those of training (`network`), on a tape of their own with an observer; what they are
called here is what they are called everywhere else: in dumps, in parity's and explain's words.

What a value is called follows from the model (L: blocks.0, blocks.1, …)::

    token_emb                  L.mixer.in_proj (x and z)    L.mixer.gated   (the op selective_scan)
    L.ln1                      L.mixer.u (the op conv1d)    L.residual1     (out_proj and the sum)
    L.ln2                      L.mixer.x_proj (dt, B, C)    L.residual2     (ffn_fc2 and the sum)
    L.ffn_fc1  L.gelu          L.mixer.{dt, y, h}: kept     ln_f  logits  nll  loss
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from calmgrad import backend as backends
from calmgrad.backend import Backend, to_numpy
from calmgrad.config import ModelConfig
from calmgrad.cutting import Shard, target_shares, targets_of
from calmgrad.kernels.protocol import Array
from calmgrad.layout import views
from calmgrad.network import Parameters, logits
from calmgrad.ops.cross_entropy import cross_entropy
from calmgrad.packing import Packing
from calmgrad.sequences import Tokens, checked_sequence
from calmgrad.staging import Staging
from calmgrad.tape import Step, Tape, Tensor
from calmgrad.worker import Head, loss_head, placed

# The last part of an op's name -> that of its output, where it is another.
OUTPUTS = {
    "conv1d": "u",
    "selective_scan": "gated",
    "out_proj": "residual1",
    "ffn_fc2": "residual2",
}


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed training sequences, whole, as one shard.

    Attributes:
        tokens: (T,) int64, back to back.
        packing: where each sequence begins.
        cmd_positions: (B,) int64.
        targets: (T,) int64, what each position shall predict, -1 for nothing.
        shares: (T,) float64, what each position weighs in the loss; 0 without a target.
    """

    tokens: NDArray[np.int64]
    packing: Packing
    cmd_positions: NDArray[np.int64]
    targets: NDArray[np.int64]
    shares: NDArray[np.float64]


def batch_of(
    config: ModelConfig,
    sequences: Sequence[Tokens],
    cmd_positions: Sequence[int],
    reduction: str = "sequence",
) -> Batch:
    """Pack training sequences.

    Raises:
        ValueError: none, one too long or empty, a token or position out of range.
    """
    if len(sequences) == 0 or len(sequences) != len(cmd_positions):
        raise ValueError(
            f"{len(sequences)} sequences, {len(cmd_positions)} cmd_positions:"
            " expected as many of both, at least one"
        )
    pairs = zip(sequences, cmd_positions, strict=True)
    arrays = [
        checked_sequence(s, int(c), config, f"sequence {i}") for i, (s, c) in enumerate(pairs)
    ]
    packing = Packing.of([array.size for array in arrays])
    tokens, positions = np.concatenate(arrays), np.asarray(cmd_positions, np.int64)
    targets = targets_of(tokens, packing, positions)
    counts = np.add.reduceat(targets >= 0, packing.offsets[:-1], dtype=np.int64)
    shares = np.repeat(target_shares(counts, reduction), np.diff(packing.offsets))
    return Batch(tokens, packing, positions, targets, np.where(targets >= 0, shares, 0.0))


@dataclass(frozen=True, slots=True)
class Input:
    """What an op read: a value (some columns of it, or all) or a parameter, by name."""

    name: str
    columns: tuple[int, int] | None = None
    parameter: bool = False


@dataclass(slots=True)
class Record:
    """One op of the pass.

    Attributes:
        name: which of the network ("blocks.0.mixer.in_proj", "ln_f", "logits").
        op: of which kind ("linear", "layer_norm"); "reduction" for the loss, which is no op of
            the tape.
        scope: where the tape says it stands ("blocks.0.mixer").
        inputs: what the op calls its input -> what it is.
        output: name of the value that it made.
        saved: what the op calls what it keeps -> name of that value.
        forward_seconds, backward_seconds: what it took.
    """

    name: str
    op: str
    scope: str
    inputs: dict[str, Input]
    output: str
    saved: dict[str, str] = field(default_factory=dict)
    forward_seconds: float = 0.0
    backward_seconds: float = 0.0


@dataclass(slots=True)
class Trace:
    """A pass as it was.

    Attributes:
        config, batch: the model's sizes, and what it read.
        backend, dtype, reduction: how it was run.
        records: its ops, in the order of the forward pass; backward ran them the other way.
        values: name -> copy of each value, in that order; (T, …) but for `loss`.
        gradients: name -> the loss' gradient by each output of an op, and by each parameter;
            0 where none arrived.
        weights, grads: flat buffers of the parameters and their gradients.
        loss: in nats, summed in float64.
    """

    config: ModelConfig
    batch: Batch
    backend: str
    dtype: str
    reduction: str
    records: list[Record]
    values: dict[str, Array]
    gradients: dict[str, Array]
    weights: Array
    grads: Array
    loss: float

    @property
    def parameters(self) -> dict[str, Array]:
        """Name -> view into `weights`, in buffer order."""
        return views(self.config, self.weights)

    def record(self, name: str) -> Record:
        """The op of this name; KeyError without one."""
        for record in self.records:
            if record.name == name:
                return record
        raise KeyError(name)


def trace(
    config: ModelConfig,
    weights: Array,
    sequences: Sequence[Tokens],
    cmd_positions: Sequence[int],
    *,
    backend: str = "cpu",
    dtype: str = "float32",
    reduction: str = "sequence",
    every_position: bool = True,
) -> Trace:
    """Run one forward and backward pass over a batch, in one shard, and keep everything.

    Args:
        weights: flat, in buffer order, of any float type; cast to `dtype`.
        sequences, cmd_positions: as `Trainer.step` takes them.
        backend: "reference", "cpu", or "cuda".
        dtype: "float32" or "float64".
        reduction: "sequence" or "token".
        every_position: logits and losses for all tokens. False: as training does it, for those
            alone that have a target; then (K, …) is their shape.

    Raises:
        ValueError: as `batch_of`; or a setting that is none of these.
        DeviceError: what is missing for the GPU.
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype {dtype!r}: expected float32 or float64")
    if reduction not in ("sequence", "token"):
        raise ValueError(f"reduction {reduction!r}: expected sequence or token")
    batch = batch_of(config, sequences, cmd_positions, reduction)
    loaded = backends.load(backend)
    with loaded.active(), backends.one_blas_thread(), backends.silent_overflow():
        watch = _Watch(loaded, config, np.asarray(weights, dtype))
        if every_position:
            seed = watch.run(_every_position, batch, batch.shares)
        else:
            seed = watch.run(loss_head, batch, batch.shares[batch.targets >= 0])
        flat, grads = np.asarray(to_numpy(watch.weights)), np.asarray(to_numpy(watch.grads))
    loss = float(np.dot(watch.values["nll"].astype(np.float64), seed))
    watch.values["loss"] = np.array(loss, dtype)
    watch.gradients["loss"] = np.array(1, dtype)
    watch.records.append(Record("loss", "reduction", "head", {"nll": Input("nll")}, "loss"))
    return Trace(
        config, batch, backend, dtype, reduction, watch.records, watch.values, watch.gradients,
        flat, grads, loss,
    )  # fmt: skip


def _every_position(parameters: Parameters, config: ModelConfig, shard: Shard) -> Tensor:
    return cross_entropy(logits(parameters, config, shard.tokens, shard.packing), shard.targets)


class _Watch:
    """A tape whose observer copies what it sees."""

    def __init__(self, backend: Backend, config: ModelConfig, weights: Array) -> None:
        self.config = config
        self.weights = backend.xp.asarray(weights)
        self.grads = backend.xp.zeros(weights.size, weights.dtype)
        self.tape = Tape(backend, weights.dtype.name)
        named, named_grads = views(config, self.weights), views(config, self.grads)
        self.parameters = {k: self.tape.parameter(v, named_grads[k]) for k, v in named.items()}
        self.names = {id(tensor): name for name, tensor in self.parameters.items()}
        self.tape.observer = self._look
        self.records: list[Record] = []
        self.values: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}
        self.staging = None if backend.device is None else Staging(backend.device)
        self._clock = 0.0

    def run(self, head: Head, batch: Batch, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Forward, and backward from these shares; returns them."""
        rows = list(range(len(batch.cmd_positions)))
        shard = Shard(rows, batch.tokens, batch.packing, batch.targets)
        seed = shares.astype(self.tape.dtype)
        self.gradients["nll"] = seed
        sent: Array = seed
        if self.staging is not None:
            shard, sent = placed(shard, seed, self.staging)
            shard = replace(shard, targets=self.tape.backend.xp.asarray(batch.targets))
        self._clock = time.perf_counter()
        output = head(self.parameters, self.config, shard)
        self._clock = time.perf_counter()
        self.tape.backward(output, sent)
        for record in self.records:  # what nothing flowed back to
            self.gradients.setdefault(record.output, np.zeros_like(self.values[record.output]))
        for name, tensor in self.parameters.items():
            self.gradients[name] = to_numpy(tensor.grad)
        return seed.astype(np.float64)

    def _look(self, phase: str, step: Step) -> None:
        took = time.perf_counter() - self._clock
        if phase == "forward":
            record = self._record(step)
            record.forward_seconds = took
            self.records.append(record)
            self.values[record.output] = _copy(step.output.value)
            for name, array in step.saved.items():
                self.values[record.saved[name]] = _copy(array)
        else:
            at = next(i for i, each in enumerate(self.tape.steps) if each is step)
            self.records[at].backward_seconds = took
            self._keep_gradient(at - 1)
        self._clock = time.perf_counter()

    def _keep_gradient(self, at: int) -> None:
        """That of the step that goes back next: it is whole now, and may be given away by it."""
        while at >= 0:
            gradient = self.tape.steps[at].output.grad
            if gradient is not None:
                self.gradients[self.records[at].output] = _copy(gradient)
                return
            at -= 1

    def _record(self, step: Step) -> Record:
        name = self._name(step)
        prefix, _, last = name.rpartition(".")
        if last in ("out_proj", "ffn_fc2"):  # the sum belongs to the block
            prefix = prefix.removesuffix(".mixer")
        output = ".".join(filter(None, [prefix, OUTPUTS.get(last, last)]))
        self.names[id(step.output)] = output
        inputs = {role: self._input(tensor) for role, tensor in step.inputs.items()}
        saved = {key: f"{name.rpartition('.')[0]}.{key}" for key in step.saved}
        if step.op != "selective_scan":
            saved = {key: f"{name}.{key}" for key in step.saved}
        return Record(name, step.op, step.scope, inputs, output, saved)

    def _name(self, step: Step) -> str:
        """After the op's matrix or table; without one, after scope and kind."""
        main = step.inputs.get("weight", step.inputs.get("table"))
        parameter = self.names.get(id(main), "")
        if step.op == "cross_entropy":
            return "nll"
        if parameter == "token_emb.weight" and step.op == "linear":
            return "logits"
        if main is not None and any(main is tensor for tensor in self.parameters.values()):
            return parameter.removesuffix(".weight").removesuffix("_weight")
        if step.op == "select_rows":
            return "targets_only"  # the rows that have a target
        return f"{step.scope.removesuffix('.ffn')}.{step.op}"

    def _input(self, tensor: Tensor) -> Input:
        whole, columns = tensor, None
        if tensor._parent is not None:
            whole, columns = tensor._parent, (tensor._columns.start, tensor._columns.stop)
        name = self.names[id(whole)]
        return Input(name, columns, name in self.parameters)


def _copy(array: Array) -> Array:
    return np.array(to_numpy(array))
