"""How kernels are compiled: without the GIL, and cached in a private folder of the user."""

import hashlib
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def _cache_folder() -> Path | None:
    """A folder only this user can write, named after the kernel sources; None if there is none.

    Numba notices a change in the file of a function, not in those it calls: hence the hash.
    Its cache is made of pickles: hence never a shared or temporary folder.
    """
    import platformdirs

    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    chosen = os.environ.get("CALMGRAD_CACHE_DIR")
    root = Path(chosen) if chosen else platformdirs.user_cache_path("calmgrad", appauthor=False)
    folder = root / f"kernels-{digest.hexdigest()[:16]}"
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)  # `parents` alone get the umask's
        folder.mkdir(exist_ok=True, mode=0o700)
        # Owned by someone else or open to others: their pickles would run as this user.
        for place in (root, folder):
            status = place.stat()
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                return None
        probe = folder / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError:
        return None
    return folder


FOLDER = _cache_folder()
if FOLDER is None:
    warnings.warn(
        "no private cache folder: kernels are compiled anew in every process"
        " (set CALMGRAD_CACHE_DIR to a folder of your own)",
        RuntimeWarning,
        stacklevel=2,
    )
else:
    os.environ["NUMBA_CACHE_DIR"] = str(FOLDER)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile with Numba on first use, for the dtypes it is called with."""
    from numba import config, njit

    if FOLDER is not None:
        config.CACHE_DIR = str(FOLDER)  # numba may have been imported before this module
    compiled = njit(nogil=True, cache=FOLDER is not None, error_model="numpy")(function)
    if FOLDER is not None:
        compiled._cache = ForgivingCache(compiled._cache)
    return compiled


class ForgivingCache:
    """A kernel's cache, without which it works too: what cannot be read or written is compiled.

    Numba's own would end the program on a full disk, and on a file that a power cut has cut off.
    """

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, target: Any) -> Any:
        try:
            return self._cache.load_overload(signature, target)
        except Exception:  # pickle raises nearly anything
            with suppress(OSError):
                self._cache.flush()
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        try:
            self._cache.save_overload(signature, compiled)
        except OSError as error:
            warnings.warn(
                f"{FOLDER}: compiled kernels cannot be kept: {error.strerror}",
                RuntimeWarning,
                stacklevel=2,
            )


def inlined(function: Callable[..., Any]) -> Any:
    """Part of a kernel: pasted where it is called, so that a call in the innermost loop is free."""
    from numba import njit

    return njit(inline="always", error_model="numpy")(function)
