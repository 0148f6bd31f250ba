"""Pages that show the files which the site leads to: the source, highlighted, and nothing else."""

import posixpath
from collections.abc import Iterable
from html import escape
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_by_name

LEXERS = {".py": "python", ".json": "json", ".toml": "toml", ".md": "markdown", ".cu": "c++"}
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="{up}_static/pygments.css">
<link rel="stylesheet" href="{up}_static/source.css">
</head>
<body>
<header><a href="{up}index.html">calmgrad</a> <h1>{title}</h1></header>
<main>
{body}
</main>
</body>
</html>
"""


def write_all(root: Path, files: Iterable[str], out: Path) -> None:
    """Write a page for each file or folder, and for the files of the folders.

    Args:
        root: of the repository; `files` are seen from there.
        out: the site; the page of FILE is source/FILE.html.
    """
    waiting, done = list(files), set()
    while waiting:
        file = waiting.pop()
        if file in done:
            continue
        done.add(file)
        path = root / file
        if path.is_dir():
            names = [p.name for p in sorted(path.iterdir()) if p.suffix in LEXERS]
            waiting += [f"{file}/{name}" for name in names]
            folder = posixpath.basename(file)
            items = (f'<li><a href="{folder}/{name}.html">{name}</a></li>' for name in names)
            body = "<ul>\n" + "\n".join(items) + "\n</ul>"
        else:
            name = LEXERS.get(path.suffix)
            lexer = get_lexer_by_name(name) if name else TextLexer()
            body = highlight(path.read_text(encoding="utf-8"), lexer, HtmlFormatter())
        target = out / "source" / f"{file}.html"
        target.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (file.count("/") + 1)
        target.write_text(PAGE.format(title=escape(file), up=up, body=body), encoding="utf-8")
