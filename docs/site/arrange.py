"""Arranges what the site is built from: the pages of docs/, and pages made of the source.

The pages are Markdown that any forge shows. Their links are those of the repository; a link to a
file that is no page leads to one that shows it (sources.py). The table of contents is
docs/index.md.
"""

import posixpath
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from docs.site import flags, notebooks

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
OUTSIDE = {"README.md": "readme", "CHANGES.md": "changes", "CONTRIBUTING.md": "contributing"}
PICTURES = (".svg", ".png")
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")
NOT_OURS = "object,BaseException,tuple,Struct"  # whose members are not told of
API_LIST = "docs/api.md"  # its links to modules lead to what their docstrings say


class Site:
    """The source of the site, as it is written to a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources: set[str] = set()  # files and folders that pages lead to, seen from ROOT
        self.modules: list[str] = []  # with a page of the API

    def write(self, name: str, text: str) -> None:
        path = self.folder / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def page(self, file: str, text: str | None = None) -> None:
        """Add a page of the repository, its links led to pages of the site."""
        text = (ROOT / file).read_text(encoding="utf-8") if text is None else text
        self.write(name_of(file), "".join(self._relinked(text, file)))

    def _relinked(self, text: str, file: str) -> Iterator[str]:
        for number, part in enumerate(FENCED.split(text)):
            if number % 2:
                yield part
            else:
                yield LINK.sub(lambda link: self._relink(link[1], link[2], file), part)

    def _relink(self, label: str, target: str, file: str) -> str:
        """A link for the site: a page that is called by its file's name gets its title."""
        if label == f"[{posixpath.basename(target)}]" and target.endswith(".md"):
            page = ROOT / posixpath.join(posixpath.dirname(file), target)
            label = f"[{page.read_text(encoding='utf-8').partition(chr(10))[0].lstrip('# ')}]"
        return f"{label}({self._target(target, file)})"

    def _target(self, target: str, file: str) -> str:
        """Where a link of `file` leads to in the site."""
        path, mark, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target) or not path:
            return target
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(file), path))
        here = posixpath.dirname(name_of(file))
        if wanted.endswith(PICTURES):
            return posixpath.relpath(wanted.removeprefix("docs/"), here or ".")
        if is_page(wanted):
            name = name_of(wanted)
        elif file == API_LIST and wanted.endswith(".py"):
            name = f"api/{module_of(wanted)}"
            if wanted not in self.modules:
                self.modules.append(wanted)
        else:
            return self.source(wanted, here)
        return posixpath.relpath(name, here or ".") + ".md" + mark + anchor

    def source(self, file: str, here: str) -> str:
        """A link from a page in the folder `here` to what shows a file or folder."""
        if not (ROOT / file).exists():
            raise FileNotFoundError(f"{file}: a page leads to it")
        self.sources.add(file)
        return "source:" + posixpath.relpath(f"source/{file}.html", here or ".")

    def add_api(self) -> None:
        for file in self.modules:
            module = module_of(file)
            options = f":members:\n   :inherited-members: {NOT_OURS}"
            directive = f".. automodule:: {module}\n   {options}"
            source = self.source(file, "api")
            self.write(
                f"api/{module}",
                f"# {module}\n\n```{{eval-rst}}\n{directive}\n```\n\n[Source]({source})\n",
            )


def is_page(file: str) -> bool:
    return file in OUTSIDE or (file.startswith("docs/") and file.endswith((".md", ".ipynb")))


def name_of(file: str) -> str:
    """The name of a page, without its suffix."""
    return OUTSIDE.get(file) or file.removeprefix("docs/").rpartition(".")[0]


def module_of(file: str) -> str:
    """calmgrad/ops/gelu.py -> calmgrad.ops.gelu; kernels/ and cli/ by their installed names."""
    parts = Path(file).with_suffix("").parts
    dotted = ".".join(parts if parts[0] == "calmgrad" else ("calmgrad", *parts))
    return dotted.removesuffix(".__init__")


def pages() -> list[str]:
    """All pages of docs/, seen from ROOT."""
    hidden = ("_build", "site")
    return [
        path.relative_to(ROOT).as_posix()
        for path in sorted(DOCS.rglob("*.md"))
        if path.relative_to(DOCS).parts[0] not in hidden
    ]


def contents(index: str) -> dict[str, str]:
    """Page -> the toctrees that docs/index.md means.

    Its sections are those of the navigation. Of a list item with several links, the first one is
    the page, and the others are below it.
    """
    trees: dict[str, str] = {}
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        caption, _, body = section.partition("\n")
        entries = []
        for item in re.split(r"^- ", body, flags=re.MULTILINE)[1:]:
            links = [(label[1:-1], page_at(target)) for label, target in LINK.findall(item)]
            first, below = links[0], links[1:]
            entries.append(first)
            if first[1] == "commands":
                below.append(("All flags", "flags"))
            if below:
                trees[first[1]] = toctree(below)
        trees["index"] = trees.get("index", "") + toctree(entries, caption)
    return trees


def page_at(target: str) -> str:
    """The name of the page that a link of docs/index.md leads to."""
    return name_of(posixpath.normpath(posixpath.join("docs", target.partition("#")[0])))


def toctree(entries: list[tuple[str, str]], caption: str = "") -> str:
    head = f":caption: {caption}\n" if caption else ""
    lines = "\n".join(f"{label} </{name}>" for label, name in entries)
    return f"\n```{{toctree}}\n:hidden:\n{head}\n{lines}\n```\n"


def arrange(folder: Path, run: Callable[[Path], str] = notebooks.to_markdown) -> set[str]:
    """Write everything that Sphinx reads into `folder`, which is emptied first.

    Args:
        run: a notebook to Markdown, with what it prints and draws.

    Returns:
        The files and folders that pages lead to and that are no pages, seen from ROOT.
    """
    shutil.rmtree(folder, ignore_errors=True)
    site = Site(folder)
    for picture in DOCS.rglob("*"):
        if picture.suffix in PICTURES and "_build" not in picture.parts:
            (folder / picture.relative_to(DOCS)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, folder / picture.relative_to(DOCS))
    for file in [*pages(), *OUTSIDE]:
        site.page(file)
    for notebook in sorted((DOCS / "notebooks").glob("*.ipynb")):
        site.page(notebook.relative_to(ROOT).as_posix(), run(notebook))
    site.write("flags", flags.page())
    trees = contents((DOCS / "index.md").read_text(encoding="utf-8"))
    trees["api"] = toctree([(m, f"api/{m}") for m in map(module_of, site.modules)])
    for name, tree in trees.items():
        with (folder / f"{name}.md").open("a", encoding="utf-8") as written:
            written.write(tree)
    site.add_api()
    return site.sources
