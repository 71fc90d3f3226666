"""What the profile cifar100 of 25_adaptive would take on a GPU: measured there for ResNet-18, scaled by work.

Seconds are those of the same attacks on ResNet-18s, in the records of `benchmarks.gpu.adversarial`; work is
floating-point operations of a forward pass, counted. The parts of AutoAttack that were not timed are scaled
by passes: those of each part for an image that withstands it.
"""

import tomllib
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.pages.text import DATA, Facts, read_info, significant
from dualrs_lab.adapters import BigTransfer, DeepMindWide
from dualrs_lab.models import make_model
from dualrs_lab.smoothing import flops

__all__ = ["facts", "forward", "hours", "seconds_between"]

ADVERSARIAL = DATA / "cifar10_adversarial"
PROFILES = DATA.parent / "notebooks" / "profiles.toml"
FINE = 100
STEPS, TARGETS, QUERIES = 100, 9, 5000  # AutoAttack, standard: of APGD and FAB, classes aimed at, of Square
APGD = 2 * STEPS * (1 + TARGETS)  # passes, forward or backward: apgd-ce and apgd-t
AUTO = APGD + 2 * STEPS * TARGETS + QUERIES  # with fab-t and square
WHOLE = 9000  # test images but those that MixedNUTS is fitted on


def facts() -> Facts:
    """Placeholders of the page."""
    work, told = forward(), hours(profile())
    return {
        "cifar100_work": {name: f"{operations / 1e9:.0f}" for name, operations in work.items()},
        "cifar100_times": significant(_published(work) / work["ResNet-18"], 2),
        "cifar100_hours": {name: significant(value, 2) for name, value in told.items()},
        "cifar100_whole": significant(told["all"] + told["AutoAttack"] * (WHOLE / _auto_images() - 1), 2),
        "cifar100_auto": f"{_auto_images():,}",
        "cifar100_machine": read_info(ADVERSARIAL / "adversarial.json")["device_name"],
    }


def profile() -> dict[str, Any]:
    """Values of the profile."""
    return dict(tomllib.loads(PROFILES.read_text("utf-8"))["25_adaptive"]["cifar100"])


def _auto_images() -> int:
    return int(profile()["auto_images"])


def forward() -> dict[str, int]:
    """Operations of a pass of one image: of the published networks, and of the one that was timed."""
    with torch.device("meta"):
        wide = DeepMindWide(FINE, 3, 11, 16, relu=False)
        transfer = BigTransfer(FINE, 3, [3, 8, 36, 3], 128)
    small = make_model("resnet18", classes=10, channels=3, mean=[0.0] * 3, std=[1.0] * 3, seed=0)
    return {
        "WideResNet-70-16": flops(wide, (3, 32, 32)),
        "ResNet-152": flops(transfer, (3, 128, 128)),
        "ResNet-18": flops(small, (3, 32, 32)),
    }


def _published(work: Mapping[str, int]) -> int:
    return work["WideResNet-70-16"] + work["ResNet-152"]


def seconds_between(first: str, last: str, name: str = "adversarial") -> float:
    """From the step of a GPU stage that begins with `first` to the next one that begins with `last`."""
    steps = read_info(ADVERSARIAL / f"{name}.json")["steps"]
    start = next(at for at, one in enumerate(steps) if str(one["step"]).startswith(first))
    end = next(one for one in steps[start + 1 :] if str(one["step"]).startswith(last))
    return float(end["at"]) - float(steps[start]["at"])


def hours(values: Mapping[str, Any]) -> dict[str, float]:
    """GPU hours of the parts of the profile with these `values`, and of all of them."""
    work = forward()
    times = _published(work) / work["ResNet-18"]
    pgd = seconds_between("pgd …", "at: 10000") / (10_000 * 2 * 20)  # a pass of an image, forward or backward
    apgd = seconds_between("apgd …", "at: 1000") / (1000 * APGD)  # mostly of those that withstand it
    systems = 2 + len(values["weights"]) + len(values["ranges"]) + 1
    # on g, on h, on each system, and three more that push the weight of an adaptive one
    attacks = 2 + systems + 3 * len(values["ranges"])
    judged = 2  # the adaptive mix and MixedNUTS
    seconds = {
        "head": pgd * values["trained"] * values["train_epochs"] * (2 * values["steps"] + 4),
        "systems": pgd * values["attacked"] * 2 * 20 * attacks + pgd * values["fitted"] * 2 * 20,
        "AutoAttack": values["auto_images"] * judged * (apgd * AUTO + pgd * 2 * STEPS * 4),
    }
    found = {name: times * value / 3600 for name, value in seconds.items()}
    return found | {"all": sum(found.values())}
