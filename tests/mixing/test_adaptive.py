"""The head alone learns, its weight stays in its range, attacks see it, and heads come back as they were."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from dualrs_lab.attacks import PGD, CrossEntropy, margins, pgd
from dualrs_lab.data import Images, load_images, to_float
from dualrs_lab.mixing import (
    AdaptiveMix,
    Exposed,
    MixingLoss,
    PooledHead,
    PublishedHead,
    Pushed,
    load_mixing,
    make_head,
    mix_logits,
    train_mixing,
)
from dualrs_lab.models import MODELS, Classifier, make_model
from dualrs_lab.pixels import Uniform
from dualrs_lab.runtime import make_generator
from dualrs_lab.training import Adversarial, Standard, TrainConfig, train

INNER = PGD(steps=2, step=0.12, best=False, blind=0.99)


def fresh(name: str = "digits_narrow", channels: int = 1, seed: int = 0) -> Classifier:
    return make_model(
        name, classes=10, channels=channels, mean=[0.3] * channels, std=[0.37] * channels, seed=seed
    ).eval()


def untrained(**given) -> AdaptiveMix:
    g, h = fresh(seed=0), fresh(seed=1)
    return AdaptiveMix(g, h, make_head("pooled", g, h, shape=(1, 8, 8), seed=0), **given)


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "train").select(range(600))


@pytest.fixture(scope="module")
def networks(digits: Images) -> tuple[Classifier, Classifier]:
    made = []
    for objective in (Standard(), Adversarial(budget=Uniform(eps=0.2), attack=INNER)):
        model = fresh()
        config = TrainConfig(epochs=6, seed=0, batch=100, lr=0.1, crop=0, flip=False)
        train(model, digits, objective=objective, config=config, progress=False)
        made.append(model.eval())
    return made[0], made[1]


CONFIG = TrainConfig(epochs=6, seed=0, batch=100, lr=0.05, crop=0, flip=False)
LOSS = MixingLoss(eps=0.2, attack=dataclasses.replace(INNER, steps=4))


@pytest.fixture(scope="module")
def learned(networks, digits, tmp_path_factory) -> AdaptiveMix:
    g, h = networks
    mix = AdaptiveMix(g, h, make_head("pooled", g, h, shape=(1, 8, 8), seed=0))
    path = tmp_path_factory.mktemp("head") / "head.safetensors"
    return train_mixing(path, mix, digits, objective=LOSS, config=CONFIG, progress=False)[0]


def test_the_mix_is_that_of_its_weights() -> None:
    x = torch.rand(30, 1, 8, 8, generator=make_generator(0))
    mix = untrained(low=0.6, high=0.9, scales=(2.0, 0.5))
    with torch.no_grad():
        a = mix.weights(x)
        expected = mix_logits(2 * mix.accurate(x), 0.5 * mix.robust(x), a[:, None])
        torch.testing.assert_close(mix(x), expected)
        torch.testing.assert_close(mix.from_logits(x, mix.accurate(x), mix.robust(x)), expected)
    assert ((a > 0.6) & (a < 0.9)).all()
    assert a.std() > 0


def test_the_range_holds_for_any_input_and_can_be_set_again() -> None:
    mix = untrained()
    hard = torch.cat([torch.zeros(5, 1, 8, 8), torch.ones(5, 1, 8, 8), 1e6 * torch.randn(20, 1, 8, 8)])
    with torch.no_grad():
        wide = mix.weights(hard)
        narrow = mix.ranged(0.76, 0.98)
        weights = narrow.weights(hard)
    assert ((weights >= 0.76) & (weights <= 0.98)).all()
    torch.testing.assert_close(weights, 0.76 + 0.22 * wide)
    assert narrow.settings["range"] == (0.76, 0.98)
    assert mix.settings["range"] == (0.0, 1.0)


def test_networks_stay_as_they_are_while_the_head_learns(networks, learned) -> None:
    for before, after in zip(networks, (learned.accurate, learned.robust), strict=True):
        for old, new in zip(before.state_dict().values(), after.state_dict().values(), strict=True):
            assert torch.equal(old, new)
    learned.train()
    assert learned.head.training
    assert not any(part.training for net in (learned.accurate, learned.robust) for part in net.modules())
    learned.eval()
    assert all(parameter.requires_grad for parameter in networks[0].parameters())  # the originals


def test_the_head_tells_attacked_images_from_clean_ones(networks, learned) -> None:
    test = load_images("digits", "test").select(range(200))
    x, y = to_float(test.pixels), test.labels
    found = pgd(learned, x, y, 0.2, attack=PGD(step=0.05, blind=1.0), generator=make_generator(0))
    with torch.no_grad():
        assert float(learned.weights(found).mean() - learned.weights(x).mean()) > 0.1


def test_exposed_shows_the_weight_and_nothing_else() -> None:
    x = torch.rand(30, 1, 8, 8, generator=make_generator(0))
    y = torch.arange(30) % 10
    mix = untrained()
    with torch.no_grad():
        out, logit = mix.look(x)
        shown = Exposed(mix)(x)
    torch.testing.assert_close(torch.logsumexp(shown, 1), -F.logsigmoid(logit), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(margins(shown, y), margins(out, y), rtol=1e-4, atol=1e-5)
    told = F.binary_cross_entropy_with_logits(logit, torch.ones(30), reduction="none")
    expected = 0.7 * CrossEntropy()(out, y) + 0.3 * told
    torch.testing.assert_close(Pushed(0.3)(shown, y), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.5, 1.0), (0.0, 0.5), (0.5, 0.5)])
@pytest.mark.parametrize("shift", [-1e3, 1e3])
def test_gradients_are_finite_where_the_weight_rounds_to_an_end(bounds, shift) -> None:
    low, high = bounds
    mix = untrained(low=low, high=high)
    mix.standard.running_mean.fill_(shift)
    x = torch.rand(20, 1, 8, 8, generator=make_generator(0))
    out, logit = mix.look(x.requires_grad_())
    assert (logit.abs() > 500).all()
    assert out.isfinite().all()
    (slope,) = torch.autograd.grad(F.nll_loss(out, torch.zeros(20).long()), x)
    assert slope.isfinite().all()
    np.testing.assert_allclose(mix.weights(x).detach(), low if shift > 0 else high, atol=1e-6)


def test_pushed_attacks_lower_the_weight(learned) -> None:
    test = load_images("digits", "test").select(range(100))
    x, y = to_float(test.pixels), test.labels
    exposed, loss = learned.pushed[-1]
    attack = PGD(steps=10, step=0.05, best=False, blind=1.0)
    plain = pgd(learned, x, y, 0.2, attack=attack, generator=make_generator(0))
    pushed = pgd(
        exposed, x, y, 0.2, attack=dataclasses.replace(attack, loss=loss), generator=make_generator(0)
    )
    with torch.no_grad():
        assert float(learned.weights(pushed).mean()) < float(learned.weights(plain).mean()) - 0.02


def test_the_loss_is_its_three_terms() -> None:
    mix = untrained()
    x, y = torch.rand(12, 1, 8, 8, generator=make_generator(0)), torch.arange(12) % 10
    whole = []
    for terms in ({"bce": 1.0}, {"ce": 1.0}, {"product": 1.0}, {"bce": 0.3, "ce": 0.5, "product": 0.2}):
        loss = MixingLoss(eps=0.2, attack=INNER, **({"bce": 0.0, "ce": 0.0, "product": 0.0} | terms))
        whole.append(float(loss(mix, x, y, make_generator(3)).detach()))
    assert whole[3] == pytest.approx(0.3 * whole[0] + 0.5 * whole[1] + 0.2 * whole[2], rel=1e-5)
    with pytest.raises(ValueError, match="wanted an AdaptiveMix"):
        LOSS(fresh(), x, y, make_generator(0))


def watched(mix: AdaptiveMix) -> list[torch.Tensor]:
    """What `mix` will look at."""
    seen, look = [], mix.look
    mix.look = lambda x: seen.append(x.detach()) or look(x)
    return seen


def test_the_terms_are_those_of_the_paper() -> None:
    """The weight is to be 0 on the images and 1 on what the attack made of them."""
    mix = untrained()
    x, y = torch.rand(12, 1, 8, 8, generator=make_generator(0)), torch.arange(12) % 10
    seen = watched(mix)
    loss = MixingLoss(eps=0.2, attack=INNER, bce=0.3, ce=0.5, product=0.2)(mix, x, y, make_generator(3))
    both = seen[-1]
    assert torch.equal(both[:12], x)
    assert ((both[12:] - x).abs().flatten(1).amax(1) > 0.05).all()
    with torch.no_grad():
        a, wrong = mix.weights(both), -mix(both)[torch.arange(24), y.repeat(2)]
    told = -torch.cat([1 - a[:12], a[12:]]).log()
    expected = (0.3 * told + 0.5 * wrong + 0.2 * told * wrong).mean()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)


def test_budgets_are_uniform_from_two_fifths_to_eleven_tenths() -> None:
    """A single step as long as all budgets ends on the border of each."""
    mix, x = untrained(), torch.full((300, 1, 8, 8), 0.5)
    seen = watched(mix)
    attack = PGD(steps=1, step=1.0, best=False)
    MixingLoss(eps=0.2, attack=attack)(mix, x, torch.arange(300) % 10, make_generator(0))
    share = (seen[-1][300:] - x).abs().flatten(1).amax(1).numpy() / 0.2
    assert share.min() >= 0.4 - 1e-5
    assert share.max() <= 1.1 + 1e-5
    assert stats.kstest(share, stats.uniform(0.4, 0.7).cdf).pvalue > 1e-3
    assert stats.kstest(share, stats.uniform(0.4, 0.6).cdf).pvalue < 1e-3  # negative control: to 1.0


def test_heads_have_the_sizes_that_are_claimed() -> None:
    def size(head: nn.Module) -> int:
        return sum(parameter.numel() for parameter in head.parameters())

    assert 44.0e6 < size(PublishedHead([(64, 128), (64, 128)])) < 44.2e6  # two ResNet-18
    for name in MODELS:
        channels = 1 if name == "digits_narrow" else 3
        if name in ("resnet50", "wrn34_10", "resnet110"):
            continue  # slow to build; their channels are below
        net = fresh(name, channels)
        side = 8 if channels == 1 else 32
        head = make_head("pooled", net, net, shape=(channels, side, side), seed=0)
        assert size(head) <= 1_000_000
    assert size(PooledHead([(256, 512), (160, 320)])) <= 1_000_000  # ResNet-50 and WRN-34-10


@pytest.mark.parametrize("kind", ["pooled", "published"])
def test_networks_of_different_kinds_share_a_head(kind) -> None:
    g, h = fresh("fast_narrow", 3), fresh("resnet20", 3)
    mix = AdaptiveMix(g, h, make_head(kind, g, h, shape=(3, 32, 32), seed=0))
    with torch.no_grad():
        out = mix(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(out.exp().sum(1), torch.ones(2))


def test_heads_come_back_as_they_were(networks, digits, tmp_path, monkeypatch) -> None:
    g, h = networks

    def begin() -> AdaptiveMix:
        return AdaptiveMix(g, h, make_head("pooled", g, h, shape=(1, 8, 8), seed=0))

    few, path = digits.select(range(200)), tmp_path / "a.safetensors"
    how = {"objective": LOSS, "config": dataclasses.replace(CONFIG, epochs=2), "progress": False}
    x = torch.rand(5, 1, 8, 8, generator=make_generator(0))
    made, info = train_mixing(path, begin(), few, **how)
    assert len(info["history"]) == 2
    again, _ = load_mixing(path, g, h)
    with torch.no_grad():
        assert torch.equal(made(x), again(x))
    monkeypatch.setattr("dualrs_lab.mixing.adaptive.train", lambda *_, **__: pytest.fail("trained again"))
    train_mixing(path, begin(), few, **how)
    monkeypatch.undo()
    other = how | {"objective": dataclasses.replace(LOSS, push=0.1)}
    with pytest.raises(
        ValueError, match=r"train_mixing: .*a\.safetensors was made with other settings \(objective\)"
    ):
        train_mixing(path, begin(), few, **other)
    with pytest.raises(ValueError, match="beside other networks"):
        load_mixing(path, h, g)
    with pytest.raises(FileNotFoundError, match=r"b\.safetensors is missing"):
        load_mixing(tmp_path / "b.safetensors", g, h)
    assert json.loads((tmp_path / "a.json").read_text())["head"] == "PooledHead"
    with pytest.warns(UserWarning, match="other settings"):
        train_mixing(path, begin(), few, **other, replace=True)
    assert len([*tmp_path.glob("a*.safetensors")]) == 2


def test_training_goes_on_where_it_was_stopped(networks, digits, tmp_path, monkeypatch) -> None:
    g, h = networks
    few = digits.select(range(200))

    def begin() -> AdaptiveMix:
        return AdaptiveMix(g, h, make_head("pooled", g, h, shape=(1, 8, 8), seed=0))

    how = {"objective": LOSS, "config": dataclasses.replace(CONFIG, epochs=3), "progress": False}
    whole, _ = train_mixing(tmp_path / "whole.safetensors", begin(), few, **how)
    calls = []

    def stop(self, *args):  # in the second epoch
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *args)

    original = MixingLoss.__call__
    monkeypatch.setattr(MixingLoss, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        train_mixing(tmp_path / "cut.safetensors", begin(), few, **how)
    monkeypatch.undo()
    resumed, _ = train_mixing(tmp_path / "cut.safetensors", begin(), few, **how)
    for one, two in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="0 <= low <= high <= 1"):
        untrained(low=0.9, high=0.5)
    with pytest.raises(ValueError, match="wanted one of pooled, published"):
        make_head("v3", fresh(), fresh(), shape=(1, 8, 8), seed=0)
