"""Runs of this engine to be compared: another precision, one token at a time, an update."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from calmgrad import backend as backends
from calmgrad.config import ModelConfig
from calmgrad.decoder import Decoder
from calmgrad.errors import FileError
from calmgrad.formats.dump import Dump, Setting
from calmgrad.model import Model
from calmgrad.parity.local import Array
from calmgrad.parity.sources import to_dump
from calmgrad.sequences import Tokens
from calmgrad.trace import Batch, trace
from calmgrad.trainer import Trainer


def pass_dump(
    model: Model, sequences: Sequence[Tokens], cmd_positions: Sequence[int], **keys: Any
) -> Dump:
    """One pass of this engine as a dump, EWC data included; keys as `trace` takes them."""
    dump = to_dump(trace(model.config, model.weights, sequences, cmd_positions, **keys))
    for name, flat in (("fisher", model.fisher), ("anchor", model.anchor)):
        if flat is not None:
            dump.arrays[name] = flat
    return dump


def update_dump(
    model: Model,
    sequences: Sequence[Tokens],
    cmd_positions: Sequence[int],
    options: Mapping[str, Any],
) -> Dump:
    """What one update of a fresh optimizer makes: norm, moments, weights; the model is not changed.

    Args:
        options: of the Trainer: lr, grad_clip, ewc_lambda, …
    """
    before = model.weights.copy()
    try:
        with Trainer(model, threads=1, **options) as trainer:
            trainer.step(sequences, cmd_positions)
            arrays: dict[str, Array] = {
                "ewc_grads": trainer.grads.copy(),
                "grad_norm": np.array(trainer.grad_norm, np.float32),
                "new_weights": model.weights.copy(),
            }
            arrays |= {k: v.copy() for k, v in trainer.checkpoint().buffers.items()}
            settings: dict[str, Setting] = {
                k: v for k, v in trainer._all_options().items() if k != "shard_tokens"
            }
    finally:
        model.weights[...] = before
    return Dump(arrays, settings | {"lr": float(options.get("lr", 1e-4)), "update": 1})


def step_dump(config: ModelConfig, weights: Array, batch: Batch, backend: str) -> Dump:
    """What the decoder gives that reads one token at a time, as `generate` does.

    It tells its logits, and of each layer what goes into the convolution (which it keeps for the
    tokens to come: with one tap there are none that need it).
    """
    decoder = Decoder(config, weights, backends.load(backend))
    rows = len(batch.tokens)
    x = np.empty((config.n_layers, rows, config.d_inner), weights.dtype)
    logits = np.empty((rows, config.vocab), weights.dtype)
    ends = np.asarray(batch.packing.offsets)
    with backends.one_blas_thread(), backends.silent_overflow():
        for first, end in pairwise(ends):
            decoder.start([])
            for t in range(first, end):
                logits[t] = decoder.read(batch.tokens[t : t + 1])
                x[:, t] = decoder.state()[0][:, 0, : config.d_inner]
    arrays: dict[str, Array] = {"logits": logits}
    if config.d_conv > 1:
        arrays |= {f"blocks.{i}.mixer.x": x[i] for i in range(config.n_layers)}
    return Dump(arrays, {})


def gradient_dump(config: ModelConfig, flat: Array, parameter: str | None) -> Dump:
    """A flat gradient, as the C engine's get_grad gives it: of all parameters, or of one.

    Raises:
        FileError: it is not of the size that it should have.
        ValueError: there is no such parameter.
    """
    from calmgrad.layout import layout

    if parameter is None:
        if flat.size != config.param_count:
            sizes = [e.name for e in layout(config) if e.stop - e.start == flat.size]
            of_one = f"; --parameter names one (this size: {', '.join(sizes[:3])})" if sizes else ""
            raise FileError(f"{flat.size} numbers, the model has {config.param_count}{of_one}")
        return Dump({"grads": flat}, {})
    entries = layout(config)
    named = {e.name: e for e in entries} | {str(i): e for i, e in enumerate(entries)}
    entry = named.get(parameter)
    if entry is None:
        raise ValueError(f"no parameter {parameter!r}: expected a name or 0 to {len(entries) - 1}")
    if flat.size != entry.stop - entry.start:
        raise FileError(
            f"{flat.size} numbers, {entry.name} has {entry.stop - entry.start}, {entry.shape}"
        )
    return Dump({f"grad/{entry.name}": flat.reshape(entry.shape)}, {})
