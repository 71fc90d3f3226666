"""Why so few images are certified: asked of the network itself, in a few passes more.

Accuracy without noise and under it, under other noise and another scale of the input, and by another order of
the labels: each sign is measured on at most `MOST` images, and tested at `LEVEL`, see `front.signs`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import bdtr
from torch import Tensor

from dualrs_lab.front.networks import Asked, as_network, in_names
from dualrs_lab.front.pictures import Pictures, as_pictures
from dualrs_lab.front.signs import (
    FEWEST,
    LARGE_SIGMA,
    LEVEL,
    Sign,
    at_chance,
    better,
    is_poor,
    one_answer,
    order_sign,
    sigma_sign,
    table_signs,
)
from dualrs_lab.runtime import make_generator

__all__ = ["MOST", "diagnose", "explain"]


MOST = 200
"""Images that are looked at, evenly spaced."""


_PASS = 50  # images in a pass


Ints = NDArray[np.int64]


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def diagnose(
    model: Any,
    images: Any,
    labels: Any = None,
    *,
    sigma: float,
    seed: int,
    classes: int | Sequence[str] | None = None,
    layout: str | None = None,
) -> list[Sign]:
    """Signs of what usually keeps a network from being certified; none for one without these faults.

    Noise level in other units, labels in another order, input in another scale (also: normalised twice, or
    not at all), colours or greys the other way round, no training with noise, no training at all. Signs about
    accuracy need `labels`, and at least 20 images; orders, scales and losses under noise are shown by a
    network without the fault with probability at most 0.001. `model`, `images` and errors are as of
    `certify`; about ten passes of at most 200 images go through the network.
    """
    pictures = in_names("diagnose", as_pictures("diagnose", images, labels, layout=layout), classes)
    return _signs(as_network("diagnose", model, pictures, classes=classes), pictures, sigma, seed)


def explain(model: Any, images: Any, table: pd.DataFrame, *, sigma: float, seed: int) -> list[Sign]:
    """Signs that a network and its `table` about `images` show, where it `is_poor`; none elsewhere."""
    if not is_poor(table):
        return []
    with warnings.catch_warnings():  # the table was made with the same
        warnings.simplefilter("ignore")
        measured = diagnose(model, images, sigma=sigma, seed=seed)
    known = {sign.name for sign in measured}
    weak = {"not sure under noise", "one answer for all"} if measured else set()
    return [*measured, *(sign for sign in table_signs(table) if sign.name not in known | weak)]


def _signs(asked: Asked, pictures: Pictures, sigma: float, seed: int) -> list[Sign]:
    idx = np.unique(np.linspace(0, len(pictures) - 1, min(MOST, len(pictures))).round().astype(int)).tolist()
    labels = np.array(pictures.labels_at(idx), dtype=np.int64)
    ask = _Asks(asked, pictures, idx, seed)
    clean, noisy = ask(), ask.noisy(sigma)
    labelled = bool((labels >= 0).all()) and len(labels) >= FEWEST
    found = [_sigma(ask, sigma, noisy, labels if labelled else None)]
    if labelled:
        order = order_sign(clean, labels, asked.classes)
        scale = None if order else _scale(ask, clean, labels)
        truth = _moved(labels, order)
        found += [order, scale, _untrained(clean, noisy, truth, sigma, asked.classes)]
        if not any(found):
            found.append(one_answer(clean, labels, "Without noise") or _chance(clean, labels))
    else:
        found += [_unsteady(clean, noisy, sigma), one_answer(clean, labels, "Without noise")]
    return [sign for sign in found if sign]


class _Asks:
    """The answers (N,) of a network to some images, as they are, under noise or otherwise."""

    def __init__(self, asked: Asked, pictures: Pictures, idx: Sequence[int], seed: int) -> None:
        self.asked, self.seed = asked, seed
        self.x = pictures.floats(idx)  # once, as decoding takes time

    @torch.no_grad()
    def __call__(self, change: Callable[[Tensor], Tensor] = lambda x: x) -> Ints:
        answers = []
        for some in torch.split(self.x, _PASS):
            x = change(some)
            x = x.to(device=self.asked.device, dtype=self.asked.dtype)
            answers.append(self.asked(x).argmax(dim=1).cpu().numpy())
        return np.concatenate(answers)

    def noisy(self, sigma: float) -> Ints:
        """Under one draw of noise for each image."""
        generator = make_generator(self.seed, "diagnose")
        return self(lambda x: x + sigma * torch.randn(x.shape, generator=generator).to(x.device))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel (C, 1, 1) of these images."""
        mean, std = (part[:, None, None] for part in (self.x.mean((0, 2, 3)), self.x.std((0, 2, 3))))
        return mean, std.clamp(min=1e-3)


def _sigma(ask: _Asks, sigma: float, noisy: Ints, labels: Ints | None) -> Sign | None:
    if sigma <= LARGE_SIGMA or labels is None:
        return sigma_sign(sigma)
    other = ask.noisy(sigma / 255)
    shares = {"right under this noise": noisy, f"right under sigma={sigma / 255:.3g}": other}
    return sigma_sign(sigma, {name: float((one == labels).mean()) for name, one in shares.items()})


def _changes(ask: _Asks) -> Mapping[str, tuple[Callable[[Tensor], Tensor], str]]:
    """What may have been done to the input, or left undone, and what to do about it."""
    mean, std = ask.statistics()
    known = {
        "x · 255": (lambda x: x * 255, "it wants pixels from 0 to 255, or divides by 255 itself"),
        "2x - 1": (lambda x: 2 * x - 1, "it wants pixels in [-1, 1]"),
        "(x - mean) / std": (lambda x: (x - mean) / std, "it was trained on normalised images"),
        "x · std + mean": (lambda x: x * std + mean, "the images are normalised twice"),
        "1 - x": (lambda x: 1 - x, "it was trained on dark for light"),
    }
    if ask.x.shape[1] == 3:
        m, s = (torch.tensor(part, device=ask.x.device)[:, None, None] for part in _IMAGENET)
        known |= {
            "(x - mean) / std of ImageNet": (lambda x: (x - m) / s, "it was trained on normalised images"),
            "x · std + mean of ImageNet": (lambda x: x * s + m, "the images are normalised twice"),
            "channels in reverse": (lambda x: x.flip(1), "it was trained on BGR in place of RGB"),
        }
    return known


def _scale(ask: _Asks, clean: Ints, labels: Ints) -> Sign | None:
    """Whether another scale of the input fits the network better, by at least a tenth of the images."""
    changes = _changes(ask)
    right = clean == labels
    answers = {name: ask(change) for name, (change, _) in changes.items()}
    tried = {name: one == labels for name, one in answers.items()}
    name = max(tried, key=lambda one: float(tried[one].mean()))
    p = min(1.0, len(tried) * better(tried[name], right))  # Bonferroni
    if p > LEVEL or tried[name].mean() < right.mean() + 0.1 or at_chance(answers[name], labels):
        return None
    text = (
        "The network seems to want its input in another scale: of images in [0, 1] it tells "
        f"{right.mean():.0%} rightly, of {name} {tried[name].mean():.0%} (p = {p:.1g}): {changes[name][1]}. "
        "Do the same within what you certify, such as lambda x: network((x - mean) / std); noise stays in "
        "pixels of [0, 1]."
    )
    measured = {"as it is": float(right.mean()), name: float(tried[name].mean()), "p": p}
    return Sign("input in another scale", text, measured)


def _untrained(clean: Ints, noisy: Ints, labels: Ints, sigma: float, classes: int) -> Sign | None:
    """Whether a network that is right without noise loses most of it under one draw of noise each."""
    right, still = clean == labels, noisy == labels
    if at_chance(clean, labels) or better(right, still) > LEVEL:
        return None
    chance = max(1 / classes, float(np.bincount(labels).max()) / len(labels))
    if still.mean() - chance >= (right.mean() - chance) / 2:
        return None
    return _noise_sign(f"{right.mean():.0%} rightly", f"{still.mean():.0%}", sigma, right, still)


def _unsteady(clean: Ints, noisy: Ints, sigma: float) -> Sign | None:
    # the same without labels: by the answers that noise leaves as they are
    if len(clean) < FEWEST:
        return None
    same = clean == noisy
    half = (1 + float(np.bincount(clean).max()) / len(clean)) / 2
    if bdtr(int(same.sum()), len(same), half) > LEVEL:
        return None
    everywhere = np.ones_like(same)
    return _noise_sign("all images in some way", f"{same.mean():.0%} alike", sigma, everywhere, same)


def _noise_sign(before: str, after: str, sigma: float, right: Any, still: Any) -> Sign:
    text = (
        f"The network was hardly trained with noise of σ = {sigma:g}: without noise it tells {before}, "
        f"under one draw of noise {after}. Train or fine-tune it with Gaussian noise of this σ, put a "
        "denoiser in front (`dualrs-lab denoiser`), or take a smaller σ."
    )
    measured = {"without noise": float(right.mean()), "with noise": float(still.mean())}
    return Sign("not trained with noise", text, measured)


def _chance(clean: Ints, labels: Ints) -> Sign | None:
    if not at_chance(clean, labels):
        return None
    share = float((clean == labels).mean())
    text = (
        f"Without any noise the network is right for {share:.0%} of the images, no more than by chance, and "
        "none of the usual scales or orders helps: is it trained, and are these its images, classes and size?"
    )
    return Sign("at chance without noise", text, {"without noise": share})


def _moved(labels: Ints, order: Sign | None) -> Ints:
    # labels as outputs, by the order that was found
    if order is None:
        return labels
    place = order.measured["order"]
    return np.array([place[int(label)] for label in labels], dtype=np.int64)
