"""What docs/speed.md says of ImageNet, which is read from the disk as it is needed."""

import pandas as pd

from benchmarks.pages.text import DATA, Facts, markdown, significant

__all__ = ["STREAMED", "facts"]

STREAMED = DATA / "imagenet_smoke"


def facts() -> Facts:
    """Placeholders of the page."""
    found = pd.read_csv(STREAMED / "memory.csv")
    taken = found.pivot(index="at", columns="arm", values="median").sort_index()
    peak, held = taken["streamed"], taken["pixels alone, held at once"]
    rows = [[f"{files:,.0f}", significant(peak[files]), significant(held[files])] for files in taken.index]
    return {
        "streamed": markdown(["files", "peak memory (MB)", "their pixels, held at once (MB)"], rows),
        "streamed_files": {"fewest": f"{taken.index[0]:,.0f}", "most": f"{taken.index[-1]:,.0f}"},
        "streamed_grown": f"{peak.iloc[-1] - peak.iloc[1]:.0f}",
        "streamed_middle": f"{taken.index[1]:,.0f}",
        "streamed_held": f"{held.iloc[-1] - held.iloc[1]:.0f}",
    }
