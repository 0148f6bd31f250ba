"""A plot as a PNG file."""

from collections.abc import Mapping
from io import BytesIO

from calmgrad.plots.metrics import Curves
from calmgrad.plots.scales import limits
from calmgrad.plots.svg import COLOURS, LIGHT, one_line


def loss_png(curves_by_name: Mapping[str, Curves], title: str = "Loss") -> bytes:
    """The same plot as a PNG file, by matplotlib.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no loss at all.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = limits(curves_by_name)
    figure = Figure(figsize=(7.2, 4.2), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    for i, (name, run) in enumerate(curves_by_name.items()):
        label = one_line(name).replace("$", r"\$")  # else matplotlib reads formulas
        train = LIGHT[f"c{i % COLOURS}"]
        val = LIGHT["c1"] if len(curves_by_name) == 1 else train
        if run.steps:
            axes.plot(run.steps, run.losses, color=train, alpha=0.35, linewidth=0.7)
            axes.plot(run.steps, run.smoothed(), color=train, label=f"{label}, training (smoothed)")
        if run.val_steps:
            axes.plot(run.val_steps, run.val_losses, "o:", color=val, markersize=4,
                      label=f"{label}, validation")  # fmt: skip
    if shown.above is not None:
        axes.text(0.07, 0.95, shown.remark(), transform=axes.transAxes, color=LIGHT["muted"])
    axes.set(xlim=(0, 1.01 * shown.step), ylim=(shown.low, shown.high))
    axes.set(xlabel="step", ylabel="loss, nats", title=one_line(title).replace("$", r"\$"))
    axes.grid(color=LIGHT["grid"])
    axes.legend()
    file = BytesIO()
    FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()
