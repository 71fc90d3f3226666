"""One call of a diffusion model as a denoiser: closed forms, schedules, and models of the library."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dualrs_lab.denoising import (
    Behind,
    OneShot,
    cosine_schedule,
    diffusion_denoiser,
    in_front,
    linear_schedule,
    timestep,
)
from dualrs_lab.smoothing import GaussianNoise, Spec, certify


class GaussianPrior(nn.Module):
    """The best prediction of ε where x_0 ~ N(0, spread²), told the step: (1 - ā) / ā decides."""

    def __init__(self, schedule: Tensor, spread: float) -> None:
        super().__init__()
        self.schedule, self.spread = schedule, spread

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        signal = self.schedule[steps].view(-1, 1, 1, 1).float()
        return (1 - signal).sqrt() * x / (signal * self.spread**2 + 1 - signal)


def exact(sigma: float) -> Tensor:
    """A schedule that holds ā = 1 / (1 + 4σ²) itself."""
    others = linear_schedule()
    return torch.cat(
        [others[others > 1 / (1 + 4 * sigma**2)], torch.tensor([1 / (1 + 4 * sigma**2)]).double()]
    )


@pytest.mark.parametrize("sigma", [0.12, 0.5, 1.0])
def test_one_call_gives_the_posterior_mean_under_a_gaussian_prior(sigma: float) -> None:
    schedule, spread = exact(sigma), 0.2
    denoiser = OneShot(GaussianPrior(schedule, spread), schedule, sigma=sigma)
    assert denoiser.at == len(schedule) - 1
    pixels = torch.rand((4, 3, 5, 5), generator=torch.Generator().manual_seed(0))
    shrunk = spread**2 / (spread**2 + 4 * sigma**2)  # of 2v - 1, whose noise is 2σ
    torch.testing.assert_close(denoiser(pixels), ((2 * pixels - 1) * shrunk + 1) / 2, rtol=1e-4, atol=1e-5)


def test_the_step_is_the_one_with_the_nearest_noise() -> None:
    schedule = linear_schedule()
    noise = ((1 - schedule) / schedule).sqrt() / 2
    for at in (3, 250, 700):
        assert timestep(schedule, float(noise[at])) == at
        between = float((noise[at] * noise[at + 1]).sqrt())
        assert timestep(schedule, 0.999 * between) == at
        assert timestep(schedule, 1.001 * between) == at + 1


def test_schedules_are_those_of_their_papers() -> None:
    linear, cosine = linear_schedule(), cosine_schedule()
    assert float(linear[0]) == pytest.approx(1 - 1e-4, rel=1e-12)
    assert float(linear[1]) == pytest.approx((1 - 1e-4) * (1 - 1e-4 - (0.02 - 1e-4) / 999), rel=1e-12)
    assert float(linear[-1]) == pytest.approx(4.04e-5, rel=0.01)  # Ho et al.: close to no signal
    assert float(cosine[499]) == pytest.approx(0.494, abs=0.001)
    betas = 1 - cosine[1:] / cosine[:-1]
    assert float(betas.max()) == pytest.approx(0.999)
    for schedule in (linear, cosine):
        assert schedule.dtype == torch.float64
        assert (schedule[1:] < schedule[:-1]).all()


@pytest.mark.parametrize(
    ("schedule", "sigma", "reason"),
    [
        (linear_schedule().float(), 0.5, "in float64"),
        (linear_schedule().flip(0), 0.5, "falling"),
        (linear_schedule(), 0.0, "positive"),
        (linear_schedule(), float("nan"), "positive"),
        (linear_schedule(), 500.0, "has seen noise from"),
        (linear_schedule(), 1e-4, "has seen noise from"),
    ],
)
def test_what_fits_no_step_is_refused(schedule: Tensor, sigma: float, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        timestep(schedule, sigma)


def test_answers_are_images_and_a_predicted_variance_is_left_unused() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor, steps: Tensor) -> Tensor:
            assert steps.dtype == torch.int64
            assert len(steps) == len(x)
            return torch.cat([torch.zeros_like(x), torch.full_like(x, 99.0)], dim=1)

    denoiser = OneShot(Both(), linear_schedule(), sigma=0.5)
    x = torch.tensor([-3.0, 0.25, 9.0]).view(1, 3, 1, 1)
    assert denoiser(x).flatten().tolist() == pytest.approx([0.0, 0.25, 1.0])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
        norm_num_groups=4, down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    net.save_pretrained(tmp_path / "unet")
    diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(tmp_path / "scheduler")
    return tmp_path


def test_a_model_of_the_library_is_an_expert_like_any_other(saved: Path) -> None:
    denoiser = diffusion_denoiser(saved, sigma=0.25)
    assert denoiser.at == timestep(cosine_schedule(), 0.25)
    x = torch.rand((2, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        noisy = (2 * x - 1) / (1 + 4 * 0.25**2) ** 0.5
        epsilon = denoiser.net(noisy, torch.full((2,), denoiser.at)).sample
        wanted = ((noisy - (1 - 1 / 1.25) ** 0.5 * epsilon) * 1.25**0.5).clamp(-1, 1) / 2 + 0.5
        torch.testing.assert_close(denoiser(x), wanted, rtol=1e-4, atol=1e-5)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval()
    spec = Spec(noise=GaussianNoise(0.25), seed=0, n=100, n0=20, alpha=0.01)
    (found,) = certify(Behind(denoiser, classifier), (255 * x[:1]).byte(), classes=4, spec=spec)
    assert found.n == 100
    named = in_front(f"diffusers:{saved}", classifier, sigma=0.25)
    assert torch.equal(named(x), Behind(denoiser, classifier)(x))
    assert named.info["denoiser"] == f"diffusers:{saved.name}"


def test_models_that_are_no_denoisers_are_refused(saved: Path, tmp_path: Path) -> None:
    config = json.loads((saved / "scheduler" / "scheduler_config.json").read_text())
    for setting, value in (("prediction_type", "v_prediction"), ("beta_schedule", "sigmoid")):
        (saved / "scheduler" / "scheduler_config.json").write_text(json.dumps(config | {setting: value}))
        with pytest.raises(ValueError, match="wanted"):
            diffusion_denoiser(saved, sigma=0.25)
    with pytest.raises(ValueError, match="wanted a folder or a name"):
        diffusion_denoiser(tmp_path / "nothing", sigma=0.25)


def test_a_model_that_lacks_weights_is_refused_and_none_is_made_up(saved: Path) -> None:
    """The library gives it random ones and logs that it did."""
    file = saved / "unet" / "diffusion_pytorch_model.safetensors"
    whole = load_file(file)
    save_file({name: value for name, value in whole.items() if name != "conv_in.weight"}, file)
    with pytest.raises(ValueError, match=r"do not fit the config \(missing_keys conv_in.weight\)"):
        diffusion_denoiser(saved, sigma=0.25)
    save_file(whole | {"odd.weight": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match=r"unexpected_keys odd.weight"):
        diffusion_denoiser(saved, sigma=0.25)


def test_what_the_library_logs_is_not_heard_and_logging_is_as_before(
    saved: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    load = diffusers.UNet2DModel.from_pretrained

    def noisy(*given: object, **how: object) -> object:
        for name in ("diffusers.models.modeling_utils", "torch.utils._pytree"):
            logging.getLogger(name).warning("a library speaks")
        return load(*given, **how)

    monkeypatch.setattr(diffusers.UNet2DModel, "from_pretrained", noisy)
    before = logging.root.manager.disable
    capfd.readouterr()
    diffusion_denoiser(saved, sigma=0.25)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ValueError, match="wanted a folder or a name"):
        diffusion_denoiser(saved / "nothing", sigma=0.25)
    assert logging.root.manager.disable == before
