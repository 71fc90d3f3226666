"""What is measured: a network with images, and the same job for every arm."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.baselines import Art, Textbook
from dualrs_lab.data import load_images
from dualrs_lab.evidence import Certificate
from dualrs_lab.experiment import Experiment
from dualrs_lab.models import Classifier, load_checkpoint, make_model
from dualrs_lab.runtime import fold_seed, make_generator
from dualrs_lab.smoothing import AllDraws, FastPath, FrozenVoter, GridNoise, Spec, Stopping, certify, freeze
from dualrs_lab.training import Gaussian, new_network, recipe, train

__all__ = [
    "SHIPPED",
    "Subject",
    "digits",
    "labelled_images",
    "noise_pixels",
    "shipped",
    "untrained",
]

SHIPPED = Experiment.shipped(Path(__file__).resolve().parent.parent / "data").expert(0.5)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network, images and the settings of a certificate; its methods make the arms that get this job."""

    name: str
    network: nn.Module  # float32, in evaluation mode
    x: Tensor  # uint8 (N, C, H, W), where the network lives
    labels: Sequence[int]  # -1: unknown
    classes: int
    sigma: float
    n0: int = 100
    alpha: float = 0.001
    seed: int = 0
    batch: int = 400  # noisy images per pass of the baselines
    engine_batch: int | None = None  # the same for the engine; None: as suits the device

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    @property
    def device(self) -> torch.device:
        return self.x.device

    def image(self, position: int = 0) -> Tensor:
        """The image as float (C, H, W) in [0, 1], as the baselines take it."""
        return self.x[position % len(self.x)].float() / 255

    def textbook(self, n: int) -> Textbook:
        generator = make_generator(self.seed, "benchmark", "textbook", device=self.device)
        return Textbook(
            network=self.network, classes=self.classes, sigma=self.sigma, n0=self.n0, n=n, alpha=self.alpha,
            batch=self.batch, generator=generator,
        )  # fmt: skip

    def art(self) -> Art:
        return Art(
            self.network, self.shape, classes=self.classes, sigma=self.sigma, n0=self.n0, alpha=self.alpha,
            device=self.device,
        )  # fmt: skip

    def voter(self, fast: FastPath, dtype: torch.dtype) -> FrozenVoter:
        return freeze(
            self.network, GridNoise(self.sigma), self.shape, classes=self.classes, device=self.device,
            dtype=dtype, fast=fast, batch=self.engine_batch, calibration=self.x,
        )  # fmt: skip

    def certify(
        self,
        voter: FrozenVoter,
        n: int,
        *,
        positions: Sequence[int] | None = None,
        stop: Stopping | None = None,
    ) -> list[Certificate]:
        """Certify the images at `positions` (all by default) with the engine: what `certify_table` does.

        A pass depends on the noise level through the noise alone, so one voter serves them all.
        """
        chosen = range(len(self.x)) if positions is None else positions
        spec = Spec(
            noise=GridNoise(self.sigma), seed=self.seed, n0=self.n0, n=n, alpha=self.alpha,
            stop=stop or AllDraws(), batch=self.engine_batch,
        )  # fmt: skip
        labels = [self.labels[position] for position in chosen]
        x = self.x[list(chosen)]
        return certify(voter, x, classes=self.classes, spec=spec, labels=labels, idx=chosen)

    def of_size(self, pixels: int, images: int) -> "Subject":
        """The same network on random pixels of another size."""
        x = noise_pixels((images, self.shape[0], pixels, pixels), self.seed).to(self.device)
        return replace(self, x=x, labels=[-1] * images)

    def repeated(self, images: int) -> "Subject":
        """The same with this many images, repeated where there are fewer."""
        order = [i % len(self.x) for i in range(images)]
        return replace(self, x=self.x[order], labels=[self.labels[i] for i in order])


def untrained(name: str, device: torch.device, *, images: int, **settings: Any) -> Subject:
    """A fresh CIFAR-10-like network on random pixels: what a draw costs depends on neither."""
    network = make_model(name, classes=10, channels=3, mean=[0.5] * 3, std=[0.25] * 3, seed=0)
    return _on_random_pixels(f"{name}, untrained", network.to(device).eval(), images, settings)


def shipped(path: Path, device: torch.device, *, images: int, **settings: Any) -> Subject:
    """A checkpoint on random 32x32 pixels."""
    network, _ = load_checkpoint(path, device=device)
    return _on_random_pixels(str(network.architecture["name"]), network, images, settings)


def labelled_images(data: str, path: Path, device: torch.device, *, images: int, **settings: Any) -> Subject:
    """A checkpoint on test images of the data set `data`."""
    network, _ = load_checkpoint(path, device=device)
    return _on_images(data, network, images, settings)


def digits(device: torch.device, *, images: int, epochs: int, **settings: Any) -> Subject:
    """A small network for the embedded digits, trained on the spot within seconds."""
    training = load_images("digits", "train")
    seed = settings["seed"]
    network = new_network("digits_cnn", training, seed=seed)
    config = recipe(training, epochs=epochs, seed=seed)
    train(network, training, objective=Gaussian(sigma=settings["sigma"]), config=config, progress=False)
    return _on_images("digits", network.to(device), images, settings)


def _on_random_pixels(name: str, network: Classifier, images: int, settings: dict[str, Any]) -> Subject:
    channels, classes = (int(network.architecture[key]) for key in ("channels", "classes"))
    x = noise_pixels((images, channels, 32, 32), settings["seed"]).to(next(network.parameters()).device)
    name = f"{name} on random pixels"
    return Subject(name=name, network=network, x=x, labels=[-1] * images, classes=classes, **settings)


def _on_images(data: str, network: Classifier, images: int, settings: dict[str, Any]) -> Subject:
    # Evenly spaced, since folders are sorted by class; in random order, so that a part represents all.
    test = load_images(data, "test")
    even = torch.linspace(0, len(test) - 1, min(images, len(test))).round().long()
    generator = torch.Generator().manual_seed(fold_seed(settings["seed"], "order"))
    pixels, labels = test.batch(even[torch.randperm(len(even), generator=generator)])
    x = pixels.to(next(network.parameters()).device)
    name, classes = f"{network.architecture['name']} on {test.title}", len(test.classes)
    return Subject(
        name=name, network=network.eval(), x=x, labels=labels.tolist(), classes=classes, **settings
    )  # fmt: skip


def noise_pixels(shape: tuple[int, ...], seed: int) -> Tensor:
    """Random uint8 pixels, the same for the same seed."""
    generator = torch.Generator().manual_seed(fold_seed(seed, "pixels"))
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
