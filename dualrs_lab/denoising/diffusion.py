"""A diffusion model as a denoiser, in one step (Carlini et al. 2023, algorithm 1).

A model of Ho et al. (2020) sees x_t = √ā_t x_0 + √(1 - ā_t) ε, with x_0 in [-1, 1], and predicts ε. A noisy
image v = p + σ n, of pixels p in [0, 1], gives 2v - 1 = x_0 + 2σ n, so that √ā (2v - 1) with

    (1 - ā) / ā = (2σ)²,   ā = 1 / (1 + 4σ²),

is what the model saw in training, at the step whose ā_t is nearest in that ratio. Then one call says

    x_0 = (x_t - √(1 - ā) ε) / √ā,

clipped to the range of images. Scale and answer use the ā of σ itself; the step only tells the model how much
noise to expect. Schedules are in float64: at small σ, 1 - ā is lost in float32.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from dualrs_lab.models.reading import want_finite

__all__ = ["OneShot", "cosine_schedule", "diffusion_denoiser", "linear_schedule", "timestep"]


def linear_schedule(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """ā (steps,), float64, where β rises linearly (Ho et al. 2020, section 4)."""
    return torch.cumprod(1 - torch.linspace(first, last, steps, dtype=torch.float64), dim=0)


def cosine_schedule(steps: int = 1000, offset: float = 0.008) -> Tensor:
    """ā (steps,), float64, of the cosine schedule (Nichol and Dhariwal 2021, section 3.2)."""
    at = torch.arange(steps + 1, dtype=torch.float64) / steps
    curve = torch.cos((at + offset) / (1 + offset) * math.pi / 2) ** 2
    return torch.cumprod(1 - (1 - curve[1:] / curve[:-1]).clamp(max=0.999), dim=0)


def timestep(schedule: Tensor, sigma: float) -> int:
    """The step of `schedule` (ā, falling) that is as noisy as noise `sigma` on pixels in [0, 1].

    The nearest one in the logarithm of noise over signal. Raises ValueError for a schedule that is not one,
    and for noise that is more than twice or less than half of any that the model has seen.
    """
    falling = bool((schedule[1:] < schedule[:-1]).all()) and bool(
        (schedule > 0).all() and (schedule < 1).all()
    )
    if schedule.ndim != 1 or schedule.dtype != torch.float64 or not falling:
        raise ValueError(
            f"timestep: got a schedule {schedule.dtype} {tuple(schedule.shape)}; wanted ā (steps,) in "
            "float64, in (0, 1) and falling"
        )
    if not 0 < sigma < math.inf:
        raise ValueError(f"timestep: got sigma {sigma}; wanted a positive number")
    ratios = ((1 - schedule) / schedule).sqrt() / 2  # in pixel units
    if not ratios[0] / 2 <= sigma <= 2 * ratios[-1]:
        raise ValueError(
            f"timestep: got sigma {sigma:g}; the model has seen noise from {ratios[0]:.3g} to "
            f"{ratios[-1]:.3g}"
        )
    return int((ratios.log() - math.log(sigma)).abs().argmin())


class OneShot(nn.Module):
    """Denoises (B, C, H, W) in pixel units that have noise `sigma`, by one call of a diffusion model.

    `net(x_t, steps)` is called with steps (B,) int64 and gives ε (B, C, H, W), or (B, 2C, H, W) where it
    predicts the variance as well, which is left unused; an object with the field `sample` holds it there.
    """

    def __init__(self, net: nn.Module, schedule: Tensor, *, sigma: float) -> None:
        super().__init__()
        self.net, self.sigma, self.at = net, sigma, timestep(schedule, sigma)
        signal = 1 / (1 + 4 * sigma**2)
        self.scale, self.noise = math.sqrt(signal), math.sqrt(1 - signal)

    def forward(self, x: Tensor) -> Tensor:
        noisy = self.scale * (2 * x - 1)
        steps = torch.full((len(x),), self.at, dtype=torch.int64, device=x.device)
        said = self.net(noisy, steps)
        epsilon = cast(Tensor, getattr(said, "sample", said))[:, : x.shape[1]]
        clean = (noisy - self.noise * epsilon) / self.scale
        return (clean.clamp(-1, 1) + 1) / 2


def diffusion_denoiser(source: Path | str, *, sigma: float) -> OneShot:
    """The unconditional UNet of the library `diffusers` at `source`, a folder or a name, for noise `sigma`.

    The schedule is that of its DDPM scheduler, worked out anew in float64. Only safetensors are read.

    Raises ModuleNotFoundError without the extra `diffusers`, ValueError for what is not such a model, and as
    `timestep`.
    """
    call, place = f"diffusion_denoiser({source})", str(source)
    with _quiet():
        net, told, config = _read(call, place)
    if lacking := [f"{what} {', '.join(map(str, names[:3]))}" for what, names in told.items() if names]:
        raise ValueError(
            f"{call}: weights do not fit the config ({'; '.join(lacking)}); wanted those of this very model"
        )
    want_finite(call, Path(place), net.state_dict())
    return OneShot(net.eval(), _schedule(call, dict(config)), sigma=sigma)


def _read(call: str, place: str) -> tuple[nn.Module, Mapping[str, Sequence[object]], Mapping[str, Any]]:
    """The network, which of its weights were missing or left over, and the config of its scheduler."""
    try:
        from diffusers import DDPMScheduler, UNet2DModel
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "diffusion_denoiser: needs diffusers; install it with pip install 'dualrs-lab[diffusers]'"
        ) from error
    whole = (Path(place) / "unet").is_dir()
    try:
        net, told = UNet2DModel.from_pretrained(
            place,
            subfolder="unet" if whole else None,
            use_safetensors=True,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
        config = DDPMScheduler.load_config(place, subfolder="scheduler" if whole else None)
    except Exception as error:  # the library raises what it likes for files and names
        raise ValueError(
            f"{call}: {type(error).__name__}: {error}; wanted a folder or a name of the hub with a "
            "UNet2DModel in safetensors and the config of its scheduler"
        ) from error
    return net, told, config


@contextmanager
def _quiet() -> Iterator[None]:
    # the library logs what other libraries lack; what is wrong with a model is raised
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


def _schedule(call: str, config: dict[str, Any]) -> Tensor:
    """ā of a scheduler's config; only models that predict ε are denoisers here."""
    steps, kind = int(config.get("num_train_timesteps", 1000)), config.get("beta_schedule", "linear")
    if config.get("prediction_type", "epsilon") != "epsilon":
        raise ValueError(f"{call}: the model predicts {config['prediction_type']!r}; wanted 'epsilon'")
    first, last = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    made: dict[str, Callable[[], Tensor]] = {
        "linear": lambda: linear_schedule(steps, first, last),
        "scaled_linear": lambda: _cumulated(
            torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2
        ),
        "squaredcos_cap_v2": lambda: cosine_schedule(steps),
    }
    if config.get("trained_betas") is not None:
        return _cumulated(torch.tensor(config["trained_betas"], dtype=torch.float64))
    if kind not in made:
        raise ValueError(f"{call}: the schedule is {kind!r}; wanted one of {', '.join(made)}")
    return made[kind]()


def _cumulated(betas: Tensor) -> Tensor:
    return torch.cumprod(1 - betas, dim=0)
