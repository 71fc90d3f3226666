"""Panels of systems with several noise levels."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from dualrs_lab import figures
from dualrs_lab.cascade.radii import Cascade, Steps, first_to_accept, steps
from dualrs_lab.dual.radii import Routes, median_entry, routes
from dualrs_lab.dual.split import even_split
from dualrs_lab.evidence.claim import ABSTAIN, Claims, answered, claimed
from dualrs_lab.evidence.joins import join_votes
from dualrs_lab.evidence.summary import average_radius, floor_text
from dualrs_lab.evidence.table import as_table
from dualrs_lab.lessons.problems import lesson_dual, lesson_estimator
from dualrs_lab.panels.panel import (
    DRAWS,
    GUESS,
    Panel,
    State,
    _claim,
    dropdown,
    float_slider,
    page_of,
    whole_slider,
)

__all__ = ["CascadePanel", "DualPanel"]


class DualPanel(Panel):
    """A point of the lessons' dual system: which expert is chosen, how far each agrees, both certificates.

    Votes are drawn from their exact distribution, that of noisy copies. "new draw" is the seed.
    """

    SIGMAS = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2)

    def __init__(
        self, *, sigma_e: float = 0.1, x: float = 0.25, y: float = 0.78, n: int = 10_000, alpha: float = 0.001
    ) -> None:
        self.alpha = alpha
        super().__init__(
            "dual",
            sigma_e=dropdown("σ of the choice", self.SIGMAS, sigma_e, "{:g}"),
            x=float_slider("point x₁", x, 0.0, 1.0, 0.01, ".2f"),
            y=float_slider("point x₂", y, 0.0, 1.0, 0.01, ".2f"),
            n=dropdown("draws n", DRAWS, n, "{:,}"),
            draw=whole_slider("new draw", 99),
        )

    def certificate(self, state: State) -> tuple[int, Routes]:
        """The expert that is chosen at the point, by separate draws, and both radii from the votes."""
        rng, point = np.random.default_rng(state["draw"]), np.array([[state["x"], state["y"]]])
        system = lesson_dual(state["sigma_e"])
        count = len(system.sigmas)
        split = even_split(count, self.alpha, monotone=True, guessed_apart=True)
        chance = lesson_estimator().probabilities(point, state["sigma_e"])[0]
        of_experts = np.concatenate([system.base.probabilities(point, sigma) for sigma in system.sigmas])
        first = np.cumsum(rng.multinomial(GUESS, chance))
        top, classes = int((2 * first >= GUESS).argmax()), rng.multinomial(GUESS, of_experts).argmax(axis=1)
        entry = median_entry(rng.multinomial(state["n"], chance), sigma=state["sigma_e"], split=split)
        votes = rng.multinomial(state["n"], of_experts)
        return top, routes(entry, votes, top=top, classes=classes, sigmas=system.sigmas, split=split)

    def render(self, state: State) -> figures.Page:
        field, bars = figures.row_of_axes(3.1, 4.5, height=2.9)
        system, point = lesson_dual(state["sigma_e"]), [[state["x"], state["y"]]]
        top, found = self.certificate(state)
        entry, radius = found.entry, float(found.routed)
        figures.choice_field(system, points=point, radii=radius, entry=entry, resolution=160, ax=field)
        names = field.get_legend()
        assert names is not None
        names.remove()  # the bars name the colours
        return page_of(figures.entry_and_expert_radii(entry, found.experts, system.sigmas, top=top, ax=bars))

    def describe(self, state: State) -> str:
        _, found = self.certificate(state)
        claim = _claim(int(answered(found.claim, found.routed)))
        return Markup(
            "<b>{}</b>: routed <b>{}</b> (solid circle), published {}; dashed: the entry radii"
        ).format(claim, floor_text(float(found.routed)), floor_text(float(found.published)))


class CascadePanel(Panel):
    """What the thresholds of a cascade do to the curve and to one image, from votes already counted.

    `tables` are those of the experts, by sigma; the largest is asked first.
    """

    def __init__(self, tables: Mapping[float, Claims], *, alpha: float = 0.001, image: int = 0) -> None:
        self.order, self.alpha = tuple(sorted(tables, reverse=True)), alpha
        given = {sigma: as_table(claims) for sigma, claims in tables.items()}
        self.joined = join_votes(given, self.order)
        same = {sigma: table[table["idx"].isin(self.joined.idx)] for sigma, table in given.items()}
        self.singles = {f"σ = {sigma:g}": same[sigma] for sigma in sorted(tables)}
        sliders = {
            f"t-{j}": float_slider(f"threshold at {sigma:g}", 0.0, 0.0, sigma, 0.02, ".2f")
            for j, sigma in enumerate(self.order[:-1])
        }
        last = len(self.joined.idx) - 1
        super().__init__("cascade", **sliders, image=whole_slider("image", last, image))

    def certified(self, state: State) -> tuple[Steps, NDArray[np.int64], NDArray[np.int64]]:
        """Both distances and the radius of all images, and the expert and class that answer each."""
        limits = tuple(state[f"t-{j}"] for j in range(len(self.order) - 1))
        cascade = Cascade(self.order, (*limits, 0.0))
        expert, y = first_to_accept(self.joined.selection, cascade)
        found = steps(self.joined.votes, np.maximum(y, 0), cascade=cascade, alpha=self.alpha)
        return found, expert, y

    def table(self, state: State) -> pd.DataFrame:
        """The columns of the published logs without the time, and the method."""
        found, _, y = self.once(state, self.certified)
        images = pd.DataFrame({"idx": self.joined.idx, "label": self.joined.label})
        radius = np.where(y == ABSTAIN, 0.0, np.maximum(found.radius, 0.0))
        return claimed(images, y, radius).assign(method="cascade")

    def render(self, state: State) -> figures.Page:
        curves, bars = figures.row_of_axes(4.1, 3.9, height=3.0)
        figures.certified_curves(self.singles | {"cascade": self.table(state)}, band=None, ax=curves)
        found, expert, _ = self.once(state, self.certified)
        i = state["image"]
        own = found.accepts[i], found.errs[i]
        return page_of(figures.cascade_steps(*own, self.order, answers=int(expert[i]), ax=bars))

    def describe(self, state: State) -> str:
        table, i = self.table(state), state["image"]
        acr = floor_text(average_radius(table), 4)
        best = max(average_radius(single) for single in self.singles.values())
        idx, label, predict = (int(table[name].iloc[i]) for name in ("idx", "label", "predict"))
        return Markup("average certified radius <b>{}</b> (best single σ {}); image {}: {}, label {}").format(
            acr, floor_text(best, 4), idx, _claim(predict), label
        )
