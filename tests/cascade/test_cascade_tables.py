"""Cascades through the engine: true in the plane, the same rows in any company, few draws where these do."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dualrs_lab.cascade import (
    Cascade,
    CascadeCertificate,
    CascadeSpec,
    bounded_steps,
    certify_cascade,
    certify_cascade_table,
    from_tables,
    steps,
)
from dualrs_lab.cascade import certify as cascade_tables
from dualrs_lab.data import Images, load_images
from dualrs_lab.evidence import ABSTAIN, frame, holds_all_draws, read_table
from dualrs_lab.lessons import sample_points
from dualrs_lab.models import Graded, make_model
from dualrs_lab.smoothing import (
    AtRadii,
    GaussianNoise,
    GridNoise,
    InputSpecific,
    Spec,
    Voter,
    certify_table,
)
from dualrs_lab.training import Gaussian, recipe, train
from tests.cascade.test_cascades import CASCADES, PLANE, answers, others_in_the_ball


def settings(cascade: Cascade, **changes) -> CascadeSpec:
    given = {"seed": 0, "n": 4000, "n_side": 1000, "alpha": 1e-6, "noise": GaussianNoise}
    return CascadeSpec(cascade=cascade, **given | changes)


def certificates(
    points: np.ndarray, spec: CascadeSpec, *, units: int = 8, **more
) -> list[CascadeCertificate]:
    voters = [
        Voter(PLANE, GaussianNoise(sigma), classes=3, units=units, dtype=torch.float64)
        for sigma in spec.cascade.sigmas
    ]
    return certify_cascade(voters, torch.tensor(points), spec=spec, **more)


def system(points: np.ndarray, spec: CascadeSpec, **more) -> pd.DataFrame:
    return frame(certificates(points, spec, **more))


def recomputed(table: pd.DataFrame) -> list[float]:
    return [CascadeCertificate.from_row(row).recomputed() for row in table.to_dict("records")]


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return sample_points(PLANE, 60, seed=4)[0]


@pytest.mark.parametrize("cascade", CASCADES, ids=lambda c: f"{c.sigmas} {c.limits}")
def test_the_system_answers_as_certified_everywhere_in_the_ball(points: np.ndarray, cascade: Cascade) -> None:
    found = system(points, settings(cascade), labels=PLANE.predict(points).tolist())
    claims, radii = found["predict"].to_numpy(), found["radius"].to_numpy()
    assert not others_in_the_ball(points, claims, radii, cascade).any()  # alpha = 1e-6: a fault, not bad luck
    sure = radii > 0
    assert sure.mean() > 0.6
    assert (claims[sure] == answers(points[sure], cascade)).all()
    assert ((claims == ABSTAIN) == ~sure).all()
    assert recomputed(found) == radii.tolist()
    assert tuple(found.columns) == CascadeCertificate.columns(cascade)


def test_experts_that_cannot_help_are_not_asked_and_it_costs_nothing(
    points: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = settings(CASCADES[0])
    lazy = system(points, spec)
    everyone_gains = lambda _, votes, *__: np.ones(len(votes), dtype=bool)  # noqa: E731
    monkeypatch.setattr(cascade_tables._Pool, "_gains", everyone_gains)
    everyone = system(points, spec)
    assert lazy["radius"].tolist() == everyone["radius"].tolist()
    assert (lazy["drawn"] <= everyone["drawn"]).all()
    assert lazy["drawn"].mean() < everyone["drawn"].mean() - 200
    assert everyone["drawn"].max() <= 3 * 100 + 4000 + 2 * 1000


def test_a_point_gets_the_same_certificate_in_any_company(points: np.ndarray) -> None:
    spec, few = settings(CASCADES[0]), points[:20]

    def timeless(found: list[CascadeCertificate]) -> list[CascadeCertificate]:
        return [dataclasses.replace(c, seconds=0.0) for c in found]

    together = timeless(certificates(few, spec))
    assert timeless(certificates(few, spec, units=1)) == together
    assert timeless(certificates(few[7:8], spec, idx=[7])) == together[7:8]
    assert certificates(few[:0], spec) == []


def test_voters_that_do_not_fit_are_refused(points: np.ndarray) -> None:
    spec = settings(CASCADES[0])
    voter = Voter(PLANE, GaussianNoise(0.25), classes=3, units=1)
    with pytest.raises(ValueError, match="wanted voters for"):
        certify_cascade([voter] * 3, torch.tensor(points), spec=spec)
    with pytest.raises(ValueError, match=r"got .* 2 and 60"):
        system(points, spec, labels=[0, 1])
    with pytest.raises(ValueError, match="got n_side 0; wanted a whole number >= 1"):
        settings(CASCADES[0], n_side=0)


# Tables.

LEVELS = (0.5, 0.25, 0.12)
CASCADE = Cascade(LEVELS)


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "test").select(range(40))


@pytest.fixture(scope="module")
def experts():
    images, made = load_images("digits", "train"), []
    for sigma in LEVELS:
        network = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=0)
        config = recipe(images, epochs=4, seed=0)
        train(network, images, objective=Gaussian(sigma=sigma), config=config, progress=False)
        made.append(network.eval())
    return made


def grid(**changes) -> CascadeSpec:
    return CascadeSpec(**{"cascade": CASCADE, "seed": 0, "n0": 50, "n": 400, "n_side": 200} | changes)


def table(experts, images: Images, path: Path, **changes) -> pd.DataFrame:
    return certify_cascade_table(experts, images, path, **{"spec": grid(), "progress": False} | changes)


def assert_same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a.drop(columns="time"), b.drop(columns="time"))


def test_a_table_goes_on_where_it_stopped_and_can_be_recomputed(tmp_path: Path, digits, experts) -> None:
    whole = table(experts, digits, tmp_path / "whole.tsv")
    path = tmp_path / "cut.tsv"
    table(experts, digits, path, max_images=23)
    first = path.read_bytes()
    path.write_bytes(first + b"23\t4\t4\t0.3")
    assert_same(table(experts, digits, path), whole)
    assert path.read_bytes().startswith(first)
    assert recomputed(whole) == whole["radius"].tolist()
    assert whole["correct"].mean() > 0.5
    made = json.loads((tmp_path / "whole.json").read_text())
    assert (len(made["identity"]["experts"]), len(made["disagreement"])) == (3, 3)
    with pytest.raises(ValueError, match=r"certify_cascade_table: .* other settings \(n_side\)"):
        table(experts, digits, path, spec=grid(n_side=300))
    with pytest.raises(ValueError, match=r"other settings \(experts\)"):
        table(experts[::-1], digits, path)
    with pytest.raises(ValueError, match="got 2 experts"):
        table(experts[:2], digits, path)


def singles(experts, images: Images, folder: Path, **changes) -> dict[float, pd.DataFrame]:
    found = {}
    for expert, sigma in zip(experts, LEVELS, strict=True):
        spec = Spec(**{"noise": GridNoise(sigma), "seed": 0, "n0": 50, "n": 400} | changes)
        found[sigma] = certify_table(expert, images, folder / f"{sigma}.tsv", spec=spec, progress=False)
    return found


def test_tables_of_the_experts_give_the_radii_that_sampling_gives(tmp_path: Path, digits, experts) -> None:
    """With as many draws for each expert; one that was not asked could not have raised the radius."""
    sampled = table(experts, digits, tmp_path / "t.tsv", spec=grid(n_side=400))
    joined = from_tables(singles(experts, digits, tmp_path), cascade=CASCADE)
    for name in ("idx", "label", "predict", "correct", "sigma"):
        assert joined[name].tolist() == sampled[name].tolist()
    assert joined["radius"].tolist() == pytest.approx(sampled["radius"].tolist(), abs=1e-12)
    assert joined["drawn"].sum() > sampled["drawn"].sum()
    assert recomputed(joined) == joined["radius"].tolist()
    written = tmp_path / "joined.tsv"
    joined.to_csv(written, sep="\t", index=False)
    assert recomputed(read_table(written)) == joined["radius"].tolist()


@pytest.mark.parametrize("confidences", [(), (0.4, 0.6)])
def test_a_pilot_may_choose_how_many_draws_each_image_gets(
    tmp_path: Path, digits, experts, confidences: tuple[float, ...]
) -> None:
    """A cascade of such tables has the votes, and so the radii, that as many draws give without a pilot."""
    networks = [Graded(expert, confidences) if confidences else expert for expert in experts]
    cascade = (
        dataclasses.replace(CASCADE, answers=10, confidences=(0.4, 0.0, 0.0)) if confidences else CASCADE
    )
    stop = InputSpecific(pilot=100, loss=0.2, least=300)
    found = singles(networks, digits, tmp_path, n=2000, stop=stop)
    numbers = found[0.25]["n"]
    assert numbers.min() == 300
    assert numbers.nunique() > 3
    (tmp_path / "plain").mkdir()
    plain = singles(experts, digits, tmp_path / "plain", n=2000, stop=stop)
    assert plain[0.25]["n"].tolist() == numbers.tolist()  # however sure the votes of the pilot are
    joined = from_tables(found, cascade=cascade)
    assert recomputed(joined) == joined["radius"].tolist()
    row = joined.loc[(idx := int(numbers.idxmax()))]
    (tmp_path / "alone").mkdir()
    alone = {
        sigma: certify_table(
            network, digits.select([idx]), tmp_path / f"alone/{sigma}.tsv", progress=False,
            spec=Spec(noise=GridNoise(sigma), seed=0, n0=100, n=int(found[sigma].loc[idx, "n"])),
        )
        for network, sigma in zip(networks, LEVELS, strict=True)
    }  # fmt: skip
    assert from_tables(alone, cascade=cascade)["radius"].tolist() == [row["radius"]]


TOLD = Cascade((0.5, 0.25), (0.3, 0.0))
SHARES = np.array([[0.745, 0.2, 0.055], [0.7, 0.25, 0.05]])  # of the votes of each expert; class 0 is claimed


def overstated(votes: np.ndarray) -> np.ndarray:
    """Which certificates (…,) from votes (…, K, C) claim more than the exact probabilities allow."""
    exact = bounded_steps(SHARES[:, 0], SHARES[:, 1], np.ones(2, dtype=bool), cascade=TOLD).radius
    return steps(votes, np.zeros(votes.shape[:-2], dtype=int), cascade=TOLD, alpha=0.05).radius > exact


def test_the_level_holds_where_a_pilot_chooses_the_numbers() -> None:
    """20,000 certificates at 5 %: more than 5 % + four standard errors by chance with probability 3e-5."""
    rng, count = np.random.default_rng(0), 20_000
    pilot = rng.multinomial(100, SHARES, size=(count, 2))
    how = {"n": 2000, "alpha": 0.05, "sigma": 1.0}
    numbers = np.stack([InputSpecific(loss=0.1).watch(pilot[:, i], **how).draws for i in range(2)], axis=1)
    assert len(np.unique(numbers)) > 2
    failed = overstated(rng.multinomial(numbers, SHARES)).mean()
    print(f"{failed:.2%} overstated")
    assert 0.005 < failed < 0.05 + 4 * np.sqrt(0.05 * 0.95 / count)


def test_numbers_chosen_by_the_counted_votes_are_caught() -> None:
    """Negative control: of twenty numbers of the same draws, the one that gives the largest radius."""
    rng, count = np.random.default_rng(1), 2_000
    votes = rng.multinomial(100, SHARES, size=(count, 20, 2)).cumsum(axis=1)
    assert overstated(votes).any(axis=1).mean() > 0.05 + 4 * np.sqrt(0.05 * 0.95 / count)


def test_votes_chosen_among_those_drawn_are_not_all_draws() -> None:
    table = pd.DataFrame({"selection": ["0:9"], "votes": ["0:90"], "bound": ["clopper-pearson"], "n": [90]})
    assert holds_all_draws(table.assign(drawn=90))
    assert holds_all_draws(table.drop(columns="bound"))  # from before there was early stopping
    assert not holds_all_draws(table.assign(drawn=100))
    assert not holds_all_draws(table.assign(drawn=90, bound="betting"))
    assert not holds_all_draws(table.drop(columns="votes"))


def test_tables_that_do_not_fit_are_refused(tmp_path: Path, digits, experts) -> None:
    few = digits.select(range(6))
    found = singles(experts, few, tmp_path)
    with pytest.raises(ValueError, match=r"no table for sigma 0\.25; wanted tables of \(0\.5"):
        from_tables({0.5: found[0.5]}, cascade=CASCADE)
    with pytest.raises(ValueError, match=r"σ = 0\.25 .*record beside it differ in seed"):
        from_tables(found | {0.25: found[0.25].assign(seed=3)}, cascade=CASCADE)
    (tmp_path / "early").mkdir()
    early = singles(experts, few, tmp_path / "early", stop=AtRadii(radii=(0.1,)))
    with pytest.raises(ValueError, match=r"votes of σ = 0\.5 stopped early, .*; wanted a table"):
        from_tables(early, cascade=CASCADE)
