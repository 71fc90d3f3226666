"""The mean of two recipes: what ships is that mean, and what is said of its worth follows from the votes."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks.dial import CAT_RS, CONSISTENCY, SOUP, TAUGHT, network_of
from benchmarks.pages.soups import ahead_by_goal, rows
from benchmarks.silence import SILENT
from benchmarks.silent_votes import GOALS, LEVELS, SHOWN, votes_name, worth
from benchmarks.soups import BESIDE, main, votes_of
from dualrs_lab.models import load_checkpoint

VOTES = TAUGHT / votes_name(network_of(LEVELS[0], SOUP))


@pytest.mark.parametrize("sigma", SILENT[SOUP])
def test_the_networks_that_ship_are_the_mean_of_their_parts(sigma: float) -> None:
    made, one, other = (load_checkpoint(network_of(sigma, k))[0] for k in (SOUP, CONSISTENCY, CAT_RS))
    for ours, *parts in zip(made.parameters(), one.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, (sum(parts) / 2).half().float())


def test_the_worth_follows_from_the_votes() -> None:
    found = worth({CAT_RS: votes_of(BESIDE), SOUP: votes_of(VOTES)}, [SHOWN]).set_index(["goal", "networks"])
    kept = rows().loc[[SHOWN]]
    assert [*found.index] == [*kept.index]
    assert found.to_numpy() == pytest.approx(kept.to_numpy(), abs=2.5e-3)  # of another SciPy


def test_what_the_page_says_of_it_holds() -> None:
    for goal in GOALS:
        assert -0.002 < ahead_by_goal(goal) < 0.01


def test_levels_that_were_not_averaged_are_those_by_cat_rs() -> None:
    ours, theirs = votes_of(VOTES), votes_of(BESIDE)
    assert (ours.labels == theirs.labels).all()
    changed = [bool((ours.counts[:, k] != theirs.counts[:, k]).any()) for k in range(len(LEVELS))]
    assert changed == [sigma in SILENT[SOUP] for sigma in LEVELS]


def test_nothing_is_counted_for_the_worth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.soups.worth", lambda votes, goals: rows().reset_index())
    found = main(["--data", "none", "--parts", "worth", "--out", str(tmp_path)])
    pd.testing.assert_frame_equal(found, rows())
    assert [path.name for path in tmp_path.iterdir()] == ["soups.csv"]
