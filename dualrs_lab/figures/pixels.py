"""Figures of budgets per pixel: from map to perturbation, and what each way of spending a budget yields.

As in `figures.style`: tensor or frame in, matplotlib Axes out, in the same style.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import NDArray

from dualrs_lab.figures.live import Drawing
from dualrs_lab.figures.style import PAGE, legend_beside, new_axes, style

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PerturbationRow", "Sheet", "arms", "budget_row", "map_to_perturbation"]


Picture = NDArray[np.float64]


STEPS = ("image", "map", "mask", "budget", "attacked", "difference")


@style()
def map_to_perturbation(
    x: "Tensor",
    maps: "Tensor",
    budgets: "Tensor",
    attacked: "Tensor",
    *,
    masks: "Tensor | None" = None,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A row per image: image, class activation map, mask, budget, attacked image, difference.

    x and attacked (N, C, H, W) in [0, 1], maps (N, h, w), budgets (N, 1, H, W), masks (N, 1, H, W); without
    masks, where the budget is largest. The difference is grey at 0, red where pixels became brighter, blue
    where darker, at the budget's scale. `names` stand left of the rows.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or x.shape != attacked.shape or len(maps) != len(x):
        raise ValueError(
            f"map_to_perturbation: wanted grey or RGB x and attacked (N, C, H, W) and a map each, got "
            f"{tuple(x.shape)}, {tuple(attacked.shape)} and {tuple(maps.shape)}"
        )
    rows = _cells(x, maps, budgets, attacked, masks)
    ax = new_axes(ax, PAGE, 0.35 + len(rows) * (PAGE - 0.6) / (1.08 * len(STEPS)))
    return Sheet(len(rows), STEPS, names or [""] * len(rows), ax=ax).show(rows)


class PerturbationRow(Drawing):
    """The picture of `map_to_perturbation` of one image, which `show` fills."""

    @style()
    def __init__(self, *, ax: Axes) -> None:
        super().__init__(ax)
        self.sheet = Sheet(1, STEPS, [""], ax=ax)
        self.moving = self.sheet.moving

    def show(
        self, x: "Tensor", maps: "Tensor", budgets: "Tensor", attacked: "Tensor", masks: "Tensor"
    ) -> Axes:
        """As `map_to_perturbation` takes them, of one image."""
        self.sheet.show(_cells(x, maps, budgets, attacked, masks))
        return self.ax


def _cells(
    x: "Tensor", maps: "Tensor", budgets: "Tensor", attacked: "Tensor", masks: "Tensor | None"
) -> list[list[Picture]]:
    budgets, rows = budgets.expand(len(x), -1, -1, -1), []
    if masks is None:
        masks = budgets == budgets.amax((1, 2, 3), keepdim=True)
    for image, map_, mask, budget, found in zip(x, maps, masks, budgets, attacked, strict=True):
        most = float(budget.max())
        change = (found - image).mean(0)
        rows.append(
            [
                _photo(image),
                _heat(map_, 0, float(map_.max()), "magma"),
                _heat(mask.float().mean(0), 0, 1, "gray"),
                _heat(budget.mean(0), 0, most, "viridis"),
                _photo(found),
                _heat(change, -most, most, "coolwarm"),
            ]
        )
    return rows


@style()
def budget_row(
    budgets: "Sequence[Tensor]", names: Sequence[str], notes: Sequence[str], *, ax: Axes | None = None
) -> Axes:
    """Budgets (1 or C, H, W) side by side on one scale, a name above and a note below each."""
    if not len(budgets) == len(names) == len(notes):
        raise ValueError(
            f"budget_row: wanted a name and a note for each budget, got {len(budgets)}, {len(names)} and "
            f"{len(notes)}"
        )
    most = max(float(budget.max()) for budget in budgets)
    cells = [_heat(budget.mean(0), 0, most, "viridis") for budget in budgets]
    width = min(PAGE, 1.3 * len(cells))
    ax = new_axes(ax, width, 0.65 + width / (1.08 * len(cells)))
    Sheet(1, names, [""], ax=ax).show([cells])
    for place, note in enumerate(notes):
        ax.text(1.08 * place + 0.5, 1.06, note, ha="center", va="top", fontsize=7)
    ax.set_ylim(1.35, -0.02)
    return ax


@style()
def arms(
    table: pd.DataFrame,
    *,
    natural: str = "natural",
    robust: str = "pgd",
    joined: Sequence[str] = (),
    label: str = "robust accuracy (PGD-20)",
    ax: Axes | None = None,
) -> Axes:
    """What each way of training yields: mean and standard deviation over seeds, natural against robust.

    A row of `table` is a network, with columns `arm`, `seed` and the two named. Arms named in `joined` are
    connected in that order: the trade-off that a single number as budget already gives.
    """
    if missing := [name for name in ("arm", "seed", natural, robust) if name not in table]:
        raise ValueError(f"arms: no {', '.join(missing)} in the table; it has {list(table)}")
    ax = new_axes(ax, PAGE, 3.4)
    groups = {str(name): group[[natural, robust]] for name, group in table.groupby("arm", sort=False)}
    means = {name: group.mean().to_numpy() for name, group in groups.items()}
    if joined:
        ax.plot(*np.stack([means[name] for name in joined], axis=1), color="0.6", linewidth=1.0, zorder=1)
    colours = sns.color_palette("colorblind", n_colors=max(1, len(means)))
    for (name, group), colour, marker in zip(groups.items(), colours, _markers(len(means)), strict=True):
        (x, y), (right, up) = means[name], group.std().fillna(0.0)
        ax.errorbar(
            x, y, xerr=right, yerr=up, label=name, color=colour, marker=marker, markersize=6.5, linestyle="",
            elinewidth=0.9, capsize=2,
        )  # fmt: skip
    ax.set(xlabel="natural accuracy", ylabel=label)
    ax.margins(0.08)
    legend_beside(ax)
    return ax


def _markers(count: int) -> list[str]:
    return [*"oDsPX^v<>*hpd8"][:count] + ["o"] * (count - 14)


def _photo(image: "Tensor") -> Picture:
    # (C, H, W) in [0, 1] -> (H, W, 3)
    return image.detach().cpu().expand(3, -1, -1).permute(1, 2, 0).double().numpy()


def _heat(values: "Tensor", low: float, high: float, colours: str) -> Picture:
    scaled = ((values.detach().cpu().double() - low) / max(high - low, 1e-12)).clamp(0, 1)
    painted: Any = matplotlib.colormaps[colours](scaled.numpy())
    return np.asarray(painted[..., :3], dtype=np.float64)


class Sheet(Drawing):
    """Rows of pictures under names, which `show` fills."""

    @style()
    def __init__(self, rows: int, above: Sequence[str], beside: Sequence[str], *, ax: Axes) -> None:
        super().__init__(ax)
        self.cells = [
            [
                ax.imshow(np.ones((1, 1, 3)), extent=_square(row, place), interpolation="nearest")
                for place in range(len(above))
            ]
            for row in range(rows)
        ]
        ax.set(xlim=(-0.02, 1.08 * len(above) - 0.06), ylim=(1.08 * rows - 0.06, -0.02))
        ax.set_xticks([1.08 * place + 0.5 for place in range(len(above))], above)
        ax.set_yticks([1.08 * row + 0.5 for row in range(rows)], beside)
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.grid(visible=False)
        sns.despine(ax=ax, left=True, bottom=True)
        self.moving = [cell for row in self.cells for cell in row]

    def show(self, rows: Sequence[Sequence[Picture]]) -> Axes:
        """These pictures, each (H, W, 3) in [0, 1]."""
        for cells, pictures in zip(self.cells, rows, strict=True):
            for cell, picture in zip(cells, pictures, strict=True):
                cell.set_data(picture)
        return self.ax


def _square(row: int, place: int) -> tuple[float, float, float, float]:
    left, top = 1.08 * place, 1.08 * row
    return left, left + 1, top + 1, top
