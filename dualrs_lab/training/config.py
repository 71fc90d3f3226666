"""How long and how fast to train."""

from dataclasses import dataclass, replace

from dualrs_lab.data.images import Images
from dualrs_lab.settings import COUNT, SEED, SHARE, Range, check_settings, required, setting

__all__ = ["TrainConfig", "recipe"]


_DECAY, _PART = Range(least=0, most=1e6), Range(least=0, below=1)


_BORDER = Range(whole=True, least=0, most=10_000)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation and augmentation; the defaults suit the fast network on 32x32 photographs."""

    epochs: int = required("passes over the images", COUNT)
    seed: int = required("of everything drawn", SEED)
    batch: int = setting(512, "images a step", Range(whole=True, least=2, most=COUNT.most))
    lr: float = setting(0.4, "the peak; SGD with Nesterov momentum", Range(above=0, most=1e6))
    momentum: float = setting(0.9, "of the steps before", Range(least=0, below=1))
    weight_decay: float = setting(5e-4, "on matrices and kernels, not on biases and BatchNorm", _DECAY)
    warmup: float = setting(
        0.2, "share of the steps in which the rate rises linearly; then it falls as a cosine", _PART
    )
    crop: int = setting(4, "pixels of reflected border for random crops; 0 for none", _BORDER)
    flip: bool = True  # mirror half the images: right for photographs, wrong for digits
    bfloat16: bool | None = None  # autocast; None: where the hardware is faster with it
    average: float = setting(
        0.0, "share of the steps that the running mean of the weights remembers; 0: the last weights", SHARE
    )

    def __post_init__(self) -> None:
        check_settings(self)


_STEPS, _LEAST = 16, 16  # an epoch has so many steps at least, and a batch so many images


def recipe(images: Images, *, epochs: int, seed: int) -> TrainConfig:
    """Sensible settings for these images: no shifts of tiny ones, mirrors for photographs only.

    Above 64x64, batch, rate and decay are those by which ImageNet is trained (Goyal et al. 2017). Where the
    images are few, batches are smaller and the rate with them, so that an epoch still has some steps.
    """
    side = max(images.shape[1:])
    mirror = images.name.partition(":")[0] not in ("digits", "svhn", "fashion_mnist")
    if side <= 16:
        return TrainConfig(epochs=epochs, seed=seed, batch=128, lr=0.1, crop=0, flip=mirror)
    config = TrainConfig(epochs=epochs, seed=seed, flip=mirror)
    if side > 64:
        config = replace(config, batch=256, lr=0.1, weight_decay=1e-4)
    batch = min(config.batch, max(_LEAST, len(images) // _STEPS))
    return replace(config, batch=batch, lr=config.lr * batch / config.batch)
