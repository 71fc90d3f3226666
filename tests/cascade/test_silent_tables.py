"""Cascades of networks that vote where they are sure: sampled, from tables, and learnt."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dualrs_lab.cascade import (
    SURE_THRESHOLDS,
    Cascade,
    CascadeCertificate,
    CascadeSpec,
    attack_cascade,
    cascade_front,
    certify_cascade_table,
    from_tables,
    steps,
)
from dualrs_lab.data import Images, load_images
from dualrs_lab.evidence import at_confidence, read_table, sure_votes
from dualrs_lab.models import Graded
from dualrs_lab.smoothing import FastPath, GridNoise, SmoothedAttack, Spec, certify_table
from dualrs_lab.store import read_record
from tests.cascade.test_cascade_learning import as_if
from tests.smoothing.test_graded_tables import Sharp

LEVELS, CONFIDENCES = (0.5, 0.25), (0.3, 0.5)
CASCADE = Cascade(LEVELS, answers=10)
HOW = {"seed": 0, "n0": 50, "n": 400, "fast": FastPath(compile=False)}


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "test").select(range(30))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory, digits: Images) -> dict[float, pd.DataFrame]:
    folder, network = tmp_path_factory.mktemp("silent"), Graded(Sharp().eval(), CONFIDENCES)
    return {
        sigma: certify_table(
            network,
            digits,
            folder / f"t{sigma}.tsv",
            spec=Spec(noise=GridNoise(sigma), **HOW),
            progress=False,
        )
        for sigma in LEVELS
    }


def sampled(digits: Images, path: Path, confidences: tuple[float, ...], cascade: Cascade) -> pd.DataFrame:
    """Both experts at these confidences, 0 for a plain one."""
    experts = [Graded(Sharp().eval(), (s,)) if s else Sharp().eval() for s in confidences]
    spec = CascadeSpec(cascade=cascade, n_side=400, **HOW)
    return certify_cascade_table(experts, digits, path, spec=spec, progress=False)


@pytest.mark.parametrize("confidences", [(0.5, 0.3), (0.3, 0.0)])
def test_tables_counted_by_a_confidence_give_the_radii_that_sampling_gives(
    tmp_path: Path, digits: Images, tables: dict[float, pd.DataFrame], confidences: tuple[float, ...]
) -> None:
    found = sampled(digits, tmp_path / "t.tsv", confidences, CASCADE)
    counted = {s: at_confidence(tables[s], c) for s, c in zip(LEVELS, confidences, strict=True)}
    joined = from_tables(counted, cascade=CASCADE)
    for name in ("idx", "label", "predict", "correct", "sigma", "answers"):
        assert joined[name].tolist() == found[name].tolist()
    assert joined["radius"].tolist() == pytest.approx(found["radius"].tolist(), abs=1e-12)
    assert (joined["radius"] > 0).sum() > 5
    claims = [CascadeCertificate.from_row(row) for row in joined.to_dict("records")]
    assert [claim.recomputed() for claim in claims] == joined["radius"].tolist()
    identity = read_record(tmp_path / "t.tsv")["identity"]
    assert identity["sure"] == [[s] if s else [] for s in confidences]
    assert identity["cascade"]["answers"] == 10
    assert read_table(tmp_path / "t.tsv")["answers"].tolist() == [10] * 30
    if not confidences[1]:  # others are another system, and do not go on
        with pytest.raises(ValueError, match=r"other settings .*sure"):
            sampled(digits, tmp_path / "t.tsv", (0.31, 0.0), CASCADE)


def test_of_every_vote_it_is_the_cascade_of_plain_networks(
    tables: dict[float, pd.DataFrame], digits: Images, tmp_path: Path
) -> None:
    plain = from_tables({s: at_confidence(tables[s], 0) for s in LEVELS}, cascade=Cascade(LEVELS))
    found = sampled(digits, tmp_path / "t.tsv", (0.0, 0.0), Cascade(LEVELS))
    assert plain["radius"].tolist() == pytest.approx(found["radius"].tolist(), abs=1e-12)
    identity = read_record(tmp_path / "t.tsv")["identity"]
    assert "sure" not in identity
    assert "answers" not in identity["cascade"]


def test_who_may_be_silent_has_to_be_said(
    tables: dict[float, pd.DataFrame], digits: Images, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="answers=None for images of 10 classes and experts that may be"):
        sampled(digits, tmp_path / "t.tsv", (0.5, 0.0), Cascade(LEVELS))
    with pytest.raises(ValueError, match="answers=9 for images of 10 classes; wanted answers=10"):
        sampled(digits, tmp_path / "t.tsv", (0.0, 0.0), Cascade(LEVELS, answers=9))
    with pytest.raises(ValueError, match=r"votes of sigma 0\.5 are for 10 classes.*answers=None, wanted"):
        from_tables(tables, cascade=Cascade(LEVELS))
    counted = {s: at_confidence(tables[s], 0.5) for s in LEVELS}
    with pytest.raises(ValueError, match="answers=11, wanted answers=10"):
        from_tables(counted, cascade=Cascade(LEVELS, answers=11))


def test_an_attack_counts_silence_for_nobody(digits: Images) -> None:
    """It looks for another class that is accepted, or for none, however silence is told apart."""
    x, labels = digits.batch(torch.arange(4))
    how = {"radii": torch.full((4,), 0.3), "attack": SmoothedAttack(seed=0, steps=3, draws=8)}
    loud = Sharp().eval()

    def silent(outputs: int):
        def answer(images: torch.Tensor) -> torch.Tensor:
            return torch.cat([loud(images), torch.full((len(images), outputs), 3.0 - math.log(outputs))], 1)

        return answer

    one, ten = (
        attack_cascade([silent(outputs)] * 2, x.float() / 255, labels, cascade=CASCADE, **how)
        for outputs in (1, 10)
    )
    torch.testing.assert_close(one, ten, atol=1e-4, rtol=1e-3)
    assert (one - x.float()[:, None] / 255).abs().max() > 0.01


# Learning.

RADII = (0.0, 0.25, 0.5, 0.75, 1.0)


def made(images: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(4 * 3, 0.4), size=(images, 2))
    labels = p.reshape(images, 2, 3, 4).sum(axis=(1, 2)).argmax(axis=1)
    return rng.multinomial(500, p), labels


def test_every_setting_has_a_confidence_for_each_expert_and_says_what_the_theorem_gives() -> None:
    counts, labels = made()
    how = {"radii": RADII, "draws": 2000, "alpha": 0.01, "confidences": CONFIDENCES}
    front = cascade_front(counts, labels, LEVELS, thresholds=(-0.2, 0.0), **how)
    ways = 2 * 3  # two thresholds, and two confidences or none
    assert len(front.cascades) == len(front.sure) == 2 * ways + 3 * ways**2
    assert {s for sure in front.sure for s in sure} == {0.0, *CONFIDENCES}
    for number in range(0, len(front.cascades), 5):
        cascade, sure = front.cascades[number], front.sure[number]
        assert cascade.answers == (4 if any(sure) else None)
        votes = [
            as_if(sure_votes(counts[:, LEVELS.index(sigma)], CONFIDENCES, s)[:, None], labels, 2000)
            for sigma, s in zip(cascade.sigmas, sure, strict=True)
        ]
        asked = np.concatenate(votes, axis=1)[..., :4]
        own = np.take_along_axis(asked, labels[:, None, None], axis=2)[..., 0]
        rival = np.where(np.arange(4) == labels[:, None, None], 0, asked).max(axis=2)
        rest = 2000 - own - rival
        own += np.minimum(rest, 0)  # rounded up, the rival may have one vote too many
        trio = np.stack([own, rival, np.maximum(rest, 0)], axis=2)
        two = Cascade(cascade.sigmas, cascade.thresholds, cascade.shares, 2)
        want = steps(trio, np.zeros(60, dtype=int), cascade=two, alpha=0.01)
        curve = [(want.radius > r).mean() for r in RADII]
        assert front.curves[number] == pytest.approx(curve)


def test_the_grid_holds_every_vote_and_a_majority() -> None:
    counts, labels = made()
    front = cascade_front(counts, labels, LEVELS, radii=RADII, confidences=CONFIDENCES)
    assert {limit for cascade in front.cascades for limit in cascade.limits} == {*SURE_THRESHOLDS}
    plain = cascade_front(sure_votes(counts, CONFIDENCES, 0)[..., :4], labels, LEVELS, radii=RADII)
    every = {(one, tuple(curve)) for one, curve in zip(front.cascades, front.curves.tolist(), strict=True)}
    same = {(one, tuple(curve)) for one, curve in zip(plain.cascades, plain.curves.tolist(), strict=True)}
    shared = {one for one in same if {*one[0].limits} <= {*SURE_THRESHOLDS}}
    assert shared
    assert shared <= every
    assert {s for sure in plain.sure for s in sure} == {0.0}


def test_an_expert_that_errs_where_it_is_not_sure_learns_to_be_silent_there() -> None:
    """Of large noise, right and sure on half of the images, wrong and unsure on the others."""
    rng, half = np.random.default_rng(1), np.arange(200) % 2 == 0
    right = rng.multinomial(1000, [0.98, 0.01, 0.01, 0, 0, 0], size=200)
    wrong = rng.multinomial(1000, [0, 0, 0, 0.02, 0.97, 0.01], size=200)  # class 1, below the confidence
    first = np.where(half[:, None], right, wrong)
    counts = np.stack([first, right], axis=1)
    front = cascade_front(counts, np.zeros(200, dtype=int), (1.0, 0.25), radii=RADII, confidences=(0.5,))
    best = front.best((1, 1, 1, 1, 1))
    assert front.sure[best][0] == 0.5
    assert front.curves[best][0] == 1.0
    assert front.curves[best][-1] == 0.5
    loud = [number for number, sure in enumerate(front.sure) if not any(sure)]
    assert front.curves[loud, 0][front.curves[loud, -1] == 0.5].max() == 0.5


def test_counts_that_no_confidences_tell_apart_are_refused() -> None:
    counts, labels = made()
    with pytest.raises(ValueError, match=r"got counts \(60, 2, 10\), .*; wanted \(N, K, C · 4\)"):
        cascade_front(counts[..., :10], labels, LEVELS, radii=RADII, confidences=(0.3, 0.5, 0.7))
    with pytest.raises(ValueError, match="wanted one of the 4 classes"):
        cascade_front(counts, labels + 4, LEVELS, radii=RADII, confidences=CONFIDENCES)
