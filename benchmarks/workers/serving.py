"""What all workers share: a process that makes one thing ready, and does it when asked to.

A worker imports this from its own folder, under whatever Python it runs. The first line on its
standard input holds its settings, as JSON; every other line is a number of calls to make. Each
answer is a line of JSON: first what the worker is, then the seconds of each call, the peak
memory of the process so far, and what the last call has returned, if that is a dict.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Prepare = Callable[[dict[str, Any]], tuple[Callable[[], object], dict[str, Any]]]


def serve(prepare: Prepare) -> None:
    """Answer until the input ends. `prepare(settings)` gives the call and what to tell of it."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not spoil the answers
    settings = json.loads(sys.stdin.readline())
    call, about = prepare(settings)
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            began = time.perf_counter()
            told = call()
            seconds.append(time.perf_counter() - began)
        answer = {"seconds": seconds, "peak": peak_memory()}
        if isinstance(told, dict):
            answer["told"] = told
        print(json.dumps(answer), file=answers, flush=True)


def peak_memory() -> int:
    """Bytes: the most this program has had in memory.

    `VmHWM`, where there is one: `ru_maxrss` also counts the process that has started this one.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
