"""Certificates through the engine:

closed forms, one answer in any company, and tables that survive a kill.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from dualrs_lab.data import Images, load_images
from dualrs_lab.evidence import ABSTAIN, Certificate, lower_bound
from dualrs_lab.models import make_model
from dualrs_lab.smoothing import (
    AtRadii,
    FastPath,
    GaussianNoise,
    GridNoise,
    InputSpecific,
    Spec,
    certify,
    certify_running,
    certify_table,
    job,
    predict,
)
from dualrs_lab.smoothing import frozen as fastpath

GRID = GridNoise(0.25)


def half_space(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([0.5 - x[:, 0], x[:, 0] - 0.5], dim=1)


def spec(**changes) -> Spec:
    return Spec(**{"noise": GRID, "seed": 0, "n0": 50, "n": 300, **changes})


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "test").select(range(60))


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)


def test_half_space_radius_is_the_clopper_pearson_radius_and_below_the_distance() -> None:
    # RS is tight for a half-space: the exact radius is the distance to the plane. Seeded; each statement may
    # fail with probability alpha = 1e-3.
    x = torch.tensor([[0.55, 0.0], [0.7, 0.3], [0.9, 1.0], [0.2, 0.4]])
    found = certify(half_space, x, classes=2, spec=spec(noise=GaussianNoise(0.3), n=20_000))
    for certificate, point in zip(found, x, strict=True):
        distance = abs(float(point[0]) - 0.5)
        assert 0 < certificate.radius < distance
        p = lower_bound(certificate.successes, 20_000, 0.0005)  # of two classes, the rest is the rival's
        assert certificate.radius == pytest.approx(0.3 * stats.norm.ppf(p), rel=1e-12)
        assert certificate.radius == certificate.recomputed()
        # 20,000 draws lose little: the expected loss is about z_0.001 standard errors of p.
        assert certificate.radius > distance - 0.3 * 0.06
    assert [c.predict for c in found] == [1, 1, 1, 0]


def test_a_point_on_the_boundary_abstains() -> None:
    (certificate,) = certify(
        half_space, torch.tensor([[0.5, 0.5]]), classes=2, spec=spec(noise=GaussianNoise(0.3))
    )
    assert certificate.predict == ABSTAIN
    assert certificate.radius == 0


def test_predict_answers_where_it_is_clear_and_abstains_where_not() -> None:
    x = torch.tensor([[0.9, 0.0], [0.5, 0.0], [0.1, 0.0]])
    answers = predict(half_space, x, classes=2, spec=spec(noise=GaussianNoise(0.3), n=2000))
    assert answers.tolist() == [1, ABSTAIN, 0]


def test_grid_half_space_matches_the_rounded_closed_form() -> None:
    # f(x) = [x1 >= 128/255] behind rounding: P = 1 - Phi((127.5/255 - x1)/sigma) exactly.
    x = torch.tensor([[150, 0], [128, 0], [100, 0]], dtype=torch.uint8)
    model = lambda z: torch.stack([127.5 / 255 - z[:, 0], z[:, 0] - 127.5 / 255], 1)  # noqa: E731
    found = certify(model, x, classes=2, spec=spec(n=50_000))
    for certificate, value in zip(found, (150, 128, 100), strict=True):
        p = stats.norm.cdf((value - 127.5) / 255 / 0.25)
        share = dict(certificate.votes)[1] / 50_000
        assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / 50_000)


def test_an_image_gets_the_same_certificate_alone_and_in_a_sweep(digits, network) -> None:
    network = network.eval()
    together = certify(network, digits.pixels[:23], classes=10, spec=spec())
    small = certify(network, digits.pixels[:23], classes=10, spec=spec(batch=100))
    alone = certify(network, digits.pixels[17:18], classes=10, spec=spec(), idx=[17])
    evidence = lambda c: (c.idx, c.selection, c.votes, c.radius)  # noqa: E731
    assert list(map(evidence, together)) == list(map(evidence, small))
    assert evidence(alone[0]) == evidence(together[17])


def test_running_certificates_end_in_that_of_certify_and_say_how_many_votes_they_have(
    digits, network
) -> None:
    settings = spec(noise=GridNoise(0.25), n=750, batch=200)
    how = {"classes": 10, "spec": settings, "label": 4, "idx": 7}
    seen = [*certify_running(network, digits.pixels[4:5], **how)]
    assert [one.n for one in seen] == [200, 400, 600, 750]
    (wanted,) = certify(network, digits.pixels[4:5], classes=10, spec=settings, labels=[4], idx=[7])
    assert (seen[-1].to_row() | {"time": 0}) == (wanted.to_row() | {"time": 0})
    assert all(one.radius == one.recomputed() for one in seen)
    with pytest.raises(ValueError, match="certify_running: got 2 inputs"):
        next(certify_running(network, digits.pixels[:2], **how))


def test_table_equals_the_list_and_carries_its_evidence(tmp_path: Path, digits, network) -> None:
    table = certify_table(
        network, digits, tmp_path / "t.tsv", spec=spec(), skip=5, max_images=7, progress=False
    )
    assert table["idx"].tolist() == [0, 5, 10, 15, 20, 25, 30]
    assert table["label"].tolist() == digits.labels[table["idx"].tolist()].tolist()
    for row in table.to_dict("records"):
        assert Certificate.from_row(row).recomputed() == row["radius"]
    made = json.loads((tmp_path / "t.json").read_text())
    assert made["identity"]["sigma"] == 0.25
    assert made["provenance"]["versions"]["torch"]


def test_table_goes_on_where_it_stopped_and_cuts_an_unfinished_line(tmp_path: Path, digits, network) -> None:
    whole = certify_table(network, digits, tmp_path / "whole.tsv", spec=spec(), progress=False)
    path = tmp_path / "cut.tsv"
    certify_table(network, digits, path, spec=spec(), max_images=23, progress=False)
    first = path.read_bytes()
    path.write_bytes(first + b"23\t4\t4\t0.3")
    resumed = certify_table(network, digits, path, spec=spec(batch=700), progress=False)
    assert path.read_bytes().startswith(first)
    assert_same(resumed, whole)
    before = path.read_bytes()
    assert_same(certify_table(network, digits, path, spec=spec(), progress=False), whole)
    assert path.read_bytes() == before


def assert_same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a.drop(columns="time"), b.drop(columns="time"))


@pytest.mark.parametrize(
    ("changes", "named"), [({"n": 301}, "n"), ({"seed": 1}, "seed"), ({"noise": GridNoise(0.5)}, "sigma")]
)
def test_table_of_other_settings_is_refused_and_left_alone(tmp_path, digits, network, changes, named) -> None:
    path = tmp_path / "t.tsv"
    certify_table(network, digits, path, spec=spec(), max_images=3, progress=False)
    before = path.read_bytes(), path.with_suffix(".json").read_bytes()
    with pytest.raises(ValueError, match=rf"other settings \({named}\)"):
        certify_table(network, digits, path, spec=spec(**changes), max_images=3, progress=False)
    assert (path.read_bytes(), path.with_suffix(".json").read_bytes()) == before


def test_table_of_other_settings_can_be_set_aside(tmp_path: Path, digits, network) -> None:
    path = tmp_path / "t.tsv"
    certify_table(network, digits, path, spec=spec(), max_images=3, progress=False)
    before = path.read_bytes()
    with pytest.warns(UserWarning, match=r"t\.tsv was made with other settings; it is now t_old1\.tsv"):
        certify_table(network, digits, path, spec=spec(seed=1), max_images=4, replace=True, progress=False)
    assert (tmp_path / "t_old1.tsv").read_bytes() == before
    assert len(path.read_text().splitlines()) == 5


def test_table_of_another_network_is_refused(tmp_path: Path, digits, network) -> None:
    certify_table(network, digits, tmp_path / "t.tsv", spec=spec(), max_images=3, progress=False)
    other = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=1)
    with pytest.raises(ValueError, match=r"other settings \(model\)"):
        certify_table(other, digits, tmp_path / "t.tsv", spec=spec(), progress=False)


SCRIPT = """
import sys
from dualrs_lab.data import load_images
from dualrs_lab.models import make_model
from dualrs_lab.smoothing import GridNoise, Spec, certify_table
network = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
spec = Spec(noise=GridNoise(0.25), seed=0, n0=50, n=500, batch=500)
images = load_images("digits", "test").select(range(120))
certify_table(network, images, sys.argv[1], spec=spec, progress=False)
"""


def test_kill_minus_nine_in_the_middle_loses_and_repeats_nothing(tmp_path: Path, network) -> None:
    path = tmp_path / "t.tsv"
    ends = []
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)])
        seen = rows(path)
        while process.poll() is None and rows(path) < seen + 50:
            time.sleep(0.002)
        process.kill()
        ends.append(process.wait())
    assert ends[0] == -signal.SIGKILL
    assert ends[1] in (-signal.SIGKILL, 0)  # what is left for the second may be done before it is killed
    images = load_images("digits", "test").select(range(120))
    clean = spec(n=500)
    undisturbed = certify_table(network, images, tmp_path / "u.tsv", spec=clean, progress=False)
    disturbed = certify_table(network, images, path, spec=clean, progress=False)
    assert_same(disturbed, undisturbed)
    assert len(path.read_text().splitlines()) == 121


def rows(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="alpha"):
        spec(alpha=0)
    with pytest.raises(TypeError, match="seed"):
        Spec(noise=GRID)
    with pytest.raises(ValueError, match="3 inputs, 2 labels"):
        certify(half_space, torch.zeros(3, 2), classes=2, spec=spec(noise=GaussianNoise(1)), labels=[0, 1])


RULES = [AtRadii(radii=(0.05, 0.2), futility=0.01), InputSpecific(pilot=100, loss=0.3)]


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_stops_early_takes_fewer_draws_and_every_radius_can_be_recomputed(
    tmp_path: Path, digits, network, rule
) -> None:
    table = certify_table(network, digits, tmp_path / "t.tsv", spec=spec(n=3000, stop=rule), progress=False)
    assert table["idx"].tolist() == list(range(60))
    assert (tmp_path / "t.tsv").read_text().splitlines()[1].startswith("0\t")  # in order on disk as well
    assert table["bound"].unique().tolist() == [rule.bound]
    assert (table["drawn"] <= 3000).all()
    assert table["drawn"].mean() < 1500
    assert (table["n"] <= table["drawn"]).all()
    for row in table.to_dict("records"):
        assert Certificate.from_row(row).recomputed() == row["radius"]
    made = json.loads((tmp_path / "t.json").read_text())
    assert made["identity"]["stop"]["rule"] == type(rule).__name__


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_stops_early_gives_an_image_the_same_certificate_in_any_company(
    tmp_path: Path, digits, network, rule
) -> None:
    early = spec(n=1500, stop=rule)
    whole = certify_table(network, digits, tmp_path / "a.tsv", spec=early, progress=False)
    parts = tmp_path / "b.tsv"
    certify_table(network, digits, parts, spec=early, max_images=17, progress=False)
    parts.write_bytes(parts.read_bytes() + b"17\t2\t")
    pd.testing.assert_frame_equal(
        certify_table(network, digits, parts, spec=spec(n=1500, stop=rule, batch=100), progress=False).drop(
            columns="time"
        ),
        whole.drop(columns="time"),
    )
    alone = certify(network.eval(), digits.pixels[31:32], classes=10, spec=early, idx=[31])[0]
    assert alone.votes == Certificate.from_row(whole.iloc[31].to_dict()).votes


def test_radii_at_which_images_stop_certify_nearly_what_all_draws_certify(digits) -> None:
    """A half-space, 61 points; all draws see at most 0.02 more radius here than the rule needs to see."""
    x = torch.stack([torch.linspace(0.2, 0.8, 61), torch.zeros(61)], dim=1)
    radii = (0.05, 0.1, 0.2)
    at_radii = spec(noise=GaussianNoise(0.3), n=20_000, stop=AtRadii(radii=radii))
    early = certify(half_space, x, classes=2, spec=at_radii)
    every = certify(half_space, x, classes=2, spec=spec(noise=GaussianNoise(0.3), n=20_000))
    for few, all_of_them in zip(early, every, strict=True):
        assert few.radius <= abs(float(x[few.idx, 0]) - 0.5)  # alpha = 0.001 each, seeded
        for radius in radii:
            assert few.radius >= radius or all_of_them.radius < radius + 0.02
    assert np.mean([c.drawn for c in early]) < 20_000 / 4


def test_the_record_says_what_was_sampled_and_how_often_it_votes_otherwise(tmp_path, digits, network) -> None:
    path = tmp_path / "t.tsv"
    fast = spec(dtype=torch.bfloat16, fast=FastPath(channels_last=False))
    certify_table(network, digits, path, spec=fast, max_images=5, progress=False)
    made = json.loads(path.with_suffix(".json").read_text())
    assert made["identity"]["fast"] == {
        "dtype": "bfloat16",
        "fold": True,
        "channels_last": False,
        "compile": False,
        "cuda_graph": False,
    }
    assert made["disagreement"]["draws"] >= 500
    assert 0 <= made["disagreement"]["share"] < 0.05
    with pytest.raises(ValueError, match=r"other settings \(fast\)"):
        certify_table(network, digits, path, spec=spec(), max_images=5, progress=False)


def test_a_choice_that_was_left_open_stays_what_it_was_when_the_table_was_begun(
    tmp_path, digits, network, monkeypatch
) -> None:
    path = tmp_path / "t.tsv"
    certify_table(network, digits, path, spec=spec(), max_images=5, progress=False)
    monkeypatch.setitem(fastpath._REPAYS, "cpu", 0.0)  # compiling would repay now
    table = certify_table(network, digits, path, spec=spec(), max_images=8, progress=False)
    assert len(table) == 8
    assert json.loads(path.with_suffix(".json").read_text())["identity"]["fast"]["compile"] is False


def test_a_finished_table_is_read_and_nothing_is_frozen(tmp_path, digits, network, monkeypatch) -> None:
    path = tmp_path / "t.tsv"
    table = certify_table(network, digits, path, spec=spec(), max_images=5, progress=False)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("nothing is left to sample")

    monkeypatch.setattr(job, "freeze", fail)
    pd.testing.assert_frame_equal(
        certify_table(network, digits, path, spec=spec(), max_images=5, progress=False), table
    )


def test_certifying_does_not_touch_a_network_in_training(tmp_path, digits) -> None:
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    certify_table(model, digits, tmp_path / "t.tsv", spec=spec(), max_images=2, progress=False)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_frozen_voter_certifies_as_a_table_does(tmp_path, digits, network) -> None:
    table = certify_table(network, digits, tmp_path / "t.tsv", spec=spec(), max_images=5, progress=False)
    device = torch.device("cpu")
    settings = {"classes": 10, "device": device, "dtype": torch.float32, "fast": FastPath()}
    voter = fastpath.freeze(network, GRID, digits.shape, **settings)
    alone = certify(voter, digits.pixels[:5], classes=10, spec=spec())
    assert [c.votes for c in alone] == [Certificate.from_row(row).votes for row in table.to_dict("records")]
