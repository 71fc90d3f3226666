"""Cascades of experts that are silent where unsure: rows follow from votes, and what is said holds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.gpu.certifying import RADII
from benchmarks.pages.silence import AT, VOTES, gained, promised, tried
from benchmarks.pages.taught import TAUGHT
from benchmarks.silence import ARMS, CONFIDENCES, GOALS, LEVELS, NEAREST, main, of_row, promise
from dualrs_lab.cascade import THRESHOLDS, Cascade, search_cascade
from dualrs_lab.combine import read_image_votes


def test_the_rows_follow_from_the_shipped_votes(tmp_path: Path) -> None:
    (tmp_path / VOTES.name).write_bytes(VOTES.read_bytes())
    record = VOTES.with_suffix(".json")
    (tmp_path / record.name).write_bytes(record.read_bytes())
    main(["--data", "none", "--parts", "promised", "--out", str(tmp_path)])
    found, kept = (pd.read_csv(folder / "silence_promised.csv") for folder in (tmp_path, TAUGHT))
    assert found[["goal", "arm"]].equals(kept[["goal", "arm"]])
    assert found[AT].to_numpy() == pytest.approx(kept[AT].to_numpy(), abs=2.5e-3)  # of another SciPy
    assert [*promised().index] == [(goal, arm) for goal in (*GOALS, NEAREST) for arm in ARMS]


def test_a_promise_is_what_the_search_finds_of_its_own_images() -> None:
    counts, labels, about = read_image_votes(VOTES, LEVELS)
    assert about["sure"]["confidences"] == [*CONFIDENCES]
    how = {"goal": GOALS["alike"], "confidences": CONFIDENCES, "stages": 2, "width": 2}
    found = search_cascade(counts, labels, LEVELS, **how, thresholds=THRESHOLDS[1:5])
    assert promise(found.cascade, counts, labels) == pytest.approx(list(found.curve))


def test_what_the_page_says_holds() -> None:
    assert (gained("small") > 0).all()
    for goal in (*GOALS, NEAREST):
        assert gained(goal).mean() > 0
    assert gained("large")["0":"0.75"].min() > 0
    assert gained("large")["1":].abs().max() < 0.02
    assert gained("alike").abs().mean() > gained("alike").mean()  # here more and there less
    mean = tried().mean(axis=1)
    plain = [lever for lever in tried().index if lever.startswith("silent below")]
    assert mean[plain].min() > mean.drop(plain).max()


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
