"""What `calmgrad doctor` looks at of the machine: CPU, cores, memory."""

import os
import platform
import re
from pathlib import Path

from calmgrad.cli.doctor_check import Check, first_line

LITTLE_MEMORY = 1 << 30
FEATURES = ("neon", "avx", "avx2", "fma", "avx512f")


def cpu_name() -> str:
    """The CPU's name, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def cpu_features() -> set[str]:
    """What LLVM finds on this CPU; empty without llvmlite."""
    try:
        from llvmlite import binding

        return {name for name, there in binding.get_host_cpu_features().items() if there}
    except Exception:
        return set()


def check_cpu() -> list[Check]:
    """Its name, its vector instructions, and the cores that this process may use."""
    from calmgrad.shards import default_threads

    known = cpu_features()
    vectors = ", ".join(name for name in FEATURES if name in known) or "none found"
    checks = [Check("CPU", "ok", f"{cpu_name()}; vector instructions: {vectors}")]
    if known and not known & {"avx2", "neon", "asimd"}:
        checks = [Check("CPU", "note", f"{cpu_name()}; no AVX2 or NEON: training will be slow")]
    try:
        threads = default_threads()
    except ValueError as error:
        fix = "unset CALMGRAD_NUM_THREADS"
        return [*checks, Check("cores", "problem", str(error), fix, True)]
    text = f"{threads} thread(s) on {os.cpu_count()} core(s)"
    quota = cpu_quota()
    if quota is not None and quota < threads:
        text += f", but the container may use only {quota:.1f}"
        fix = f"export CALMGRAD_NUM_THREADS={max(1, int(quota))}"
        return [*checks, Check("cores", "note", text, fix)]
    return [*checks, Check("cores", "ok", text)]


def cpu_quota() -> float | None:
    """Cores' worth of time that the control group gives; None if it sets no bound."""
    text = first_line("/sys/fs/cgroup/cpu.max") or "max"
    quota, _, period = text.partition(" ")
    return int(quota) / int(period or 100_000) if quota.isdigit() else None


def check_memory() -> list[Check]:
    """How much there is, and how much of it is free."""
    free, total = free_memory()
    if total is None:
        return [Check("memory", "ok", "unknown on this system")]
    text = f"{free / 1e9:.1f} GB free of {total / 1e9:.1f} GB" if free else f"{total / 1e9:.1f} GB"
    if (free or total) < LITTLE_MEMORY:
        return [Check("memory", "note", text, "train a small size with --threads 1")]
    return [Check("memory", "ok", text)]


def free_memory() -> tuple[int | None, int | None]:
    """Free and total bytes, of the control group if that is less; None where unknown."""
    free = total = None
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        kib = {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
        free, total = kib["MemAvailable"] * 1024, kib["MemTotal"] * 1024
    except (OSError, KeyError):
        try:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):
            return None, None
    bound = first_line("/sys/fs/cgroup/memory.max") or "max"
    used = first_line("/sys/fs/cgroup/memory.current") or "0"
    if bound.isdigit() and int(bound) < total:
        total = int(bound)
        left = total - int(used)
        free = left if free is None else min(free, left)
    return free, total
