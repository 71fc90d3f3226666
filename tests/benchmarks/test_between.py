"""An expert for a level between those of the others: how it was made, and what is said of it."""

from pathlib import Path

import pytest
import torch

from benchmarks.between import LEGS, LEVEL, STARTS, TRIED, Leg, main, trained
from benchmarks.dial import BETWEEN, CAT_RS, TAUGHT, kind_at, network_of
from benchmarks.gpu.certifying import RADII, fresh
from benchmarks.pages.between import (
    ahead,
    apart,
    counted_ahead,
    gained,
    promised,
    tried,
)
from benchmarks.pages.silence import AT, alone, beside_half, beyond, chosen, rows, table, told
from benchmarks.pages.text import read_info
from benchmarks.silence import ASKED, certified, of_row
from benchmarks.silent_votes import (
    ARMS,
    CONFIDENCES,
    GOALS,
    NEAREST,
    SHOWN,
    TOLD,
    counted,
    halves,
    learnt,
    worth,
)
from dualrs_lab.cascade import CascadeCertificate, search_cascade
from dualrs_lab.data import load_images
from dualrs_lab.evidence import average_radius, certified_accuracy, read_table
from dualrs_lab.files import digest
from dualrs_lab.models import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


def test_a_network_goes_on_leg_by_leg_and_is_trained_once(tmp_path: Path) -> None:
    images = load_images("digits", "train")
    start, path = tmp_path / "start.safetensors", tmp_path / "made.safetensors"
    data = {"name": images.title, "classes": list(images.classes), "shape": list(images.shape)}
    save_checkpoint(start, fresh(images, "digits_narrow"), data=data, sigma=0.5)
    legs = (Leg(seconds=1.0, lr=0.01), Leg(seconds=1.5, lr=0.02))
    made = trained(path, start, images, legs, CPU)
    info = read_info(path.with_suffix(".json"))
    training = info["training"]
    assert training["start"] == {start.name: digest(start)}
    assert [leg["recipe"]["lr"] for leg in training["legs"]] == [0.01, 0.02]
    assert {row["leg"] for row in info["history"]} == {0, 1}
    begun = load_checkpoint(start)[0]
    assert any(not torch.equal(a, b) for a, b in zip(made.parameters(), begun.parameters(), strict=True))
    before = path.read_bytes()
    trained(path, tmp_path / "no such start", images, legs, CPU)  # nothing is trained again
    assert path.read_bytes() == before


def test_the_network_that_ships_is_the_one_that_its_record_tells_of() -> None:
    path, start = network_of(LEVEL, BETWEEN), network_of(STARTS[0], CAT_RS)
    training = read_info(path.with_suffix(".json"))["training"]
    assert training["start"] == {start.name: digest(start)}
    assert training["sigma"] == LEVEL
    for leg, planned in zip(training["legs"], LEGS, strict=True):
        assert leg["recipe"]["lr"] == planned.lr
        assert 0.9 * planned.seconds < leg["seconds"] < 1.05 * planned.seconds


def test_the_other_levels_are_those_of_cat_rs() -> None:
    assert [kind_at(sigma, BETWEEN) for sigma in ASKED[BETWEEN]] == [BETWEEN, CAT_RS, CAT_RS]
    ours, theirs = told(BETWEEN), told()
    assert (ours.labels == theirs.labels).all()
    assert ours.plain == theirs.plain == (0.25,)
    for sigma in ASKED[BETWEEN][1:]:
        pair = (votes.counts[:, votes.levels.index(sigma)] for votes in (ours, theirs))
        assert (next(pair) == next(pair)).all()
    assert (ours.counts[:, 0] != theirs.counts[:, 0]).any()
    with pytest.raises(ValueError, match=r"no votes at σ = 0\.7"):
        counted(TOLD, ASKED[BETWEEN])


def test_all_images_choose_the_cascade_that_ships() -> None:
    """Mending only the best list of each length ends at 0.064."""
    found = learnt(SHOWN, told(BETWEEN))
    assert found.cascade == chosen(kind=BETWEEN)
    assert found.worth == pytest.approx(rows(BETWEEN).loc[(SHOWN, ARMS[0]), "held_out"], abs=2.5e-3)
    assert found.worth > 0.07


def test_lists_that_begin_at_random_lead_out_of_where_exchange_ends() -> None:
    """By 500 of the images: all that is grown has the same weakness, which no single exchange mends."""
    half = told(BETWEEN).about(next(halves(1000)))
    how = {"goal": GOALS[SHOWN], "confidences": CONFIDENCES, "plain": half.plain}
    grown, drawn, again = (
        search_cascade(half.counts, half.labels, half.levels, **how, starts=starts) for starts in (0, 12, 12)
    )
    assert drawn.worth > grown.worth + 0.005
    assert again == drawn  # by the same seed


def test_the_worth_follows_from_the_shipped_votes() -> None:
    found = worth({CAT_RS: told(), BETWEEN: told(BETWEEN)}, [SHOWN]).set_index(["goal", "networks"])
    kept = promised().loc[[SHOWN]]
    assert [*found.index] == [*kept.index]
    assert found.to_numpy() == pytest.approx(kept.to_numpy(), abs=2.5e-3)  # of another SciPy


def test_what_all_images_choose_is_certified_from_the_shipped_tables() -> None:
    assert [*rows(BETWEEN).index] == [(goal, arm) for goal in (*GOALS, NEAREST) for arm in ARMS]
    for key, row in rows(BETWEEN).iterrows():
        found = certified(of_row(row), kind=BETWEEN)
        assert len(found) == row["images"] == 250
        assert certified_accuracy(found, RADII) == pytest.approx(row[AT].tolist(), abs=1e-6)
        assert average_radius(found) == pytest.approx(row["acr"], abs=1e-6), key
    kept = read_table(TAUGHT / "cascade_silent_between.tsv")
    claims = [CascadeCertificate.from_row(row) for row in kept.to_dict("records")]
    assert {claim.cascade for claim in claims} == {chosen(kind=BETWEEN)}
    assert [claim.recomputed() for claim in claims] == pytest.approx(kept["radius"].tolist(), rel=1e-9)


def test_what_the_page_says_of_promises_holds() -> None:
    asked_there = next(arm for arm in TRIED if TRIED[arm] is None)
    alone_by = tried().mean(axis=1)
    assert alone_by[asked_there] < alone_by["σ = 1"] < alone_by["from σ = 1"] < alone_by["from σ = 0.5"]
    ours, theirs = ahead(BETWEEN), ahead(CAT_RS)
    assert ours[AT[1:]].min() > 0.04 > 0.03 > theirs[AT[1:]].min()
    assert (ours >= theirs).all()
    assert 0.01 < gained(SHOWN) < 0.02
    means = [gained(goal) for goal in GOALS if goal != SHOWN]
    assert 0 < gained("small") == min(means) < max(means) == gained("large") < 0.01
    assert gained(NEAREST) > 0


def test_what_the_page_says_of_certificates_holds() -> None:
    assert counted_ahead()[AT[1:]].min() > 0.04
    assert beyond(kind=BETWEEN).min() > 0
    paid = apart().mean()
    assert min(paid["0.75":"2"]) > 0 > paid["0.25"] > -0.015
    assert paid["0.75":"2"].idxmax() == "1.5"
    large = beside_half("large", BETWEEN)
    assert large[AT[:-1]].min() > -0.025
    assert large["2"] > 0.09 > 0.05 > certified_accuracy(table("large"), [2.0])[0]
    assert average_radius(alone(1.0)) > max(average_radius(table(kind=BETWEEN)), average_radius(table()))


def test_arms_that_are_missing_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--parts", "tried"])
    assert "--data" in capsys.readouterr().err
    assert {*TRIED} < {*tried().index}
