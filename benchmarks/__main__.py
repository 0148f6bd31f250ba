"""calmgrad beside calm-mamba and other ways to train these models, measured on this machine.

    python -m benchmarks --peer PYTHON_WITH_CALM_MAMBA [--jax PYTHON_WITH_JAX] [PART ...]

All get the same batches; each runs in a process of its own and they take turns, so that a slow
minute of the machine hits all alike. Each warms up first. Tables show the best and the median;
on a machine with other work, read the best. The JSON is written after every row.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import (
    alternatives,
    cold_start,
    embed,
    evaluate,
    generate,
    memory,
    ops,
    scaling,
    train,
)
from benchmarks.contestants import WorkerFailed
from benchmarks.options import ROOT, Options, commit, machine, now
from benchmarks.result_files import read, write
from benchmarks.tables import text_table

PARTS: dict[str, Callable[[Options], Iterator[dict[str, Any]]]] = {
    "train": train.run,
    "floor": train.floors,
    "ops": ops.run,
    "scan": ops.scan,
    "evaluate": evaluate.run,
    "embed": embed.run,
    "generate": generate.run,
    "alternatives": alternatives.run,
    "cold-start": cold_start.run,
    "memory": memory.run,
    "scaling": scaling.run,
}
RESULT = ROOT / "benchmarks" / "results" / "cpu.json"


def main() -> None:
    arguments = parse()
    options = Options(
        peer=arguments.peer,
        jax=arguments.jax,
        sizes=arguments.sizes,
        shapes=arguments.shapes,
        threads=arguments.threads,
        quick=arguments.quick,
    )
    result = read(arguments.output)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # compiling shall not be measured
    subprocess.run([sys.executable, "-m", "calmgrad.cli", "warmup"], env=environment, stdout=2)
    for name in arguments.parts or PARTS:
        rows: list[dict[str, Any]] = []
        about = {
            "commit": commit(),
            "at": now(),
            "machine": machine(),
            "quick": options.quick,
        }
        try:
            for row in PARTS[name](options):
                rows.append(row)
                done = ", ".join(str(v) for v in row.values() if isinstance(v, str | int))
                print(f"{name}: {done}", file=sys.stderr, flush=True)
                result[name] = {**about, "versions": dict(options.versions), "rows": rows}
                write(arguments.output, result)
        except WorkerFailed as failure:
            print(f"{name}: {failure}", file=sys.stderr)
        if rows:
            print(f"\n{name}\n{text_table(name, rows)}\n", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--peer", metavar="PYTHON", help="of an environment with calm-mamba")
    parser.add_argument("--jax", metavar="PYTHON", help="of an environment with JAX")
    parser.add_argument("--sizes", nargs="+", default=(), metavar="SIZE", help="only these")
    parser.add_argument("--shapes", nargs="+", default=(), metavar="SHAPE", help="only these")
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2), help="only these")
    parser.add_argument("--quick", action="store_true", help="nano, in a fraction of the time")
    parser.add_argument(
        "--output", type=Path, default=RESULT, help="JSON; parts not measured stay as they are"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    return arguments


if __name__ == "__main__":
    main()
