"""Panels of cascades, combiners and dual systems, from tables of their experts."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from dualrs_lab import figures
from dualrs_lab.cascade.radii import Cascade, Steps, first_to_accept, steps
from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.combine.radii import combined_radius, reach_of_each, surest_class
from dualrs_lab.data.pictures import Pictures
from dualrs_lab.evidence.claim import ABSTAIN, Claims, claimed
from dualrs_lab.evidence.joins import join_votes
from dualrs_lab.evidence.recompute import reclaimed
from dualrs_lab.evidence.table import as_table
from dualrs_lab.figures.style import Axes
from dualrs_lab.panels.panel import LAYOUT, State, float_slider
from dualrs_lab.panels.systems import SystemPanel, Verdicts

__all__ = ["CascadePanel", "CombinerPanel", "RoutedPanel"]


class CascadePanel(SystemPanel):
    """What the thresholds of a cascade do to the curve and to one image, from votes already counted.

    `tables` are those of the experts, by sigma; the largest is asked first. Otherwise as `SystemPanel`.
    """

    kind, system = "cascade", "cascade"

    def __init__(
        self,
        tables: Mapping[float, Claims],
        *,
        alpha: float = 0.001,
        image: int = 0,
        pictures: Pictures | None = None,
    ) -> None:
        order, self.alpha = tuple(sorted(tables, reverse=True)), alpha
        self.joined, same = _joined(tables, order)
        sliders = {
            f"t-{j}": float_slider(f"threshold at {sigma:g}", 0.0, 0.0, sigma, 0.02, ".2f")
            for j, sigma in enumerate(order[:-1])
        }
        super().__init__(same, order, image=image, pictures=pictures, **sliders)

    def certified(self, state: State) -> tuple[pd.DataFrame, NDArray[np.int64], Steps]:
        """As `SystemPanel.certified`; also both distances and the radius of all images."""
        limits = tuple(state[f"t-{j}"] for j in range(len(self.order) - 1))
        cascade = Cascade(self.order, (*limits, 0.0))
        expert, y = first_to_accept(self.joined.selection, cascade)
        found = steps(self.joined.votes, np.maximum(y, 0), cascade=cascade, alpha=self.alpha)
        images = pd.DataFrame({"idx": self.joined.idx, "label": self.joined.label})
        radius = np.where(y == ABSTAIN, 0.0, np.maximum(found.radius, 0.0))
        return claimed(images, y, radius).assign(method="cascade"), expert, found

    def bars_in(self, ax: Axes) -> figures.Drawing:
        """As `SystemPanel.bars_in`."""
        self.steps = figures.CascadeSteps(self.order, ax=ax)
        return self.steps

    def show_image(self, state: State, found: Verdicts, i: int) -> None:
        """As `SystemPanel.show_image`."""
        self.steps.show(found.more.accepts[i], found.more.errs[i], answers=int(found.who[i]))


class CombinerPanel(SystemPanel):
    """What a dial does that weights radii: combiners by name, from votes already counted.

    `tables` are those of the experts, by sigma; `combiners` come in the order of the dial. Left: certified
    accuracy of each expert by two bounds, and of the combiner. Right: what each expert says of one image; the
    one that reaches furthest for the class is the surest. Otherwise as `SystemPanel`.
    """

    kind, system, verb = "combiner", "combiner", "surest"

    def __init__(
        self,
        tables: Mapping[float, Claims],
        combiners: Mapping[str, Combiner],
        *,
        alpha: float = 0.001,
        image: int = 0,
        pictures: Pictures | None = None,
    ) -> None:
        self.combiners, self.alpha = dict(combiners), alpha
        order = next(iter(self.combiners.values())).sigmas
        self.joined, same = _joined(tables, order)
        singles = {sigma: reclaimed(table, "two-bounds") for sigma, table in same.items()}
        names = list(self.combiners)
        dial = widgets.SelectionSlider(options=names, value=names[0], description="dial", **LAYOUT)
        super().__init__(singles, order, image=image, pictures=pictures, dial=dial)

    def certified(self, state: State) -> tuple[pd.DataFrame, NDArray[np.int64], NDArray[np.float64]]:
        """As `SystemPanel.certified`; also how far each expert reaches (N, K)."""
        combiner = self.combiners[state["dial"]]
        y = surest_class(self.joined.selection, combiner)
        radius = combined_radius(self.joined.votes, y, combiner=combiner, alpha=self.alpha)
        reaches = reach_of_each(self.joined.votes, y, combiner=combiner, alpha=self.alpha)
        asked = np.where(np.abs(reaches) < 1e3, reaches, -np.inf)  # others are infinitely far, unasked
        images = pd.DataFrame({"idx": self.joined.idx, "label": self.joined.label})
        table = claimed(images, y, np.maximum(radius, 0.0)).assign(method="combine")
        return table, asked.argmax(axis=1), reaches

    def bars_in(self, ax: Axes) -> figures.Drawing:
        """As `SystemPanel.bars_in`."""
        self.each = figures.Reaches(self.order, ax=ax)
        return self.each

    def show_image(self, state: State, found: Verdicts, i: int) -> None:
        """As `SystemPanel.show_image`."""
        self.each.show(found.more[i], radius=float(found.table["radius"].iloc[i]))


class RoutedPanel(SystemPanel):
    """Certificates of a dual system image by image: whom the router chooses, and what bounds the radius.

    `table` is that of a dual system, `tables` those of its experts alone, by sigma. The bars are the entry
    and expert radii, the lines the routed and the published certificate. Otherwise as `SystemPanel`.
    """

    kind, system, verb = "routed", "dual", "routed to the expert"

    def __init__(
        self,
        table: Claims,
        tables: Mapping[float, Claims],
        *,
        image: int = 0,
        pictures: Pictures | None = None,
    ) -> None:
        dual, order = as_table(table), tuple(sorted(tables))
        if missing := [s for s in order if f"entry_{s:g}" not in dual]:
            raise ValueError(
                f"RoutedPanel: wanted certificates of a dual system of experts {list(order)}, got a table "
                f"without entry_{missing[0]:g}; give the tables of its own experts"
            )
        same = {sigma: as_table(claims) for sigma, claims in tables.items()}
        idx = sorted(set(dual["idx"]).intersection(*(one["idx"] for one in same.values())))
        self.dual = _of(dual, idx)
        sigma = self.dual["sigma"].to_numpy(dtype=np.float64)
        self.chosen = np.abs(sigma[:, None] - np.array(order)).argmin(axis=1)
        alone = {level: _of(one, idx) for level, one in same.items()}
        super().__init__(alone, order, image=image, pictures=pictures, who=self.chosen)

    def certified(self, state: State) -> tuple[pd.DataFrame, NDArray[np.int64], None]:
        """As `SystemPanel.certified`."""
        return self.dual, self.chosen, None

    def bars_in(self, ax: Axes) -> figures.Drawing:
        """As `SystemPanel.bars_in`."""
        self.radii = figures.EntryAndExpertRadii(self.order, ax=ax)
        return self.radii

    def show_image(self, state: State, found: Verdicts, i: int) -> None:
        """As `SystemPanel.show_image`."""
        row = self.dual.iloc[i]
        entry, experts = ([row[f"{what}_{s:g}"] for s in self.order] for what in ("entry", "radius"))
        self.radii.show(entry, experts, top=int(found.who[i]), where="distance from the image")


def _joined(tables: Mapping[float, Claims], order: Sequence[float]) -> tuple[Any, dict[float, pd.DataFrame]]:
    """The votes of all experts on the images that all of them hold, and their tables of these."""
    given = {sigma: as_table(claims) for sigma, claims in tables.items()}
    joined = join_votes(given, order)
    return joined, {sigma: _of(table, joined.idx) for sigma, table in given.items()}


def _of(table: pd.DataFrame, idx: ArrayLike) -> pd.DataFrame:
    return table[table["idx"].isin(np.asarray(idx))].sort_values("idx").reset_index(drop=True)
