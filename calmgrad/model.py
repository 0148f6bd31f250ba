"""A model: its weights with all that its file holds, and what can be asked of them."""

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray

from calmgrad import backend as backends
from calmgrad.backend import Backend
from calmgrad.config import resolve
from calmgrad.cutting import Shard, pack_targets
from calmgrad.decoder import Decoder
from calmgrad.devices import resolve as resolve_device
from calmgrad.domains import metadata_for
from calmgrad.formats import cwgt
from calmgrad.formats.pairs import tokens as text_tokens
from calmgrad.generation import Completion, Fields, OnToken, Stops, generate, prompt_tokens
from calmgrad.kernels.cuda.device import Precision
from calmgrad.layout import initial_weights, views
from calmgrad.mirror import Mirror
from calmgrad.packing import Packing
from calmgrad.prompt import stop_patterns
from calmgrad.sampling import resolve as resolve_sampling
from calmgrad.sequences import Tokens, checked_sequence, checked_tokens
from calmgrad.shards import Runner
from calmgrad.worker import Head, embedding_head, logits_head, loss_head

Text = str | bytes
Input = Text | Tokens  # of `embed`


class Model:
    """A CALM model.

    While a trainer works on a GPU, weights and EWC data are there too. Then each of the buffers
    below is brought up to date when it is asked for, and what one writes into it counts from the
    next step on; to read or write after a step, ask anew (docs/gpu.md).

    Attributes:
        config: its sizes.
        flat: the buffers below, and their copies on a device.
        metadata, sampler: domain, template, stop conditions; how it wants to be sampled.
    """

    def __init__(self, data: cwgt.Weights) -> None:
        self.config = data.config
        self.flat = Mirror(weights=data.weights, fisher=data.fisher, anchor=data.anchor)
        self._parameters: dict[str, NDArray[np.float32]] = views(data.config, data.weights)
        self.metadata = data.metadata
        self.sampler = data.sampler
        self._backend: Backend | None = None  # of forward passes; None: the CPU's
        self._runner: Runner | None = None
        self._decoder: Decoder | None = None

    @property
    def weights(self) -> NDArray[np.float32]:
        """The one flat float32 buffer, (param_count,); assigning copies into it."""
        weights: NDArray[np.float32] = self.flat.host("weights")
        return weights

    @weights.setter
    def weights(self, values: NDArray[np.float32]) -> None:
        self.weights[...] = values

    @property
    def parameters(self) -> dict[str, NDArray[np.float32]]:
        """Name -> view into the weights, in file order."""
        self.flat.host("weights")
        return self._parameters

    @property
    def fisher(self) -> NDArray[np.float32] | None:
        """Fisher diagonal, a flat buffer in file order, or None."""
        fisher: NDArray[np.float32] | None = self.flat.host("fisher")
        return fisher

    @fisher.setter
    def fisher(self, array: NDArray[np.float32] | None) -> None:
        self.flat.replace("fisher", array)

    @property
    def anchor(self) -> NDArray[np.float32] | None:
        """The weights that EWC pulls towards, a flat buffer in file order, or None."""
        anchor: NDArray[np.float32] | None = self.flat.host("anchor")
        return anchor

    @anchor.setter
    def anchor(self, array: NDArray[np.float32] | None) -> None:
        self.flat.replace("anchor", array)

    def to(self, device: str, matmul_precision: Precision = "float32") -> Self:
        """Make `logits`, `loss`, `embed` and evaluations compute on a device, from now on.

        A GPU pays off for many sequences at once. `generate` stays on the CPU, and a Trainer
        has a device of its own.

        Args:
            device: "cpu", "cuda", "cuda:1" or "auto", as of Trainer.
            matmul_precision: of a GPU's products: "float32", "tf32" or "bf16".

        Raises:
            DeviceError: what the device lacks.
        """
        backend = backends.load(resolve_device(device).name, matmul_precision)
        self.close()
        self._backend = backend
        return self

    @property
    def device(self) -> str:
        """Where forward passes compute, in half a line."""
        return "cpu" if self._backend is None else self._backend.told

    def logits(self, tokens: Tokens) -> NDArray[np.float32]:
        """(n, vocab) logits of one sequence; of more than l_max tokens, of the last l_max."""
        array = checked_tokens(tokens, self.config)[-self.config.l_max :]
        return self._run(array, logits_head)

    def loss(self, tokens: Tokens, cmd_pos: int = 0) -> float:
        """Mean cross-entropy in nats over the targets of one sequence; 0 without a target.

        Args:
            tokens: at most l_max.
            cmd_pos: position of ATN; the tokens after it are the targets. 0: all but the first.

        Raises:
            ValueError: too many tokens, one outside the vocabulary, or cmd_pos outside.
        """
        array = checked_sequence(tokens, cmd_pos, self.config)
        shards, _ = pack_targets([array], [cmd_pos])
        if not shards:
            return 0.0
        nll = self._run(shards[0].tokens, loss_head, shards[0].targets)
        return float(nll.mean(dtype=np.float64))

    def embed(
        self,
        inputs: Input | Iterable[Input],
        pool: str = "mean",
        normalize: bool = True,
        threads: int | None = None,
    ) -> NDArray[np.float32]:
        """One vector for a text or token sequence, a matrix for any number of them.

        Args:
            inputs: a text, or the tokens of one sequence; or many of these, also from a
                generator. A text becomes BOS, its bytes, EOS: of one that is longer than l_max
                the beginning (FORMATS §6). Of more than l_max tokens, the last l_max count.
            pool: "mean" over all positions, or "last".
            normalize: give each vector length one.
            threads: shards worked on at once; None: as before, at first one for each core. The
                result does not depend on it.

        Returns:
            (d_model,), or (N, d_model) in the order of the inputs.

        Raises:
            ValueError: a sequence without tokens, or with one outside the vocabulary.

        Memory is that of the result, and of a shard for each thread.
        """
        many, single = _as_many(inputs)
        parts = list(self.embed_blocks(many, pool, normalize, threads))
        rows = np.concatenate([np.empty((0, self.config.d_model), np.float32), *parts])
        return rows[0] if single else rows

    def embed_blocks(
        self,
        inputs: Iterable[Input],
        pool: str = "mean",
        normalize: bool = True,
        threads: int | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """The rows of `embed` of many inputs, in order, some hundred at a time as they are ready.

        For more inputs than memory has room for results.
        """
        arrays = (self._sequence(item, f"input {i}") for i, item in enumerate(inputs))
        return self._workers(threads).rows(arrays, embedding_head(pool, normalize))

    def generate(
        self,
        prompt: str | Fields | Tokens,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        max_tokens: int | None = None,
        candidates: int | None = None,
        stop: str | bytes | Sequence[str | bytes] | None = None,
        seed: int | None = None,
        on_token: OnToken | None = None,
        distinct: bool = True,
    ) -> list[Completion]:
        """Completions of a prompt, one after the other (FORMATS §8).

        Args:
            prompt: text as one types it, `field:value` in it or not, or a mapping of fields: put
                into the model's template. Or tokens, taken as they are.
            temperature, …, candidates: as in `calmgrad.sampling.Sampling`; None: for text the
                model's own sampler defaults, and where there are none calm-inference's.
            stop: a pattern, or several, that ends a completion and is not part of it; None: for
                text the model's own stop conditions.
            seed: of the dice; the same seed gives the same completions. None: a new one.
            on_token: called with each token as soon as it is certain; of draws that only repeat
                a completion too.
            distinct: no two completions have the same text: there may be fewer than
                `candidates`, if 16 draws in a row bring no other. False: each draw counts.

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
        if isinstance(stop, str | bytes):
            stop = [stop]
        patterns = [p.encode() if isinstance(p, str) else p for p in stop]
        weights = self.weights  # up to date
        if self._decoder is None:
            self._decoder = Decoder(config, weights)
        self._decoder.refresh()
        with backends.one_blas_thread(), backends.silent_overflow():
            return generate(
                self._decoder,
                checked_tokens(prompt, config, "prompt"),
                sampling,
                Stops(patterns, config.vocab),
                secrets.randbits(32) if seed is None else seed,
                on_token,
                distinct,
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
        self._decoder = None
        if self._runner is not None:
            self._end(self._runner)
            self._runner = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _run(
        self, tokens: NDArray[np.int64], head: Head, targets: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """What `head` makes of one sequence."""
        shard = Shard([0], tokens, Packing.of([tokens.size]), targets)
        output: NDArray[np.float32] = self._workers().run([shard], head)[0]
        return output

    @contextmanager
    def runner(self, threads: int | None = None) -> Iterator[Runner]:
        """Workers over the weights for many forward passes; on the device of `to`."""
        runner = self._new_runner(threads)
        try:
            yield runner
        finally:
            self._end(runner)

    def _workers(self, threads: int | None = None) -> Runner:
        if self._runner is None or threads not in (None, self._runner.threads):
            self.close()
            self._runner = self._new_runner(threads)
        return self._runner

    def _new_runner(self, threads: int | None) -> Runner:
        backend = self._backend or backends.load("cpu")
        runner = Runner(backend, self.config, partial(self.flat.on, backend, "weights"), threads)
        if backend.device is not None:
            self.flat.attach(backend)
        return runner

    def _end(self, runner: Runner) -> None:
        runner.close()
        if runner.backend.device is not None:
            self.flat.detach()

    def _sequence(self, item: Input, what: str) -> NDArray[np.int64]:
        if isinstance(item, Text):
            return text_tokens(item, self.config.l_max).astype(np.int64)
        return checked_tokens(item, self.config, what)[-self.config.l_max :]


def _as_many(inputs: Input | Iterable[Input]) -> tuple[Iterable[Input], bool]:
    """The inputs of `embed`, and whether it was a single one."""
    if isinstance(inputs, np.ndarray):
        single = inputs.ndim < 2 and inputs.dtype.kind not in "OSU"
    elif isinstance(inputs, Sequence) and not isinstance(inputs, Text):
        single = len(inputs) > 0 and not isinstance(inputs[0], Sequence | np.ndarray)
    else:
        single = isinstance(inputs, Text)
    return ([inputs] if single else inputs), single  # type: ignore[list-item,return-value]


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
        template, stop_conditions: in place of the domain's. They are kept as they are, and read
            when a prompt is made of a text.
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
    resolve_sampling(sampler, {})  # a file may hold more than a probability; a new model does not
    return Model(
        cwgt.Weights(config, initial_weights(config, seed), metadata=metadata, sampler=sampler)
    )


def load_model(path: str | os.PathLike[str]) -> Model:
    """A model from a CWGT file, with its metadata, sampler defaults and EWC data.

    Raises:
        FileError: the file is missing or does not hold a model.
    """
    return Model(cwgt.read(path))
