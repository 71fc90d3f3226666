"""Peers on CIFAR-10: the tables that are shipped follow from votes, and the page says what they say."""

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import peers as bench
from benchmarks.pages import peers as page
from benchmarks.quality import BOTH, RADII, N
from dualrs_lab.data import Images
from dualrs_lab.evidence import radius_ceiling


def test_the_board_follows_from_the_votes() -> None:
    found = bench.board(page.smooth(), pd.read_csv(page.PEERS / "near.csv"))
    pd.testing.assert_frame_equal(found, page.board(), atol=1e-6)


def test_near_pairs_are_all_that_a_memory_can_ask_for() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (9, 3, 4, 4), dtype=torch.uint8, generator=generator)
    labels, classes = torch.zeros(9, dtype=torch.int64), ("one",)
    images = Images(pixels=pixels, labels=labels, classes=classes, name="toy", split="test")
    idx = np.array([1, 4, 6, 8])
    near = bench.near_pairs(images, idx)
    assert len(near) == 6  # such small images are all near
    away = bench.away_of(near, idx)
    exact = (pixels[4].double() - pixels[8].double()).norm().item() / 255
    assert away[1, 3] == away[3, 1] == pytest.approx(exact)
    assert (away.diagonal() == 0).all()
    assert np.isinf(bench.away_of(near[:0], idx)).sum() == 12


def test_the_words_hold() -> None:
    found, table, radii = page.board(), page.smooth(), [f"{r:g}" for r in RADII]
    smooth, single = found.loc[f"{bench.SMOOTH}{BOTH}"], found.loc[f"σ = 0.5{BOTH}"]
    naive = found.loc[f"{bench.SMOOTH}{bench.FALSE}{BOTH}"]
    assert table["sigma"].between(0.45, 0.55).all()  # hardly changes
    assert smooth["acr"] < single["acr"]
    assert (naive[radii] >= smooth[radii]).all()
    rates = (*page.RATES, page.wide_rate())
    left = {dims: [page.curse(rate, dims) for rate in rates] for dims in page.DIMS.values()}
    assert all((np.diff(shares) < 0).all() for shares in left.values())
    assert left[64][1] > 0.95  # the same rate costs little there
    assert left[3072][-1] < 0.25
    memory, oracle = found.loc[f"{bench.MEMORY}{BOTH}"], found.loc[f"oracle{BOTH}"]
    none = ("no classifier", "not valid", "oracle", "envelope")
    classifiers = [name for name in found.index if not any(word in name for word in none)]
    assert memory["acr"] > found.loc[classifiers, "acr"].max()
    assert memory["acr"] > 0.9 * oracle["acr"]
    claims = page.memory()
    assert len(claims) == 500
    assert claims["radius"].max() <= radius_ceiling(N, 0.001, 1.0)
    over_cascade, routed, over_single, _ = page.gains().values()
    assert all((other < 0).all() for other in (over_cascade, routed, over_single))
