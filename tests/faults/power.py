"""Cut the power at random moments of saving, on a disk that keeps only what it must.

    python -m tests.faults.power --count 2000

While checkpoints are written, each operation is noted. A disk after a power cut is then made up
of what the rules of POSIX leave: of a file, what was flushed, and of the rest all, a part or
zeros; of a folder, the names that were flushed, and of later changes the first few, each folder
for itself. The newest checkpoint whose saving had returned must be readable on every such disk.
"""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import calmgrad
from calmgrad.saving import Saver
from tests.faults.report import main
from tests.faults.runs import newest_whole
from tests.faults.seam import operations


@dataclass
class File:
    """Bytes written so far, and those flushed."""

    now: bytearray = field(default_factory=bytearray)
    flushed: bytes = b""


@dataclass
class Folder:
    """Names that are on the disk, and what was done to them since."""

    flushed: dict[str, "File | Folder"] = field(default_factory=dict)
    later: list[Callable[[dict[str, "File | Folder"]], None]] = field(default_factory=list)
    emptied: bool = False  # being removed: its files may be gone already

    def now(self, changes: int | None = None) -> dict[str, "File | Folder"]:
        """The names after so many of the later changes."""
        names = dict(self.flushed)
        for change in self.later[:changes]:
            change(names)
        return names


class Disk:
    """Follows what is done to one folder and all below it."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.top = Folder()
        self.open: dict[int, File | Folder] = {}

    def at(self, path: str) -> File | Folder:
        """What has this name now."""
        node: File | Folder = self.top
        for part in Path(path).relative_to(self.root).parts:
            assert isinstance(node, Folder)
            node = node.now()[part]
        return node

    def act(self, _: int, name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Do one operation and note it."""
        result = real(*arguments)
        match name:
            case "mkdir":
                self._change(arguments[0], lambda names, base: names.update({base: Folder()}))
            case "open" if arguments[1] & os.O_CREAT:
                file = File()
                self._change(arguments[0], lambda names, base: names.update({base: file}))
                self.open[result] = file
            case "open":
                self.open[result] = self.at(arguments[0])
            case "write":
                node = self.open[arguments[0]]
                assert isinstance(node, File)
                node.now += bytes(arguments[1][:result])
            case "fsync":
                node = self.open[arguments[0]]
                if isinstance(node, File):
                    node.flushed = bytes(node.now)
                else:
                    node.flushed, node.later = node.now(), []
            case "rename" | "replace":
                self._rename(*map(str, arguments))
        return result

    def _change(self, path: str, change: Callable[[Any, str], Any]) -> None:
        folder, base = os.path.split(path)
        parent = self.at(folder)
        assert isinstance(parent, Folder)
        node = Folder()  # one object, however often the change is replayed
        if os.path.isdir(path):
            parent.later.append(lambda names: names.update({base: node}))
        else:
            parent.later.append(lambda names: change(names, base))

    def _rename(self, source: str, target: str) -> None:
        folder, old = os.path.split(source)
        new = os.path.basename(target)
        assert os.path.dirname(target) == folder
        parent, node = self.at(folder), self.at(source)
        assert isinstance(parent, Folder)

        def rename(names: dict[str, File | Folder]) -> None:
            names.pop(old, None)
            names[new] = node

        parent.later.append(rename)
        if isinstance(node, Folder) and (new.endswith(".tmp") or new.endswith(".old")):
            node.emptied = new.endswith(".tmp")

    def after_a_cut(self, chance: random.Random, place: Path) -> None:
        """Write a disk as it may be after a power cut to `place`."""
        self._leave(self.top, chance, place)

    def _leave(self, node: File | Folder, chance: random.Random, place: Path) -> None:
        if isinstance(node, File):
            late = bytes(node.now[len(node.flushed) :])
            kept = late[: chance.choice((0, len(late), chance.randint(0, len(late))))]
            zeros = bytes(len(late) - len(kept)) if chance.random() < 0.3 else b""
            place.write_bytes(node.flushed + kept + zeros)
            return
        place.mkdir()
        for name, child in node.now(chance.randint(0, len(node.later))).items():
            if not (node.emptied and chance.random() < 0.5):
                self._leave(child, chance, place / name)


def check(folder: Path, count: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Cut the power at `count` random operations of saves, some of which replace a checkpoint."""
    chance = random.Random(seed)
    saves = (1, 2, 3, 4, 4)
    model = calmgrad.new_model(d_model=16, n_layers=1)
    tried = 0
    wrong: list[dict[str, Any]] = []
    with calmgrad.Trainer(model, threads=1) as trainer:
        while tried < count:
            root = folder / "disk"
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            disk = Disk(root)
            done: list[int] = []

            def act(
                number: int, name: str, real: Callable[..., Any], arguments: tuple[Any, ...],
                disk: Disk = disk, done: list[int] = done,
            ) -> Any:  # fmt: skip
                nonlocal tried
                if str(arguments[0]).startswith(str(folder / "after")):
                    return real(*arguments)  # we look at the disk after a cut
                result = disk.act(number, name, real, arguments)
                if chance.random() < 0.25 and tried < count:
                    tried += 1
                    place = folder / "after"
                    shutil.rmtree(place, ignore_errors=True)
                    disk.after_a_cut(chance, place)
                    left = newest_whole(place)
                    if left < max(done, default=0):
                        wrong.append({"cut": tried, "saved": list(done), "left": left})
                return result

            saver = Saver(root / "checkpoints", None)
            with operations(act):
                for step in saves:
                    saver.save(step, trainer.checkpoint, None)
                    done.append(step)
    return {"power_cuts": tried, "wrong": wrong}


if __name__ == "__main__":
    main(check, count=2000)
