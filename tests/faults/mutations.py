"""Read many damaged checkpoints: each is refused in one line, or is what it was.

    python -m tests.faults.mutations --count 50000

Half of the damage is hidden behind sums that match, as if somebody had made it on purpose: it
reaches the readers of the parts, which must refuse it in one line or read what it says.
"""

import hashlib
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import calmgrad
from calmgrad.formats import checkpoint as checkpoints
from calmgrad.run_state import run_state
from tests.faults.report import main
from tests.faults.runs import reference

PARTS = (checkpoints.MODEL, checkpoints.TENSORS, checkpoints.STATE, checkpoints.SUMS)
TEXTS = (
    b"0", b"-1", b"1e999", b"NaN", b"null", b'""', b"[]", b"{}", b"true", b"9" * 20, b"\xff",
    b"\x00", b"\\ud800", b"[" * 2000, b'{"a":' * 2000, b",", b'"', b"../../x",
)  # fmt: skip
NUMBERS = (0, 1, 7, 8, 255, 2**16, 2**31 - 1, 2**32, 2**63, 2**64 - 1)


def damaged(chance: random.Random, content: bytes) -> bytes:
    """One change: a bit, a byte, a piece, a number, a text; or the end cut off or repeated."""
    data = bytearray(content)
    near = chance.random() < 0.5  # the beginning, where the headers are
    at = chance.randrange(min(600, len(data)) if near else len(data))
    match chance.randrange(8):
        case 0:
            data[at] ^= 1 << chance.randrange(8)
        case 1:
            data[at] = chance.randrange(256)
        case 2:
            del data[at:]
        case 3:
            del data[at : at + 1 + chance.randrange(40)]
        case 4:
            data[at:at] = data[at : at + 1 + chance.randrange(40)]
        case 5:
            data[at : at + 8] = chance.choice(NUMBERS).to_bytes(8, "little")[: len(data) - at]
        case 6:
            data[at : at + chance.randrange(8)] = chance.choice(TEXTS)
        case 7:
            data += bytes(chance.randrange(1, 60))
    return bytes(data)


def check(folder: Path, count: int = 50_000, seed: int = 0) -> dict[str, Any]:
    """Damage a checkpoint of a run `count` times, in one part each."""
    reference(folder)
    chance = random.Random(seed)
    good = Path("reference/checkpoints/step-000040")
    bad = Path("damaged/checkpoints/step-000040")
    shutil.copytree(good, bad)
    contents = {name: (good / name).read_bytes() for name in PARTS}
    whole = checkpoints.read(good)
    refused = unchanged = others = 0
    wrong: list[dict[str, Any]] = []
    warnings.simplefilter("error")
    for number in range(count):
        part = chance.choice(PARTS)
        content = damaged(chance, contents[part])
        (bad / part).write_bytes(content)
        hidden = part != checkpoints.SUMS and chance.random() < 0.5
        if hidden:
            sums = contents[checkpoints.SUMS].decode()
            was = hashlib.sha256(contents[part]).hexdigest()
            sums = sums.replace(was, hashlib.sha256(content).hexdigest())
            (bad / checkpoints.SUMS).write_text(sums)
        case = {"number": number, "part": part, "hidden": hidden}
        try:
            read = checkpoints.read(bad)
            run_state(bad, read.state)
        except calmgrad.CalmgradError as error:
            refused += 1
            if "\n" in str(error) or len(str(error)) > 1000 or error.exit_code != 3:
                wrong.append({**case, "said": str(error)[:2000]})
        except Exception as error:
            wrong.append({**case, "raised": repr(error)})
        else:
            same = read.state == whole.state and np.array_equal(
                read.model.weights, whole.model.weights
            )
            unchanged += same
            others += not same
            if not same and not hidden:
                wrong.append({**case, "read": "something else"})
        (bad / part).write_bytes(contents[part])
        (bad / checkpoints.SUMS).write_bytes(contents[checkpoints.SUMS])
    return {
        "damaged": count,
        "refused": refused,
        "read_as_before": unchanged,
        "read_as_it_says": others,
        "wrong": wrong,
    }


if __name__ == "__main__":
    main(check, count=50_000)
