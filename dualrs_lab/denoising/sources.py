"""A denoiser by one word, as the command line takes it: a file of ours, or a diffusion model by its name."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dualrs_lab.afar.address import is_afar
from dualrs_lab.afar.fetching import at_hand
from dualrs_lab.denoising.diffusion import diffusion_denoiser
from dualrs_lab.denoising.training import load_denoiser
from dualrs_lab.models.checkpoints import fingerprint

__all__ = ["find_denoiser"]

_SCHEME = "diffusers:"


def find_denoiser(
    source: Path | str,
    *,
    shape: tuple[int, int, int] | None = None,
    sigma: float | None = None,
    device: torch.device | str = "cpu",
) -> tuple[nn.Module, dict[str, Any]]:
    """The denoiser `source`, in evaluation mode, and what a record tells.

    With `shape` (C, H, W) it must take images of that shape. A file that `train_denoiser` wrote serves all
    noise; `diffusers:NAME`, a name of the hub or a folder, is taken at the noise `sigma`. Raises
    FileNotFoundError or ValueError that says what to do, and as `load_denoiser` and `diffusion_denoiser` do.
    """
    source = at_hand("find_denoiser", source) if is_afar(source) else source
    text = str(source)
    model: nn.Module
    told: dict[str, Any]
    if text.startswith(_SCHEME) and not Path(text).exists():
        if sigma is None:
            raise ValueError(
                f"find_denoiser: {text} is made for one noise level, and none was given; take a denoiser of "
                "your own (dualrs-lab denoiser), or certify, which says --sigma"
            )
        name = text.removeprefix(_SCHEME)
        model = made = diffusion_denoiser(name, sigma=sigma).to(device).eval()
        told = {"source": f"{_SCHEME}{Path(name).name if Path(name).is_dir() else name}", "step": made.at}
    elif re.match(r"\w{2,}:", text) and not Path(text).exists():
        raise ValueError(f"find_denoiser: got {text!r}; wanted a file of train_denoiser, or {_SCHEME}NAME")
    else:
        model, told = load_denoiser(Path(text), device=device), {"source": Path(text).name}
    if shape is not None:
        _want_shape(text, model, shape, device)
    return model, told | {"fingerprint": fingerprint(model)}


@torch.no_grad()
def _want_shape(
    source: str, model: nn.Module, shape: tuple[int, int, int], device: torch.device | str
) -> None:
    size = " x ".join(map(str, shape))
    try:
        found = tuple(model(torch.full((1, *shape), 0.5, device=device)).shape[1:])
        reason = "" if found == shape else f"it gives images of {' x '.join(map(str, found))}"
    except RuntimeError as error:  # how torch says that sizes do not fit
        reason = next(iter(str(error).strip().splitlines()), "")[:200]
    if reason:
        raise ValueError(
            f"find_denoiser: {source} takes no images of {size} ({reason}); choose one that was trained on "
            "such images, whose height and width divide by 4"
        )
