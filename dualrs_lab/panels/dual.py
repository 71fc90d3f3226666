"""The panel of the lesson on dual systems."""

from typing import Any

import numpy as np
from markupsafe import Markup

from dualrs_lab import figures
from dualrs_lab.dual.radii import Routes, median_entry, routes
from dualrs_lab.dual.split import even_split
from dualrs_lab.evidence.claim import answered
from dualrs_lab.evidence.summary import floor_text
from dualrs_lab.lessons.problems import lesson_dual, lesson_estimator
from dualrs_lab.panels.latest import Tick, still
from dualrs_lab.panels.panel import DRAWS, GUESS, Panel, State, _claim, dropdown, float_slider, whole_slider

__all__ = ["DualPanel"]


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

    def find(self, state: State, tick: Tick = still) -> tuple[int, Routes]:
        """As `Panel.find`: the expert that is chosen, by separate draws, and both radii from the votes."""
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

    def certificate(self, state: State) -> tuple[int, Routes]:
        """The chosen expert and both radii of a state."""
        return self.find(state)

    def set_up(self) -> list[figures.Drawing]:
        """As `Panel.set_up`."""
        field, bars = figures.row_of_axes(3.1, 4.5, height=2.9)
        sigmas = lesson_dual(self.state["sigma_e"]).sigmas
        looks: dict[str, dict[str, Any]] = {}
        for sigma in sigmas:
            dashed = {"linestyle": (0, (2, 1)), "linewidth": 2.2}
            looks[f"behind {sigma:g}"] = {"edgecolor": "white", "linewidth": 4.0}
            looks[f"{sigma:g}"] = {"edgecolor": figures.sigma_look(sigma).colour, **dashed}
        looks["routed"] = {"linewidth": 1.4}
        self._field: float | None = None
        self.point, self.bars = (
            figures.MovingPoint(looks, ax=field),
            figures.EntryAndExpertRadii(sigmas, ax=bars),
        )
        return [self.point, self.bars]

    def show(self, state: State, found: tuple[int, Routes]) -> None:
        """As `Panel.show`."""
        system, (top, routed) = lesson_dual(state["sigma_e"]), found
        if state["sigma_e"] != self._field:  # the ground is the same for all points
            self.point.clear()
            figures.choice_field(system, resolution=160, ax=self.point.ax)
            names = self.point.ax.get_legend()
            assert names is not None
            names.remove()  # the bars name the colours
            self._field = state["sigma_e"]
        entry = dict(
            zip((f"{sigma:g}" for sigma in system.sigmas), np.asarray(routed.entry).ravel(), strict=True)
        )
        radii = entry | {f"behind {name}": radius for name, radius in entry.items()}
        self.point.show(system, [[state["x"], state["y"]]], radii | {"routed": float(routed.routed)})
        self.bars.show(routed.entry, routed.experts, top=top)

    def tell(self, state: State, found: tuple[int, Routes]) -> str:
        """As `Panel.tell`."""
        _, routed = found
        claim = _claim(int(answered(routed.claim, routed.routed)))
        return Markup(
            "<b>{}</b>: routed <b>{}</b> (solid circle), published {}; dashed: the entry radii"
        ).format(claim, floor_text(float(routed.routed)), floor_text(float(routed.published)))
