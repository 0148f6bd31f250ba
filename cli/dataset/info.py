"""calmgrad dataset info"""

from typing import TYPE_CHECKING, Any

import click

from calmgrad.cli.common import json_option

if TYPE_CHECKING:
    from calmgrad.formats.ctds import Sequences

BAR = 40  # columns of the longest bar


@click.command("info")
@click.argument("path", type=click.Path())
@click.option("--tokens", is_flag=True, help="Every token that occurs, not only special ones.")
@json_option
def command(path: str, tokens: bool, as_json: bool) -> None:
    """Counts, lengths and tokens of a data set."""
    from calmgrad.data import load_dataset

    dataset = load_dataset(path)
    sequences = dataset.sequences
    values = {"file": path, **_counts(sequences), "sha256": dataset.fingerprint}
    usage, bins = _usage(sequences), _bins(sequences)
    if as_json:
        import json

        print(json.dumps({**values, "lengths": bins, "usage": usage}))
        return
    from calmgrad.cli.common import emit

    emit(values, False)
    _print_histogram(bins)
    _print_usage(usage, tokens)


def _counts(sequences: "Sequences") -> dict[str, Any]:
    import numpy as np

    lengths = sequences.lengths
    with_atn = int((sequences.cmd_positions > 0).sum())
    return {
        "sequences": sequences.count,
        "tokens": int(lengths.sum()),
        "targets": int((lengths - 1 - sequences.cmd_positions).sum()),
        "with_atn": with_atn,
        "atn_share": with_atn / sequences.count,
        "length_min": int(lengths.min()),
        "length_median": float(np.median(lengths)),
        "length_mean": float(lengths.mean()),
        "length_max": int(lengths.max()),
        "vocab_version": sequences.vocab_version,
    }


def _bins(sequences: "Sequences") -> list[dict[str, int]]:
    from dataclasses import asdict

    from calmgrad.dataset_statistics import length_histogram

    return [asdict(bin) for bin in length_histogram(sequences.lengths)]


def _usage(sequences: "Sequences") -> dict[str, int]:
    """Name of each token that occurs -> how often, special tokens first."""
    from calmgrad.dataset_statistics import token_counts, token_name

    counts = token_counts(sequences).tolist()
    order = [*range(256, len(counts)), *range(256)]
    return {token_name(token): counts[token] for token in order if counts[token]}


def _print_histogram(bins: list[dict[str, int]]) -> None:
    most = max(bin["count"] for bin in bins)
    width = len(str(bins[-1]["high"]))
    print("\nlength")
    for bin in bins:
        bar = "█" * round(BAR * bin["count"] / most) or ("▏" if bin["count"] else "")
        print(f"{bin['low']:>{width}}-{bin['high']:<{width}}  {bin['count']:>9,}  {bar}".rstrip())


def _print_usage(usage: dict[str, int], every: bool) -> None:
    total = sum(usage.values())
    special = {name: n for name, n in usage.items() if name.startswith("<") and len(name) > 1}
    byte_values = {name: n for name, n in usage.items() if name not in special}
    rows = {**special, f"bytes ({len(byte_values)} different)": sum(byte_values.values())}
    if every:
        rows |= dict(sorted(byte_values.items(), key=lambda item: -item[1]))
    width = max(map(len, rows))
    print(f"\n{'token':<{width}}  {'count':>11}   share")
    for name, count in rows.items():
        print(f"{name:<{width}}  {count:>11,}  {100 * count / total:5.1f} %")
