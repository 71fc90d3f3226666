"""Residual networks: those of He et al. (2016) for CIFAR and ImageNet, and wide ones."""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from dualrs_lab.models.body import Body, run_stages


class CifarResNet(Body):
    """ResNet-20/56/110 for 32x32 images (He et al. 2016, section 4.2), with Cohen et al.'s 1x1 shortcuts."""

    def __init__(self, classes: int, channels: int, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _residual_stage(16, 16, blocks, stride=1)
        self.layer2 = _residual_stage(16, 32, blocks, stride=2)
        self.layer3 = _residual_stage(32, 64, blocks, stride=2)
        self.fc = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, x: Tensor) -> list[Tensor]:
        return run_stages((self.layer1, self.layer2, self.layer3), F.relu(self.bn1(self.conv1(x))))


class WideStart(Body):
    """A residual network that begins wide and at half the resolution: large products, which a GPU likes.

    The stem sees 6x6 pixels in steps of 2; two stages of two blocks follow, 1.9 M parameters for 10 classes.
    """

    def __init__(self, classes: int, channels: int, widths: tuple[int, int] = (128, 192)) -> None:
        super().__init__()
        first, second = widths
        self.stem = nn.Sequential(
            nn.Conv2d(channels, first, 6, 2, padding=2, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
        )
        self.layer1 = _residual_stage(first, first, 2, stride=1)
        self.layer2 = _residual_stage(first, second, 2, stride=2)
        self.fc = nn.Linear(second, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, x: Tensor) -> list[Tensor]:
        return run_stages((self.layer1, self.layer2), self.stem(x))


def _residual_stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))


class ResNet18(TorchvisionResNet):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's ResNet-18 with one 3x3 convolution for its stride-4 stem, as usual at 32x32."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=classes)
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = cast(nn.MaxPool2d, nn.Identity())

    def stages(self, x: Tensor) -> list[Tensor]:
        return _torchvision_stages(self, x)


class ResNet50(TorchvisionResNet):  # type: ignore[misc]
    """torchvision's ResNet-50, for 224x224 images in colour."""

    def __init__(self, classes: int, channels: int) -> None:
        if channels != 3:
            raise ValueError(
                f"make_model: this network takes 3 colour channels, got {channels}; use 'resnet18' instead"
            )
        super().__init__(Bottleneck, [3, 4, 6, 3], num_classes=classes)

    def stages(self, x: Tensor) -> list[Tensor]:
        return _torchvision_stages(self, x)


def _torchvision_stages(net: TorchvisionResNet, x: Tensor) -> list[Tensor]:
    stem = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    return run_stages((net.layer1, net.layer2, net.layer3, net.layer4), stem)


class WideBlock(nn.Module):
    """Pre-activation residual block (Zagoruyko & Komodakis 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        residual = x if self.shortcut is None else self.shortcut(activated)
        return cast(Tensor, residual + self.conv2(F.relu(self.bn2(self.conv1(activated)))))


class WideResNet(Body):
    """WRN-34-10 for 32x32 and 64x64 images: three stages of five pre-activation blocks, ten times as wide."""

    def __init__(self, classes: int, channels: int, depth: int = 34, widen: int = 10) -> None:
        super().__init__()
        blocks, widths = (depth - 4) // 6, [16, 16 * widen, 32 * widen, 64 * widen]
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1, self.block2, self.block3 = (
            _wide_stage(widths[i], widths[i + 1], blocks, stride=1 if i == 0 else 2) for i in range(3)
        )
        self.bn1 = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self, x: Tensor) -> list[Tensor]:
        last = nn.Sequential(self.block3, self.bn1, nn.ReLU())
        return run_stages((self.block1, self.block2, last), self.conv1(x))


def _wide_stage(inputs: int, outputs: int, blocks: int, *, stride: int) -> nn.Sequential:
    rest = (WideBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(WideBlock(inputs, outputs, stride), *rest)
