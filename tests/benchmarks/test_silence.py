"""Cascades of experts that are silent where unsure: rows follow from votes, and what is said holds."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.dial import CAT_RS, table_of
from benchmarks.gpu.certifying import RADII, fresh
from benchmarks.pages.silence import (
    AT,
    alone,
    as_of_all,
    beside_half,
    beyond,
    chosen,
    gained,
    promised,
    reached,
    rows,
    tried,
)
from benchmarks.pages.taught import TAUGHT
from benchmarks.silence import SILENT, N, certified, main, of_row
from benchmarks.silent_votes import (
    ARMS,
    CONFIDENCES,
    GOALS,
    LEVELS,
    NEAREST,
    SHOWN,
    TOLD,
    counted,
    join_votes,
    promise,
)
from benchmarks.silent_votes import promised as promised_by_halves
from dualrs_lab.cascade import THRESHOLDS, Cascade, CascadeCertificate, search_cascade
from dualrs_lab.combine import read_image_votes
from dualrs_lab.data import load_images
from dualrs_lab.evidence import average_radius, certified_accuracy, read_table, reclaimed
from dualrs_lab.models import Graded
from dualrs_lab.smoothing import image_votes


@pytest.mark.parametrize("arm", ARMS)
def test_what_is_promised_follows_from_the_shipped_votes(arm: str) -> None:
    found = promised_by_halves(SHOWN, counted(TOLD), arm)
    kept = promised().loc[(SHOWN, arm)]
    assert [*found] == AT
    assert [*found.values()] == pytest.approx(kept.tolist(), abs=2.5e-3)  # of another SciPy
    assert [*promised().index] == [(goal, arm) for goal in (*GOALS, NEAREST) for arm in ARMS]


def test_levels_that_nobody_told_apart_bring_their_plain_votes(tmp_path: Path) -> None:
    told = counted(TOLD)
    assert told.plain == (0.25,)
    assert (told.counts[:, LEVELS.index(0.25), 10:] == 0).all()
    assert (told.counts.sum(axis=2) == [N, N, 2000]).all()
    few = tmp_path / TOLD.name
    held = load_file(TOLD)
    save_file({name: values[::2].copy() for name, values in held.items()}, few)
    record = json.loads(TOLD.with_suffix(".json").read_text())
    (few.with_suffix(".json")).write_text(json.dumps({**record, "sha256": None}))
    with pytest.raises(ValueError, match=r"other levels or images|sha256|changed"):
        counted(few)
    few.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match="read_image_votes"):  # a stranger's file has no record
        counted(few)


def test_levels_that_were_counted_apart_are_joined(tmp_path: Path) -> None:
    images = load_images("digits", "train").select(range(12))
    silent = SILENT[CAT_RS]
    networks = [Graded(fresh(images, "digits_narrow"), CONFIDENCES) for _ in silent]
    how = {"n": 20, "seed": 0, "progress": False}
    whole, parts = tmp_path / "whole.safetensors", []
    image_votes(networks, images, whole, sigmas=silent, **how)
    for sigma, network in zip(silent, networks, strict=True):
        parts.append(tmp_path / f"at{sigma:g}.safetensors")
        image_votes([network], images, parts[-1], sigmas=[sigma], **how)
    join_votes(parts, tmp_path / "joined.safetensors")
    for left, right in zip(
        read_image_votes(whole, silent),
        read_image_votes(tmp_path / "joined.safetensors", silent),
        strict=True,
    ):
        assert left == right if isinstance(left, dict) else (left == right).all()


def test_what_all_images_choose_is_certified_from_the_shipped_tables() -> None:
    assert [*rows().index] == [(goal, arm) for goal in (*GOALS, NEAREST) for arm in ARMS]
    for key, row in rows().iterrows():
        table = certified(of_row(row))
        assert len(table) == row["images"] == 250
        assert certified_accuracy(table, RADII) == pytest.approx(row[AT].tolist(), abs=1e-6)
        assert average_radius(table) == pytest.approx(row["acr"], abs=1e-6), key
    kept = read_table(TAUGHT / "cascade_silent.tsv")
    claims = [CascadeCertificate.from_row(row) for row in kept.to_dict("records")]
    assert {claim.cascade for claim in claims} == {chosen()}
    assert [claim.recomputed() for claim in claims] == pytest.approx(kept["radius"].tolist(), rel=1e-9)


def test_of_easy_images_an_estimate_takes_account() -> None:
    """Of 40 seeded draws of 250 images the estimate is off by half of what counting is, at every radius.

    The truth is that of a cascade whose certificates of all 1,000 images ship.
    """
    table = read_table(TAUGHT / "cascade_falling_back.tsv")
    truth, random = certified_accuracy(table, RADII), np.random.default_rng(0)
    off, errors = {"counted": [], "estimated": []}, []
    for _ in range(40):
        some = table[table["idx"].isin(random.choice(table["idx"], 250, replace=False))]
        found = as_of_all(some)
        off["counted"].append(certified_accuracy(some, RADII) - truth)
        off["estimated"].append(found["share"].to_numpy() - truth)
        errors.append(found["error"].to_numpy())
    size = {name: np.sqrt(np.mean(np.square(each), axis=0)) for name, each in off.items()}
    assert (size["estimated"][:-1] < 0.5 * size["counted"][:-1]).all()
    assert (
        size["estimated"] <= np.mean(errors, axis=0)
    ).all()  # which counts the choice of the 1,000 as well
    alone = reclaimed(read_table(table_of(0.5, CAT_RS)), "two-bounds")
    share = as_of_all(alone.iloc[::4])["share"]  # a level itself is explained without rest
    assert share.tolist() == pytest.approx(certified_accuracy(alone, RADII).tolist(), abs=1e-9)


def test_a_promise_is_what_the_search_finds_of_its_own_images() -> None:
    told = counted(TOLD)
    how = {"goal": GOALS["alike"], "confidences": CONFIDENCES, "stages": 2, "width": 2}
    found = search_cascade(told.counts, told.labels, LEVELS, **how, thresholds=THRESHOLDS[1:5])
    assert promise(found.cascade, told) == pytest.approx(list(found.curve))


def test_what_the_page_says_of_promises_holds() -> None:
    silent, every = reached(SHOWN)
    assert silent > 0.02 > 0 > every
    assert 0.03 < silent - every < 0.055
    silent, every = reached(NEAREST)
    assert 0.03 < silent - every < 0.055
    more = {goal: silent - every for goal in ("alike", "small", "large") for silent, every in [reached(goal)]}
    assert more.pop("small") > 0.01
    assert max(map(abs, more.values())) < 0.005  # hardly
    assert all(gained(goal).min() < 0 < gained(goal).max() for goal in ("alike", "small", "large"))
    mean = tried().mean(axis=1)
    plain = [lever for lever in tried().index if lever.startswith("silent below")]
    assert mean[plain].min() > mean.drop(plain).max()


def test_what_the_page_says_of_certificates_holds() -> None:
    assert beyond().min() > 0 > beyond(ARMS[1]).min()
    estimate = as_of_all(certified(chosen()))
    assert beyond().idxmin() == "2"
    assert 1 < beyond()["2"] / (100 * estimate["error"]["2"]) < 1.5
    levels = [reclaimed(read_table(table_of(sigma, CAT_RS)), "two-bounds") for sigma in LEVELS]
    best = np.max([certified_accuracy(level, RADII) for level in levels], axis=0)
    assert (estimate["share"] < best).all()
    for level in levels:
        assert (certified_accuracy(level, RADII) < estimate["share"]).any()
    assert (beside_half()["1":"1.5"] < 0).all()
    assert beside_half()["2"] > 0.09
    assert average_radius(alone(1.0)) > average_radius(certified(chosen()))


def test_a_row_without_confidences_is_read_back() -> None:
    row = {"sigmas": "0.5 0.25", "confidences": "0 0", "thresholds": "0 -0.3", "shares": np.nan}
    assert of_row(row) == Cascade((0.5, 0.25), (0.0, -0.3))
    again = of_row(pd.Series(row | {"sigmas": "0.5 0.5", "confidences": "0.3 0", "shares": "0.9 0.1"}))
    assert (again.answers, again.confidences, again.shares) == (10, (0.3, 0.0), (0.9, 0.1))
    assert len(RADII) == len(AT)


def test_images_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "--data" in capsys.readouterr().err
