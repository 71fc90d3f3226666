"""Panels of one smoothed classifier: votes, the plane, certified accuracy."""

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from markupsafe import Markup

from dualrs_lab import figures
from dualrs_lab.evidence.certificate import Certificate
from dualrs_lab.evidence.claim import Claims
from dualrs_lab.evidence.radii import RULES, margin_radius, radius_ceiling, ruled_bounds, ruled_radius
from dualrs_lab.evidence.summary import average_radius, certified_accuracy, floor_text
from dualrs_lab.evidence.table import as_table
from dualrs_lab.lessons.plane import Boxes
from dualrs_lab.lessons.problems import lesson_plane
from dualrs_lab.lessons.votes import certify_points, noisy_copies
from dualrs_lab.panels.latest import Tick, still
from dualrs_lab.panels.panel import (
    ALPHAS,
    DRAWS,
    LAYOUT,
    Panel,
    State,
    dropdown,
    float_slider,
    whole_slider,
)

__all__ = ["CertifiedPanel", "PlanePanel", "VotesPanel"]


class VotesPanel(Panel):
    """What n buys: bounds and radii by both rules from shares of the votes, against the number of draws.

    `rival` is the part of the other votes that the largest of the other classes gets.
    """

    def __init__(
        self,
        *,
        share: float = 0.9,
        rival: float = 0.5,
        n: int = 1000,
        alpha: float = 0.001,
        sigma: float = 0.5,
    ) -> None:
        super().__init__(
            "votes",
            share=float_slider("share of votes", share, 0.3, 1.0, 0.005, ".3f"),
            rival=float_slider("rival's part of the rest", rival, 0.1, 1.0, 0.05, ".2f"),
            n=dropdown("draws n", DRAWS, n, "{:,}"),
            alpha=dropdown("alpha", ALPHAS, alpha, "{:g}"),
            sigma=float_slider("σ", sigma, 0.05, 1.0, 0.05, ".2f"),
        )

    @staticmethod
    def curves(state: State) -> pd.DataFrame:
        """Columns n, share, second, lower, upper, radius, cohen, ceiling, limit.

        Votes are whole: shares of the class are rounded down, those of its rival up.
        """
        n = np.unique(np.r_[DRAWS, state["n"], np.geomspace(1, 1000, 120).round() * 100])
        share, second = state["share"], state["rival"] * (1 - state["share"])
        own = np.floor(n * share + 1e-6)
        theirs = np.minimum(np.ceil(n * second - 1e-6), n - own)
        counted, sigma = (own, theirs, n, state["alpha"]), state["sigma"]
        lower, upper = ruled_bounds(RULES[0], *counted)
        columns = {
            "n": n.astype(int),
            "share": share,
            "second": second,
            "lower": lower,
            "upper": upper,
            "radius": ruled_radius(RULES[0], *counted, sigma),
            "cohen": ruled_radius("cohen", *counted, sigma),
            "ceiling": radius_ceiling(n, state["alpha"], sigma, rule="cohen"),
            "limit": margin_radius(share, second, sigma),
        }
        return pd.DataFrame(columns)

    def find(self, state: State, tick: Tick = still) -> pd.DataFrame:
        """As `Panel.find`: the curves."""
        return self.curves(state)

    def set_up(self) -> list[figures.Drawing]:
        """As `Panel.set_up`."""
        left, right = figures.row_of_axes(figures.COLUMN, figures.COLUMN, height=2.8)
        self.bounds, self.radii = figures.BoundsAgainstN(ax=left), figures.RadiusAgainstN(ax=right)
        return [self.bounds, self.radii]

    def show(self, state: State, found: pd.DataFrame) -> None:
        """As `Panel.show`."""
        self.bounds.show(found, state["n"])
        self.radii.show(found, state["n"])

    def tell(self, state: State, found: pd.DataFrame) -> str:
        """As `Panel.tell`."""
        row = found[found["n"] == state["n"]].iloc[0]
        most = np.ceil(1000 * row["upper"]) / 1000  # what bounds from above is rounded up
        told = "class at least <b>{}</b>, rival at most <b>{:.3f}</b>"
        bounds = Markup(told).format(floor_text(row["lower"]), most)
        return Markup("{}: {}; by Cohen's rule {}").format(bounds, *map(_verdict, row[["radius", "cohen"]]))


def _verdict(radius: float) -> Markup:
    return Markup("radius <b>{}</b>").format(floor_text(radius)) if radius else Markup("<b>abstain</b>")


class PlanePanel(Panel):
    """A point of the lessons' plane: its noisy copies and their votes, the certified and the exact disc.

    The slider "new draw" is the seed of the noise.
    """

    SIGMAS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)

    def __init__(
        self,
        plane: Boxes | None = None,
        *,
        sigma: float = 0.07,
        x: float = 0.55,
        y: float = 0.3,
        n: int = 1000,
        alpha: float = 0.001,
    ) -> None:
        self.plane, self.alpha = plane or lesson_plane(), alpha
        super().__init__(
            "plane",
            sigma=dropdown("σ", self.SIGMAS, sigma, "{:g}"),
            x=float_slider("point x₁", x, 0.0, 1.0, 0.01, ".2f"),
            y=float_slider("point x₂", y, 0.0, 1.0, 0.01, ".2f"),
            n=dropdown("draws n", DRAWS[:8], n, "{:,}"),  # more would take seconds
            draw=whole_slider("new draw", 99),
        )

    def find(self, state: State, tick: Tick = still) -> Certificate:
        """As `Panel.find`: the certificate of the point, from the state's own draws."""
        how = {"sigma": state["sigma"], "n": state["n"], "alpha": self.alpha, "seed": state["draw"]}
        return certify_points(self.plane, [[state["x"], state["y"]]], **how)[0]

    def certificate(self, state: State) -> Certificate:
        """The certificate of the point of a state."""
        return self.find(state)

    def set_up(self) -> list[figures.Drawing]:
        """As `Panel.set_up`."""
        field, bars = figures.row_of_axes(4.6, 3.2, height=3.5)
        looks: dict[str, dict[str, Any]] = {
            "certified": {"linewidth": 1.4},
            "exact": {"linestyle": "--", "linewidth": 0.9},
        }
        self._field: float | None = None
        self.point, self.bars = (
            figures.MovingPoint(looks, ax=field),
            figures.VoteBars(self.plane.classes, ax=bars),
        )
        return [self.point, self.bars]

    def show(self, state: State, found: Certificate) -> None:
        """As `Panel.show`."""
        sigma, point = state["sigma"], np.array([[state["x"], state["y"]]])
        if sigma != self._field:  # the ground is the same for all points
            self.point.clear()
            figures.plane_field(self.plane, sigma, resolution=160, ax=self.point.ax)
            self._field = sigma
        draws = noisy_copies(point[0], sigma, 100, seed=state["draw"])
        radii = {"certified": found.radius, "exact": float(self.plane.exact_radius(point, sigma)[0])}
        self.point.show(self.plane, point, radii, draws)
        self.bars.show(found, classes=[f"class {kind}" for kind in range(self.plane.classes)])

    def tell(self, state: State, found: Certificate) -> str:
        """As `Panel.tell`."""
        return (
            "solid circle: certified from the votes; dashed: the exact radius; dots: a hundred of the draws"
        )


class CertifiedPanel(Panel):
    """Certified accuracy of several tables, and their ranking at a radius."""

    def __init__(self, tables: Mapping[str, Claims], *, radius: float = 0.25) -> None:
        self.tables = {label: as_table(claims) for label, claims in tables.items()}
        reach = max(float(table["radius"].max()) for table in self.tables.values())
        boxes = {
            f"table-{i}": widgets.Checkbox(value=True, description=label, indent=False, **LAYOUT)
            for i, label in enumerate(self.tables)
        }
        most = max(0.05, float(np.ceil(20 * reach) / 20))
        slider = float_slider("radius", min(radius, most), 0.0, most, 0.05, ".2f")
        super().__init__("certified", radius=slider, **boxes)

    def chosen(self, state: State) -> list[str]:
        """Labels of the tables that are ticked; ValueError where none is."""
        chosen = [label for i, label in enumerate(self.tables) if state[f"table-{i}"]]
        if not chosen:
            raise ValueError("CertifiedPanel: no table is ticked; tick at least one")
        return chosen

    def readout(self, state: State) -> pd.DataFrame:
        """Rows by label: images, certified accuracy at the radius, ACR, and whether it is best there."""
        rows = {
            label: {
                "images": len(self.tables[label]),
                "certified": float(certified_accuracy(self.tables[label], state["radius"])),
                "acr": average_radius(self.tables[label]),
            }
            for label in self.chosen(state)
        }
        table = pd.DataFrame.from_dict(rows, orient="index")
        return table.assign(best=table["certified"] == table["certified"].max())

    def find(self, state: State, tick: Tick = still) -> pd.DataFrame:
        """As `Panel.find`: the readout."""
        return self.readout(state)

    def set_up(self) -> list[figures.Drawing]:
        """As `Panel.set_up`."""
        self.curves = figures.ChosenCurves(ax=figures.certified_curves(self.tables))
        return [self.curves]

    def show(self, state: State, found: pd.DataFrame) -> None:
        """As `Panel.show`."""
        self.curves.show(self.chosen(state), radius=state["radius"])

    def tell(self, state: State, found: pd.DataFrame) -> str:
        """As `Panel.tell`."""
        shown = {
            "images": found["images"],
            f"certified at {state['radius']:.2f}": found["certified"].map("{:.3f}".format),
            "ACR": found["acr"].map(floor_text),
            "best": found["best"].map({True: "✓", False: ""}),
        }
        return Markup(pd.DataFrame(shown).to_html(border=0, col_space="7em", justify="left"))
