"""The panel of one image: noise, votes and bounds, and a certificate that sharpens as they come in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from markupsafe import Markup
from torch import nn

from dualrs_lab import figures
from dualrs_lab.data.images import Images
from dualrs_lab.data.pictures import Pictures
from dualrs_lab.evidence.certificate import Certificate, decide
from dualrs_lab.evidence.claim import ABSTAIN
from dualrs_lab.evidence.radii import ruled_bounds
from dualrs_lab.evidence.summary import floor_text
from dualrs_lab.evidence.votes import vote_counts
from dualrs_lab.models.conduct import as_is
from dualrs_lab.panels.latest import Tick, still
from dualrs_lab.panels.networks import images_of, panel_network
from dualrs_lab.panels.panel import ALPHAS, DRAWS, Panel, State, dropdown, whole_slider
from dualrs_lab.runtime import pick_dtype
from dualrs_lab.smoothing.certify import certify_running
from dualrs_lab.smoothing.engine import Voter, images_together
from dualrs_lab.smoothing.frozen import evaluation_copy
from dualrs_lab.smoothing.noise import GridNoise, NoiseBlocks
from dualrs_lab.smoothing.settings import FastPath
from dualrs_lab.smoothing.spec import Spec

__all__ = ["ImagePanel"]


COPIES = 3  # of the image under noise, that are shown


@dataclass(frozen=True)
class Seen:
    """What the votes so far say, and what they said pass by pass."""

    certificate: Certificate
    history: pd.DataFrame


class ImagePanel(Panel):
    """An image under noise, how a network votes on it, and the certificate that follows, vote by vote.

    What is seen on the way is a view; the last picture, at the n that was fixed beforehand, is the
    certificate. The slider "new draw" is the seed of the noise; `image` is a position in `images`, which may
    be `shipped_pictures`. `model` is whatever `load_network` takes, a black box as well, and `weights`,
    `mean` and `std` are as there; or several by the noise level that each is for. They are sampled in
    bfloat16 where the machine is quick in it, and what votes is what is certified.
    """

    SIGMAS = (0.06, 0.12, 0.25, 0.5, 0.75, 1.0)

    def __init__(
        self,
        model: Any,
        images: Images | Pictures,
        *,
        image: int = 0,
        sigma: float = 0.25,
        n: int = 1000,
        alpha: float = 0.001,
        **how: Any,
    ) -> None:
        self.images, self.places = images_of(images)
        several = model if isinstance(model, Mapping) else {None: model}
        levels = (
            [*self.SIGMAS, sigma]
            if None in several
            else [float(level) for level in several if level is not None]
        )
        self._voting = {
            level: self._copy(panel_network("ImagePanel", one, self.images, **how))
            for level, one in several.items()
        }
        self.device = next(next(iter(self._voting.values())).parameters()).device
        self._votes: tuple[Any, list[Certificate]] = (None, [])
        start = min(levels, key=lambda level: abs(level - sigma))
        super().__init__(
            "image",
            image=whole_slider("image", len(self.images) - 1, image),
            sigma=dropdown("σ", levels, start, "{:g}"),
            n=dropdown("draws n", DRAWS, n, "{:,}"),
            alpha=dropdown("α", ALPHAS, alpha, "{:g}"),
            draw=whole_slider("new draw", 99),
        )

    def _copy(self, network: nn.Module) -> nn.Module:
        device = next(network.parameters()).device
        plain = bool(as_is(network))
        self.dtype = torch.float32 if plain else pick_dtype(device)
        fast = FastPath.plain() if plain else FastPath()
        return evaluation_copy(network, self.images.shape, device=device, dtype=self.dtype, fast=fast)

    def _voter(self, noise: GridNoise) -> Voter:
        units = images_together(self.images.shape, self.device)
        network = self._voting[None if None in self._voting else noise.sigma]
        how: dict[str, Any] = {"classes": len(self.images.classes), "dtype": self.dtype, "padded": True}
        voter = Voter(network, noise, units=units, **how)
        voter.vetted = True  # by `evaluation_copy`, in float32
        return voter

    def views(self, state: State, tick: Tick) -> Iterator[Seen]:
        """As `Panel.views`: the votes after each pass; at another α, the same ones."""
        drawn = tuple(state[name] for name in ("image", "sigma", "n", "draw"))
        if self._votes[0] == drawn:
            again = [_at_level(one, state["alpha"]) for one in self._votes[1]]
            yield Seen(again[-1], pd.DataFrame([_bounds(one) for one in again]))
            return
        rows, certificates = [], []
        tick(0, state["n"])
        for found in self._certified(state):
            certificates.append(found)
            rows.append(_bounds(found))
            tick(found.n, state["n"])
            yield Seen(found, pd.DataFrame(rows))
        self._votes = (drawn, certificates)

    def _certified(self, state: State) -> Iterator[Certificate]:
        at, noise = [state["image"]], GridNoise(state["sigma"])
        pixels, labels = self.images.batch(at)
        spec = Spec(noise=noise, seed=state["draw"], n=state["n"], alpha=state["alpha"], dtype=self.dtype)
        return certify_running(
            self._voter(noise), pixels.to(self.device), classes=len(self.images.classes), spec=spec,
            label=int(labels[0]), idx=self.places[at[0]],
        )  # fmt: skip

    def certificate(self, state: State) -> Certificate:
        """The certificate of the image, from the state's own draws of noise on the 1/255 grid."""
        *_, last = self.views(state, still)
        return last.certificate

    def set_up(self) -> list[figures.Drawing]:
        """As `Panel.set_up`."""
        strip, bars, bounds = figures.row_of_axes(2.5, 3.4, 2.9, height=2.9)
        self.strip = figures.Strip(2, 2, ax=strip)
        self.bars = figures.VoteBars(min(figures.BARS, len(self.images.classes)), ax=bars)
        self.bounds = figures.BoundsAgainstN(ax=bounds)
        return [self.strip, self.bars, self.bounds]

    def show(self, state: State, found: Seen) -> None:
        """As `Panel.show`."""
        noise, shape = GridNoise(state["sigma"]), self.images.shape
        pixels, _ = self.images.batch([state["image"]])
        block = NoiseBlocks(noise, shape, seed=state["draw"], stream="estimation", device=self.device)[0]
        noisy = noise.add(pixels.unsqueeze(1), block[None, :COPIES].cpu(), torch.float32)
        four = torch.cat([pixels.float()[None] / 255, noisy], dim=1).view(2, 2, *shape)
        self.strip.show(four, ["as it is", f"and at σ = {state['sigma']:g}"])
        of = None if found.certificate.n == state["n"] else state["n"]
        self.bars.show(found.certificate, classes=self.images.classes, of=of)
        self.bounds.show(found.history, found.certificate.n, end=state["n"])

    def tell(self, state: State, found: Seen) -> str:
        """As `Panel.tell`."""
        c, names = found.certificate, self.images.classes
        answer = "abstains" if c.predict == ABSTAIN else names[c.predict]
        said = Markup("image {}, label {}: <b>{}</b>, radius <b>{}</b>; ").format(
            c.idx, names[c.label], answer, floor_text(c.radius)
        )
        if c.n < state["n"]:
            return said + Markup(
                "a view of the first {:,} votes. Only the last one, at the n = {:,} that was fixed "
                "beforehand, is a certificate."
            ).format(c.n, state["n"])
        precision = str(self.dtype).removeprefix("torch.")
        if c.predict == ABSTAIN:
            told = Markup("n = {:,} votes of the network in {} certify nothing at α = {:g}.")
        else:
            told = Markup(
                "certified from n = {:,} votes of the network in {}, wrong with probability at most α = {:g}."
            )
        return said + told.format(c.n, precision, c.alpha)


def _at_level(c: Certificate, alpha: float) -> Certificate:
    # from the same votes
    last = max(kind for votes in (c.selection, c.votes) for kind, _ in votes)
    return decide(
        *vote_counts([c.selection, c.votes], last + 1), idx=c.idx, label=c.label, sigma=c.sigma, alpha=alpha,
        seed=c.seed, seconds=c.seconds, rule=c.rule,
    )  # fmt: skip


def _bounds(c: Certificate) -> dict[str, float]:
    # shares of the class and its largest rival so far, and what bounds them
    lower, upper = map(float, ruled_bounds(*c.counted(), **c.how()))  # type: ignore[arg-type]
    rest = max((count for kind, count in c.votes if kind != c.guess), default=0)
    return {"n": c.n, "lower": lower, "upper": upper, "share": c.successes / c.n, "second": rest / c.n}
