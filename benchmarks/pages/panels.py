"""What docs/speed.md says of charts and panels: how soon they follow a hand."""

import pandas as pd

from benchmarks import kernel_panels, panels
from benchmarks.pages.speed import Bench, machine
from benchmarks.pages.text import Facts, markdown

__all__ = ["facts"]

AIM = 200  # ms, for the last picture, or a bar by then


def facts() -> Facts:
    """Placeholders of the page."""
    charts, kernel = Bench("panels", panels.PART), Bench("panels", kernel_panels.PART)
    rows = [
        [arm, *(_spread(kernel.row(arm, quantity)) for quantity in kernel_panels.QUANTITIES)]
        for arm in dict.fromkeys(kernel.rows["arm"])
    ]
    seen = kernel.rows[kernel.rows["quantity"] == kernel_panels.QUANTITIES[0]]["median"].max()
    slow = [row for row in rows if kernel.median(row[0], kernel_panels.QUANTITIES[1]) > AIM]
    return {
        "charts_slowest": f"{charts.rows['median'].max():.0f}",
        "charts_events": str(charts.info["events"]),
        "panels": markdown(["panel", *kernel_panels.QUANTITIES], rows),
        "panels_machine": machine(charts.info["provenance"]),
        "panels_seen": f"{seen:.0f}",
        "panels_aim": str(AIM),
        "panels_slow": ", ".join(name for name, *_ in slow) or "none",
    }


def _spread(row: "pd.Series[float]") -> str:
    return f"{row['median']:,.0f} [{row['q1']:,.0f}, {row['q3']:,.0f}]"
