"""How long and how fast to train."""

from dataclasses import dataclass

from dualrs_lab.data.images import Images

__all__ = ["TrainConfig", "recipe"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation and augmentation; the defaults suit the fast network on 32x32 photographs."""

    epochs: int
    seed: int
    batch: int = 512
    lr: float = 0.4  # the peak; SGD with Nesterov momentum
    momentum: float = 0.9
    weight_decay: float = 5e-4  # on matrices and kernels, not on biases and BatchNorm
    warmup: float = 0.2  # share of the steps in which the rate rises linearly; then it falls as a cosine
    crop: int = 4  # pixels of reflected border for random crops; 0 for none
    flip: bool = True  # mirror half the images: right for photographs, wrong for digits
    bfloat16: bool | None = None  # autocast; None: where the hardware is faster with it

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2 or self.lr <= 0 or not 0 <= self.warmup < 1 or self.crop < 0:
            raise ValueError(
                "TrainConfig: wanted epochs >= 1, batch >= 2, lr > 0, warmup in [0, 1), crop >= 0; got "
                f"{self}"
            )


def recipe(images: Images, *, epochs: int, seed: int) -> TrainConfig:
    """Sensible settings for these images: no shifts of tiny ones, mirrors for photographs only."""
    tiny = max(images.shape[1:]) <= 16
    mirror = images.name.partition(":")[0] not in ("digits", "svhn", "fashion_mnist")
    if tiny:
        return TrainConfig(epochs=epochs, seed=seed, batch=128, lr=0.1, crop=0, flip=mirror)
    return TrainConfig(epochs=epochs, seed=seed, flip=mirror)
