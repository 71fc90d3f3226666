"""The panel of mixes: what a weight certifies. No torch; what it makes of an image is `panels.blend`."""

from typing import Any

import ipywidgets as widgets
import pandas as pd
from markupsafe import Markup

from dualrs_lab import figures
from dualrs_lab.evidence.claim import Claims
from dualrs_lab.evidence.summary import certified_accuracy
from dualrs_lab.evidence.table import as_table
from dualrs_lab.mixing.certificate import FORMS, mixed, noise_of
from dualrs_lab.panels.latest import Tick, still
from dualrs_lab.panels.panel import LAYOUT, Panel, State, float_slider

__all__ = ["MixPanel"]


FORMULAS = {
    "closed": "r = R − σ Φ⁻¹(1 / (2a)) with R = σ Φ⁻¹(p), the radius of h alone (Cohen et al. 2019): the "
    "sharp certificate where the rival has all that the class leaves",
    "exact": "r with Φ(Φ⁻¹(p) − r/σ) − Φ(Φ⁻¹(q) + r/σ) = (1 − a)/a: sharp, from the margin of Bai et al. "
    "2024, lemma 2, and the slope of Salman et al. 2019, lemma 2",
    "smoothing": "r = σ/2 (Φ⁻¹(a p) − Φ⁻¹(a q + 1 − a)): Bai et al. 2024, theorem 5",
    "lipschitz": "r = (a (p − q) + a − 1) / (2 a L), L the slope of smoothed probabilities: Bai et al. 2024, "
    "theorem 4",
}
"""Of the radius r at weight a, for h's class at least p and its rival at most q."""


class MixPanel(Panel):
    """What the weight of the robust network certifies: curves of h and of the mix, and the radii behind.

    `table` is that of the smoothed h, whose votes bound its class and the largest rival; of a log without
    votes, Cohen's rule remains. A log that does not say its noise needs `sigma`. With `curve`, rows of mixes
    at several weights with columns weight, natural and `robust` (as `summarise_systems` has them), the weight
    is a point on the curve of clean against robust accuracy as well.
    """

    def __init__(
        self,
        table: Claims,
        *,
        weight: float = 0.76,
        sigma: float | None = None,
        curve: pd.DataFrame | None = None,
        robust: str = "worst",
    ) -> None:
        self.rows, self.robust = as_table(table), robust
        self.sigma = noise_of(self.rows, sigma=sigma)
        self.measured = None if curve is None else _measured(curve, robust)
        sharp = [f"{form}, two-bounds" for form in FORMS if form != "closed" and "votes" in self.rows]
        forms = [*sharp, *(f"{form}, cohen" for form in FORMS)]
        low = 0.5 if curve is None else 0.0
        super().__init__(
            "mix",
            weight=float_slider("weight of h", weight, low, 1.0, 0.01, ".2f"),
            form=widgets.Dropdown(options=forms, value=forms[0], description="certificate", **LAYOUT),
        )

    def certified(self, state: State) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Tables of h alone and of the mix, on the same evidence."""
        form, _, rule = state["form"].partition(", ")
        how: dict[str, Any] = {"form": form, "rule": rule, "sigma": self.sigma}
        alone = mixed(self.rows, 1.0, **how).assign(method="rs")
        return alone, mixed(self.rows, state["weight"], **how)

    def find(self, state: State, tick: Tick = still) -> tuple[pd.DataFrame, pd.DataFrame]:
        """As `Panel.find`."""
        return self.certified(state)

    def set_up(self) -> list[figures.Drawing]:
        """As `Panel.set_up`."""
        wide = () if self.measured is None else (2.6,)
        left, right, *rest = figures.row_of_axes(3.7, 3.2, *wide, height=3.0)
        alone, mix = self.found(self.state)
        figures.certified_curves({"h alone": alone, "mix": mix}, band=None, ax=left)
        left.set_xlabel("l2 radius")  # of pixels, or in the plane of the lessons
        self.curves = figures.MovingCurves("h alone", "mix", ax=left)
        self.radii = figures.MixRadii(ax=right)
        self.plane: figures.PointOnCurve | None = None
        if self.measured is not None:
            self.plane = figures.PointOnCurve(self.measured, robust=self.robust, ax=rest[0])
        return [self.curves, self.radii, *([self.plane] if self.plane else [])]

    def show(self, state: State, found: tuple[pd.DataFrame, pd.DataFrame]) -> None:
        """As `Panel.show`."""
        self.curves.show(dict(zip(("h alone", "mix"), found, strict=True)))
        self.radii.show(state["weight"], sigma=self.sigma)
        if self.plane is not None:
            self.plane.show(self._nearest(state))

    def tell(self, state: State, found: tuple[pd.DataFrame, pd.DataFrame]) -> str:
        """As `Panel.tell`."""
        at = [share * self.sigma for share in (0.0, 0.5, 1.0, 2.0)]
        tables = dict(zip(("h alone", "mix"), found, strict=True))
        rows = {name: certified_accuracy(table, at) for name, table in tables.items()}
        shown = pd.DataFrame(rows, index=[f"r = {radius:g}" for radius in at]).T
        told = Markup(shown.map("{:.3f}".format).to_html(border=0, col_space="6em", justify="left"))
        told += Markup("<span>{}</span>").format(FORMULAS[state["form"].partition(", ")[0]])
        if self.measured is not None:
            point = self._nearest(state)
            told += Markup(
                "<br><span>measured at weight {:g}: natural <b>{:.3f}</b>, {} <b>{:.3f}</b></span>"
            ).format(point["weight"], point["natural"], self.robust, point[self.robust])
        return told

    def _nearest(self, state: State) -> pd.Series:
        # the measured mix whose weight is nearest
        assert self.measured is not None
        return self.measured.iloc[int((self.measured["weight"] - state["weight"]).abs().argmin())]


def _measured(curve: pd.DataFrame, robust: str) -> pd.DataFrame:
    if missing := [name for name in ("weight", "natural", robust) if name not in curve]:
        raise ValueError(f"MixPanel: no {', '.join(missing)} in the curve; it has {list(curve)}")
    rows = curve.dropna(subset=["weight"]).sort_values("weight").reset_index(drop=True)
    if not len(rows) or rows["weight"].duplicated().any():
        raise ValueError(
            f"MixPanel: got a curve with weights {rows['weight'].tolist()[:8]}; wanted one row a weight, "
            "such as those of one noise level and form"
        )
    return rows
