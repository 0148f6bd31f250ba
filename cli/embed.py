"""calmgrad embed"""

import json
import os
import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from calmgrad.cli.common import (
    device_options,
    emit,
    json_option,
    load_finite,
    model_option,
    not_over,
    say,
    threads_option,
    to_device,
    users_file,
)
from calmgrad.errors import FileError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from calmgrad.kernels.cuda.device import Precision
    from calmgrad.model import Model
    from calmgrad.texts import Text

KINDS = {".npy": "matrix", ".jsonl": "lines", ".index": "index"}
AT_ONCE = 256  # texts whose embeddings are written together


@click.command("embed")
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path())
@model_option
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="FILE.npy, FILE.jsonl or FILE.index.  [default: JSON lines on standard output]",
)
@click.option(
    "--by",
    type=click.Choice(["line", "paragraph", "file", "passage"]),
    help="What is one text; passage: those of a pair file.  [default: line; for an index"
    " paragraph]",
)
@click.option(
    "--pool-mode",
    type=click.Choice(["mean", "last"]),
    default="mean",
    show_default=True,
    help="What of a sequence becomes its embedding.",
)
@click.option("--no-normalize", is_flag=True, help="Leave the vectors as long as they are.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Of the numbers in a .npy or .index file.",
)
@threads_option
@device_options("cpu")
@json_option
def command(
    files: tuple[str, ...],
    model_path: str | None,
    output: str | None,
    by: str | None,
    pool_mode: str,
    no_normalize: bool,
    dtype: str,
    threads: int | None,
    device: str,
    matmul_precision: "Precision",
    as_json: bool,
) -> None:
    """Turn texts into vectors.

    Every line of the FILEs is a text (without FILE, or for -, those of standard input). A .npy
    file gets one row for each, in order; JSON lines hold text, place and embedding; an index is
    what `calmgrad search` looks in.
    """
    kind = kind_of(output)
    if no_normalize and kind == "index":
        raise UsageError("--no-normalize: an index holds vectors of length one")
    path = str(model_path or users_file("user.cwgt"))
    if output is not None:
        not_over(output, (path, *files))
    model = to_device(load_finite(path), device, matmul_precision)
    if output is not None:
        from calmgrad.formats.files import check_writable

        check_writable(output)
    from calmgrad.texts import read_texts

    by = by or ("paragraph" if kind == "index" else "line")
    texts = read_texts(files or ("-",), by)
    if output is not None and kind == "index":
        count = write_index(model, path, texts, output, pool_mode, dtype, threads)
    else:
        options: dict[str, Any] = dict(pool=pool_mode, normalize=not no_normalize, threads=threads)
        rows = embedded(model, texts, options)
        if output is not None and kind == "matrix":
            count = write_matrix(rows, output, model.config.d_model, dtype)
        else:
            count = write_lines(rows, output)
    if output is None:
        return
    if not count:
        say(f"warning: {output}: no rows: there is no {by} in what was read")
    say(f"saved    {output}")
    facts = {"output": output, "texts": count, "d_model": model.config.d_model}
    emit(facts, as_json)


def kind_of(output: str | None) -> str:
    """What kind of output is wanted.

    Raises:
        UsageError: the name ends in something else.
    """
    if output is None:
        return "lines"
    suffix = os.path.splitext(output)[1].lower()
    if suffix not in KINDS:
        raise UsageError(f"{output}: expected a name that ends in {', '.join(KINDS)}")
    return KINDS[suffix]


def embedded(
    model: "Model", texts: Iterator["Text"], options: dict[str, Any]
) -> Iterator[tuple[list["Text"], "NDArray[np.float32]"]]:
    """Texts and their rows, some hundred at a time."""
    while part := list(islice(texts, AT_ONCE)):
        yield part, model.embed([text.text for text in part], **options)


def write_matrix(
    rows: Iterator[tuple[list["Text"], "NDArray[np.float32]"]],
    output: str,
    d_model: int,
    dtype: str,
) -> int:
    """A .npy file; the rows wait on the disk until it is known how many they are."""
    import io
    import tempfile

    import numpy as np

    from calmgrad.formats.files import write_atomic

    count = 0
    with tempfile.TemporaryFile() as waiting:
        for texts, part in rows:
            waiting.write(part.astype(dtype, copy=False).tobytes())
            count += len(texts)
        head = io.BytesIO()
        description: dict[str, Any] = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": (count, d_model),
        }
        np.lib.format.write_array_header_1_0(head, description)
        size = head.tell() + waiting.tell()
        waiting.seek(0)

        def pieces() -> Iterator[bytes]:
            yield head.getvalue()
            while piece := waiting.read(1 << 20):
                yield piece

        write_atomic(output, pieces(), size)
    return count


def write_lines(
    rows: Iterator[tuple[list["Text"], "NDArray[np.float32]"]], output: str | None
) -> int:
    """A line of JSON for each text, on standard output as they come."""
    import tempfile

    from calmgrad.formats.files import write_atomic

    count = 0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as waiting:
        file = sys.stdout if output is None else waiting
        for texts, part in rows:
            for text, row in zip(texts, part, strict=True):
                value = {"file": text.file, "line": text.line, "text": readable(text.text)}
                file.write(json.dumps({**value, "embedding": [shortest(x) for x in row]}) + "\n")
            count += len(texts)
        if output is not None:
            waiting.flush()
            with open(waiting.fileno(), "rb", closefd=False) as content:
                size = content.seek(0, os.SEEK_END)
                content.seek(0)
                write_atomic(output, iter(lambda: content.read(1 << 20), b""), size)
    return count


def shortest(value: Any) -> float:
    """The shortest number that is this float32."""
    return float(str(value))


def readable(text: str) -> str:
    """Bytes that are not UTF-8 as U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def write_index(
    model: "Model",
    model_path: str,
    texts: Iterator["Text"],
    output: str,
    pool: str,
    dtype: str,
    threads: int | None,
) -> int:
    from calmgrad.search import Index

    place = os.path.relpath(os.path.realpath(model_path), os.path.dirname(os.path.realpath(output)))
    try:
        index = Index.build(model, texts, pool, dtype, threads, place)
    except ValueError as error:
        raise FileError(str(error)) from error
    index.save(output)
    return len(index)
