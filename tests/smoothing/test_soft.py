"""Soft radii are those of `dual.radii` where these are above zero, and go on below."""

import numpy as np
import pytest
import torch
from scipy import stats

from dualrs_lab.dual import (
    Cuts,
    Median,
    Plurality,
    median_entry_radii,
    plurality_entry_radii,
    soft_choice_radii,
    soft_entry_radii,
)
from dualrs_lab.smoothing import draw_in, soft, soft_expert_radius


@pytest.mark.parametrize("ordered", [True, False])
def test_soft_entry_radii_are_those_of_routes_above_zero(ordered: bool) -> None:
    # ordered: cumulated votes of one estimator; otherwise cuts, which need not ascend and have own noise
    p = np.random.default_rng(0).uniform(0.001, 0.999, (500, 3))
    p, sigmas = (np.sort(p), (0.5,) * 3) if ordered else (p, (0.25, 0.5, 1.0))
    soft = soft_entry_radii(torch.tensor(p), sigmas).numpy()
    exact = median_entry_radii(p, p, sigmas)
    assert soft.shape == exact.shape == (500, 4)
    assert np.maximum(soft, 0) == pytest.approx(exact, abs=1e-12)
    assert ((soft <= 0) == (exact == 0)).all()
    swapped = soft_entry_radii(torch.tensor(1 - p), sigmas).numpy()  # negative control: yes for no
    assert np.abs(np.maximum(swapped, 0) - exact).max() > 0.1


def votes(seed: int, count: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet((1.0, 0.7, 1.3), count)


def test_choices_of_every_rule_are_those_of_routes_above_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soft, "FLOOR", 0.0)
    p = votes(0)
    cumulated, top = np.cumsum(p, axis=1)[:, :2], p.argmax(axis=1)
    cuts = np.random.default_rng(1).uniform(0.01, 0.99, (300, 2))
    answers = [torch.tensor(np.stack([c, 1 - c], axis=1)) for c in cuts.T]
    for rule, given, exact in (
        (Median(0.4), [torch.tensor(p)], median_entry_radii(cumulated, cumulated, 0.4)),
        (Cuts((0.3, 0.8)), answers, median_entry_radii(cuts, cuts, (0.3, 0.8))),
        (Plurality(0.4), [torch.tensor(p)], plurality_entry_radii(p.max(axis=1), p, top, 0.4)),
    ):
        found = soft_choice_radii(rule, given).numpy()
        # plurality's bound of the others by 1 - p_top never binds with exact probabilities
        assert np.maximum(found, 0) == pytest.approx(exact, abs=1e-9)
        assert ((found < 0).sum(axis=1) == 1).all()  # one expert is chosen
        assert (
            found.argmin(axis=1)
            == rule.top(p[:, None] if len(given) == 1 else np.stack([cuts, 1 - cuts], axis=2))
        ).all()


def test_one_expert_is_always_chosen() -> None:
    for rule in (Median(0.3), Plurality(0.3)):
        assert soft_choice_radii(rule, [torch.ones(4, 1)]).tolist() == [[-np.inf]] * 4


def test_expert_radius_by_hand_and_below_zero_where_another_class_leads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(soft, "FLOOR", 0.0)
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    right = soft_expert_radius(p, torch.tensor([0, 2]), 0.5).tolist()
    assert right == pytest.approx(
        [0.25 * (stats.norm.ppf(a) - stats.norm.ppf(b)) for a, b in ((0.7, 0.2), (0.6, 0.3))]
    )
    wrong = soft_expert_radius(p, torch.tensor([1, 0]), 0.5)
    assert wrong.tolist() == pytest.approx(
        [0.25 * (stats.norm.ppf(a) - stats.norm.ppf(b)) for a, b in ((0.2, 0.7), (0.1, 0.6))]
    )


def test_certainty_leaves_a_gradient_and_finite_radii() -> None:
    p = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    (
        soft_expert_radius(p, torch.tensor([1]), 0.5) + soft_choice_radii(Plurality(0.5), [p]).sum()
    ).sum().backward()
    assert torch.isfinite(p.grad).all()
    assert p.grad.abs().max() > 1
    assert draw_in(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([soft.FLOOR, 0.5, 1 - soft.FLOOR])
