"""A graded network says what the network within it says, and how sure that is: exactly, in any copy of it."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dualrs_lab.models import (
    Classifier,
    Graded,
    check_conduct,
    fingerprint,
    graded,
    graded_each,
    grading,
    kinds_of,
    make_model,
)
from dualrs_lab.smoothing import FastPath, GaussianNoise, NoiseBlocks, count_votes, evaluation_copy, freeze

CONFIDENCES = (0.3, 0.5, 0.7)
SHAPE, CLASSES = (1, 8, 8), 5


def network() -> Classifier:
    """As sure as not, with statistics in its BatchNorm that folding has to get right."""
    made = make_model("digits_narrow", classes=CLASSES, channels=1, mean=[0.4], std=[0.3], seed=1)
    generator = torch.Generator().manual_seed(0)
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.copy_(torch.randn(part.num_features, generator=generator) / 5)
            part.running_var.copy_(torch.rand(part.num_features, generator=generator) + 0.5)
    made.eval()
    with torch.no_grad():
        found, last = made(images()), made.body.fc
        scale = 1.2 / found.std(0)
        last.bias.copy_((last.bias - found.mean(0)) * scale)
        last.weight.mul_(scale[:, None])
    return made


def images(count: int = 400) -> Tensor:
    corners = torch.rand((count, 1, 2, 2), generator=torch.Generator().manual_seed(2))
    return corners.repeat_interleave(4, 2).repeat_interleave(4, 3)


def by_hand(logits: Tensor) -> np.ndarray:
    """Kinds (N,) by the definition, from logits (N, C), in double precision."""
    z = logits.double().numpy()
    p = np.exp(z - z.max(axis=1, keepdims=True))
    most = (p / p.sum(axis=1, keepdims=True)).max(axis=1)
    return z.argmax(axis=1) + CLASSES * np.sum([most < s for s in CONFIDENCES], axis=0)


def test_votes_are_told_apart_by_the_largest_probability() -> None:
    model, x = network(), images()
    with torch.inference_mode():
        found, logits = Graded(model, CONFIDENCES)(x), model(x)
    kinds = found.argmax(1).numpy()
    assert (kinds == by_hand(logits)).all()
    assert len({*(kinds // CLASSES).tolist()}) == len(CONFIDENCES) + 1  # each of them occurs
    assert found.shape == (len(x), CLASSES * 4)
    own = found.view(len(x), 4, CLASSES)[torch.arange(len(x)), torch.tensor(kinds // CLASSES)]
    assert torch.equal(own, logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folded_and_in_half_precision_it_says_what_that_copy_of_the_network_says(dtype: torch.dtype) -> None:
    """Confidences are not rounded with the weights, and the network within is folded as it is by itself."""
    model, x = network(), images().to(dtype)
    how = {"device": torch.device("cpu"), "dtype": dtype}
    alone = evaluation_copy(model, SHAPE, **how)
    copy = evaluation_copy(Graded(model, CONFIDENCES), SHAPE, **how)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in copy.modules())
    with torch.inference_mode():
        kinds, logits = copy(x).argmax(1).numpy(), alone(x).float()
    assert (kinds == by_hand(logits)).all()


def test_the_engine_counts_them_in_a_frozen_copy() -> None:
    model, noise, x = network(), GaussianNoise(0.3), images(6)
    how = {"device": torch.device("cpu"), "dtype": torch.float32, "fast": FastPath(compile=False)}
    kinds = kinds_of(Graded(model, CONFIDENCES), CLASSES)
    blocks = NoiseBlocks(noise, SHAPE, seed=0, stream="estimation", device=torch.device("cpu"))
    votes, plain = (
        count_votes(freeze(one, noise, SHAPE, classes=c, **how), x, blocks, n=300, classes=c)
        for one, c in ((Graded(model, CONFIDENCES), kinds), (model, CLASSES))
    )
    assert (votes.reshape(len(x), -1, CLASSES).sum(axis=1) == plain).all()
    assert (votes.reshape(len(x), 4, CLASSES).sum(axis=(0, 2)) > 0).sum() >= 3


def test_other_confidences_are_another_network_and_no_cast_changes_them() -> None:
    model = network()
    prints = {fingerprint(Graded(model, s)) for s in ((0.3,), (0.3 + 1e-12,), (0.3, 0.5), CONFIDENCES)}
    assert len(prints | {fingerprint(model)}) == 5
    half = Graded(model, CONFIDENCES).to(torch.bfloat16)
    assert half.confidence_bits.view(torch.float64).tolist() == [*CONFIDENCES]
    assert grading(half) == CONFIDENCES
    assert (grading(model), kinds_of(model, 5), kinds_of(half, 5)) == ((), 5, 20)
    assert graded(model, 5) == graded_each([model, model]) == {}
    assert graded(half, 5) == {"sure": {"confidences": [0.3, 0.5, 0.7], "answers": 5}}
    assert graded_each([half, model]) == {"sure": [[0.3, 0.5, 0.7], []]}


class Given(nn.Module):
    """Gives its inputs (B, C) for logits, or with `drift` something of the batch as well."""

    def __init__(self, drift: float = 0.0) -> None:
        super().__init__()
        self.drift = drift

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drift * x.mean(0, keepdim=True) if self.drift else x


def test_logits_of_any_size_keep_their_class_and_nan_stays_nan() -> None:
    model, inf = Graded(Given(), (0.5,)), float("inf")
    rows = [[0.0, 0.0, 0.0], [1e30, 1e30, 1e30], [-1e30, -1e30, -2e30], [-inf, 3.0, -inf], [5.0, -3.0, 0.0]]
    assert model(torch.tensor(rows)).argmax(1).tolist() == [3, 3, 0, 1, 0]
    assert model(torch.tensor([[0.0, float("nan"), 1.0]])).max(1).values.isnan().all()


def test_checks_of_its_conduct_see_through_it() -> None:
    """What fills the other blocks does not hide how far answers lie apart."""
    x = torch.rand((8, 4), generator=torch.Generator().manual_seed(0))
    check_conduct("test", Graded(Given(), (0.5,)), x, classes=8)
    with pytest.raises(ValueError, match="the network's logits of the same inputs lie"):
        check_conduct("test", Graded(Given(0.1), (0.5,)), x, classes=8)


@pytest.mark.parametrize("confidences", [(), (0.5, 0.4), (0.5, 0.5), (0.0, 0.5), (1.0,), (float("nan"),)])
def test_confidences_that_make_no_sense_are_refused(confidences: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"Graded: got confidences .*; wanted one or more in \(0, 1\)"):
        Graded(Given(), confidences)


def test_what_does_not_say_how_sure_it_is_is_refused() -> None:
    with pytest.raises(ValueError, match="graded already"):
        Graded(nn.Sequential(Graded(Given(), (0.5,))), (0.4,))
    box = Given()
    box.labels_only = True
    with pytest.raises(ValueError, match="answers labels only; wanted logits"):
        Graded(box, (0.4,))
