"""Experts trained as a system from the start: what they share, how they are judged, what came of it."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from benchmarks import from_start as bench
from benchmarks.gpu.certifying import RADII, fresh
from benchmarks.pages.from_start import LONGER, SHORT, SMALL, ahead, arms, means
from dualrs_lab.data import Images, load_images
from dualrs_lab.smoothing import FastPath
from dualrs_lab.training import Gaussian

CALL = ["--data", "digits", "--network", "digits_narrow", "--seconds", "0.3", "--draws", "20"]


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "train")


def experts(digits: Images, *, trunk: bool) -> bench.Experts:
    return bench.Experts(partial(fresh, digits, "digits_narrow"), len(bench.SIGMAS), trunk=trunk)


@pytest.mark.parametrize("trunk", [False, True])
def test_one_trunk_has_its_kernels_in_common_and_all_else_apart(digits: Images, trunk: bool) -> None:
    made = bench.Together(experts(digits, trunk=trunk), digits, bench.APART, bench.RECIPE)
    made.start(experts(digits, trunk=trunk), seed=0)
    made.train(steps=3, seed=0)
    first, second, _ = made.model.members
    for name, part in first.named_modules():
        other = second.get_submodule(name)
        if isinstance(part, nn.Conv2d):
            assert torch.equal(part.weight, other.weight) == trunk
        elif isinstance(part, nn.BatchNorm2d | nn.Linear):
            assert not torch.equal(part.weight, other.weight)
    whole = sum(weight.numel() for weight in made.model.parameters())
    own = sum(weight.numel() for weight in first.parameters())
    assert (whole < 1.2 * own) == trunk  # of these small networks the kernels are nearly all


def test_each_loses_what_it_loses_alone(digits: Images) -> None:
    model = experts(digits, trunk=False).eval()
    pixels, y = digits.batch(torch.arange(8))
    x = pixels.float() / 255
    found = bench.APART(model, x, y, torch.Generator().manual_seed(0)).item()
    generator = torch.Generator().manual_seed(0)
    alone = [
        Gaussian(sigma=sigma)(member, x, y, generator).item()
        for sigma, member in zip(bench.SIGMAS, model.members, strict=True)
    ]
    assert found == pytest.approx(sum(alone), rel=1e-6)


def test_votes_are_judged_alone_and_in_cascades() -> None:
    labels = np.arange(40) % 2
    counts = np.zeros((40, 3, 2), dtype=np.int64)
    counts[np.arange(40), :, labels] = 1000  # all are right about all …
    counts[:10, 0] = 500  # … but for σ = 1, which is torn about a quarter of them
    curves = bench.judged(counts, labels)
    assert curves["σ = 1"][0] == curves["σ = 1"][-1] == 0.75
    assert curves["σ = 0.5"][RADII.index(1.25)] == 1
    assert curves["σ = 0.25"][RADII.index(1.0)] == 0
    best = np.maximum(curves["σ = 1"], np.maximum(curves["σ = 0.5"], curves["σ = 0.25"]))
    assert np.mean(curves["cascade"]) >= max(np.mean(curves[f"σ = {s:g}"]) for s in bench.SIGMAS)
    assert (np.asarray(curves["cascade"]) <= best + 1e-9).all()


def test_arms_that_are_there_are_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {"dtype": torch.float32, "fast": FastPath.plain()}  # compiling takes longer than all else
    monkeypatch.setattr(bench, "quick", lambda device: plain)
    arms = ["one trunk", "for their cascade at the end"]
    rows = bench.main([*CALL, "--arms", *arms, "--out", str(tmp_path)])
    assert rows["arm"].tolist() == [arm for arm in arms for _ in range(4)]
    monkeypatch.setattr(bench, "taught", lambda *_: pytest.fail("there is nothing to train"))
    pd.testing.assert_frame_equal(bench.main([*CALL, "--arms", *arms, "--out", str(tmp_path)]), rows)


def test_what_the_page_says_of_it_holds() -> None:
    assert [*arms().index.unique("arm")] == [*bench.ARMS]
    assert ahead("one trunk")[:SMALL].min() > 0.02
    mean = {arm: means()[arm, "cascade"] for arm in bench.ARMS}
    assert max(mean, key=lambda arm: mean[arm]) == "one trunk"
    late, early = (
        arms().loc[(f"for their cascade {when}", "cascade")] for when in ("at the end", "from the start")
    )
    curve = [f"{r:g}" for r in RADII]
    assert (late[curve] > early[curve]).all()
    assert late["epochs"] > 1.5 * early["epochs"]
    gap, later = (
        means(name)["one trunk", "cascade"] - means(name)["each for itself", "cascade"]
        for name in (SHORT, LONGER)
    )
    assert gap > later > 0
    assert ahead("one trunk", LONGER)[:SMALL].min() < 0
    gained = ahead("for their cascade at the end")
    assert gained["0":"0.25"].max() < 0 < gained["1":].min()
