"""python -m docs.site.build: the site, in docs/_build/html. A warning is an error."""

import shutil
import sys

from sphinx.cmd.build import build_main

from docs.site.arrange import DOCS, ROOT, arrange
from docs.site.sources import write_all

SOURCE, OUT = DOCS / "_build" / "source", DOCS / "_build" / "html"


def main(arguments: list[str]) -> int:
    shutil.rmtree(OUT, ignore_errors=True)
    files = arrange(SOURCE)
    options = ["-W", "--keep-going", "-q", "-E", "-b", "html", "-c", str(DOCS / "site")]
    result = build_main([*options, *arguments, str(SOURCE), str(OUT)])
    write_all(ROOT, files, OUT)
    if result == 0:
        print(f"{OUT / 'index.html'}")
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
