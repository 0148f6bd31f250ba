"""calmgrad as a worker: a training step, an evaluation, and what bounds a step from below."""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout's calmgrad

from serving import serve

import calmgrad

Call = Callable[[], object]


def prepare(settings: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
    """The call of `settings["task"]`, the versions it runs with, and the forecast of memory."""
    told: dict[str, Any] = {}
    if settings.get("forecast"):
        call = train_with_forecast(settings, told)
    else:
        call = TASKS[settings["task"]](settings)
    import numpy as np
    from threadpoolctl import threadpool_info

    blas = [p for p in threadpool_info() if p["user_api"] == "blas"]
    if settings["task"] == "train on device" and not settings["rehearsal"]:
        import cupy

        told["cupy"] = cupy.__version__
    about = {
        **told,
        "calmgrad": calmgrad.__version__,
        "numpy": np.__version__,
        "numba": version("numba"),
        "blas": ", ".join(f"{p['internal_api']} {p['version']} {p['architecture']}" for p in blas),
    }
    return call, about


def train(settings: dict[str, Any]) -> Call:
    """One training step on the same batch."""
    return _train(settings)[1]


def train_on_device(settings: dict[str, Any]) -> Call:
    """Training steps on the same batch; their losses are read after the last, as in training."""
    import numpy as np

    if settings["rehearsal"]:  # the tests' stand-in for a GPU
        from benchmarks.gpu.subject import rehearsal

        rehearsal()
    trainer, _ = _train(settings)
    arrays = [np.asarray(tokens, np.int64) for tokens in settings["tokens"]]

    def call() -> dict[str, int]:
        for _ in range(settings["steps"]):
            trainer.step_later(arrays, settings["positions"])
        trainer.collect()
        if settings["rehearsal"]:
            return {}
        backend = trainer.runner.backend
        with backend.active():
            return {"device_bytes": backend.xp.get_default_memory_pool().total_bytes()}

    return call


def train_with_forecast(settings: dict[str, Any], told: dict[str, Any]) -> Call:
    """As `train`; tells the bytes in use with all kernels loaded, and what is to come on top.

    In the order of calmgrad.train: the trainer, the kernels, the forecast, the first step.
    """
    from calmgrad import memory
    from calmgrad.cutting import SHARD_TOKENS, cut

    trainer, call = _train(settings)
    trainer.accumulate([65, 66, 67])
    trainer.zero_grad()
    lengths = [len(tokens) - 1 for tokens in settings["tokens"]]
    shards = cut(lengths, settings.get("shard_tokens", SHARD_TOKENS))
    told["resident"] = memory.resident()
    told["forecast"] = memory.forecast(
        trainer.model.config,
        max(sum(lengths[i] for i in shard) for shard in shards),
        max(map(len, shards)),
        settings["threads"],
        adam=True,
    )
    return call


def _train(settings: dict[str, Any]) -> tuple[calmgrad.Trainer, Call]:
    import numpy as np

    arrays = [np.asarray(tokens, np.int64) for tokens in settings["tokens"]]
    model = calmgrad.new_model(settings["size"], seed=0)
    given = ("shard_tokens", "device", "matmul_precision")
    options = {name: settings[name] for name in given if name in settings}
    trainer = calmgrad.Trainer(
        model, lr=1e-4, reduction="token", threads=settings["threads"], **options
    )
    return trainer, lambda: trainer.step(arrays, settings["positions"])


def embed(settings: dict[str, Any]) -> Call:
    """Vectors of all sequences."""
    import numpy as np

    arrays = [np.asarray(tokens, np.int64) for tokens in settings["tokens"]]
    model = calmgrad.new_model(settings["size"], seed=0)
    threads = settings["threads"]

    def call() -> None:
        model.embed(arrays, threads=threads)

    return call


def parts(settings: dict[str, Any]) -> Call:
    """A training step that tells what its parts took, in seconds; on one thread.

    serial: outside the shards; shard: forward and backward of one; add: adding its gradient.
    """
    import numpy as np

    arrays = [np.asarray(tokens, np.int64) for tokens in settings["tokens"]]
    trainer = calmgrad.Trainer(
        calmgrad.new_model(settings["size"], seed=0), lr=1e-4, reduction="token", threads=1
    )
    run = trainer.runner.run
    spent = {"run": 0.0, "add": 0.0, "shards": 0}

    def timed_run(shards: Any, head: Any, seeds: Any, add: Any) -> Any:
        def timed_add(gradient: Any, i: int) -> None:
            began = time.perf_counter()
            add(gradient, i)
            spent["add"] += time.perf_counter() - began

        began = time.perf_counter()
        outputs = run(shards, head, seeds, timed_add)
        spent["run"] += time.perf_counter() - began
        spent["shards"] += len(shards)
        return outputs

    def call() -> dict[str, float]:
        spent.update(run=0.0, add=0.0, shards=0)
        began = time.perf_counter()
        trainer.step(arrays, settings["positions"])
        step = time.perf_counter() - began
        best.append((step, dict(spent)))
        step, least = min(best, key=lambda pair: pair[0])
        count = int(least["shards"])
        return {
            "serial": step - least["run"],
            "shard": (least["run"] - least["add"]) / count,
            "add": least["add"] / count,
            "shards": count,
        }

    best: list[tuple[float, dict[str, float]]] = []
    trainer.runner.run = timed_run  # type: ignore[method-assign]
    return call


def evaluate(settings: dict[str, Any]) -> Call:
    """The losses of all sequences."""
    from calmgrad.data import Dataset
    from calmgrad.evaluation import evaluate as evaluation
    from calmgrad.formats import ctds

    model = calmgrad.new_model(settings["size"], seed=0)
    dataset = Dataset(ctds.pack(settings["tokens"], settings["positions"]))
    return lambda: evaluation(model, dataset, settings["threads"])


def generate(settings: dict[str, Any]) -> Call:
    """A greedy completion of the next prompt; tells the tokens of all."""
    from itertools import cycle

    model = calmgrad.load_model(settings["path"])
    prompts = cycle(enumerate(settings["prompts"]))
    tokens: dict[str, list[int]] = {}

    def call() -> dict[str, list[int]]:
        i, prompt = next(prompts)
        found = model.generate(prompt, temperature=0, max_tokens=settings["count"])
        tokens[str(i)] = found[0].tokens
        return tokens

    return call


def profile(settings: dict[str, Any]) -> Call:
    """The profile of a step, op by op, and the speed of exponentials."""
    from dataclasses import asdict

    import numpy as np

    from calmgrad import ceilings, op_profile

    arrays = [np.asarray(tokens, np.int64) for tokens in settings["tokens"]]

    def call() -> dict[str, Any]:
        model = calmgrad.new_model(settings["size"], seed=0)
        found = op_profile.profile(model, arrays, settings["positions"], settings["seconds"])
        return {
            **asdict(found),
            "exponentials": ceilings.exponentials(),
            "channels": model.config.d_inner,
            "layers": model.config.n_layers,
        }

    return call


def floor(settings: dict[str, Any]) -> Call:
    """The matrix products of the step on this batch, nothing else: same shapes, threads, BLAS."""
    import numpy as np

    from calmgrad.backend import one_blas_thread
    from calmgrad.cutting import pack_targets

    config = calmgrad.new_model(settings["size"], seed=0).config
    arrays = [np.asarray(t, np.int64) for t in settings["tokens"]]
    shards = [s.tokens.size for s in pack_targets(arrays, settings["positions"])[0]]
    threads = min(settings["threads"], len(shards))
    workers = [products(config, max(shards)) for _ in range(threads)]
    waiting: list[int] = []

    def work(of_worker: list[Any]) -> None:
        while waiting:
            try:
                tokens = waiting.pop()
            except IndexError:
                return
            for a, b, out, token_axes in of_worker:
                i, j, k = (slice(tokens) if long else slice(None) for long in token_axes)
                np.matmul(a[i, j], b[j, k], out=out[i, k])

    def call() -> None:
        waiting.extend(shards)
        with one_blas_thread():
            list(pool.map(work, workers))

    pool = ThreadPoolExecutor(threads)
    return call


def products(config: Any, tokens: int) -> list[Any]:
    """(a, b, out, which of out's rows, the inner axis and out's columns count tokens).

    Every product of forward and backward, in the step's order and with its transposes; an
    activation has memory of its own, gradients of activations share theirs, as in the step.
    """
    import numpy as np

    d, di, rank = config.d_model, config.d_inner, config.dt_rank
    layer = [
        (d, 2 * di), (di, rank + 2 * config.d_state), (rank, di), (di, d),
        (d, config.d_ffn), (config.d_ffn, d),
    ]  # fmt: skip
    widest = max(config.vocab, 2 * di, config.d_ffn)
    dx, dy = np.ones((2, tokens * widest), np.float32)
    forward, backward = [], []
    for i, o in [*layer * config.n_layers, (d, config.vocab)]:
        x, w, dw = np.ones((tokens, i), "f4"), np.ones((i, o), "f4"), np.empty((i, o), "f4")
        y = np.ones((tokens, o), "f4")
        given = dy[: tokens * o].reshape(tokens, o)
        back = dx[: tokens * i].reshape(tokens, i)
        forward.append((x, w, y, (True, False, False)))
        backward.append((given, w.T, back, (True, False, False)))
        backward.append((x.T, given, dw, (False, True, False)))
    return forward + backward[::-1]


TASKS: dict[str, Callable[[dict[str, Any]], Call]] = {
    "train": train,
    "train on device": train_on_device,
    "parts": parts,
    "evaluate": evaluate,
    "embed": embed,
    "generate": generate,
    "floor": floor,
    "profile": profile,
}

if __name__ == "__main__":
    serve(prepare)
