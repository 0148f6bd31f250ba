"""Loss curves of runs: read from their metrics, drawn as SVG, as PNG or in a terminal."""

from calmgrad.plots.metrics import Curves, read_metrics
from calmgrad.plots.png import loss_png
from calmgrad.plots.svg import loss_svg
from calmgrad.plots.terminal import terminal_plot

__all__ = ["Curves", "loss_png", "loss_svg", "read_metrics", "terminal_plot"]
