"""calmgrad search"""

import json
import shutil
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from calmgrad.cli.common import json_option, load_finite, threads_option

if TYPE_CHECKING:
    from calmgrad.search import Hit

AT_ONCE = 64  # queries


@click.command("search")
@click.argument("index_path", metavar="INDEX", type=click.Path())
@click.argument("query", required=False)
@click.option("-k", type=click.IntRange(1), default=5, show_default=True, help="So many results.")
@click.option(
    "-m",
    "--model",
    "model_path",
    type=click.Path(),
    help="The model that made the index.  [default: where it was then]",
)
@click.option("--full", is_flag=True, help="Show the whole of each text.")
@threads_option
@json_option
def command(
    index_path: str,
    query: str | None,
    k: int,
    model_path: str | None,
    full: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Find the texts of an INDEX that are nearest in meaning to a QUERY.

    `calmgrad embed -o FILE.index` makes an index. Without a QUERY, every line of standard input
    is one. The score is the cosine of two embeddings: 1 at most.
    """
    from calmgrad.search import Index, model_of

    index = Index.load(index_path)
    model = load_finite(model_path or model_of(index, index_path))
    index.check_model(model)
    queries = iter([query] if query is not None else (line.rstrip("\r\n") for line in sys.stdin))
    several = query is None
    while part := [q for _, q in zip(range(AT_ONCE), queries, strict=False)]:
        for text, hits in zip(part, index.search(model, part, k, threads), strict=True):
            if as_json:
                print(json.dumps({"query": text, "results": [asdict(hit) for hit in hits]}))
            else:
                show(text if several else None, hits, full)


def show(query: str | None, hits: list["Hit"], full: bool) -> None:
    """The hits, a line each: score, place, beginning of the text."""
    from calmgrad.formats.files import display

    if query is not None:
        print(f"{one_line(query, 200)}:")
    places = [f"{display(hit.file)}:{hit.line}" if hit.file else str(hit.line) for hit in hits]
    width = max(map(len, places), default=0)
    room = shutil.get_terminal_size((100, 24)).columns - width - 10
    for hit, place in zip(hits, places, strict=True):
        if full:
            print(f"{hit.score:6.3f}  {place}\n{printable(hit.text)}\n")
        else:
            print(f"{hit.score:6.3f}  {place:<{width}}  {one_line(hit.text, max(room, 20))}")


def one_line(text: str, width: int) -> str:
    """A text on one line that a terminal can print, cut at `width` characters."""
    line = "".join(c if c.isprintable() else " " for c in text[: 4 * width])
    line = " ".join(line.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def printable(text: str) -> str:
    """A text without what would steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)
