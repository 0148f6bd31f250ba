"""The Trainer: steps, accumulation, EWC and contrastive steps on one model (FORMATS §7)."""

import math
import operator
import sys
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from calmgrad import backend as backends
from calmgrad import devices, ewc, fisher, nan_search, pair_loss
from calmgrad.config import rules_named
from calmgrad.cutting import SHARD_TOKENS, Shard, seeds_of, target_shares
from calmgrad.device_update import make_update
from calmgrad.errors import DivergedError
from calmgrad.kernels.cuda.device import Precision
from calmgrad.model import Model
from calmgrad.ops.pool import POOLS
from calmgrad.optim import make_optimizer
from calmgrad.sequences import Tokens, checked_sequence
from calmgrad.trainer_state import TrainerState
from calmgrad.worker import loss_head

REDUCTIONS = ("sequence", "token")
RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "beta1": (lambda x: 0 <= x < 1, "at least 0, below 1"),
    "beta2": (lambda x: 0 <= x < 1, "at least 0, below 1"),
    "eps": (lambda x: 0 < x < math.inf, "above 0"),
    "weight_decay": (lambda x: 0 <= x < math.inf, "at least 0"),
    "grad_clip": (lambda x: 0 <= x < math.inf, "at least 0 (0 = off)"),
    "ewc_lambda": (lambda x: 0 <= x < math.inf, "at least 0 (0 = off)"),
    "shard_tokens": (lambda x: x >= 1, "at least 1"),
}


def _check_ranges(**values: float) -> None:
    for name, value in values.items():
        holds, expected = RANGES[name]
        if not holds(value):
            raise ValueError(f"{name} = {value}: expected {expected}")


def _levels_to_the_script() -> int:
    """`stacklevel` of a warning that shall name the line that called a method of this file."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename == __file__:
        frame, level = frame.f_back, level + 1
    return level


class Trainer(TrainerState):
    """Trains a model in place; names follow the Lua API.

    Args:
        model: its weights are updated where they are.
        lr: learning rate; 0 is allowed. `set_lr` changes it.
        optimizer: "adam" (AdamW) or "sgd".
        beta1, beta2, eps: Adam's.
        weight_decay: decoupled, on everything but A_log and D.
        grad_clip: largest norm of the gradient; 0 = off.
        ewc_lambda: strength of the EWC penalty; 0 = off. Needs `fisher` and `anchor`.
        reduction: "sequence": mean over the batch of each sequence's mean loss; "token": mean
            over all targets of the batch; None: as the rules say.
        rules: "c-engine" or "calm-mamba": whose answer counts where they differ (config.Rules).
        threads: shards worked on at once; None: one for each core. Results do not depend on it.
        device: "cpu"; "cuda" or "cuda:1", a GPU (docs/gpu.md); "auto": what CALMGRAD_DEVICE
            says, else a GPU if there is one that can be used.
        matmul_precision: of a GPU's products: "float32"; or "tf32", "bf16", which round factors.
        shard_tokens: about how many tokens a thread works on at a time. (A GPU works on a batch
            as a whole.)
        cuda_graph: whether a GPU's steps are recorded and replayed (docs/cuda.md); None: as
            CALMGRAD_CUDA_GRAPH says, else they are. Results do not depend on it.

    Attributes:
        grads: flat float32 gradient in buffer order; after a step, before clipping.
        grad_norm: its L2 norm at the last step or update whose outcome is known.
        runner: the worker threads.
        lr: learning rate of the next update.
        updates: made so far.

    Raises:
        ValueError: an argument out of its range.
        FileError: the model's weights are not finite.
        DeviceError: what the device lacks.
    """

    def __init__(
        self,
        model: Model,
        *,
        lr: float = 1e-4,
        optimizer: str = "adam",
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        grad_clip: float = 1.0,
        ewc_lambda: float = 0.0,
        reduction: str | None = None,
        rules: str = "c-engine",
        threads: int | None = None,
        device: str = "auto",
        matmul_precision: Precision = "float32",
        shard_tokens: int = SHARD_TOKENS,
        cuda_graph: bool | None = None,
    ) -> None:
        _check_ranges(
            beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, grad_clip=grad_clip,
            ewc_lambda=ewc_lambda, shard_tokens=shard_tokens,
        )  # fmt: skip
        self.rules = rules_named(rules)
        reduction = reduction or self.rules.reduction
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction {reduction!r}: expected {' or '.join(REDUCTIONS)}")
        self.device = devices.resolve(device)
        model.data().check_finite("model")
        self.reduction = reduction
        self.shard_tokens = shard_tokens
        self._warned = False
        backend = backends.load(self.device.name, matmul_precision)
        with backend.active():
            made = make_optimizer(optimizer, backend, model.config, weight_decay, beta1, beta2, eps)
            update = make_update(backend, made, cuda_graph)
        options: dict[str, str | float] = dict(
            optimizer=optimizer, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay,
            reduction=reduction, rules=rules, shard_tokens=shard_tokens,
        )  # fmt: skip
        super().__init__(model, backend, made, update, options, threads, lr, grad_clip, ewc_lambda)
        if ewc_lambda > 0 and model.fisher is None:
            warnings.warn(
                "ewc_lambda is set, but the model has no Fisher data yet: the penalty is 0"
                " until compute_fisher",
                stacklevel=2,
            )

    # --- training -----------------------------------------------------------------------------

    def step(
        self,
        sequences: Sequence[Tokens],
        cmd_positions: Sequence[int],
        parts: Sequence[int] | None = None,
    ) -> float:
        """One update from one batch.

        Zeroes the gradient, runs forward and backward, averages, adds the EWC gradient, clips
        the norm, and updates the weights.

        Args:
            sequences: B token lists or arrays, each of 1 to l_max tokens.
            cmd_positions: B positions of ATN; the tokens after it are the targets.
            parts: how many of the sequences each accumulated batch has (0 for one that the data
                ended before). It matters only under rules that weigh these batches alike.

        Returns:
            Mean loss in nats, of the weights before the update.

        Raises:
            ValueError: no sequence, one too long, a token or position out of range.
            DivergedError: the loss or the gradient's norm is not finite; no weight was changed.
        """
        self.step_later(sequences, cmd_positions, parts)
        return self._last()

    def step_later(
        self,
        sequences: Sequence[Tokens],
        cmd_positions: Sequence[int],
        parts: Sequence[int] | None = None,
    ) -> None:
        """`step`, without waiting for its loss: `collect` gives it, with those of other steps.

        A device goes on with one step while the host prepares the next. Where a step's loss or
        norm is not finite, it and those begun after it change nothing.

        Raises:
            ValueError: as `step`.
            DivergedError: an earlier step failed; `collect` tells which.
        """
        shards, counts = self._checked(sequences, cmd_positions)
        share = self._weights(counts, parts)
        with self._alone():
            self._gathered = 0
            self._require_healthy()
            weights = self.model.flat.on(self._backend, "weights", written=True)
            self._update.step(
                self.runner, shards, share, weights, self._gradient(),
                self._penalty(), self.grad_clip, self.lr,
            )  # fmt: skip

    def accumulate(self, tokens: Tokens, cmd_pos: int = 0) -> float:
        """Add the gradient of one sequence's loss to `grads`, without an update.

        That loss is the mean over the sequence's targets; or, where tokens count (reduction
        "token", unless the rules weigh all parts alike), their sum.

        Returns:
            The sequence's mean loss.

        Raises:
            ValueError, DivergedError: as `step`.
        """
        shards, counts = self._checked([tokens], [cmd_pos])
        targets = max(int(counts[0]), 1)
        by_token = self.reduction == "token" and not self.rules.equal_parts
        share = np.array([1.0 if by_token else 1 / targets])
        with self._alone():
            self._require_healthy()
            self._update.begin()
            self._update.gradient(self.runner, shards, share, self._gradient())
            loss = self._update.loss()
            self._gathered += int(counts[0]) if by_token else 1
        if by_token:
            loss /= targets
        if not math.isfinite(loss):
            raise DivergedError(f"loss is {loss}")
        return loss

    def update(self) -> None:
        """One update from the mean of what `accumulate` has gathered; then zero the gradient.

        n calls of `accumulate` and an `update` do what `step` does with these n sequences (under
        calm-mamba's rules: but for the sequences' weights, which are equal).

        Raises:
            DivergedError: the gradient's norm is not finite; no weight was changed.
        """
        self._require_open()
        with self._alone():
            self._require_healthy()
            total = self._gradient()
            if self._gathered > 0:
                total *= np.float32(1 / self._gathered)
            self._gathered = 0
            self._update.begin()
            self._apply(total)
            self._last()
            total.fill(0)

    def contrastive_step(
        self,
        queries: Sequence[Tokens],
        positives: Sequence[Tokens],
        temperature: float = 0.07,
        pool: str = "mean",
    ) -> float:
        """One update from pairs of sequences, by symmetric InfoNCE over the batch.

        Args:
            queries, positives: B token lists each; pair i is queries[i], positives[i].
            temperature: of the softmax.
            pool: "mean" over all positions of a sequence, or "last".

        Returns:
            The loss before the update; 0 for one pair.

        Raises:
            ValueError: no pair, unequal numbers, a sequence too long, a token out of range.
            DivergedError: as `step`.

        Memory is that of a shard and the embeddings, whatever B: all shards are embedded, the
        loss gives the gradient of each embedding, and each shard is run again with its rows.
        """
        self.contrastive_step_later(queries, positives, temperature, pool)
        return self._last()

    def contrastive_step_later(
        self,
        queries: Sequence[Tokens],
        positives: Sequence[Tokens],
        temperature: float = 0.07,
        pool: str = "mean",
    ) -> None:
        """`contrastive_step`, without waiting for its loss: see `step_later`."""
        self._require_open()
        arrays = pair_loss.checked_pairs(queries, positives, self.model.config)
        if pool not in POOLS:
            raise ValueError(f"pool {pool!r}: expected {' or '.join(POOLS)}")
        shards = self.runner.pack(arrays, self.shard_tokens)
        with self._alone():
            self._gathered = 0
            found = pair_loss.of_embeddings(self.runner, shards, temperature, pool)
            total = self._begin()
            self._update.add_loss(found.loss)
            pair_loss.send_back(self.runner, shards, found, total)
            self._apply(total)

    def find_nan(
        self,
        sequences: Sequence[Tokens],
        cmd_positions: Sequence[int],
        parts: Sequence[int] | None = None,
    ) -> nan_search.Origin | None:
        """Where the first NaN or infinity of a step on this batch comes from; None without any.

        For after `step` has raised DivergedError: its batch is run again, each op looked at.
        Nothing is changed; it takes one more gradient of memory, and one thread.

        Args:
            sequences, cmd_positions, parts: as `step` had them.
        """
        model, config = self.model, self.model.config
        shards, counts = self._checked(sequences, cmd_positions)
        seeds = seeds_of(shards, self._weights(counts, parts))
        with self._backend.active():
            weights = model.flat.on(self._backend, "weights")
            found = nan_search.search(self._backend, config, weights, shards, seeds, loss_head)
        if isinstance(found, nan_search.Origin):
            return found
        host = backends.load("cpu")  # where the search has left the gradient
        if self.ewc_lambda > 0 and model.fisher is not None:
            ewc.add_penalty_gradient(
                host, found, model.weights, model.fisher, model.anchor, self.ewc_lambda
            )
            if (origin := nan_search.look_at(config, found, "ewc")) is not None:
                return origin
        if math.isfinite(host.kernels.squared_norm(found)):
            return None
        return nan_search.look_at(config, found, "norm")

    # --- EWC ----------------------------------------------------------------------------------

    @property
    def fisher(self) -> NDArray[np.float32] | None:
        """Flat Fisher diagonal; None until computed or loaded."""
        return self.model.fisher

    @property
    def anchor(self) -> NDArray[np.float32] | None:
        """Flat weights the penalty pulls towards; None until computed or loaded."""
        return self.model.anchor

    def compute_fisher(self, sequences: Sequence[Tokens], cmd_positions: Sequence[int]) -> None:
        """Set `fisher` to the mean squared per-sequence gradient, `anchor` to the weights.

        A sequence without targets counts with gradient 0. Both go into the file on `save`. Under
        calm-mamba's rules: the squared gradient of the mean loss over all tokens of all sequences.

        Raises:
            ValueError: as `step`.
            DivergedError: a loss or gradient is not finite; the data are as before.
        """
        found = self.squared_gradients(sequences, cmd_positions).astype(np.float32)
        if not np.isfinite(found).all():
            raise DivergedError("Fisher diagonal: a squared gradient is not finite")
        self.model.fisher = found
        self.model.anchor = self.model.weights.copy()

    def squared_gradients(
        self, sequences: Sequence[Tokens], cmd_positions: Sequence[int]
    ) -> NDArray[np.float64]:
        """What `compute_fisher` takes as the Fisher diagonal: flat, in buffer order."""
        arrays = self._checked_arrays(sequences, cmd_positions)
        size = self.model.config.param_count
        if self.rules.batch_fisher:
            return fisher.of_batch(self.runner, size, arrays, self.shard_tokens)
        return fisher.of_sequences(self.runner, size, arrays, cmd_positions)

    # --- inside -------------------------------------------------------------------------------

    def _checked_arrays(
        self, sequences: Sequence[Tokens], cmd_positions: Sequence[int]
    ) -> list[NDArray[np.int64]]:
        self._require_open()
        if len(sequences) == 0 or len(sequences) != len(cmd_positions):
            raise ValueError(
                f"{len(sequences)} sequences, {len(cmd_positions)} cmd_positions:"
                " expected as many of both, at least one"
            )
        pairs = zip(sequences, cmd_positions, strict=True)
        config = self.model.config
        return [
            checked_sequence(s, operator.index(c), config, f"sequence {i}")
            for i, (s, c) in enumerate(pairs)
        ]

    def _checked(
        self, sequences: Sequence[Tokens], cmd_positions: Sequence[int]
    ) -> tuple[list[Shard], NDArray[np.int64]]:
        arrays = self._checked_arrays(sequences, cmd_positions)
        positions = [int(c) for c in cmd_positions]
        shards, counts = self.runner.pack_targets(arrays, positions, self.shard_tokens)
        if not self._warned and not counts.all():
            self._warned = True
            warnings.warn(
                f"sequence {int(np.argmin(counts))} has no target after its cmd_pos:"
                " its loss is 0 (said once)",
                stacklevel=_levels_to_the_script(),
            )
        return shards, counts

    def _weights(
        self, counts: NDArray[np.int64], parts: Sequence[int] | None
    ) -> NDArray[np.float64]:
        """Weight of one target of each sequence in the batch's loss."""
        return target_shares(counts, self.reduction, parts if self.rules.equal_parts else None)
