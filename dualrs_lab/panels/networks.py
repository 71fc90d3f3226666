"""A network as panels take it: whatever `load_network` takes, about the images that it is shown with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dualrs_lab.adapters.load import load_network
from dualrs_lab.data.images import Images
from dualrs_lab.data.pictures import Pictures
from dualrs_lab.models.conduct import duplicate, want_gradients
from dualrs_lab.models.suited import suited

__all__ = ["images_of", "panel_network"]


def panel_network(
    call: str,
    source: Any,
    images: Images,
    *,
    weights: str | Path | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    attacked: bool = False,
) -> nn.Module:
    """A copy, in evaluation mode, of the network behind `source`, with its outputs in the order of `images`.

    Where the panel attacks it, one without gradients is a ValueError that says so. Raises as `load_network`.
    """
    found = load_network(source, weights=weights, mean=mean, std=std, classes=len(images.classes))
    if attacked:
        want_gradients(call, found)
    return duplicate(suited(call, found, images))


def images_of(given: Images | Pictures) -> tuple[Images, Sequence[int]]:
    """The images of a panel, and of each the place that tables know it by: its position if none is told."""
    if isinstance(given, Pictures):
        return given.images, given.places
    return given, range(len(given))
