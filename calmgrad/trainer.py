"""The Trainer: steps, accumulation, EWC and contrastive steps on one model (FORMATS §7)."""

import math
import operator
import os
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from calmgrad import backend as backends
from calmgrad import devices, ewc, fisher, nan_search, pair_loss, trainer_state
from calmgrad.config import rules_named
from calmgrad.cutting import SHARD_TOKENS, Shard, seeds_of, target_shares
from calmgrad.errors import CalmgradError, DivergedError
from calmgrad.formats import checkpoint as checkpoints
from calmgrad.formats.checkpoint import Checkpoint
from calmgrad.kernels.cuda.device import Precision
from calmgrad.kernels.protocol import Array
from calmgrad.layout import layout
from calmgrad.mirror import Mirror
from calmgrad.model import Model, Tokens, checked_sequence
from calmgrad.ops.pool import POOLS
from calmgrad.optim import make_optimizer
from calmgrad.shards import Runner, loss_head
from calmgrad.update import AHEAD, Outcome, Penalty, make_update

REDUCTIONS = ("sequence", "token")


class Trainer:
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
        ranges = {
            "beta1": (beta1, 0 <= beta1 < 1, "at least 0, below 1"),
            "beta2": (beta2, 0 <= beta2 < 1, "at least 0, below 1"),
            "eps": (eps, 0 < eps < math.inf, "above 0"),
            "weight_decay": (weight_decay, 0 <= weight_decay < math.inf, "at least 0"),
            "grad_clip": (grad_clip, 0 <= grad_clip < math.inf, "at least 0 (0 = off)"),
            "ewc_lambda": (ewc_lambda, 0 <= ewc_lambda < math.inf, "at least 0 (0 = off)"),
            "shard_tokens": (shard_tokens, shard_tokens >= 1, "at least 1"),
        }
        for name, (value, holds, expected) in ranges.items():
            if not holds:
                raise ValueError(f"{name} = {value}: expected {expected}")
        self.rules = rules_named(rules)
        reduction = reduction or self.rules.reduction
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction {reduction!r}: expected {' or '.join(REDUCTIONS)}")
        self.device = devices.resolve(device)
        model.data().check_finite("model")
        self.model = model
        self.reduction = reduction
        self.grad_clip = grad_clip
        self.ewc_lambda = ewc_lambda
        self.shard_tokens = shard_tokens
        self.grad_norm = math.nan
        self._backend = backends.load(self.device.name, matmul_precision)
        with self._backend.active():
            self._optimizer = make_optimizer(
                optimizer, self._backend, model.config, weight_decay, beta1, beta2, eps
            )
            self._update = make_update(self._backend, self._optimizer, cuda_graph)
        self._options: dict[str, str | float] = dict(
            optimizer=optimizer, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay,
            reduction=reduction, rules=rules, shard_tokens=shard_tokens,
        )  # fmt: skip
        self._flat = Mirror(grads=np.zeros(model.config.param_count, np.float32))
        weights = partial(model.flat.on, self._backend, "weights")
        self.runner = Runner(self._backend, model.config, weights, threads)
        self._gathered = 0.0  # sequences (or targets) whose gradients `accumulate` has added
        self._outcomes: list[Outcome] = []  # known, and not collected yet
        self._warned = False
        self._closed = False
        self.set_lr(lr)
        if self._backend.device is not None:
            model.flat.attach(self._backend)
            self._flat.attach(self._backend)
        if ewc_lambda > 0 and model.fisher is None:
            warnings.warn(
                "ewc_lambda is set, but the model has no Fisher data yet: the penalty is 0"
                " until compute_fisher",
                stacklevel=2,
            )

    @property
    def threads(self) -> int:
        """Shards worked on at once."""
        return self.runner.threads

    @property
    def told(self) -> str:
        """The device in half a line: "cpu", "cuda:0 (NVIDIA H200)"."""
        return self._backend.told

    @property
    def updates(self) -> int:
        """Updates made so far, also before a checkpoint that was loaded; those that `step_later`
        has begun count until it is known that one was not made.
        """
        return self._optimizer.step

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
        self._gathered = 0
        with self._backend.active():
            self._require_healthy()
            weights = self.model.flat.on(self._backend, "weights", written=True)
            self._update.step(
                self.runner, shards, share, weights, self._gradient(),
                self._penalty(), self.grad_clip, self.lr,
            )  # fmt: skip

    @property
    def waiting(self) -> int:
        """Steps that `collect` would tell of."""
        return len(self._outcomes) + self._update.waiting

    def collect(self) -> list[Outcome]:
        """Loss and gradient norm of every step since the last call, in order; waits for them.

        One that is not finite is the last; the steps begun after it count as not begun.
        """
        self._settle()
        found, self._outcomes = self._outcomes, []
        return found

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
        with self._backend.active():
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
        with self._backend.active():
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
        self._gathered = 0
        with self._backend.active():
            found = pair_loss.of_embeddings(self.runner, shards, temperature, pool)
            total = self._begin()
            self._update.add_loss(found.loss)
            pair_loss.send_back(self.runner, shards, found, total)
            self._apply(total)

    def set_lr(self, lr: float) -> None:
        """Learning rate from the next update on."""
        if not 0 <= lr < math.inf:
            raise ValueError(f"lr = {lr}: expected at least 0")
        self.lr = lr

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

    # --- gradients ----------------------------------------------------------------------------

    @property
    def grads(self) -> NDArray[np.float32]:
        """The flat gradient, in buffer order. From a device it is copied when asked for."""
        grads: NDArray[np.float32] = self._flat.host("grads")
        return grads

    def get_grad(self, parameter: int | str) -> NDArray[np.float32]:
        """The gradient of one parameter, by index from 0 or by name: a view into `grads`.

        Raises:
            IndexError, KeyError: there is no such parameter.
        """
        self._require_open()
        entries = layout(self.model.config)
        if isinstance(parameter, str):
            entry = next((e for e in entries if e.name == parameter), None)
            if entry is None:
                raise KeyError(f"no parameter {parameter!r}")
        else:
            if not 0 <= parameter < len(entries):
                raise IndexError(f"parameter {parameter}: expected 0 to {len(entries) - 1}")
            entry = entries[parameter]
        return self.grads[entry.start : entry.stop].reshape(entry.shape)

    def zero_grad(self) -> None:
        """Set the gradient to zero and forget what `accumulate` has counted."""
        with self._backend.active():
            self._gradient().fill(0)
        self._gathered = 0

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

    # --- the rest -----------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a CWGT file, with EWC data if there are any.

        Raises:
            DivergedError: a weight is not finite; what was at `path` stays.
            DiskError: it cannot be written; what was there stays.
        """
        if not np.isfinite(self.model.weights).all():
            raise DivergedError(
                f"{os.fspath(path)} not written: the last update left weights that are not finite"
                " (a smaller learning rate may help)"
            )
        self.model.save(path)

    def save_checkpoint(self, path: str | os.PathLike[str], extra: Any = None) -> None:
        """Write all that going on from here takes; a checkpoint that is there is replaced.

        Args:
            path: a folder (docs/reliability.md says what is in it).
            extra: of the script's own: anything that JSON can hold.

        Raises:
            DivergedError: a weight is not finite; what was at `path` stays.
            DiskError: it cannot be written; what was there stays.
        """
        checkpoints.write(path, self.checkpoint(extra=extra))

    def load_checkpoint(self, path: str | os.PathLike[str]) -> Any:
        """Go on from a checkpoint: the next step does what it would have done there.

        Restores the weights in place, metadata, EWC data, optimizer, learning rate and gathered
        gradients. Threads may be others.

        Returns:
            What was saved as `extra`.

        Raises:
            FileError: there is no whole checkpoint; nothing was changed.
            ValueError: it is of a model of other sizes, or of a trainer with other options.
        """
        self._require_open()
        loaded = checkpoints.read(path)
        self.restore(loaded)
        return loaded.state.extra

    def checkpoint(
        self,
        buffers: dict[str, NDArray[np.float32]] | None = None,
        run: dict[str, Any] | None = None,
        extra: Any = None,
    ) -> Checkpoint:
        """What a checkpoint of this moment holds, the buffers being the trainer's own.

        Args:
            buffers, run, extra: to be kept besides.
        """
        self._require_open()
        self._settle()
        grads = self.grads if self._gathered else None
        rest = trainer_state.Rest(float(self.lr), float(self._gathered), self._all_options())
        return trainer_state.gather(
            self.model, self._backend, self._optimizer, grads, rest, buffers or {}, run, extra
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what `checkpoint` says; ValueError if it does not fit, and nothing is changed."""
        self._settle()
        options, training = self._all_options(), checkpoint.state.training
        trainer_state.restore(checkpoint, self.model, self._backend, self._optimizer, options)
        self._gathered = training.gathered
        self.grads[...] = checkpoint.buffers["grads"] if training.gathered else 0
        self.set_lr(training.lr)

    def close(self) -> None:
        """Free gradients, moments and worker memory; the model stays usable."""
        if self._closed:
            return
        self.runner.close()
        self._closed = True
        if self._backend.device is not None:
            self.model.flat.detach()
            self._flat.detach()
        self._flat = Mirror(grads=np.zeros(0, np.float32))
        del self._optimizer, self._update

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self._closed:
            raise CalmgradError("the trainer is closed")

    def _all_options(self) -> dict[str, str | float]:
        """What the numbers of the next step depend on, besides buffers and learning rate."""
        options = self._options | {"grad_clip": self.grad_clip, "ewc_lambda": self.ewc_lambda}
        return {k: v if isinstance(v, str) else float(v) for k, v in options.items()}

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
                stacklevel=3,
            )
        return shards, counts

    def _weights(
        self, counts: NDArray[np.int64], parts: Sequence[int] | None
    ) -> NDArray[np.float64]:
        """Weight of one target of each sequence in the batch's loss."""
        if self.reduction == "sequence" or not self.rules.equal_parts or parts is None:
            return target_shares(counts, self.reduction)
        of_part = np.repeat(np.arange(len(parts)), parts)
        tokens = np.bincount(of_part, counts, len(parts))
        return np.asarray(1 / np.maximum(tokens, 1)[of_part] / len(parts))

    def _gradient(self) -> Array:
        """The flat gradient where it is computed, to be changed."""
        return self._flat.on(self._backend, "grads", written=True)

    def _require_healthy(self) -> None:
        """Nothing may be begun after a step that failed, as far as is known."""
        if self._update.waiting >= AHEAD:
            self._settle()
        if self._outcomes:
            self._outcomes[-1].check()

    def _begin(self) -> Array:
        """Begin a step; its gradient, still 0."""
        self._require_healthy()
        self._update.begin()
        total = self._gradient()
        total.fill(0)
        return total

    def _apply(self, total: Array) -> None:
        """EWC, norm, clip, update; nothing changes unless loss and norm are finite."""
        weights = self.model.flat.on(self._backend, "weights", written=True)
        self._update.apply(weights, total, self._penalty(), self.grad_clip, self.lr)

    def _penalty(self) -> Penalty | None:
        flat = self.model.flat
        if self.ewc_lambda == 0 or not flat.holds("fisher"):
            return None
        fisher, anchor = (flat.on(self._backend, name) for name in ("fisher", "anchor"))
        return Penalty(fisher, anchor, self.ewc_lambda)

    def _settle(self) -> None:
        """Find out what came of the steps that were begun."""
        if not self._closed and self._update.waiting:
            with self._backend.active():
                self._outcomes += self._update.outcomes()
            self.grad_norm = self._outcomes[-1].norm

    def _last(self) -> float:
        """The loss of the step just begun, which must be finite. Earlier outcomes stay."""
        self._settle()
        outcome = self._outcomes.pop()
        outcome.check()
        return outcome.loss
