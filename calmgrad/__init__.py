"""Train CALM models: byte-level Mamba language models, with a from-scratch autograd engine.

Public names are loaded when they are first used (PEP 562), so `import calmgrad` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> the module it lives in.
_HOME = {
    "Model": "model",
    "new_model": "model",
    "load_model": "model",
    "Trainer": "trainer",
    "Dataset": "data",
    "load_dataset": "data",
    "write_dataset": "data",
    "gradcheck": "gradient_check",
    "encode": "tokenizer",
    "decode": "tokenizer",
    "CalmgradError": "errors",
    **dict.fromkeys(
        "PAD BOS EOS ATN CWD GIT HIST EXIT CMD ENV COMP QUERY NEXT END WORD POS NOTE IPA DEF"
        " QUOTE BY REF".split(),
        "tokenizer",
    ),
}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604

if TYPE_CHECKING:
    from calmgrad.data import Dataset, load_dataset, write_dataset
    from calmgrad.errors import CalmgradError
    from calmgrad.gradient_check import gradcheck
    from calmgrad.model import Model, load_model, new_model
    from calmgrad.tokenizer import (
        ATN,
        BOS,
        BY,
        CMD,
        COMP,
        CWD,
        DEF,
        END,
        ENV,
        EOS,
        EXIT,
        GIT,
        HIST,
        IPA,
        NEXT,
        NOTE,
        PAD,
        POS,
        QUERY,
        QUOTE,
        REF,
        WORD,
        decode,
        encode,
    )
    from calmgrad.trainer import Trainer


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'calmgrad' has no attribute {name!r}")
    from calmgrad import blas

    blas.choose_core_type()
    value = getattr(import_module(f"calmgrad.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
