"""Recorded votes are those of the table, whole or refused; other draws do not pass for these."""

from pathlib import Path

import numpy as np
import pytest

from dualrs_lab.data import Images, load_images
from dualrs_lab.models import make_model
from dualrs_lab.smoothing import (
    AtRadii,
    GaussianNoise,
    GridNoise,
    NoiseBlocks,
    RecordedVotes,
    Spec,
    certify_table,
    count_votes,
    recorded_steps,
)

SPEC = {"noise": GridNoise(0.25), "seed": 2, "n0": 30, "n": 200, "alpha": 0.01}


def network(seed: int = 0):
    return make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.4], seed=seed).eval()


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "test").select(range(12))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, digits) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "t.tsv"
    certify_table(network(), digits, path, spec=Spec(**SPEC), skip=2, progress=False)
    return path


def test_votes_are_those_that_sampling_gives(recorded: Path, digits: Images) -> None:
    votes, idx = RecordedVotes("call", recorded, [0, 4, 10], 10), np.array([10, 0])
    x = digits.pixels[idx]
    for stream, n, found in (
        ("selection", 30, votes.guess(x, idx)),
        ("estimation", 200, votes.count(x, idx, np.zeros((2, 10), dtype=np.int64), 0.5)[0]),
    ):
        blocks = NoiseBlocks(SPEC["noise"], digits.shape, seed=2, stream=stream)
        # Folding BatchNorm moves logits by 1e-6: a vote or two may tip.
        assert np.abs(found - count_votes(network(), x, blocks, n=n, classes=10)).max() <= 1
    assert votes.count(x, idx, np.zeros((2, 10), dtype=np.int64), 0.5)[1].tolist() == [200, 200]


def test_missing_images_are_named(recorded: Path) -> None:
    with pytest.raises(ValueError, match=r"call: .*t\.tsv lacks 2 of 3 images, idx 1 first; certify them"):
        RecordedVotes("call", recorded, [0, 1, 3], 10)


def test_only_the_same_draws_pass(recorded: Path, digits: Images) -> None:
    assert recorded_steps("call", recorded, network(), digits, Spec(**SPEC))["fold"] is True
    assert recorded_steps("call", recorded, network(), digits, Spec(**SPEC | {"alpha": 0.5}))["fold"] is True
    others = {
        "seed": 3,
        "n0": 31,
        "n": 201,
        "noise": GaussianNoise(0.25),
        "sigma": GridNoise(0.5),
        "stop": AtRadii(radii=(0.1,)),
    }
    for named, value in others.items():
        changed = Spec(**SPEC | {"noise" if named == "sigma" else named: value})
        with pytest.raises(ValueError, match=rf"call: .*other settings \({named}\)"):
            recorded_steps("call", recorded, network(), digits, changed)
    with pytest.raises(ValueError, match=r"other settings \(model\)"):
        recorded_steps("call", recorded, network(1), digits, Spec(**SPEC))
    with pytest.raises(ValueError, match=r"other settings \(images\)"):
        recorded_steps("call", recorded, network(), digits.select(range(11)), Spec(**SPEC))
    with pytest.raises(ValueError, match="no record beside it"):
        recorded_steps("call", recorded.with_name("none.tsv"), network(), digits, Spec(**SPEC))
