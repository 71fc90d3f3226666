"""The curve is its formula, the fit keeps what it says, g gives way exactly at the margin."""

import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dualrs_lab.mixing import Curve, NutsMix, fit_nuts, worst_margin
from dualrs_lab.models import make_model
from dualrs_lab.runtime import make_generator


def held_out(count: int = 1000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits like those of a robust network: 80 % right and sure when clean, 50 % right when attacked."""
    rng = make_generator(0, "held out")
    labels = torch.randint(10, (count,), generator=rng)
    made = []
    for share, sure, unsure in ((0.8, 4.0, 1.0), (0.5, 3.0, 2.0)):
        right = torch.rand(count, generator=rng) < share
        top = torch.where(right, labels, (labels + 1 + torch.randint(8, (count,), generator=rng)) % 10)
        height = torch.where(right, sure, unsure) * (0.6 + 0.8 * torch.rand(count, generator=rng))
        logits = 0.5 * torch.randn(count, 10, generator=rng)
        made.append(logits.scatter_add(1, top[:, None], height[:, None]))
    return made[0], made[1], labels


def test_the_curve_is_its_formula() -> None:
    z = torch.randn(20, 10, generator=make_generator(1)).double()
    mean, std = z.mean(1, keepdim=True), z.std(1, correction=0, keepdim=True)
    v = F.gelu((z - mean) / (std + 1e-5) - 0.4)
    expected = 2.0 * np.sign(v.numpy()) * np.abs(v.numpy()) ** 3
    np.testing.assert_allclose(Curve(2.0, -0.4, 3.0)(z), expected, rtol=1e-6, atol=1e-9)
    wide = torch.randn(3, 1000, generator=make_generator(2))
    best = wide.topk(250, 1).values
    v = F.gelu((wide - best.mean(1, keepdim=True)) / (best.std(1, correction=0, keepdim=True) + 1e-5))
    torch.testing.assert_close(Curve()(wide), v, rtol=1e-5, atol=1e-6)


def test_the_fit_keeps_its_share_and_beats_the_plain_logits_in_seconds() -> None:
    clean, attacked, labels = held_out()
    half = len(labels) // 2
    start = time.perf_counter()
    fit = fit_nuts(clean[:half], attacked[:half], labels[:half])
    assert time.perf_counter() - start < 20
    assert 0.985 <= fit.kept <= 0.99
    assert 0.5 < fit.weight < 1
    right = attacked[half:][attacked[half:].argmax(1) == labels[half:]]
    wrong = clean[half:][clean[half:].argmax(1) != labels[half:]]
    cutoff = (1 - fit.weight) / fit.weight

    def lost(margins: torch.Tensor, least: float) -> float:
        return float((margins >= least).double().mean())

    assert lost(worst_margin(fit.curve(right)), cutoff) > 0.95  # on the half that it has not seen
    plain = float(worst_margin(right).double().quantile(0.015))
    assert lost(worst_margin(fit.curve(wrong)), cutoff) <= lost(worst_margin(wrong), plain) + 0.02


def test_g_gives_way_exactly_where_the_margin_suffices() -> None:
    g = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=0).eval()
    h = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=1).eval()
    x = torch.rand(200, 1, 8, 8, generator=make_generator(0))
    mix = NutsMix(g, h, Curve(2.0, 0.0, 2.0), 0.8)
    zg, zh = torch.randn(2, 200, 10, generator=make_generator(1))
    curved, found = mix.curve(zh), mix.from_logits(x, zg, zh)
    of_g = F.softmax(curved, 1).gather(1, zg.argmax(1, keepdim=True))[:, 0]
    ahead = F.softmax(curved, 1).amax(1) - of_g
    expected = torch.where(ahead > 0.25, curved.argmax(1), zg.argmax(1))
    assert torch.equal(found.argmax(1), expected)
    assert found.isfinite().all()
    torch.testing.assert_close(found.exp().sum(1), torch.ones(200))
    with torch.no_grad():
        assert torch.equal(mix(x), mix.from_logits(x, g(x), h(x)))
    assert 0 < float((found.argmax(1) == curved.argmax(1)).float().mean()) < 1
    x.requires_grad_()
    (slope,) = torch.autograd.grad(mix.surrogate(x)[:, 0].sum(), x)
    assert slope.isfinite().all()
    assert slope.flatten(1).any(1).all()


def test_curves_that_turn_right_answers_wrong_are_left_out() -> None:
    """GELU falls before it rises: shifted far down, two high logits end below eight low ones."""
    labels = torch.zeros(40, dtype=torch.int64)
    logits = torch.zeros(40, 10)
    logits[:, 0], logits[:, 1] = 3.0, 2.9
    wrong = logits.flip(1)
    clean = torch.where(torch.arange(40)[:, None] % 2 == 0, wrong, logits)
    harmful = {"scales": (1.0,), "shifts": (-2.3,), "powers": (1.0,)}
    assert (Curve(1.0, -2.3, 1.0)(logits).argmax(1) != 0).all()
    with pytest.raises(ValueError, match="no curve leaves h a margin"):
        fit_nuts(clean, logits, labels, **harmful)
    sound = fit_nuts(clean, logits, labels, **{**harmful, "shifts": (-2.3, 0.5)})
    assert sound.curve.shift == 0.5


def test_refusals() -> None:
    clean, attacked, labels = held_out(50)
    with pytest.raises(ValueError, match="wanted logits"):
        fit_nuts(clean, attacked[:10], labels)
    with pytest.raises(ValueError, match="0 of 50 images are right under attack"):
        fit_nuts(clean, F.one_hot((labels + 1) % 10).float(), labels)
    with pytest.raises(ValueError, match="NutsMix: got weight 2"):
        NutsMix(torch.nn.Identity(), torch.nn.Identity(), Curve(), 2.0)
