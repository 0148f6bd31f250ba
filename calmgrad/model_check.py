"""What `calmgrad gradcheck` checks: each op on a model's own numbers, and the model as a whole.

An op that the model uses gets the arrays that it gets in a forward pass, in every place where it
stands; any other op gets made-up ones (`op_cases`). The whole model is checked twice, as a
function of all its parameters: the losses of its tokens ("loss"), and the contrastive loss of
pairs ("contrastive").
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calmgrad import network
from calmgrad.backend import Backend, one_blas_thread, to_numpy
from calmgrad.config import ModelConfig
from calmgrad.cutting import Shard, pack, pack_targets
from calmgrad.differences import Function
from calmgrad.errors import CheckFailed
from calmgrad.gradient_check import Check, InputErrors
from calmgrad.kernels.protocol import Array
from calmgrad.layout import initial_weights
from calmgrad.op_cases import BUILDERS, Sizes, cases
from calmgrad.ops.infonce import infonce
from calmgrad.tape import Tape, Tensor

WHOLE = ("loss", "contrastive")  # of the whole model
GENERATED = "generated"
MADE_UP = Sizes((3, 1, 18), channels=5, states=3, taps=4, rank=2)

Sequences = Sequence[NDArray[np.int64]]
Wrap = Callable[[Function], Function]


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to check: a function, and where in the model its arrays come from.

    Attributes:
        op: name of the op, or of WHOLE.
        where: the parameter or part of the network, or GENERATED.
        fn: takes a tensor for each of `arrays`.
        arrays: name of the input -> values.
        head: which of WHOLE uses the op there.
    """

    op: str
    where: str
    fn: Function
    arrays: dict[str, Array]
    head: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What was found of one input of one subject."""

    op: str
    where: str
    found: InputErrors

    @property
    def line(self) -> str | None:
        """What is wrong, in one line."""
        return self.found.message and f"{self.op} ({self.where}): {self.found.message}"


def names() -> list[str]:
    """All that can be checked: the ops, as `gelu` or `basic.exp`, and WHOLE."""
    ops = [module if module == op else name for name, module, op in _split_names()]
    return [*sorted(ops, key=lambda name: ("." in name, name)), *WHOLE]


def _split_names() -> Iterator[tuple[str, str, str]]:
    for name in BUILDERS:
        module, _, op = name.partition(".")
        yield name, module, op


def fresh_weights(config: ModelConfig, seed: int) -> Array:
    """Initial weights, each moved by 0.1 or more: as if trained.

    A factor of 1 or a sum with 0 hides errors, and a scan that adds next to nothing its gradients.
    """
    weights = initial_weights(config, seed).astype(np.float64)
    moves: Array = np.random.default_rng(seed).standard_normal(weights.size)
    return weights + max(0.1, config.d_model**-0.5) * moves


def shortened(
    sequences: Iterable[tuple[NDArray[Any], int]], tokens: int
) -> tuple[list[NDArray[np.int64]], list[int]]:
    """The first sequences, of about so many tokens in all: of each at most the last third of that.

    Args:
        sequences: tokens and ATN position of each.
    """
    chosen: list[NDArray[np.int64]] = []
    positions: list[int] = []
    most = max(4, tokens // 3)
    for sequence, position in sequences:
        kept = np.asarray(sequence[-min(most, max(4, tokens)) :], np.int64)
        chosen.append(kept)
        positions.append(max(0, int(position) - (len(sequence) - len(kept))))
        tokens -= len(kept)
        if tokens <= 0:
            break
    return chosen, positions


# --- what there is to check -----------------------------------------------------------------------


def subjects(
    batch: "Batch", arrays: dict[str, Array], backend: Backend, chosen: Sequence[str] = ()
) -> list[Subject]:
    """All that `names()` lists, or those `chosen`, on these parameters and sequences."""
    wanted = set(chosen) or set(names())
    found: list[Subject] = []
    if wanted - set(WHOLE):
        used = [s for name in WHOLE for s in _calls(batch, name, arrays, backend)]
        found = [s for s in used if s.op in wanted]
        for name, module, op in _split_names():
            label = module if module == op else name
            if label in wanted and all(s.op != label for s in used):
                found += [Subject(label, GENERATED, c, c.inputs) for c in cases(name, MADE_UP)]
    found += [whole(batch, name, arrays) for name in WHOLE if name in wanted]
    return found


class Batch:
    """Sequences as the losses take them: packed, and cut into halves that belong together.

    Raises:
        ValueError: no sequence has a target.
    """

    def __init__(
        self, config: ModelConfig, sequences: Sequences, cmd_positions: Sequence[int]
    ) -> None:
        self.config = config
        shards, _ = pack_targets(sequences, cmd_positions, shard_tokens=1 << 40)
        if not shards:
            raise ValueError("gradcheck: no sequence has a target")
        self.loss_shard = shards[0]
        self.queries = _packed([s[: len(s) // 2] for s in sequences])
        self.positives = _packed([s[len(s) // 2 :] for s in sequences])

    def loss(self, net: Any, p: network.Parameters) -> Tensor:
        shard = self.loss_shard
        targets, rows = shard.questions()
        y: Tensor = net.token_losses(p, self.config, shard.tokens, shard.packing, targets, rows)
        return y

    def contrastive(self, net: Any, p: network.Parameters) -> Tensor:
        q, r = self.queries, self.positives
        rows = net.embeddings(p, self.config, q.tokens, q.packing, "mean", True)
        others = net.embeddings(p, self.config, r.tokens, r.packing, "last", True)
        y: Tensor = net.infonce(rows, others, 0.2)
        return y


def _packed(sequences: Sequences) -> Shard:
    return pack(sequences, shard_tokens=1 << 40)[0]


def _network(wrap: Wrap) -> SimpleNamespace:
    """The functions of network.py, and `infonce`, with every op wrapped."""
    space: dict[str, Any] = {**vars(network), "infonce": infonce}
    for name, value in list(space.items()):
        if not isinstance(value, FunctionType):
            continue
        if value.__module__ == network.__name__:  # the same code, which finds its ops in `space`
            space[name] = FunctionType(value.__code__, space, name, value.__defaults__)
        elif value.__module__.startswith("calmgrad.ops."):
            space[name] = wrap(value)
    return SimpleNamespace(**space)


def whole(batch: Batch, name: str, arrays: dict[str, Array], wrap: Wrap = lambda op: op) -> Subject:
    net, head = _network(wrap), getattr(batch, name)

    def fn(*tensors: Tensor) -> Tensor:
        y: Tensor = head(net, dict(zip(arrays, tensors, strict=True)))
        return y

    return Subject(name, "whole model", fn, arrays)


def _calls(batch: Batch, head: str, arrays: dict[str, Array], backend: Backend) -> list[Subject]:
    """Every call of an op in the forward pass of a loss, with copies of its arrays."""
    found: list[Subject] = []
    tape = Tape(backend, "float64")

    def noted(op: Function) -> Function:
        signature = inspect.signature(op)

        def call(*args: Any, **kwargs: Any) -> Tensor:
            given = signature.bind(*args, **kwargs).arguments
            tensors = {k: v for k, v in given.items() if isinstance(v, Tensor)}
            others = {k: v for k, v in given.items() if k not in tensors}
            copies = {k: np.array(to_numpy(v.value)) for k, v in tensors.items()}
            where = _place(tape.scope, [called[id(v)] for v in tensors.values() if id(v) in called])
            found.append(
                Subject(op.__name__, where, _by_name(op, list(tensors), others), copies, head)
            )
            return op(*args, **kwargs)

        return call

    p = {name: tape.constant(array) for name, array in arrays.items()}
    called = {id(tensor): name for name, tensor in p.items()}
    getattr(batch, head)(_network(noted), p)
    return found


def _by_name(op: Function, tensors: list[str], others: dict[str, Any]) -> Function:
    def fn(*values: Tensor) -> Tensor:
        return op(**dict(zip(tensors, values, strict=True)), **others)

    return fn


def _place(scope: str, parameters: list[str]) -> str:
    """Where a call stands: what the names of its parameters have in common, else its scope."""
    if not parameters:
        return scope
    common = parameters[0].removesuffix(".weight").split(".")
    for name in parameters[1:]:
        parts = name.split(".")
        while parts[: len(common)] != common:
            common.pop()
    return ".".join(common) or scope


# --- checking -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Manner:
    """How to check: see `gradcheck`, whose arguments these are."""

    backend: Backend
    rtol: float = 1e-6
    directions: int = 1
    probes: int = 5
    full: bool = False
    seed: int = 0
    locate: bool = True


def check(
    subject: Subject,
    manner: Manner,
    tick: Callable[[], None] = lambda: None,
    only: str | None = None,
) -> Iterator[Row]:
    """Compare every input of a subject, or one: a row for each, as soon as it is known."""

    def row(found: InputErrors) -> Row:
        return Row(subject.op, subject.where, found)

    with one_blas_thread():
        try:
            c = Check(
                subject.fn, list(subject.arrays.values()), manner.backend, manner.rtol,
                list(subject.arrays), manner.seed, tick=tick, locate=manner.locate,
            )  # fmt: skip
            right = True
            for found in c.inputs(manner.directions, manner.probes, manner.full, only):
                right = right and found.message is None
                yield row(found)
            if right and only is None:
                c.all_together()
        except CheckFailed as error:
            message = str(error).removeprefix("gradcheck: ")
            yield row(InputErrors("all inputs", (), np.inf, message=message))
