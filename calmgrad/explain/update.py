"""What the optimizer does with the gradient; its formula, as it stands in its docstring."""

import inspect

from calmgrad.explain.formulas import Direction, direction_in
from calmgrad.optim import SGD, AdamW

# What a reader may wonder about, by the name a Trainer has for the optimizer.
UPDATE_NOTES = {
    "adam": "In the first step of a run the moments begin at 0, and bias-corrected they are the"
    " gradient and its square: so every weight moves by the learning rate, be its gradient large"
    " or small; the decay comes on top, and a gradient near eps moves it less.",
    "sgd": "Each weight moves by its gradient times the learning rate; the decay comes on top.",
}


def update_formula(optimizer: str) -> tuple[str, Direction]:
    """The name of an optimizer's class, and its formula."""
    cls = {"adam": AdamW, "sgd": SGD}[optimizer]
    return cls.__name__, direction_in("With|Plain", inspect.cleandoc(cls.__doc__ or ""))
