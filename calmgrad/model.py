"""The CALM network out of ops, and a model: its weights with all that its file holds."""

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from calmgrad import backend as backends
from calmgrad.config import LAYER_NORM_EPS, ModelConfig, resolve
from calmgrad.decode import Decoder
from calmgrad.domains import metadata_for
from calmgrad.formats import cwgt
from calmgrad.generation import Completion, OnToken, Stops, Text, generate, prompt_tokens
from calmgrad.kernels.protocol import Array
from calmgrad.layout import initial_weights, views
from calmgrad.ops.causal_conv1d import causal_conv1d
from calmgrad.ops.cross_entropy import cross_entropy
from calmgrad.ops.embedding import embedding
from calmgrad.ops.gelu import gelu
from calmgrad.ops.l2_normalize import l2_normalize
from calmgrad.ops.layer_norm import layer_norm
from calmgrad.ops.linear import linear
from calmgrad.ops.pool import pool
from calmgrad.ops.selective_scan import selective_scan
from calmgrad.packing import Packing
from calmgrad.prompt import stop_patterns
from calmgrad.sampling import resolve as resolve_sampling
from calmgrad.tape import Tape, Tensor
from calmgrad.tokenizer import PAD

Tokens = Sequence[int] | NDArray[Any]
Parameters = dict[str, Tensor]


# --- the network (FORMATS §1) -----------------------------------------------------------------


def mixer(p: Parameters, name: str, x: Tensor, residual: Tensor, packing: Packing) -> Tensor:
    """The Mamba mixer of one block: residual + mixer(x), all (T, d_model)."""
    d_inner = p[f"{name}.D"].shape[0]
    xz = linear(x, p[f"{name}.in_proj.weight"])
    u, z = xz.split(d_inner, d_inner)
    u = causal_conv1d(u, p[f"{name}.conv1d_weight"], packing)
    dt_b_c = linear(u, p[f"{name}.x_proj.weight"])
    y = selective_scan(
        u,
        z,
        dt_b_c,
        p[f"{name}.dt_proj.weight"],
        p[f"{name}.dt_proj.bias"],
        p[f"{name}.A_log"],
        p[f"{name}.D"],
        packing,
    )
    return linear(y, p[f"{name}.out_proj.weight"], residual)


def feed_forward(p: Parameters, name: str, x: Tensor, residual: Tensor) -> Tensor:
    """residual + fc2(gelu(fc1(x))), all (T, d_model)."""
    h = gelu(linear(x, p[f"{name}.ffn_fc1.weight"]))
    return linear(h, p[f"{name}.ffn_fc2.weight"], residual)


def normed(p: Parameters, name: str, x: Tensor) -> Tensor:
    """LayerNorm with the parameters `name`.weight and `name`.bias."""
    return layer_norm(x, p[f"{name}.weight"], p[f"{name}.bias"], LAYER_NORM_EPS)


def hidden(p: Parameters, config: ModelConfig, tokens: Array, packing: Packing) -> Tensor:
    """(T,) tokens to (T, d_model): embedding, all blocks, final LayerNorm."""
    tape = p["ln_f.weight"].tape
    tape.scope = "token_emb"
    x = embedding(p["token_emb.weight"], tokens)
    for layer in range(config.n_layers):
        mark, block = tape.values.mark(), f"blocks.{layer}"
        tape.scope = f"{block}.mixer"
        x_mixed = mixer(p, f"{block}.mixer", normed(p, f"{block}.ln1", x), x, packing)
        tape.scope = f"{block}.ffn"
        x_next = feed_forward(p, block, normed(p, f"{block}.ln2", x_mixed), x_mixed)
        x = tape.keep(x_next, mark)
    tape.scope = "head"
    return normed(p, "ln_f", x)


def logits(p: Parameters, config: ModelConfig, tokens: Array, packing: Packing) -> Tensor:
    """(T,) tokens to (T, vocab) logits, through the tied embedding."""
    return linear(hidden(p, config, tokens, packing), p["token_emb.weight"], transposed=True)


def token_losses(
    p: Parameters, config: ModelConfig, tokens: Array, packing: Packing, targets: Array
) -> Tensor:
    """(T,) negative log likelihoods in nats; 0 where `targets` is negative."""
    return cross_entropy(logits(p, config, tokens, packing), targets)


def embeddings(
    p: Parameters, config: ModelConfig, tokens: Array, packing: Packing, how: str, unit: bool
) -> Tensor:
    """(B, d_model): one vector a sequence, of length one if `unit`."""
    pooled = pool(hidden(p, config, tokens, packing), packing, how)
    return l2_normalize(pooled) if unit else pooled


# --- tokens -----------------------------------------------------------------------------------


def checked_tokens(tokens: Tokens, config: ModelConfig, what: str = "tokens") -> NDArray[np.int64]:
    """The tokens as an array.

    Raises:
        ValueError: no tokens, or one outside the vocabulary.
    """
    array = np.asarray(tokens)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{what}: shape {array.shape}, expected (n,) with n at least 1")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{what}: dtype {array.dtype}, expected whole numbers")
    array = array.astype(np.int64)
    if array.min() < 0 or array.max() >= config.vocab:
        at = int(np.argmax((array < 0) | (array >= config.vocab)))
        raise ValueError(
            f"{what}: token {array[at]} at position {at}: expected 0 to {config.vocab - 1}"
        )
    return array


def checked_sequence(
    tokens: Tokens, cmd_pos: int, config: ModelConfig, what: str = "sequence"
) -> NDArray[np.int64]:
    """The tokens of a training sequence as an array.

    Raises:
        ValueError: as `checked_tokens`; also more than l_max tokens, or a position outside.
    """
    array = checked_tokens(tokens, config, what)
    if array.size > config.l_max:
        raise ValueError(f"{what}: {array.size} tokens, expected at most l_max = {config.l_max}")
    if not 0 <= cmd_pos < array.size:
        raise ValueError(f"{what}: cmd_pos {cmd_pos}, expected 0 to {array.size - 1}")
    return array


def inputs_and_targets(
    tokens: NDArray[np.int64], cmd_pos: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What the network reads, and what each position shall predict (-1: nothing).

    Position t >= cmd_pos predicts token t + 1 unless that is PAD (FORMATS §7). The last token
    predicts nothing and, the network being causal, is not needed at all.
    """
    targets = tokens[1:].copy()
    targets[:cmd_pos] = -1
    targets[targets == PAD] = -1
    return tokens[:-1], targets


# --- the model --------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Forward:
    """A tape for forward passes, with the model's parameters on it."""

    tape: Tape
    parameters: Parameters


class Model:
    """A CALM model.

    Attributes:
        config: its sizes.
        weights: the one flat float32 buffer, (param_count,).
        parameters: name -> view into it, in file order.
        metadata, sampler: domain, template, stop conditions; how it wants to be sampled.
        fisher, anchor: EWC data, flat buffers in file order, or None.
    """

    def __init__(self, data: cwgt.Weights) -> None:
        self.config = data.config
        self.weights = data.weights
        self.parameters: dict[str, NDArray[np.float32]] = views(data.config, data.weights)
        self.metadata = data.metadata
        self.sampler = data.sampler
        self.fisher = data.fisher
        self.anchor = data.anchor
        self._forward: _Forward | None = None
        self._decoder: Decoder | None = None

    def logits(self, tokens: Tokens) -> NDArray[np.float32]:
        """(n, vocab) logits of one sequence; of more than l_max tokens, of the last l_max."""
        array = checked_tokens(tokens, self.config)[-self.config.l_max :]
        return self._run(array, lambda p, packing: logits(p, self.config, array, packing))

    def loss(self, tokens: Tokens, cmd_pos: int = 0) -> float:
        """Mean cross-entropy in nats over the targets of one sequence; 0 without a target.

        Args:
            tokens: at most l_max.
            cmd_pos: position of ATN; the tokens after it are the targets. 0: all but the first.

        Raises:
            ValueError: too many tokens, one outside the vocabulary, or cmd_pos outside.
        """
        array = checked_sequence(tokens, cmd_pos, self.config)
        read, targets = inputs_and_targets(array, cmd_pos)
        count = int((targets >= 0).sum())
        if count == 0:
            return 0.0
        nll = self._run(
            read, lambda p, packing: token_losses(p, self.config, read, packing, targets)
        )
        return float(nll.sum(dtype=np.float64) / count)

    def embed(
        self, tokens: Tokens, pool: str = "mean", normalize: bool = True
    ) -> NDArray[np.float32]:
        """(d_model,) vector of one sequence; of more than l_max tokens, of the last l_max.

        Args:
            pool: "mean" over all positions, or "last".
            normalize: give it length one.
        """
        array = checked_tokens(tokens, self.config)[-self.config.l_max :]
        rows = self._run(
            array, lambda p, packing: embeddings(p, self.config, array, packing, pool, normalize)
        )
        return np.asarray(rows[0])

    def generate(
        self,
        prompt: Text | Tokens,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        max_tokens: int | None = None,
        candidates: int | None = None,
        stop: Sequence[str | bytes] | None = None,
        seed: int | None = None,
        on_token: OnToken | None = None,
    ) -> list[Completion]:
        """Completions of a prompt, one after the other (FORMATS §8).

        Args:
            prompt: text as one types it, `field:value` in it or not, or a mapping of fields: put
                into the model's template. Or tokens, taken as they are.
            temperature, …, candidates: as in `calmgrad.sampling.Sampling`; None: for text the
                model's own sampler defaults, and where there are none calm-inference's.
            stop: patterns that end a completion and are not part of it; None: for text the
                model's own stop conditions.
            seed: of the dice; the same seed gives the same completions. None: a new one.
            on_token: called with each token as soon as it is certain.

        Raises:
            ValueError: the prompt leaves no room below l_max, or does not fit the template; or a
                value is out of its range.
        """
        as_text = isinstance(prompt, str | Mapping)
        given = dict(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
            max_tokens=max_tokens, candidates=candidates,
        )  # fmt: skip
        sampling = resolve_sampling(self.sampler if as_text else None, given)
        config = self.config
        if isinstance(prompt, str | Mapping):
            prompt = prompt_tokens(self.metadata, prompt, config.l_max, sampling.max_tokens)
        if stop is None:
            stop = stop_patterns(self.metadata.stop_conditions) if as_text else []
        patterns = [p.encode() if isinstance(p, str) else p for p in stop]
        if self._decoder is None or self._decoder.weights is not self.weights:
            self._decoder = Decoder(config, self.weights)
        self._decoder.refresh()
        with backends.one_blas_thread(), backends.silent_overflow():
            return generate(
                self._decoder,
                checked_tokens(prompt, config, "prompt"),
                sampling,
                Stops(patterns, config.vocab),
                secrets.randbits(32) if seed is None else seed,
                on_token,
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a CWGT file, whole or not at all, EWC data included (FORMATS §2)."""
        cwgt.write(path, self.data())

    def data(self) -> cwgt.Weights:
        """What a file of this model holds; the buffers are the model's own, not copies."""
        return cwgt.Weights(
            self.config, self.weights, self.fisher, self.anchor, self.metadata, self.sampler
        )

    def close(self) -> None:
        """Free what forward passes use; the weights stay."""
        self._forward = self._decoder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(self, tokens: NDArray[np.int64], forward: Any) -> NDArray[np.float32]:
        if self._forward is None:
            tape = Tape(backends.load("cpu"), record=False)
            parameters = {k: tape.parameter(v) for k, v in self.parameters.items()}
            self._forward = _Forward(tape, parameters)
        self._forward.tape.begin()
        with backends.one_blas_thread(), backends.silent_overflow():
            output = forward(self._forward.parameters, Packing.of([tokens.size]))
        return np.array(output.value)


def new_model(
    size: str | None = None,
    *,
    d_model: int | None = None,
    n_layers: int | None = None,
    ffn_expand: int | None = None,
    expand: int | None = None,
    d_state: int | None = None,
    d_conv: int | None = None,
    dt_rank: int | None = None,
    l_max: int | None = None,
    seed: int = 0,
    domain: str | None = None,
    template: str | None = None,
    stop_conditions: str | None = None,
    sampler_defaults: dict[str, float] | None = None,
) -> Model:
    """A model with fresh, seeded weights (FORMATS §1).

    Args:
        size: "nano", "micro", "mini" or "small"; without one, nano's sizes where none is given.
        d_model, …, l_max: sizes that replace the preset's.
        seed: of the initial values.
        domain: "shell", "dictionary", "prose", "netref" or a name of your own; brings its
            template, stop conditions and sampler defaults along.
        template, stop_conditions: in place of the domain's.
        sampler_defaults: any of temperature, top_k, top_p, min_p, max_tokens, num_candidates.

    Raises:
        ValueError: an unknown size, a size out of range, an unknown sampler default.
    """
    sizes = dict(
        d_model=d_model, n_layers=n_layers, ffn_expand=ffn_expand, expand=expand,
        d_state=d_state, d_conv=d_conv, dt_rank=dt_rank, l_max=l_max,
    )  # fmt: skip
    config = resolve(size, sizes)
    metadata, sampler = metadata_for(domain, template, stop_conditions)
    try:
        sampler = replace(sampler, **(sampler_defaults or {}))  # type: ignore[arg-type]
    except TypeError:
        known = ", ".join(cwgt.SamplerDefaults.__dataclass_fields__)
        raise ValueError(f"sampler_defaults {sampler_defaults}: expected any of {known}") from None
    return Model(
        cwgt.Weights(config, initial_weights(config, seed), metadata=metadata, sampler=sampler)
    )


def load_model(path: str | os.PathLike[str]) -> Model:
    """A model from a CWGT file, with its metadata, sampler defaults and EWC data.

    Raises:
        FileError: the file is missing or does not hold a model.
    """
    return Model(cwgt.read(path))
