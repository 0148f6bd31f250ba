"""Train CALM models: byte-level Mamba language models, with a from-scratch autograd engine.

Public names are loaded when they are first used (PEP 562), so `import calmgrad` costs nothing.
All it does is to choose OpenBLAS's kernels, which must be done before NumPy is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from calmgrad.blas import choose_core_type

__version__ = "0.1.0"
choose_core_type()

# Public name -> the module it lives in.
_HOME = {
    "Model": "model",
    "new_model": "model",
    "load_model": "model",
    "Trainer": "trainer",
    "train": "training",
    "Dataset": "data",
    "load_dataset": "data",
    "write_dataset": "data",
    "gradcheck": "gradient_check",
    "build_sequence": "template",
    "encode": "tokenizer",
    "decode": "tokenizer",
    "CalmgradError": "errors",
    **dict.fromkeys(
        "PAD BOS EOS ATN CWD GIT HIST EXIT CMD ENV COMP QUERY NEXT END WORD POS NOTE IPA DEF"
        " QUOTE BY REF".split(),
        "tokenizer",
    ),
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:  # the same for type checkers; "as" marks a name as exported
    from calmgrad.data import Dataset as Dataset
    from calmgrad.data import load_dataset as load_dataset
    from calmgrad.data import write_dataset as write_dataset
    from calmgrad.errors import CalmgradError as CalmgradError
    from calmgrad.gradient_check import gradcheck as gradcheck
    from calmgrad.model import Model as Model
    from calmgrad.model import load_model as load_model
    from calmgrad.model import new_model as new_model
    from calmgrad.template import build_sequence as build_sequence
    from calmgrad.tokenizer import ATN as ATN
    from calmgrad.tokenizer import BOS as BOS
    from calmgrad.tokenizer import BY as BY
    from calmgrad.tokenizer import CMD as CMD
    from calmgrad.tokenizer import COMP as COMP
    from calmgrad.tokenizer import CWD as CWD
    from calmgrad.tokenizer import DEF as DEF
    from calmgrad.tokenizer import END as END
    from calmgrad.tokenizer import ENV as ENV
    from calmgrad.tokenizer import EOS as EOS
    from calmgrad.tokenizer import EXIT as EXIT
    from calmgrad.tokenizer import GIT as GIT
    from calmgrad.tokenizer import HIST as HIST
    from calmgrad.tokenizer import IPA as IPA
    from calmgrad.tokenizer import NEXT as NEXT
    from calmgrad.tokenizer import NOTE as NOTE
    from calmgrad.tokenizer import PAD as PAD
    from calmgrad.tokenizer import POS as POS
    from calmgrad.tokenizer import QUERY as QUERY
    from calmgrad.tokenizer import QUOTE as QUOTE
    from calmgrad.tokenizer import REF as REF
    from calmgrad.tokenizer import WORD as WORD
    from calmgrad.tokenizer import decode as decode
    from calmgrad.tokenizer import encode as encode
    from calmgrad.trainer import Trainer as Trainer
    from calmgrad.training import train as train


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'calmgrad' has no attribute {name!r}")
    value = getattr(import_module(f"calmgrad.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
