"""Results as JSON files."""

import json
from pathlib import Path
from typing import Any


def read(path: Path) -> dict[str, Any]:
    """What earlier runs have measured."""
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return result


def write(path: Path, result: dict[str, Any]) -> None:
    """All at once: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    new.replace(path)
