"""Figures show the numbers they were given."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

from dualrs_lab.figures import arms, budget_row, map_to_perturbation
from dualrs_lab.figures.pixels import STEPS


def pictures(ax) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in ax.images]


def test_a_row_goes_from_image_to_difference() -> None:
    x = torch.full((2, 1, 4, 4), 0.5)
    budgets = torch.full((2, 1, 4, 4), 0.1)
    budgets[:, :, 0] = 0.2
    attacked = x + budgets * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    maps = torch.eye(2).expand(2, 2, 2)
    ax = map_to_perturbation(x, maps, budgets, attacked, names=["a", "b"])
    shown = pictures(ax)
    assert len(shown) == 2 * len(STEPS)
    assert [text.get_text() for text in ax.get_xticklabels()] == list(STEPS)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    image, heat, mask, budget, found, change = shown[: len(STEPS)]
    assert np.allclose(image, 0.5)
    assert heat.shape == (2, 2, 3)
    assert np.array_equal(mask[..., 0], [[1] * 4] + [[0] * 4] * 3)
    assert not np.allclose(budget[0], budget[1])
    assert np.allclose(found[0], 0.7)
    assert np.allclose(found[1], 0.6)
    assert np.allclose(change[0], matplotlib.colormaps["coolwarm"](1.0)[:3])
    assert np.allclose(shown[-1][0], matplotlib.colormaps["coolwarm"](0.0)[:3])
    masks = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    masks[..., 3] = True  # where all pixels have one budget, only the mask itself can tell
    ax = map_to_perturbation(x, maps, torch.full_like(budgets, 0.2), attacked, masks=masks)
    assert np.array_equal(pictures(ax)[2][..., 0], [[0, 0, 0, 1]] * 4)
    with pytest.raises(ValueError, match="wanted grey or RGB"):
        map_to_perturbation(x, maps, budgets, attacked[:1])


def test_budgets_share_one_scale() -> None:
    ax = budget_row([torch.full((1, 2, 2), v) for v in (0.1, 0.2)], ["low", "high"], ["60 %", "50 %"])
    low, high = pictures(ax)
    assert np.allclose(high, matplotlib.colormaps["viridis"](1.0)[:3])
    assert np.allclose(low, matplotlib.colormaps["viridis"](0.5)[:3])
    assert [text.get_text() for text in ax.texts] == ["60 %", "50 %"]
    with pytest.raises(ValueError, match="a name and a note for each"):
        budget_row([torch.zeros(1, 2, 2)], ["a", "b"], ["c"])


def test_arms_are_means_and_deviations_over_seeds() -> None:
    rows = [("AT", 0, 0.8, 0.5), ("AT", 1, 0.9, 0.4), ("PART", 0, 0.85, 0.45), ("small", 0, 0.95, 0.3)]
    table = pd.DataFrame(rows, columns=["arm", "seed", "natural", "pgd"])
    ax = arms(table, joined=["AT", "small"])
    line = ax.lines[0]
    assert np.allclose(line.get_xdata(), [0.85, 0.95])
    assert np.allclose(line.get_ydata(), [0.45, 0.3])
    points = [container.lines[0] for container in ax.containers]
    assert [(float(p.get_xdata()[0]), float(p.get_ydata()[0])) for p in points] == [
        (pytest.approx(0.85), pytest.approx(0.45)), (0.85, 0.45), (0.95, 0.3),
    ]  # fmt: skip
    bar = ax.containers[0].lines[2][0].get_segments()[0]
    assert bar[1, 0] - bar[0, 0] == pytest.approx(2 * np.std([0.8, 0.9], ddof=1))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["AT", "PART", "small"]
    with pytest.raises(ValueError, match="no pgd in the table"):
        arms(table.drop(columns="pgd"))
