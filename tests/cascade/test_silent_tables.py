"""Cascades of networks that vote where they are sure: sampled, from tables, and asked again."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from dualrs_lab.cascade import (
    Cascade,
    CascadeCertificate,
    CascadeSpec,
    attack_cascade,
    certify_cascade_table,
    from_tables,
)
from dualrs_lab.data import Images, load_images
from dualrs_lab.evidence import at_confidence, join_votes, read_table
from dualrs_lab.models import Graded
from dualrs_lab.smoothing import FastPath, GridNoise, SmoothedAttack, Spec, certify_table
from dualrs_lab.store import read_record
from tests.smoothing.test_graded_tables import Sharp

LEVELS, CONFIDENCES = (0.5, 0.25), (0.3, 0.5)
CASCADE = Cascade(LEVELS, answers=10, confidences=(0.5, 0.3))
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


def sampled(
    digits: Images, path: Path, cascade: Cascade, confidences: tuple[float, ...] | None = None
) -> pd.DataFrame:
    """Experts at these confidences, those of the cascade unless others are given; 0 for a plain one."""
    each = cascade.sure if confidences is None else confidences
    experts = [Graded(Sharp().eval(), (s,)) if s else Sharp().eval() for s in each]
    spec = CascadeSpec(cascade=cascade, n_side=400, **HOW)
    return certify_cascade_table(experts, digits, path, spec=spec, progress=False)


AGAIN = Cascade((0.5, 0.25, 0.5), (0.2, 0.0, 0.0), answers=10, confidences=(0.3, 0.0, 0.5))


@pytest.mark.parametrize("cascade", [CASCADE, Cascade(LEVELS, (), (), 10, (0.3, 0.0)), AGAIN], ids=str)
def test_tables_counted_by_a_confidence_give_the_radii_that_sampling_gives(
    tmp_path: Path, digits: Images, tables: dict[float, pd.DataFrame], cascade: Cascade
) -> None:
    found = sampled(digits, tmp_path / "t.tsv", cascade)
    joined = from_tables(tables, cascade=cascade)
    for name in ("idx", "label", "predict", "correct", "sigma", "answers"):
        assert joined[name].tolist() == found[name].tolist()
    assert joined["radius"].tolist() == pytest.approx(found["radius"].tolist(), abs=1e-12)
    assert (joined["radius"] > 0).sum() > 5
    assert [f"votes_{name}" for name in cascade.names] == [name for name in joined if "votes" in name]
    claims = [CascadeCertificate.from_row(row) for row in joined.to_dict("records")]
    assert {claim.cascade for claim in claims} == {replace(cascade, thresholds=cascade.limits)}
    assert [claim.recomputed() for claim in claims] == joined["radius"].tolist()
    identity = read_record(tmp_path / "t.tsv")["identity"]
    assert identity["sure"] == [[s] if s else [] for s in cascade.sure]
    assert identity["cascade"]["answers"] == 10
    assert identity["cascade"]["confidences"] == [*cascade.sure]
    assert read_table(tmp_path / "t.tsv")["answers"].tolist() == [10] * 30
    if not cascade.sure[1]:  # others are another system, and do not go on
        other = replace(cascade, confidences=(0.31, *cascade.sure[1:]))
        with pytest.raises(ValueError, match=r"other settings .*sure"):
            sampled(digits, tmp_path / "t.tsv", other)


def test_draws_that_serve_two_experts_count_once(tables: dict[float, pd.DataFrame]) -> None:
    joined = from_tables(tables, cascade=AGAIN)
    once = [tables[sigma]["time"].to_numpy() for sigma in LEVELS]
    assert joined["time"].tolist() == pytest.approx((once[0] + once[1]).tolist())


def test_of_every_vote_it_is_the_cascade_of_plain_networks(
    tables: dict[float, pd.DataFrame], digits: Images, tmp_path: Path
) -> None:
    plain = from_tables(tables, cascade=Cascade(LEVELS))
    found = sampled(digits, tmp_path / "t.tsv", Cascade(LEVELS))
    assert plain["radius"].tolist() == pytest.approx(found["radius"].tolist(), abs=1e-12)
    identity = read_record(tmp_path / "t.tsv")["identity"]
    assert "sure" not in identity
    assert not {"answers", "confidences"} & {*identity["cascade"]}


def test_what_knows_of_no_silence_counts_every_vote(tables: dict[float, pd.DataFrame]) -> None:
    joined = join_votes(tables, LEVELS)
    same = join_votes({s: at_confidence(table, 0) for s, table in tables.items()}, LEVELS)
    assert joined.votes.shape == (30, 2, 10)
    assert joined.votes.tolist() == same.votes.tolist()
    assert (joined.votes.sum(axis=2) == HOW["n"]).all()
    assert any(":" in cell and int(cell.split()[-1].split(":")[0]) >= 10 for cell in tables[0.5]["votes"])


def test_who_may_be_silent_has_to_be_said(
    tables: dict[float, pd.DataFrame], digits: Images, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=r"silent below \(0\.5, 0\.0\), and a cascade with confidences \(0\.0, 0"
    ):
        sampled(digits, tmp_path / "t.tsv", Cascade(LEVELS), (0.5, 0.0))
    with pytest.raises(ValueError, match="answers=9 for images of 10 classes; wanted answers=10"):
        sampled(digits, tmp_path / "t.tsv", Cascade(LEVELS, answers=9))
    with pytest.raises(ValueError, match="wanted how many classes are answers, too"):
        Cascade(LEVELS, confidences=(0.5, 0.0))
    with pytest.raises(ValueError, match=r"wanted different positive sigmas, or different confidences"):
        Cascade((0.5, 0.5), answers=10, confidences=(0.3, 0.3))
    with pytest.raises(ValueError, match=r"confidence in \[0, 1\) for each of 2"):
        Cascade(LEVELS, answers=10, confidences=(0.3,))
    with pytest.raises(ValueError, match="answers=11, wanted answers=10"):
        from_tables(tables, cascade=replace(CASCADE, answers=11))


def test_votes_have_to_be_told_apart_by_the_confidence_that_is_asked_for(
    tables: dict[float, pd.DataFrame],
) -> None:
    counted = {s: at_confidence(tables[s], c) for s, c in zip(LEVELS, CASCADE.sure, strict=True)}
    same = from_tables(counted, cascade=CASCADE)
    assert same["radius"].tolist() == from_tables(tables, cascade=CASCADE)["radius"].tolist()
    with pytest.raises(ValueError, match=r"of σ = 0\.25@0\.5 are silent below 0\.3; .*--sure 0\.5"):
        from_tables(counted, cascade=replace(CASCADE, confidences=(0.5, 0.5)))
    with pytest.raises(ValueError, match=r"of σ = 0\.5 are silent below 0\.5; wanted one of all votes"):
        from_tables(counted, cascade=Cascade(LEVELS))
    plain = {s: table.copy() for s, table in tables.items()}
    for table in plain.values():
        table.attrs = {}
    with pytest.raises(ValueError, match=r"of σ = 0\.5@0\.5 are not told apart by how sure they are"):
        from_tables(plain, cascade=CASCADE)
    with pytest.raises(ValueError, match=r"got confidence 0\.7; votes are told apart by 0\.3, 0\.5"):
        from_tables(tables, cascade=replace(CASCADE, confidences=(0.7, 0.3)))


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
