"""A panel of combiners: the dial between accuracy and large radii, and what it does to one image."""

from collections.abc import Mapping

import ipywidgets as widgets
import numpy as np
import pandas as pd
from markupsafe import Markup

from dualrs_lab import figures
from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.combine.radii import combined_radius, reach_of_each, surest_class
from dualrs_lab.evidence.claim import Claims, claimed
from dualrs_lab.evidence.joins import join_votes
from dualrs_lab.evidence.recompute import reclaimed
from dualrs_lab.evidence.summary import average_radius, floor_text
from dualrs_lab.evidence.table import as_table
from dualrs_lab.panels.panel import LAYOUT, Panel, State, _claim, page_of, whole_slider

__all__ = ["CombinerPanel"]


class CombinerPanel(Panel):
    """What a dial does that weights radii: combiners by name, from votes already counted.

    `tables` are those of the experts, by sigma; `combiners` come in the order of the dial. Left: certified
    accuracy of each expert by two bounds, and of the combiner. Right: what each expert says of one image.
    """

    def __init__(
        self,
        tables: Mapping[float, Claims],
        combiners: Mapping[str, Combiner],
        *,
        alpha: float = 0.001,
        image: int = 0,
    ) -> None:
        self.combiners, self.alpha = dict(combiners), alpha
        order = next(iter(self.combiners.values())).sigmas
        given = {sigma: as_table(claims) for sigma, claims in tables.items()}
        self.joined = join_votes(given, order)
        same = {sigma: table[table["idx"].isin(self.joined.idx)] for sigma, table in given.items()}
        self.singles = {f"σ = {s:g}": reclaimed(same[s], "two-bounds") for s in sorted(given)}
        names = list(self.combiners)
        super().__init__(
            "combiner",
            dial=widgets.SelectionSlider(
                options=names, value=names[0], description="dial", continuous_update=False, **LAYOUT
            ),
            image=whole_slider("image", len(self.joined.idx) - 1, image),
        )

    def table(self, state: State) -> pd.DataFrame:
        """The columns of the published logs without the time, and the method."""
        combiner = self.combiners[state["dial"]]
        y = surest_class(self.joined.selection, combiner)
        radius = combined_radius(self.joined.votes, y, combiner=combiner, alpha=self.alpha)
        images = pd.DataFrame({"idx": self.joined.idx, "label": self.joined.label})
        return claimed(images, y, np.maximum(radius, 0.0)).assign(method="combine")

    def render(self, state: State) -> figures.Page:
        curves, bars = figures.row_of_axes(4.1, 3.9, height=3.0)
        found, i = self.once(state, self.table), state["image"]
        figures.certified_curves(self.singles | {"combiner": found}, band=None, ax=curves)
        combiner = self.combiners[state["dial"]]
        y = surest_class(self.joined.selection[i], combiner)
        reaches = reach_of_each(self.joined.votes[i], y, combiner=combiner, alpha=self.alpha)
        radius = float(found["radius"].iloc[i])
        return page_of(figures.expert_reaches(reaches, combiner.sigmas, radius=radius, ax=bars))

    def describe(self, state: State) -> str:
        table, i = self.once(state, self.table), state["image"]
        acr = floor_text(average_radius(table), 4)
        best = floor_text(max(average_radius(single) for single in self.singles.values()), 4)
        idx, label, predict = (int(table[name].iloc[i]) for name in ("idx", "label", "predict"))
        return Markup("average certified radius <b>{}</b> (best single σ {}); image {}: {}, label {}").format(
            acr, best, idx, _claim(predict), label
        )
