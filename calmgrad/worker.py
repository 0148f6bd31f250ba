"""What a thread computes of one shard: logits, token losses or embeddings, and gradients."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from calmgrad.backend import Backend, to_numpy
from calmgrad.config import ModelConfig
from calmgrad.cutting import Shard
from calmgrad.kernels.protocol import Array
from calmgrad.layout import views
from calmgrad.network import Parameters, embeddings, logits, token_losses
from calmgrad.packing import Packing
from calmgrad.staging import Staging
from calmgrad.tape import Tape, Tensor


class Head(Protocol):
    """What is computed from a shard: logits, token losses, or embeddings."""

    def __call__(self, parameters: Parameters, config: ModelConfig, shard: Shard) -> Tensor: ...


def logits_head(parameters: Parameters, config: ModelConfig, shard: Shard) -> Tensor:
    """(T, vocab) logits."""
    return logits(parameters, config, shard.tokens, shard.packing)


def loss_head(parameters: Parameters, config: ModelConfig, shard: Shard) -> Tensor:
    """(K,) negative log likelihoods of the shard's K targets, in order."""
    targets, rows = shard.questions()
    return token_losses(parameters, config, shard.tokens, shard.packing, targets, rows)


def embedding_head(how: str, unit: bool = True) -> Head:
    """(B, d_model) embeddings."""

    def head(parameters: Parameters, config: ModelConfig, shard: Shard) -> Tensor:
        return embeddings(parameters, config, shard.tokens, shard.packing, how, unit)

    return head


def placed(shard: Shard, seed: Array | None, staging: Staging) -> tuple[Shard, Array | None]:
    """A shard on the device, and the gradient of its output, until the next one is placed."""
    packing = shard.packing
    wanted = {"tokens": shard.tokens, "offsets": packing.offsets, "pos": packing.pos}
    wanted["chunk_offsets"] = packing.chunk_offsets
    if shard.targets is not None:
        wanted["targets"], rows = shard.questions()
        if rows is not None:
            wanted["rows"] = rows
    if isinstance(seed, np.ndarray):
        wanted["seed"] = seed
    there = dict(zip(wanted, staging.send(list(wanted.values())), strict=True))
    on_device = replace(
        shard,
        tokens=there["tokens"],
        packing=Packing(there["offsets"], there["pos"], there["chunk_offsets"]),
        asked=(there["targets"], there.get("rows")) if "targets" in there else None,
    )
    return on_device, there.get("seed", seed)


# What is kept of a shard's output, which is only lent: called with the output, the gradient of it
# (None in a forward pass) and the shard's number.
Keep = Callable[[Array, Array | None, int], Any]


class Worker:
    """A thread's own tapes and gradient buffer."""

    def __init__(self, backend: Backend, config: ModelConfig, weights: Array) -> None:
        self.config = config
        self.grads = backend.xp.empty(weights.size, weights.dtype)  # touched when first used
        named, named_grads = views(config, weights), views(config, self.grads)
        self.tape = Tape(backend, weights.dtype.name)
        self.parameters = {k: self.tape.parameter(v, named_grads[k]) for k, v in named.items()}
        self.forward_tape = Tape(backend, weights.dtype.name, record=False)
        self.forward_parameters = {k: self.forward_tape.parameter(v) for k, v in named.items()}
        self._staging = None if backend.device is None else Staging(backend.device)

    def run(
        self, shard: Shard, head: Head, seed: Array | None, keep: Keep | None = None, i: int = 0
    ) -> Any:
        """What is kept of the output for a shard: a copy on the host, unless `keep` says else.

        With a seed gradient for the output, `grads` holds the parameters' afterwards.
        """
        shard, seed = self.place(shard, seed)
        return self.compute(shard, head, seed, keep, i)

    def place(self, shard: Shard, seed: Array | None) -> tuple[Shard, Array | None]:
        """A shard and the gradient of its output where they are computed with."""
        return (shard, seed) if self._staging is None else placed(shard, seed, self._staging)

    def compute(
        self, shard: Shard, head: Head, seed: Array | None, keep: Keep | None, i: int
    ) -> Any:
        """As `run`, for what is in its place."""
        if seed is None:
            self.forward_tape.begin()
            output = head(self.forward_parameters, self.config, shard)
        else:
            self.tape.begin()
            output = head(self.parameters, self.config, shard)
            self.tape.backward(output, seed)
        if keep is not None:
            return keep(output.value, seed, i)
        return np.array(to_numpy(output.value))

    def held(self) -> int:
        """Bytes of its tapes' memory."""
        tapes = (self.tape, self.forward_tape)
        return sum(t.values.nbytes + t.pool.arena.nbytes for t in tapes)
