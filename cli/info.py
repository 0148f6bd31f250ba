"""calmgrad info"""

from typing import Any

import click

from calmgrad.cli.common import emit, json_option, size_name
from calmgrad.errors import FileError


@click.command("info")
@click.argument("path", type=click.Path())
@json_option
def command(path: str, as_json: bool) -> None:
    """What is inside a CWGT or CTDS file."""
    from calmgrad.formats.files import display, open_source

    with open_source(path) as source:
        magic = source.read(min(4, source.size))
    if magic == b"CWGT":
        values = _model(path)
    elif magic == b"CTDS":
        values = _dataset(path)
    else:
        raise FileError(f"{display(path)}: begins with {magic!r}: expected b'CWGT' or b'CTDS'")
    tables = values.pop("parameters", None) if not as_json else None
    emit(values, as_json)
    if tables:
        print()
        print(f"{'parameter':<34} {'shape':>12} {'mean':>11} {'std':>10} {'min':>10} {'max':>10}")
        for name, row in tables.items():
            shape = " x ".join(str(n) for n in row["shape"])
            numbers = "no finite value"
            if row["mean"] is not None:
                numbers = f"{row['mean']:11.3e} {row['std']:10.3e} {row['min']:10.3f}"
                numbers += f" {row['max']:10.3f}"
            print(f"{name:<34} {shape:>12} {numbers}")


def _model(path: str) -> dict[str, Any]:
    from dataclasses import asdict

    from calmgrad.model import load_model

    model = load_model(path)
    return {
        "file": path,
        "format": "CWGT v5",
        "size": size_name(model.config),
        **asdict(model.config),
        "param_count": model.config.param_count,
        "domain": model.metadata.domain,
        "template": model.metadata.template,
        "stop_conditions": model.metadata.stop_conditions,
        **{f"default_{name}": value for name, value in asdict(model.sampler).items()},
        "ewc": model.fisher is not None,
        "not_finite": _not_finite(model.weights),
        "parameters": {name: _statistics(value) for name, value in model.parameters.items()},
    }


def _not_finite(array: Any) -> int:
    import numpy as np

    return int(array.size - np.isfinite(array).sum())


def _statistics(array: Any) -> dict[str, Any]:
    import numpy as np

    wide = array.astype("float64")
    finite = wide[np.isfinite(wide)]
    if finite.size == 0:
        return {"shape": list(array.shape), "mean": None, "std": None, "min": None, "max": None}
    return {
        "shape": list(array.shape),
        "mean": float(finite.mean()),
        "std": float(finite.std()),
        "min": float(finite.min()),
        "max": float(finite.max()),
    }


def _dataset(path: str) -> dict[str, Any]:
    import numpy as np

    from calmgrad.data import load_dataset

    dataset = load_dataset(path)
    sequences = dataset.sequences
    lengths = sequences.lengths
    return {
        "file": path,
        "format": "CTDS",
        "sequences": int(sequences.count),
        "tokens": int(lengths.sum()),
        "length_min": int(lengths.min()),
        "length_median": float(np.median(lengths)),
        "length_max": int(lengths.max()),
        "with_atn": int((sequences.cmd_positions > 0).sum()),
        "targets": int((lengths.astype(np.int64) - 1 - sequences.cmd_positions).sum()),
        "sha256": dataset.fingerprint,
    }
