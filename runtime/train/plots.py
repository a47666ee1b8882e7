"""Pictures of runs, as PNG files; drawn without a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class NoPictures(Exception):
    """matplotlib is not installed, in one sentence with a way out."""


def loss_curve(
    path: Path,
    training: Sequence[tuple[int, float]],
    held_out: Sequence[tuple[int, float]],
    baseline: float | None,
    title: str,
) -> Path:
    """Bits per byte over steps: each training step, the held-out measurements, the baseline."""
    figure, axes = _canvas(7.0, 4.2)
    if training:
        axes.plot(*zip(*training, strict=True), lw=0.8, alpha=0.6, label="training batch")
    if held_out:
        axes.plot(*zip(*held_out, strict=True), "o-", ms=3, label="held out")
    if baseline is not None:
        axes.axhline(baseline, color="gray", ls="--", lw=1, label=f"byte bigram, {baseline:.2f}")
    axes.set(xlabel="step", ylabel="bits per byte", title=title)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return _written(figure, path)


def ranking(
    path: Path, scores: Mapping[str, float], label: str, title: str, chance: float | None = None
) -> Path:
    """Named scores as horizontal bars, the best on top."""
    names = sorted(scores, key=scores.__getitem__)
    figure, axes = _canvas(7.5, 1.2 + 0.32 * len(names))
    bars = axes.barh(names, [scores[n] for n in names])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    if chance is not None:
        axes.axvline(chance, color="gray", ls="--", lw=1)
    axes.set(xlabel=label, title=title)
    axes.margins(x=0.12)
    return _written(figure, path)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    # The object interface: pyplot would look for a screen and keep every figure alive.
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NoPictures(
            "pictures need matplotlib: pip install 'miras-dsl[plot]'; the numbers are in log.jsonl"
        ) from error
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _written(figure: Figure, path: Path) -> Path:
    figure.savefig(path)
    return path
