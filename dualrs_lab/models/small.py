"""Networks that a CPU trains in seconds (8x8 images) or minutes (32x32)."""

from torch import Tensor, nn

from dualrs_lab.models.body import Body, run_stages


class DigitsCnn(Body):
    """Three convolutions for 8x8 digits: 0.1 M parameters, a quarter at half the widths; seconds on a CPU."""

    def __init__(self, classes: int, channels: int, widths: tuple[int, int, int] = (32, 64, 128)) -> None:
        super().__init__()
        first, second, third = widths
        self.layer1 = _conv_block(channels, first)
        self.layer2 = nn.Sequential(_conv_block(first, second), nn.MaxPool2d(2))
        self.layer3 = _conv_block(second, third)
        self.fc = nn.Linear(third, classes)

    def stages(self, x: Tensor) -> list[Tensor]:
        return run_stages((self.layer1, self.layer2, self.layer3), x)


def _conv_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class FastNet(Body):
    """A few wide layers for 32x32 images, in the spirit of airbench (Jordan 2024).

    A 2x2 stem and three blocks of two convolutions; the first of a block is pooled before its BatchNorm, so
    most of the arithmetic runs on small maps. Convolutions start as identities on their first channels.
    """

    def __init__(self, classes: int, channels: int, widths: tuple[int, int, int] = (64, 256, 256)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 24, 2, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True)
        )
        inputs = (24, *widths[:-1])
        self.layer1, self.layer2, self.layer3 = (
            _fast_block(*pair) for pair in zip(inputs, widths, strict=True)
        )
        self.fc = nn.Linear(widths[-1], classes)

    def stages(self, x: Tensor) -> list[Tensor]:
        return run_stages((self.layer1, self.layer2, self.layer3), self.stem(x))


def _fast_block(inputs: int, outputs: int) -> nn.Sequential:
    first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
    for conv in (first, second):
        nn.init.dirac_(conv.weight[: conv.in_channels])
    return nn.Sequential(
        first, nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        second, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
    )  # fmt: skip
