"""A training step told op by op: as data, as numbers, as a page of HTML.

    from calmgrad.explain import html_page, tell_step

    story = tell_step(model, tokens, cmd_pos)
    page = html_page(story, {"model": "model.cwgt"})

`formulas` reads the formulas out of the ops' docstrings and `typeset` sets them; `story` makes
the step on a copy of the model and gathers the facts, `scan` looks into the selective scan;
`terminal`, `summary` and `page` are three ways to tell them.
"""

from calmgrad.explain.page import html_page
from calmgrad.explain.story import Story, tell_step
from calmgrad.explain.summary import summary
from calmgrad.explain.terminal import tell

__all__ = ["Story", "html_page", "summary", "tell", "tell_step"]
