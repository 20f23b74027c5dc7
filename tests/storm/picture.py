"""Draw what the service saw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tests.storm.run import DOWN, Storm, in_slices

__all__ = ("draw",)

SLICE = 0.1  # seconds
SHOWN = 45.0  # seconds; what comes later are single calls
TITLES = {
    "without_jitter": "retry_task without jitter: wait_exponential()",
    "autoretry": "Celery's autoretry: retry_backoff=True",
    "full_jitter": "retry_task: full jitter",
    "with_budget": 'retry_task: full jitter, budget=RetryBudget("service")',
}
DOTS_PER_INCH = 130


def draw(storms: Mapping[str, Storm], path: Path) -> None:
    """Write the picture to *path*, a panel for each way."""
    figure, panels = plt.subplots(
        len(storms), sharex=True, sharey=True, figsize=(8, 8), layout="constrained"
    )
    for panel, (way, seen) in zip(panels, storms.items(), strict=True):
        panel.set_title(TITLES[way], loc="left", fontsize=10)
        _panel(panel, seen)
    panels[0].legend(loc="upper right", fontsize=9)
    panels[-1].set_xlabel("seconds since the first batch of 50 jobs")
    figure.supylabel("calls of the service in a tenth of a second", fontsize=10)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    plt.close(figure)


def _panel(panel: Axes, seen: Storm) -> None:
    edges = [SLICE * number for number in range(int(SHOWN / SLICE) + 1)]
    calls, retries = in_slices(seen.calls, SLICE), in_slices(seen.retries, SLICE)
    slices = range(len(edges) - 1)
    firsts = [calls[number] for number in slices]
    totals = [calls[number] + retries[number] for number in slices]
    panel.axvspan(*DOWN, color="#f2d7d5", label="the service is down")
    panel.stairs(totals, edges, baseline=firsts, fill=True, color="#c0392b", label="retries")
    panel.stairs(firsts, edges, fill=True, color="#7f8c8d", label="first attempts")
    panel.set_xlim(0, SHOWN)
