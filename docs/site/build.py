"""python -m docs.site.build: the site, in docs/_build/html. A warning is an error.

What is odd about the pages is told by Sphinx; what is odd about the result, by check.py.
"""

import shutil
import sys

from sphinx.cmd.build import build_main

from docs.site.arrange import DOCS, ROOT, arrange
from docs.site.check import faults
from docs.site.sources import write_all

SOURCE, OUT = DOCS / "_build" / "source", DOCS / "_build" / "html"


def main(arguments: list[str]) -> int:
    shutil.rmtree(OUT, ignore_errors=True)
    files = arrange(SOURCE)
    options = ["-W", "--keep-going", "-q", "-E", "-b", "html", "-c", str(DOCS / "site")]
    result = build_main([*options, *arguments, str(SOURCE), str(OUT)])
    write_all(ROOT, files, OUT)
    wrong = faults(OUT)
    for fault in wrong:
        print(f"error: {fault}", file=sys.stderr)
    if result or wrong:
        return result or 1
    print(OUT / "index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
