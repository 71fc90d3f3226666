"""Settings of all systems: one check, one identity, which holds all that rows depend on and nothing else."""

import dataclasses

import pytest
import torch

from dualrs_lab.cascade import Cascade, CascadeSpec
from dualrs_lab.dual import DualSpec, Median, Plurality, Split
from dualrs_lab.smoothing import (
    AllDraws,
    AtRadii,
    FastPath,
    GaussianNoise,
    GridNoise,
    Sampling,
    Spec,
    as_rule,
)
from dualrs_lab.store import plain

SPECS = [
    Spec(noise=GridNoise(0.25), seed=1),
    DualSpec(estimator=Median(0.5), sigmas=(0.25, 0.5), seed=1),
    CascadeSpec(cascade=Cascade((0.5, 0.25), (-0.1, 0.0)), seed=1),
]
OWN_SPLIT = Split(alpha=0.001, lower=(1e-4,), upper=(1e-4,), experts=(9e-4,) * 2, guessed_apart=True)
OTHER = {
    "seed": 2,
    "n0": 101,
    "n": 10_001,
    "n_estimator": 9_999,
    "n_side": 999,
    "alpha": 0.01,
    "stop": AtRadii(radii=(0.25,)),
    "sigmas": (0.25, 1.0),
    "estimator": Plurality(0.5),
    "split": OWN_SPLIT,
    "lazy": False,
    "cascade": Cascade((0.5, 0.25), (-0.2, 0.0)),
}
SPEED = {"batch": 100, "dtype": torch.bfloat16, "fast": FastPath.plain()}
each_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)


@each_spec
def test_the_identity_holds_every_setting_that_rows_depend_on(spec: Sampling) -> None:
    """And no other: those of speed are recorded by what they did to the networks."""
    identity = spec.identity()
    for field in dataclasses.fields(spec):
        if field.name in SPEED:
            assert dataclasses.replace(spec, **{field.name: SPEED[field.name]}).identity() == identity
            continue
        if field.name in ("rule", "certify", "paired"):  # see the next test, and test_original.py
            continue
        other = OTHER.get(field.name, GaussianNoise(0.25) if isinstance(spec, Spec) else GaussianNoise)
        changed = plain(dataclasses.replace(spec, **{field.name: other}).identity())
        assert changed != plain(identity), field.name
        assert changed.keys() == identity.keys()
    if isinstance(spec, Spec):
        assert dataclasses.replace(spec, noise=GridNoise(0.5)).identity() == identity | {"sigma": 0.5}


@each_spec
def test_an_identity_without_a_rule_is_that_of_the_first_tables(spec: Sampling) -> None:
    """They knew one rule only, and go on by its name; a cascade whose rule makes no difference has none."""
    first = "own-votes" if isinstance(spec, CascadeSpec) else "cohen"
    assert spec.identity()["rule"] == spec.rule == "two-bounds"
    assert "rule" not in dataclasses.replace(spec, rule=first).identity()
    if isinstance(spec, CascadeSpec):
        assert "rule" not in dataclasses.replace(spec, cascade=Cascade((0.5, 0.25))).identity()
    else:
        assert dataclasses.replace(spec, rule="selected").identity()["rule"] == "selected"
    with pytest.raises(ValueError, match=f"{type(spec).__name__}: got rule 'best'; wanted one of two-bounds"):
        dataclasses.replace(spec, rule="best")


@each_spec
@pytest.mark.parametrize(
    "changes",
    [
        {"n0": 0},
        {"n": 0},
        {"batch": 0},
        {"alpha": 0.0},
        {"alpha": 1.0},
        {"alpha": -0.1},
        {"seed": -1},
        {"n": 10**30},
        {"n": 100.0},
        {"batch": 2**70},
        {"alpha": float("nan")},
        {"seed": 2**63},
    ],
    ids=str,
)
def test_numbers_that_make_no_sense_are_refused_by_name(spec: Sampling, changes: dict) -> None:
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=rf"^{type(spec).__name__}: got {name} {value}; wanted a .*number >"):
        dataclasses.replace(spec, **changes)


def test_draws_of_a_system_are_checked_and_counted_like_the_others() -> None:
    assert [spec.draws for spec in SPECS] == [("n0", "n"), ("n0", "n", "n_estimator"), ("n0", "n", "n_side")]
    for spec in SPECS[1:]:
        with pytest.raises(ValueError, match=rf"got {spec.draws[-1]} 0; wanted a whole number >= 1"):
            dataclasses.replace(spec, **{spec.draws[-1]: 0})
    with pytest.raises(TypeError, match="seed"):
        Sampling()


def test_a_rule_is_known_by_name_and_settings() -> None:
    assert as_rule(AllDraws()) == {"rule": "AllDraws"}
    assert as_rule(Median(0.5)) == {"rule": "Median", "sigma": 0.5}
    assert as_rule(Median(0.5)) != as_rule(Plurality(0.5))


def test_compiling_is_weighed_by_the_draws_of_an_image() -> None:
    assert [spec.per_image for spec in SPECS] == [10_100, 10_000, 10_000]
