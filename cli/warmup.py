"""calmgrad warmup"""

import click

from calmgrad.cli.common import emit, json_option, say
from calmgrad.errors import DiskError


@click.command("warmup")
@json_option
def command(as_json: bool) -> None:
    """Compile all kernels for this CPU, so that no later command has to wait for it.

    They are kept in a private folder of the user, or the one CALMGRAD_CACHE_DIR names. What is
    there already is not compiled again.
    """
    import time
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is an error here
        from calmgrad.kernels.cpu import compile

    folder = compile.FOLDER
    if folder is None:
        raise DiskError(
            "no private folder to keep compiled kernels in:"
            " set CALMGRAD_CACHE_DIR to a folder of your own"
        )
    before = set(folder.rglob("*.nbc"))
    say("kernels  compiling for this CPU what has not been compiled yet (all: about 15 s)")
    began = time.perf_counter()
    use_all()
    if compile.uncached:
        raise DiskError(f"the compiled kernels were not kept: {compile.uncached}")
    seconds = time.perf_counter() - began
    compiled = len(set(folder.rglob("*.nbc")) - before)
    emit({"folder": str(folder), "compiled": compiled, "seconds": seconds}, as_json)


def use_all() -> None:
    """Call every kernel that training, evaluation, embedding and generation may need."""
    import numpy as np

    from calmgrad.model import new_model
    from calmgrad.trainer import Trainer

    pairs = [[65, 66, 67, 68, 69], [70, 71, 72]]
    # 32 channels are two whole blocks of lanes; 40 leave a rest, which is compiled apart.
    for d_model in (16, 20):
        model = new_model(d_model=d_model, n_layers=1, seed=0)
        model.fisher = model.anchor = np.zeros_like(model.weights)
        for optimizer in ("adam", "sgd"):
            with Trainer(model, optimizer=optimizer, ewc_lambda=1.0, threads=1) as trainer:
                trainer.compute_fisher(pairs, [0, 0])
                trainer.step(pairs, [0, 0])
                for pool in ("mean", "last"):
                    trainer.contrastive_step(pairs, pairs, pool=pool)
        model.logits(np.arange(20))
        model.embed(np.arange(20))
        for temperature in (0.0, 0.7):
            model.generate([65, 66], temperature=temperature, max_tokens=2, seed=0)
        model.close()
