"""Panels of sliders around the plots: a pure function from state to figure, and a little glue.

A panel shows itself where it ends a cell. The first frame is drawn without interaction and comes along as a
PNG, so that an executed notebook shows it where no kernel runs. Callbacks may come from other threads: one
lock guards all drawing, and an error in a callback is shown in a red line below the picture.
"""

import base64
import copy
import html
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dualrs_lab import mix_plots, pixel_plots, plots
from dualrs_lab.attacks import PGD, pgd
from dualrs_lab.bounds import lower_bound, radius_ceiling, rs_radius
from dualrs_lab.cam import TopFraction, class_maps, normalise, pixel_budget, resize
from dualrs_lab.cascade_tables import join_votes
from dualrs_lab.cascades import Cascade, Steps, first_to_accept, steps
from dualrs_lab.certificates import Certificate, as_table, average_radius, certified_accuracy, floor_text
from dualrs_lab.claim import ABSTAIN, Claims, answered, claimed
from dualrs_lab.data import Images, to_float
from dualrs_lab.fastpath import evaluation_copy
from dualrs_lab.mix_certificates import FORMS, mixed, noise_of
from dualrs_lab.mixing import Mix, mix_logits, worst_margin
from dualrs_lab.models import Classifier
from dualrs_lab.plane import Boxes, lesson_dual, lesson_estimator, lesson_plane
from dualrs_lab.routes import Routes, even_split, median_entry, routes
from dualrs_lab.runtime import make_generator
from dualrs_lab.sampling import GaussianNoise, GridNoise, NoiseBlocks
from dualrs_lab.smoothing import Spec, certify

__all__ = [
    "BlendPanel",
    "CascadePanel",
    "CertifiedPanel",
    "DualPanel",
    "ImagePanel",
    "MixPanel",
    "Panel",
    "PixelPanel",
    "PlanePanel",
    "State",
    "VotesPanel",
]

State = Mapping[str, Any]
Found = TypeVar("Found")
_LOCK = threading.RLock()  # matplotlib is not thread-safe, and its settings are global
_ALPHAS = (0.0001, 0.001, 0.01, 0.05, 0.1)
_GUESS = 100  # draws of a guess
_DRAWS = (100, 200, 400, 1000, 2000, 4000, 10_000, 20_000, 40_000, 100_000)


class Panel(ABC):
    """Controls, a picture and a note that follow them.

    `controls` are ipywidgets by name, `view` holds everything, `state` has their values. Raises what the
    first frame raises; later failures leave the last picture and are shown in `status`.
    """

    def __init__(self, name: str, **controls: widgets.ValueWidget) -> None:
        self.controls = controls
        self._kept: tuple[dict[str, Any], Any] = ({}, None)
        self.picture = widgets.Image(format="png").add_class("dualrs-picture")
        self.note = widgets.HTML().add_class("dualrs-note")
        self.status = widgets.HTML().add_class("dualrs-status")
        for key, control in controls.items():
            control.add_class(f"dualrs-{key}").observe(self._changed, "value")
        self.view = widgets.VBox([*controls.values(), self.picture, self.note, self.status])
        self.view.add_class("dualrs-panel").add_class(f"dualrs-{name}")
        self._draw()

    @property
    def state(self) -> dict[str, Any]:
        """The controls' values by name."""
        return {key: control.value for key, control in self.controls.items()}

    @abstractmethod
    def render(self, state: State) -> plots.Page:
        """The figure of a state; the same state gives the same figure, whatever came before."""

    def describe(self, state: State) -> str:
        """HTML to show below the picture."""
        return ""

    def once(self, state: State, compute: Callable[[State], Found]) -> Found:
        """`compute(state)`, kept until the state changes: picture and note share what is slow."""
        if self._kept[0] != dict(state):
            self._kept = (dict(state), compute(state))
        found: Found = self._kept[1]
        return found

    def _draw(self) -> None:
        with _LOCK:
            state = self.state
            self.note.value = self.describe(state)
            self.picture.value = plots.png(self.render(state), dpi=96)

    def _changed(self, _: object) -> None:
        try:
            self._draw()
            self.status.value = ""
        except Exception as error:  # otherwise nobody would see it
            message = html.escape(f"{type(error).__name__}: {error}")
            self.status.value = (
                f'<span style="color: #b00020">{message} (the picture is the one before)</span>'
            )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle: dict[str, Any] = self.view._repr_mimebundle_()
        text = ", ".join(f"{key}={value}" for key, value in self.state.items())
        return bundle | {
            "text/plain": f"{type(self).__name__}({text})",
            "image/png": base64.b64encode(self.picture.value).decode("ascii"),
        }


class VotesPanel(Panel):
    """What n buys: bound and radius from a share of the votes, against the number of draws."""

    def __init__(
        self, *, share: float = 0.9, n: int = 1000, alpha: float = 0.001, sigma: float = 0.5
    ) -> None:
        super().__init__(
            "votes",
            share=_slider("share of votes", share, 0.5, 1.0, 0.005, ".3f"),
            n=_choice("draws n", _DRAWS, n, "{:,}"),
            alpha=_choice("alpha", _ALPHAS, alpha, "{:g}"),
            sigma=_slider("σ", sigma, 0.05, 1.0, 0.05, ".2f"),
        )

    @staticmethod
    def curves(state: State) -> pd.DataFrame:
        """Columns n, share, lower, radius, ceiling, limit; the share is rounded down to whole votes."""
        n = np.unique(np.r_[_DRAWS, state["n"], np.geomspace(1, 1000, 120).round() * 100])
        successes = np.floor(n * state["share"] + 1e-6)
        lower = lower_bound(successes, n, state["alpha"])
        share = np.broadcast_to(state["share"], n.shape)
        columns = {
            "n": n.astype(int),
            "share": share,
            "lower": lower,
            "radius": rs_radius(lower, state["sigma"]),
            "ceiling": radius_ceiling(n, state["alpha"], state["sigma"]),
            "limit": rs_radius(share, state["sigma"]),
        }
        return pd.DataFrame(columns)

    def render(self, state: State) -> plots.Page:
        left, right = plots.row_of_axes(plots.COLUMN, plots.COLUMN, height=2.8)
        curves = self.curves(state)
        plots.bound_against_n(curves, state["n"], ax=left)
        return _page(plots.radius_against_n(curves, state["n"], ax=right))

    def describe(self, state: State) -> str:
        curves = self.curves(state)
        row = curves[curves["n"] == state["n"]].iloc[0]
        verdict = f"radius <b>{floor_text(row['radius'])}</b>" if row["radius"] else "<b>abstain</b>"
        return f"lower bound <b>{floor_text(row['lower'])}</b>, {verdict}"


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
            sigma=_choice("σ", self.SIGMAS, sigma, "{:g}"),
            x=_slider("point x₁", x, 0.0, 1.0, 0.01, ".2f"),
            y=_slider("point x₂", y, 0.0, 1.0, 0.01, ".2f"),
            n=_choice("draws n", _DRAWS[:8], n, "{:,}"),  # more would take seconds
            draw=_count("new draw", 99),
        )

    def certificate(self, state: State) -> Certificate:
        """The certificate of the point, from the state's own draws."""
        point = torch.tensor([[state["x"], state["y"]]], dtype=torch.float64)
        noise = GaussianNoise(state["sigma"])
        spec = Spec(noise=noise, seed=state["draw"], n=state["n"], alpha=self.alpha)
        label = int(self.plane.predict(point.numpy())[0])
        return certify(self.plane, point, classes=self.plane.classes, spec=spec, labels=[label])[0]

    def render(self, state: State) -> plots.Page:
        field, bars = plots.row_of_axes(4.6, 3.2, height=3.5)
        point, found = np.array([[state["x"], state["y"]]]), self.certificate(state)
        noise = GaussianNoise(state["sigma"])
        blocks = NoiseBlocks(noise, (2,), seed=state["draw"], stream="estimation")
        exact = self.plane.exact_radius(point, state["sigma"])
        draws = point + blocks[0].numpy()
        plots.plane_field(
            self.plane, state["sigma"], points=point, radii=found.radius, exact=exact, draws=draws,
            resolution=160, ax=field,
        )  # fmt: skip
        names = [f"class {kind}" for kind in range(self.plane.classes)]
        return _page(plots.vote_bars(found, classes=names, ax=bars))

    def describe(self, state: State) -> str:
        return (
            "solid circle: certified from the votes; dashed: the exact radius; dots: a hundred of the draws"
        )


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
            sigma_e=_choice("σ of the choice", self.SIGMAS, sigma_e, "{:g}"),
            x=_slider("point x₁", x, 0.0, 1.0, 0.01, ".2f"),
            y=_slider("point x₂", y, 0.0, 1.0, 0.01, ".2f"),
            n=_choice("draws n", _DRAWS, n, "{:,}"),
            draw=_count("new draw", 99),
        )

    def certificate(self, state: State) -> tuple[int, Routes]:
        """The expert that is chosen at the point, by separate draws, and both radii from the votes."""
        rng, point = np.random.default_rng(state["draw"]), np.array([[state["x"], state["y"]]])
        system = lesson_dual(state["sigma_e"])
        count = len(system.sigmas)
        split = even_split(count, self.alpha, guessed_apart=True)
        chance = lesson_estimator().probabilities(point, state["sigma_e"])[0]
        of_experts = np.concatenate([system.base.probabilities(point, sigma) for sigma in system.sigmas])
        first = np.cumsum(rng.multinomial(_GUESS, chance))
        top, classes = int((2 * first >= _GUESS).argmax()), rng.multinomial(_GUESS, of_experts).argmax(axis=1)
        entry = median_entry(rng.multinomial(state["n"], chance), sigma=state["sigma_e"], split=split)
        votes = rng.multinomial(state["n"], of_experts)
        return top, routes(entry, votes, top=top, classes=classes, sigmas=system.sigmas, split=split)

    def render(self, state: State) -> plots.Page:
        field, bars = plots.row_of_axes(3.1, 4.5, height=2.9)
        system, point = lesson_dual(state["sigma_e"]), [[state["x"], state["y"]]]
        top, found = self.certificate(state)
        entry, radius = found.entry, float(found.routed)
        plots.choice_field(system, points=point, radii=radius, entry=entry, resolution=160, ax=field)
        names = field.get_legend()
        assert names is not None
        names.remove()  # the bars name the colours
        return _page(plots.entry_and_expert_radii(entry, found.experts, system.sigmas, top=top, ax=bars))

    def describe(self, state: State) -> str:
        _, found = self.certificate(state)
        claim = _claim(int(answered(found.claim, found.routed)))
        return (
            f"<b>{claim}</b>: routed <b>{floor_text(float(found.routed))}</b> (solid circle), "
            f"published {floor_text(float(found.published))}; dashed: the entry radii"
        )


class CertifiedPanel(Panel):
    """Certified accuracy of several tables, and their ranking at a radius."""

    def __init__(self, tables: Mapping[str, Claims], *, radius: float = 0.25) -> None:
        self.tables = {label: as_table(claims) for label, claims in tables.items()}
        reach = max(float(table["radius"].max()) for table in self.tables.values())
        boxes = {
            f"table-{i}": widgets.Checkbox(value=True, description=label, indent=False, **_LAYOUT)
            for i, label in enumerate(self.tables)
        }
        most = max(0.05, float(np.ceil(20 * reach) / 20))
        slider = _slider("radius", min(radius, most), 0.0, most, 0.05, ".2f")
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

    def render(self, state: State) -> plots.Page:
        ax = plots.certified_accuracy(self.tables, show=self.chosen(state))
        ax.axvline(state["radius"], color="black", linewidth=1)
        return _page(ax)

    def describe(self, state: State) -> str:
        found = self.readout(state)
        shown = {
            "images": found["images"],
            f"certified at {state['radius']:.2f}": found["certified"].map("{:.3f}".format),
            "ACR": found["acr"].map(floor_text),
            "best": found["best"].map({True: "✓", False: ""}),
        }
        return str(pd.DataFrame(shown).to_html(border=0, col_space="7em", justify="left"))


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
            f"t-{j}": _slider(f"threshold at {sigma:g}", 0.0, 0.0, sigma, 0.02, ".2f")
            for j, sigma in enumerate(self.order[:-1])
        }
        last = len(self.joined.idx) - 1
        super().__init__("cascade", **sliders, image=_count("image", last, image))

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

    def render(self, state: State) -> plots.Page:
        curves, bars = plots.row_of_axes(4.1, 3.9, height=3.0)
        plots.certified_accuracy(self.singles | {"cascade": self.table(state)}, band=None, ax=curves)
        found, expert, _ = self.once(state, self.certified)
        i = state["image"]
        own = found.accepts[i], found.errs[i]
        return _page(plots.cascade_steps(*own, self.order, answers=int(expert[i]), ax=bars))

    def describe(self, state: State) -> str:
        table, i = self.table(state), state["image"]
        acr = floor_text(average_radius(table), 4)
        best = max(average_radius(single) for single in self.singles.values())
        idx, label, predict = (int(table[name].iloc[i]) for name in ("idx", "label", "predict"))
        return (
            f"average certified radius <b>{acr}</b> (best single σ {floor_text(best, 4)}); "
            f"image {idx}: {_claim(predict)}, label {label}"
        )


class ImagePanel(Panel):
    """An image under noise, and how a network votes on it; for networks that are fast on their device.

    The slider "new draw" is the seed of the noise; `image` is a position in `images`.
    """

    SIGMAS = (0.06, 0.12, 0.25, 0.5, 0.75, 1.0)

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        *,
        image: int = 0,
        sigma: float = 0.25,
        n: int = 1000,
        alpha: float = 0.001,
    ) -> None:
        self.images, self.alpha = images, alpha
        self.device = next(model.parameters()).device
        self.model = evaluation_copy(model, device=self.device, dtype=torch.float32)
        super().__init__(
            "image",
            image=_count("image", len(images) - 1, image),
            sigma=_choice("σ", self.SIGMAS, sigma, "{:g}"),
            n=_choice("draws n", _DRAWS[:7], n, "{:,}"),
            draw=_count("new draw", 99),
        )

    def certificate(self, state: State) -> Certificate:
        """The certificate of the image, from the state's own draws of noise on the 1/255 grid."""
        at = [state["image"]]
        pixels, labels = self.images.batch(at)
        spec = Spec(noise=GridNoise(state["sigma"]), seed=state["draw"], n=state["n"], alpha=self.alpha)
        x, classes = pixels.to(self.device), len(self.images.classes)
        return certify(self.model, x, classes=classes, spec=spec, labels=labels.tolist(), idx=at)[0]

    def render(self, state: State) -> plots.Page:
        strip, bars = plots.row_of_axes(3.9, 3.4, height=2.7)
        pixels, _ = self.images.batch([state["image"]])
        plots.noisy_strip(pixels, [0.0, state["sigma"]], seed=state["draw"], ax=strip)
        return _page(plots.vote_bars(self.certificate(state), classes=self.images.classes, ax=bars))


_CALM: dict[str, Any] = {"continuous_update": False}  # one frame per move, not per pixel
_LAYOUT: dict[str, Any] = {
    "style": {"description_width": "8em"},
    "layout": {"width": "32em"},
}


class PixelPanel(Panel):
    """One image: where its class is found, what budget that gives, and what an attack does with it.

    `eps` is the budget of important pixels. Sliders choose the image, the share of pixels that are important
    and the budget of the others; the attack is PGD-20. The network is copied and left as it is.
    """

    def __init__(
        self,
        model: Classifier,
        images: Images,
        *,
        eps: float,
        image: int = 0,
        fraction: float = 0.3,
        low: float | None = None,
    ) -> None:
        self.model, self.images, self.eps = copy.deepcopy(model).eval(), images, eps
        start = eps / 2 if low is None else low
        super().__init__(
            "pixels",
            image=_count("image", len(images) - 1, image),
            fraction=_slider("important share", fraction, 0.05, 1.0, 0.05, ".2f"),
            low=_slider("budget elsewhere", start, 0.0, eps, eps / 16, ".3f"),
        )

    def attacked(self, state: State) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Image (1, C, H, W), its map (1, h, w), mask and budget (1, 1, H, W) and the attacked image."""
        pixels, labels = self.images.batch(torch.tensor([state["image"]]))
        device = next(self.model.parameters()).device
        x, y = to_float(pixels.to(device)), labels.to(device)
        maps = class_maps(self.model, x)
        mask = TopFraction(fraction=state["fraction"])(maps, (x.shape[2], x.shape[3]))
        budget = pixel_budget(mask, high=self.eps, low=min(state["low"], self.eps))
        attack = PGD(step=self.eps / 4, blind=1.0)
        generator = make_generator(0, "panel", device=device)
        return x, maps, mask, budget, pgd(self.model, x, y, budget, attack=attack, generator=generator)

    def render(self, state: State) -> plots.Page:
        x, maps, mask, budget, found = self.once(state, self.attacked)
        wide = normalise(resize(maps, (x.shape[2], x.shape[3])))
        return _page(pixel_plots.map_to_perturbation(x, wide, budget, found, masks=mask))

    def describe(self, state: State) -> str:
        x, _, _, budget, found = self.once(state, self.attacked)
        with torch.no_grad():
            shares = torch.softmax(self.model(torch.cat([x, found])).float(), dim=1)
        best = shares.max(dim=1)
        names = [self.images.classes[int(k)] for k in best.indices]
        label = self.images.classes[int(self.images.labels[state["image"]])]
        return (
            f"label {label}; as it is: <b>{names[0]}</b> ({float(best.values[0]):.2f}), attacked: "
            f"<b>{names[1]}</b> ({float(best.values[1]):.2f}); mean budget {float(budget.mean()):.4f}, "
            f"{float(budget.mean()) / self.eps:.0%} of {self.eps:.4f}"
        )


class MixPanel(Panel):
    """What the weight of the robust network certifies: curves of h and of the mix, and the radii behind.

    `table` is that of the smoothed h; with `classes`, each other class may be bounded by its own votes. A log
    that does not say its noise needs `sigma`.
    """

    def __init__(
        self,
        table: Claims,
        *,
        weight: float = 0.76,
        classes: int | None = None,
        sigma: float | None = None,
    ) -> None:
        self.rows, self.classes = as_table(table), classes
        self.sigma = noise_of(self.rows, sigma=sigma)
        forms = [*FORMS, *(["exact, votes of all classes"] if classes else [])]
        super().__init__(
            "mix",
            weight=_slider("weight of h", weight, 0.5, 1.0, 0.01, ".2f"),
            form=widgets.Dropdown(options=forms, value=forms[0], description="certificate", **_LAYOUT),
        )

    def certified(self, state: State) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Tables of h alone and of the mix, on the same evidence."""
        form, _, votes = state["form"].partition(", ")
        how: dict[str, Any] = {"form": form, "others": "votes" if votes else "rest", "sigma": self.sigma}
        how["classes"] = self.classes if votes else None
        alone = mixed(self.rows, 1.0, **how).assign(method="rs") if votes else self.rows
        return alone, mixed(self.rows, state["weight"], **how)

    def render(self, state: State) -> plots.Page:
        left, right = plots.row_of_axes(4.3, 3.4, height=3.0)
        alone, mix = self.once(state, self.certified)
        plots.certified_accuracy({"h alone": alone, "mix": mix}, band=None, ax=left)
        return _page(mix_plots.mix_radius_curves(state["weight"], sigma=self.sigma, ax=right))

    def describe(self, state: State) -> str:
        alone, mix = self.once(state, self.certified)
        at = [share * self.sigma for share in (0.0, 0.5, 1.0, 2.0)]
        rows = {name: certified_accuracy(table, at) for name, table in {"h alone": alone, "mix": mix}.items()}
        shown = pd.DataFrame(rows, index=[f"r = {radius:g}" for radius in at]).T
        return str(shown.map("{:.3f}".format).to_html(border=0, col_space="6em", justify="left"))


class BlendPanel(Panel):
    """One image, as it is or attacked: what g, h and their mix make of it, at any weight."""

    INPUTS = ("as it is", "attack on g", "attack on h", "attack on the mix")

    def __init__(
        self, accurate: nn.Module, robust: nn.Module, images: Images, *, eps: float, weight: float = 0.7
    ) -> None:
        self.accurate, self.robust = (copy.deepcopy(one).eval() for one in (accurate, robust))
        self.images, self.eps = images, eps
        super().__init__(
            "blend",
            image=_count("image", len(images) - 1),
            weight=_slider("weight of h", weight, 0.0, 1.0, 0.05, ".2f"),
            input=widgets.Dropdown(options=self.INPUTS, value="attack on g", description="input", **_LAYOUT),
        )

    def logits(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """The input (1, C, H, W) of a state, and the logits (1, K) of g and of h there."""
        pixels, labels = self.images.batch(torch.tensor([state["image"]]))
        device = next(self.robust.parameters()).device
        x, y = to_float(pixels.to(device)), labels.to(device)
        mix = Mix(self.accurate, self.robust, state["weight"])
        models = dict(zip(self.INPUTS[1:], (self.accurate, self.robust, mix), strict=True))
        if state["input"] in models:
            attack, generator = PGD(step=self.eps / 4, blind=1.0), make_generator(0, "panel", device=device)
            x = pgd(models[state["input"]], x, y, self.eps, attack=attack, generator=generator)
        with torch.no_grad():
            return x, self.accurate(x).float(), self.robust(x).float()

    def render(self, state: State) -> plots.Page:
        picture, bars = plots.row_of_axes(1.9, 6.2, height=2.6)
        x, g, h = self.once(state, self.logits)
        plots.noisy_strip(x, [0.0], seed=0, ax=picture).set_xticks([])
        three = {"g": g.log_softmax(1), "h": h.log_softmax(1), "mix": mix_logits(g, h, state["weight"])}
        shares = {name: out[0].exp().cpu().numpy() for name, out in three.items()}
        label = int(self.images.labels[state["image"]])
        return _page(mix_plots.probability_bars(shares, self.images.classes, label=label, ax=bars))

    def describe(self, state: State) -> str:
        _, g, h = self.once(state, self.logits)
        a, margin = state["weight"], float(worst_margin(h)[0])
        named = [self.images.classes[int(out.argmax(1))] for out in (g, h, mix_logits(g, h, a))]
        needed = (1 - a) / a if a > 0 else np.inf
        verdict = "so h decides, whatever g says" if margin > needed else "so g may overrule h"
        return (
            f"g: <b>{named[0]}</b>, h: <b>{named[1]}</b>, mix: <b>{named[2]}</b>; h's margin {margin:.3f}, "
            f"needed (1 - a)/a = {needed:.3f}: {verdict}"
        )


def _slider(text: str, value: float, low: float, high: float, step: float, shown: str) -> widgets.FloatSlider:
    return widgets.FloatSlider(
        value=value, min=low, max=high, step=step, description=text, readout_format=shown, **_CALM, **_LAYOUT
    )


def _count(text: str, last: int, value: int = 0) -> widgets.IntSlider:
    return widgets.IntSlider(value=value, max=last, description=text, **_CALM, **_LAYOUT)


def _choice(text: str, values: Sequence[float], value: float, shown: str) -> widgets.SelectionSlider:
    options = [(shown.format(option), option) for option in sorted({*values, value})]
    return widgets.SelectionSlider(options=options, value=value, description=text, **_CALM, **_LAYOUT)


def _claim(predict: int) -> str:
    return "abstains" if predict == ABSTAIN else f"class {predict}"


def _page(ax: Any) -> plots.Page:
    page = ax.figure
    assert isinstance(page, plots.Page)
    return page
