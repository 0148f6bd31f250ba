"""What the command was asked for, and what is noted of the machine on the way."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.contestants import Contestant

ROOT = Path(__file__).resolve().parents[1]
QUICK = 0.15  # of the time, with --quick
_Row = TypeVar("_Row", bound=tuple[Any, ...])


@dataclass
class Options:
    """The arguments of the command.

    Attributes:
        python: interpreter for calmgrad.
        peer, jax: interpreters with calm-mamba and with JAX; None: those are left out.
        sizes, shapes: only these rows, where given.
        threads: numbers of threads.
        quick: a fraction of the time, and the small models.
        versions: of all that has run so far.
    """

    peer: str | None = None
    jax: str | None = None
    sizes: Sequence[str] = ()
    shapes: Sequence[str] = ()
    threads: Sequence[int] = (1, 2)
    quick: bool = False
    python: str = sys.executable
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def turns(self) -> int:
        """The most turns in a race."""
        return 3 if self.quick else 10

    @property
    def cores(self) -> int:
        """That this process may use."""
        return len(os.sched_getaffinity(0))

    def time(self, seconds: float) -> float:
        """Seconds to spend on what a whole run would spend so many on."""
        return QUICK * seconds if self.quick else seconds

    def chosen(self, rows: Sequence[_Row]) -> list[_Row]:
        """The rows, (size, shape, threads, …), that were asked for."""
        sizes = self.sizes or (("nano",) if self.quick else ())
        return [
            row
            for row in rows
            if (not sizes or row[0] in sizes)
            and (not self.shapes or row[1] in self.shapes)
            and row[2] in self.threads
        ]

    def calmgrad(
        self, task: str, settings: dict[str, Any], calls: int = 5, name: str = "calmgrad"
    ) -> Contestant:
        """This checkout."""
        return Contestant(
            name, "run_calmgrad.py", self.python, {"task": task, **settings}, calls=calls
        )

    def calm_mamba(
        self, task: str, settings: dict[str, Any], calls: int = 1, scan: str = "loop"
    ) -> Contestant:
        """calm-mamba, as it is or with another scan."""
        assert self.peer is not None
        name = "calm-mamba" if scan == "loop" else scan
        told = {"task": task, "scan": scan, **settings}
        return Contestant(name, "run_calm_mamba.py", self.peer, told, calls=calls)

    def note_versions(self, contestants: Sequence[Contestant]) -> None:
        """Keep what they have said of themselves."""
        for contestant in contestants:
            self.versions.update(contestant.about)


def machine() -> dict[str, Any]:
    """CPU, cores, memory, system, Python, and whether others are at work."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def cpu_name() -> str:
    """As the system calls it, with family and model: clouds give few CPUs their real name."""
    fields: dict[str, str] = {}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    for line in text.partition("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    flags = fields.get("flags", "").split()
    vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else ""
    numbers = f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}"
    return f"{fields.get('model name', platform.machine())} ({numbers}, {vectors})"


def commit() -> str:
    """The commit measured; with "+" where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return "unknown"
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no", "--", "calmgrad", "kernels"],
        capture_output=True,
        text=True,
    )
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def now() -> str:
    """UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
