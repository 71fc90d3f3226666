"""GPU hours of the profile cifar100 follow from what was timed, and from what the profile asks for."""

import pytest

from benchmarks.pages import cifar100


@pytest.mark.slow
def test_work_is_counted_as_the_papers_networks_have_it() -> None:
    work = cifar100.forward()
    assert work["ResNet-18"] == pytest.approx(2 * 0.556e9, rel=0.01)  # multiplications with additions
    assert work["WideResNet-70-16"] == pytest.approx(2 * 38.8e9, rel=0.01)
    assert work["ResNet-152"] > 25 * work["ResNet-18"]


def test_seconds_are_those_between_two_steps_of_the_record() -> None:
    assert cifar100.seconds_between("pgd …", "at: 10000") == pytest.approx(437.10 - 431.87)
    with pytest.raises(StopIteration):
        cifar100.seconds_between("nothing", "at: 10000")


@pytest.mark.slow
def test_hours_grow_with_what_is_asked() -> None:
    values = cifar100.profile()
    once, twice = (cifar100.hours(values | {"auto_images": n * values["auto_images"]}) for n in (1, 2))
    assert twice["AutoAttack"] == pytest.approx(2 * once["AutoAttack"])
    assert twice["head"] == once["head"]
    assert once["all"] == pytest.approx(sum(once[name] for name in ("head", "systems", "AutoAttack")))
    # APGD of 1,000 images was timed: what one system takes of it, at the work of these networks
    work = cifar100.forward()
    times = (work["WideResNet-70-16"] + work["ResNet-152"]) / work["ResNet-18"]
    timed = times * cifar100.seconds_between("apgd …", "at: 1000") / 3600
    assert once["AutoAttack"] > 2 * timed * values["auto_images"] / 1000
    more = cifar100.hours(values | {"steps": 2 * values["steps"]})
    assert once["head"] < more["head"] < 2 * once["head"]
