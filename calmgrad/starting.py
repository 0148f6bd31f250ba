"""What a run begins with, and what it must not harm: its model, its data, its outputs."""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from calmgrad.config import PRESETS, ModelConfig
from calmgrad.data import Dataset, load_dataset
from calmgrad.errors import DiskError, FileError, UsageError
from calmgrad.formats.files import (
    counted,
    display,
    open_source,
    read_file,
    refuse_dash,
    write_atomic,
)
from calmgrad.loop import Plan
from calmgrad.model import Model, load_model, new_model
from calmgrad.settings import SIZES, TrainConfig, data_folder
from calmgrad.template import parse_template
from calmgrad.trainer import Trainer

log = logging.getLogger("calmgrad.run")


def start_model(c: TrainConfig) -> tuple[Model, str | None]:
    """The model a run begins with, and the file it came from (None: it is new)."""
    chosen, note = c.model, ""
    if chosen is None:
        user = data_folder() / "user.cwgt"
        chosen = str(user) if user.exists() else "new"
        if chosen == "new":
            note = f" (none given, and none at {user})"
    if c.template is not None:
        parse_template(c.template)  # a model is not trained for prompts that cannot be made
    sizes = {name: getattr(c, name) for name in SIZES if getattr(c, name) is not None}
    penalty = bool(c.ewc_lambda) and c.continual is None
    if penalty and chosen == "new":
        raise UsageError("ewc_lambda: a new model has nothing to keep; expected -m MODEL")
    if chosen == "new":
        model = new_model(
            c.size,
            **sizes,
            seed=c.seed or 0,
            domain="shell" if c.domain is None else c.domain,
            template=c.template,
            stop_conditions=c.stop_conditions,
        )
        log.info("model    new%s: %s", note, describe(model.config))
        return model, None
    if sizes or c.size:
        names = ", ".join([*sizes, *(["size"] if c.size else [])])
        raise UsageError(
            f"{names}: only for a new model (-m new); {display(chosen)} has its own sizes"
        )
    model = load_model(chosen)
    model.data().check_finite(chosen)
    if penalty and model.fisher is None:
        raise UsageError(
            f"ewc_lambda: {display(chosen)} has no Fisher data; `calmgrad fisher` computes them"
        )
    texts = dict(domain=c.domain, template=c.template, stop_conditions=c.stop_conditions)
    changed = {name: text for name, text in texts.items() if text is not None}
    model.metadata = replace(model.metadata, **changed)
    log.info("model    %s: %s", chosen, describe(model.config))
    return model, chosen


def plan_of(c: TrainConfig) -> Plan:
    """The batches and learning rates of these settings."""
    names = ("epochs", "batch_size", "lr", "warmup_steps", "min_lr", "batch_tokens",
             "accumulation", "max_steps", "shuffle", "seed")  # fmt: skip
    return Plan(**{name: getattr(c, name) for name in names})


def trainer_of(model: Model, c: TrainConfig) -> Trainer:
    """A trainer with these settings."""
    names = ("lr", "optimizer", "beta1", "beta2", "eps", "weight_decay", "grad_clip",
             "ewc_lambda", "rules", "threads", "device",
             "matmul_precision", "shard_tokens")  # fmt: skip
    chosen = {name: getattr(c, name) for name in names}
    return Trainer(model, **{name: value for name, value in chosen.items() if value is not None})


def reporters_of(c: TrainConfig, folder: Path) -> list[Any]:
    """What the numbers of a run are told besides the metrics."""
    if "tensorboard" not in (c.report_to or []):
        return []
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UsageError(
            "report_to tensorboard: tensorboardX is not installed:"
            " pip install 'calmgrad[tensorboard]'"
        ) from error
    return [SummaryWriter(str(folder / "tensorboard"))]


def size_name(config: ModelConfig) -> str:
    """The preset of these sizes, or "custom"."""
    return next((name for name, preset in PRESETS.items() if preset.model == config), "custom")


def describe(c: ModelConfig) -> str:
    """A model in half a line."""
    sizes = (
        f"d_model {c.d_model}, {counted(c.n_layers, 'layer')}, d_inner {c.d_inner}, ffn {c.d_ffn}"
    )
    return f"{size_name(c)}, {c.param_count:,} parameters ({sizes})"


def load_kept(path: str | Path, l_max: int, purpose: str) -> Dataset:
    """The sequences of a data set a model can take; says how many were left out and why.

    Raises:
        FileError: the file is bad, or no sequence is left.
    """
    dataset = load_dataset(path)
    kept, reasons = dataset.kept(l_max)
    left_out = ", ".join(f"{reason}: {count:,}" for reason, count in reasons.items())
    if len(kept) == 0:
        raise FileError(
            f"{display(path)}: nothing to {purpose}: all {len(dataset):,} sequences are {left_out}"
        )
    if not ((kept.lengths - 1) > kept.cmd_positions).any():
        raise FileError(
            f"{display(path)}: nothing to {purpose}: no sequence has a target after its ATN"
        )
    note = f"; left out {sum(reasons.values()):,} ({left_out})" if reasons else ""
    tokens = int(kept.lengths.sum())
    what = f"{counted(len(kept), 'sequence')}, {counted(tokens, 'token')}"
    log.info("data     %s: %s%s", path, what, note)
    return kept


def check_output(output: Path, *data: str | None) -> None:
    """Refuse a place for the finished weights before training, not after.

    Raises:
        DiskError: it cannot be written.
        UsageError: it is named `-`, or something else than a model would be overwritten.
    """
    refuse_dash(str(output))
    if any(path is not None and output.resolve() == Path(path).resolve() for path in data):
        raise UsageError(f"{display(output)}: the weights would replace the data set")
    folder = output.resolve().parent
    if output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise DiskError(
            f"{display(output)}: cannot be written: expected a file in a writable folder"
        )
    if output.exists():
        with open_source(output) as source:
            if source.size and source.read(min(4, source.size)) != b"CWGT":
                raise UsageError(
                    f"{display(output)}: exists and is no CWGT file; it is not replaced"
                )


def save_weights(
    trainer: Trainer,
    targets: list[Path],
    source: str | None,
    on_saved: Callable[[Path], object] | None = None,
) -> None:
    """Save to each of these files; of the `source` of the run's model a copy is kept."""
    for path in targets:
        if is_file(path, source):
            keep_old(path)
        trainer.save(path)
        log.info("saved    %s", path)
        if on_saved is not None:
            on_saved(path)


def is_file(path: Path, name: str | None) -> bool:
    """Whether a path leads to the file of this name, if there is one."""
    return name is not None and path.resolve() == Path(name).resolve()


def keep_old(path: Path) -> None:
    """Keep a model that is about to be replaced, unless an older one is kept already."""
    backup = path.with_name(path.name + ".bak")
    if path.exists() and not backup.exists():
        write_atomic(backup, [read_file(path)])
        backup.chmod(path.stat().st_mode & 0o777)
        log.info("kept     the model as it was: %s", backup)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def kernels_are_compiled(name: str = "_backward_blocks") -> bool:
    """Whether the cache holds this kernel for this version; False where there is no cache."""
    from calmgrad.kernels.cpu.compile import FOLDER

    return FOLDER is not None and any(FOLDER.rglob(f"*.{name}-*.nbi"))
