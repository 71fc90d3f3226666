"""Combiners through the engine: the same rows in any company, none that is not what its votes say."""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dualrs_lab.combine import (
    CombinedCertificate,
    Combiner,
    CombineSpec,
    certify,
    certify_combined,
    certify_combined_table,
    combine_tables,
    combined_radius,
)
from dualrs_lab.combine import certificate as rooms
from dualrs_lab.data import Images, load_images
from dualrs_lab.evidence import ABSTAIN, check_evidence, frame, read_table, write_table
from dualrs_lab.evidence.recompute import HOMES
from dualrs_lab.lessons import lesson_plane, sample_points
from dualrs_lab.smoothing import AtRadii, GaussianNoise, GridNoise, Spec, Voter, certify_table
from tests.combine.test_combiners import by_definition, lattice
from tests.smoothing.test_smoothed_attacks import ridge

PLANE, SIGMAS = lesson_plane(), (0.25, 0.07, 0.02)
COMBINERS = {
    "single": Combiner.single(SIGMAS, 0),
    "surest": Combiner.surest(SIGMAS, (0.0, 0.01, 0.02)),
    "lattice": Combiner.of_text(SIGMAS, "half0.25:0 own0.07:0.1 | own0.07:-0.02 zero:0.05 | half0.02:-0.01"),
}


def settings(combiner: Combiner, **changes) -> CombineSpec:
    given = {"seed": 0, "n": 4000, "alpha": 1e-6, "noise": GaussianNoise}
    return CombineSpec(combiner=combiner, **given | changes)


def certificates(points: np.ndarray, spec: CombineSpec, *, units: int = 8, **more) -> list:
    voters = [
        Voter(PLANE, GaussianNoise(sigma), classes=3, units=units, dtype=torch.float64)
        for sigma in spec.combiner.sigmas
    ]
    return certify_combined(voters, torch.tensor(points), spec=spec, **more)


def answers(points: np.ndarray, combiner: Combiner) -> np.ndarray:
    """g (N,) by its definition, from exact probabilities."""
    p = np.stack([PLANE.probabilities(points, sigma) for sigma in combiner.sigmas], axis=1)
    z = (
        np.array(combiner.sigmas)[:, None]
        * torch.special.ndtri(torch.tensor(p.clip(1e-12, 1 - 1e-12))).numpy()
    )
    h = np.stack([by_definition(each, combiner) for each in z])
    return np.where(h.max(axis=1) > 0, h.argmax(axis=1), ABSTAIN)


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return sample_points(PLANE, 40, seed=4)[0]


@pytest.mark.parametrize("name", COMBINERS)
def test_the_system_answers_as_certified_everywhere_in_the_ball(points: np.ndarray, name: str) -> None:
    """alpha = 1e-6: a fault, not bad luck. Control: within twice the ball it does not."""
    combiner = COMBINERS[name]
    found = frame(certificates(points, settings(combiner), labels=PLANE.predict(points).tolist()))
    claims, radii = found["predict"].to_numpy(), found["radius"].to_numpy()
    sure = radii > 0
    assert sure.mean() > 0.5
    assert ((claims == ABSTAIN) == ~sure).all()
    angle = np.linspace(-np.pi, np.pi, 16, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def others(times: float) -> int:
        around = points[sure, None] + times * radii[sure, None, None] * ring
        return int((answers(around.reshape(-1, 2), combiner) != np.repeat(claims[sure], 16)).sum())

    assert (answers(points[sure], combiner) == claims[sure]).all()
    assert others(0.5) == others(1 - 1e-6) == 0
    assert others(2.0) > 0
    assert tuple(found.columns) == CombinedCertificate.columns(combiner)


@pytest.mark.parametrize("name", COMBINERS)
def test_experts_that_cannot_change_the_radius_are_not_asked(points: np.ndarray, name: str) -> None:
    lazy, everyone = (
        frame(certificates(points, settings(COMBINERS[name], lazy=lazy))) for lazy in (True, False)
    )
    for column in ("radius", "predict", *(f"selection_{sigma}" for sigma in SIGMAS)):
        assert lazy[column].tolist() == everyone[column].tolist()
    assert (lazy["drawn"] <= everyone["drawn"]).all()
    assert set(everyone["drawn"]) == {3 * (100 + 4000)}
    assert lazy["drawn"].mean() < everyone["drawn"].mean() - 100
    if name == "single":  # the one expert that counts, or none
        assert (lazy["votes_0.07"] == "").all()
        assert set(lazy["drawn"]) == {3 * 100 + 4000}


class Told:
    """An expert whose votes (N, C) are known."""

    def __init__(self, votes: np.ndarray) -> None:
        self.votes = votes

    def count(self, x: np.ndarray, idx: np.ndarray, selection: np.ndarray, level: float):
        del x, selection, level
        return self.votes[idx], self.votes[idx].sum(axis=1)


def test_no_lattice_loses_by_not_asking() -> None:
    """Random combiners and votes: the radius is that of all votes, or neither is above 0."""
    chance, spared = np.random.default_rng(9), 0
    idx = np.arange(60)
    for _ in range(12):
        spec = settings(lattice(chance, SIGMAS), n=500, alpha=0.01)
        votes = chance.multinomial(500, chance.dirichlet([0.3] * 3, (60, 3)))
        y = votes.sum(axis=1).argmax(axis=1)
        pool = certify._Pool([], spec, (2,), torch.device("cpu"))
        pool.experts = [Told(votes[:, j]) for j in range(3)]
        found = pool._count(idx, idx, np.zeros_like(votes), y)
        some, whole = (
            combined_radius(each, y, combiner=spec.combiner, alpha=spec.alpha) for each in (found, votes)
        )
        assert np.maximum(some, 0).tolist() == np.maximum(whole, 0).tolist()
        spared += int((found.sum(axis=2) == 0).sum())
    assert spared > 900  # of 2160; 668 where nobody thinks about whom to ask first


def timeless(found: list[CombinedCertificate]) -> list[CombinedCertificate]:
    return [dataclasses.replace(c, seconds=0.0) for c in found]


def test_a_point_gets_the_same_certificate_in_any_company(points: np.ndarray) -> None:
    spec, few = settings(COMBINERS["lattice"], n=1000), points[:12]
    together = timeless(certificates(few, spec))
    assert timeless(certificates(few, spec, units=1)) == together
    assert timeless(certificates(few[7:8], spec, idx=[7])) == together[7:8]
    assert certificates(few[:0], spec) == []


def test_voters_that_do_not_fit_are_refused(points: np.ndarray) -> None:
    spec = settings(COMBINERS["single"])
    voter = Voter(PLANE, GaussianNoise(0.25), classes=3, units=1)
    with pytest.raises(ValueError, match="certify_combined: wanted voters for"):
        certify_combined([voter] * 3, torch.tensor(points), spec=spec)
    with pytest.raises(ValueError, match=r"an idx for each of 40 inputs; got .* 2 and 40"):
        certificates(points, spec, labels=[0, 1])


# Certificates.


def random_certificates(count: int, combiner: Combiner | None = None, seed: int = 0) -> list:
    """Of random votes, many of them unanimous; some experts were not asked."""
    chance, found = np.random.default_rng(seed), []
    combiner = combiner or lattice(chance, (0.5, 1 / 3, 0.12))
    for i in range(count):
        p = chance.dirichlet([0.2] * 4, 3) if i % 4 else np.eye(4)[[i // 4 % 4] * 3]
        asked = chance.integers(0, 3, size=(3, 1)) > 0
        votes = chance.multinomial(60, p), chance.multinomial(400, p) * asked
        said = {"idx": i, "label": i % 4, "alpha": 0.01, "seed": 1, "seconds": 0.1}
        found.append(CombinedCertificate.from_votes(*votes, combiner, **said))
    return found


LATTICE = Combiner.of_text(
    (0.5, 1 / 3, 0.12), "half0.5:0.0 zero:0.3 | own0.3333333333333333:-0.1 | rival0.12:-0.05 own0.12:0.0"
)


@pytest.mark.parametrize("combiner", [LATTICE, Combiner.surest(LATTICE.sigmas), None])
def test_rows_give_every_certificate_back(combiner: Combiner | None) -> None:
    made = random_certificates(60, combiner)
    table = frame(made)
    assert tuple(table) == CombinedCertificate.columns(made[0].combiner)
    assert [CombinedCertificate.from_row(row) for row in table.to_dict("records")] == made
    assert 5 < sum(c.predict != ABSTAIN for c in made) < 60
    for c, row in zip(made, table.to_dict("records"), strict=True):
        assert c.radius == c.recomputed()
        assert row["sigma"] == c.combiner.sigmas[int(c.reaches.argmax())]
        assert max(row[f"reach_{name}"] for name in ("0.5", "0.12", repr(1 / 3))) < 3
        assert row["drawn"] == sum(n for votes in (*c.selection, *c.votes) for _, n in votes)


def test_what_votes_say_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for name in ("combined_radius", "surest_class", "reach_of_each"):
        known = getattr(rooms, name)
        monkeypatch.setattr(rooms, name, lambda *a, f=known, n=name, **k: asked.append(n) or f(*a, **k))
    (made,) = random_certificates(1, LATTICE)
    assert sorted(asked) == ["combined_radius", "surest_class"]
    assert made.to_row()["radius"] == made.recomputed()
    assert sorted(asked) == ["combined_radius", "reach_of_each", "surest_class"]
    again = dataclasses.replace(made)  # a copy has to ask itself
    assert again == made
    assert len(asked) == 5


def by_hand(**changes) -> CombinedCertificate:
    """The third expert was not asked."""
    selection = np.array([[25, 25], [2, 48], [1, 49]])
    votes = np.array([[400, 600], [50, 950], [0, 0]])
    how = {"idx": 0, "label": 1, "alpha": 0.03, "seed": 0, "seconds": 0.0}
    made = CombinedCertificate.from_votes(selection, votes, Combiner.surest((1.0, 0.5, 0.25)), **how)
    return dataclasses.replace(made, **changes)


def test_a_certificate_by_hand() -> None:
    from scipy import special

    from dualrs_lab.evidence import lower_bound

    c = by_hand()
    own = [s * special.ndtri(lower_bound(k, 1000, 0.03 / 4)) for s, k in ((1.0, 600), (0.5, 950))]
    # two classes: what bounds y from below bounds the other from above; the expert not asked may be anything
    assert (c.guess, c.predict, c.radius) == (1, ABSTAIN, 0.0)
    assert c.reaches.tolist()[:2] == pytest.approx(own)
    without = Combiner.surest((1.0, 0.5, 0.25), (0.0, 0.0, 2e6))
    sure = by_hand(combiner=without, predict=1, radius=(own[1] - max(-own[0], -own[1])) / 2)
    assert sure.radius == pytest.approx(sure.recomputed(), rel=1e-12)
    assert (sure.correct, sure.drawn) == (True, 2150)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"selection": (((0, 25),),)}, "selection of 3 experts, got 1"),
        ({"votes": ()}, "votes of 3 experts, got 0"),
        ({"votes": (((1, 400), (0, 600)), ((1, 950),), ())}, "votes with each class once, ascending"),
        ({"selection": (((0, 25),), ((1, 48), (1, 2)), ())}, "selection with each class once"),
        ({"votes": (((0, 0),), ((1, 950),), ())}, "positive counts"),
        ({"drawn": 2149}, "at least its 2150 votes drawn, got 2149"),
        ({"predict": 1, "radius": 0.2}, r"at most the radius .* of its votes"),
        ({"predict": 1}, "wanted radius 0 exactly where abstaining"),
        ({"alpha": 0.0}, r"alpha in \(0, 1\), got 0.0"),
        ({"alpha": 1.0}, r"alpha in \(0, 1\), got 1.0"),
        ({"seed": np.int64(0)}, "Python ints"),
        ({"combiner": Combiner.surest((1.0, 0.5))}, "selection of 2 experts, got 3"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_hand(**changes)


def test_a_row_that_was_changed_is_refused() -> None:
    made = next(c for c in random_certificates(60, LATTICE) if c.radius > 0.1)
    row, other = made.to_row(), (made.predict + 1) % 4
    votes = {f"votes_{name}": f"{other}:400" for name in ("0.5", "0.12", repr(1 / 3))}
    for change in (votes, {"alpha": 1e-9}, {"combiner": row["combiner"].replace("-0.1", "-0.6")}):
        if "combiner" not in change or "-0.1" in row["combiner"]:
            with pytest.raises(ValueError, match="at most the radius"):
                CombinedCertificate.from_row(row | change)
    with pytest.raises(ValueError, match=r"no selection_0\.5 in the row"):
        CombinedCertificate.from_row({name: cell for name, cell in row.items() if name != "selection_0.5"})
    with pytest.raises(ValueError, match=r"wanted terms of half0\.5"):
        CombinedCertificate.from_row(row | {"combiner": "half7:0"})


def test_an_edited_table_is_refused_and_a_true_one_is_read(tmp_path: Path) -> None:
    path, table = tmp_path / "t.tsv", frame(random_certificates(40, LATTICE))
    write_table(path, table)
    pd.testing.assert_frame_equal(read_table(path), table)
    at, radius = int(table["radius"].argmax()), float(table["radius"].max())
    other = int(table["predict"][at] + 1) % 4
    edits = [{"radius": value} for value in (2 * radius, radius + 1e-6, radius / 2)]
    edits.append({"radius": 0.0, "predict": -1, "correct": 0})
    edits.append({"predict": other, "correct": int(other == table["label"][at])})
    edits += [{"reach_0.5": table["reach_0.5"][at] + 0.01}, {"sigma": 7.0}, {"drawn": 1}, {"alpha": 0.02}]
    edits += [{"combiner": "half0.5:0.0 zero:0.2"}]
    for edit in edits:
        changed = table.copy()
        for name, cell in edit.items():
            changed.loc[at, name] = cell
        write_table(path, changed)
        with pytest.raises(ValueError, match=rf"^read_table\({path}\): .*"):
            read_table(path)
    for edit, message in (
        ({"combiner": "half0.5:0.0 zero"}, "wanted terms of"),
        ({"combiner": "zero:0.0"}, "its votes give"),
        ({"alpha": 2.0}, r"alpha in \(0, 1\)"),
        ({"rule": "cohen"}, "rule"),
        ({"votes_0.5": "3:5 1:2"}, "wanted each class once"),
    ):
        write_table(path, table.assign(**edit))
        with pytest.raises(ValueError, match=message):
            read_table(path)


def test_rows_together_say_what_each_says_alone() -> None:
    made = [*random_certificates(50, LATTICE), *random_certificates(50, Combiner.surest(LATTICE.sigmas))]
    made = [dataclasses.replace(c, idx=i) for i, c in enumerate(made)]
    table = frame(made)
    from dualrs_lab.combine.recompute import recomputed_columns

    assert HOMES["combine"] == "dualrs_lab.combine.recompute"
    for rows in (table, table.iloc[:1], table.iloc[4:5]):  # the first is unanimous for class 0
        rows, some = rows.reset_index(drop=True), [made[i] for i in rows["idx"]]
        found = recomputed_columns(rows)
        assert found["radius"].tolist() == pytest.approx([c.recomputed() for c in some], rel=1e-12)
        assert found["predict"].tolist() == [c.predict for c in some]
        for j, name in enumerate(("0.5", repr(1 / 3), "0.12")):
            each = [c.reaches[j] for c in some]
            assert found[f"reach_{name}"].tolist() == pytest.approx(each, rel=1e-12)


@pytest.mark.parametrize("text", ["zero:0.1", "half0.5:-5.0 | zero:0.0", "own0.5:0.0 zero:-9.0"])
def test_where_no_class_is_ahead_rows_and_certificates_guess_alike(tmp_path: Path, text: str) -> None:
    """Of classes that are level the lowest wins, whether or not anybody voted for it."""
    combiner = Combiner.of_text((0.5, 0.25), text)
    selection, votes = np.zeros((2, 2, 4), dtype=np.int64)
    selection[:, 2], selection[:, 3], votes[:, 2], votes[:, 3] = 20, 30, 100, 300
    how = {"idx": 0, "label": 3, "alpha": 0.01, "seed": 1, "seconds": 0.0}
    made = CombinedCertificate.from_votes(selection, votes, combiner, **how)
    assert (made.guess, made.radius, made.predict) == (0, 0.0, ABSTAIN)
    write_table(tmp_path / "t.tsv", frame([made]))
    row = read_table(tmp_path / "t.tsv").iloc[0]
    assert [row["reach_0.5"], row["reach_0.25"]] == pytest.approx(made.reaches.tolist())
    assert made.reaches.max() < 0


def test_ten_thousand_rows_are_checked_in_no_time() -> None:
    """What the check of the radii takes, in seconds of this processor."""
    table = pd.concat([frame(random_certificates(500, LATTICE))] * 20, ignore_index=True)
    start = time.process_time()
    check_evidence("call", table)
    assert time.process_time() - start < 3


# Tables.

LEVELS = (0.5, 0.25, 0.12)
COMBINER = Combiner.of_text(LEVELS, "half0.5:0 | own0.25:-0.2 zero:0.3 | own0.12:-0.15 rival0.5:0.3")


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "test").select(range(40))


@pytest.fixture(scope="module")
def experts() -> list[torch.nn.Module]:
    images = load_images("digits", "train")
    return [ridge(images, images.labels, sigma) for sigma in LEVELS]


def grid(**changes) -> CombineSpec:
    return CombineSpec(**{"combiner": COMBINER, "seed": 0, "n0": 50, "n": 400} | changes)


def table(experts, images: Images, path: Path, **changes) -> pd.DataFrame:
    return certify_combined_table(experts, images, path, **{"spec": grid(), "progress": False} | changes)


def assert_same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a.drop(columns="time"), b.drop(columns="time"))


def test_a_table_goes_on_where_it_stopped(tmp_path: Path, digits, experts) -> None:
    whole = table(experts, digits, tmp_path / "whole.tsv")
    path = tmp_path / "cut.tsv"
    table(experts, digits, path, max_images=23)
    first = path.read_bytes()
    path.write_bytes(first + b"23\t4\t4\t0.3")
    assert_same(table(experts, digits, path), whole)
    assert path.read_bytes().startswith(first)
    assert_same(read_table(path), whole)
    assert whole["correct"].mean() > 0.5
    made = json.loads((tmp_path / "whole.json").read_text())["identity"]
    assert (len(made["experts"]), made["combiner"], made["lazy"]) == (3, COMBINER.text, True)
    for changes, named in (
        ({"combiner": Combiner.surest(LEVELS)}, "combiner"),
        ({"lazy": False}, "lazy"),
        ({"n": 300}, "n"),
        ({"alpha": 0.01}, "alpha"),
    ):
        with pytest.raises(ValueError, match=rf"certify_combined_table: .* other settings \({named}\)"):
            table(experts, digits, path, spec=grid(**changes))
    with pytest.raises(ValueError, match=r"other settings \(experts\)"):
        table(experts[::-1], digits, path)
    with pytest.raises(ValueError, match="got 2 experts for the sigmas"):
        table(experts[:2], digits, path)


def singles(experts, images: Images, folder: Path, **changes) -> dict[float, pd.DataFrame]:
    found = {}
    for expert, sigma in zip(experts, LEVELS, strict=True):
        spec = Spec(**{"noise": GridNoise(sigma), "seed": 0, "n0": 50, "n": 400} | changes)
        found[sigma] = certify_table(expert, images, folder / f"{sigma}.tsv", spec=spec, progress=False)
    return found


def test_tables_of_the_experts_give_what_sampling_gives(tmp_path: Path, digits, experts) -> None:
    sampled = table(experts, digits, tmp_path / "t.tsv", spec=grid(lazy=False))
    lazy = table(experts, digits, tmp_path / "lazy.tsv")
    joined = combine_tables(singles(experts, digits, tmp_path), combiner=COMBINER)
    assert (joined["radius"] > 0).mean() > 0.6
    pd.testing.assert_frame_equal(
        *(t.drop(columns=["time", "image"], errors="ignore") for t in (joined, sampled))
    )
    assert lazy["radius"].tolist() == sampled["radius"].tolist()
    assert lazy["drawn"].sum() < sampled["drawn"].sum()
    assert joined.attrs["identity"]["images"] == digits.fingerprint()
    write_table(tmp_path / "joined.tsv", joined)
    assert read_table(tmp_path / "joined.tsv")["radius"].tolist() == joined["radius"].tolist()
    looser = combine_tables(singles(experts, digits, tmp_path), combiner=COMBINER, alpha=0.1)
    assert (looser["radius"] >= joined["radius"]).all()
    assert looser["radius"].sum() > joined["radius"].sum()


def test_tables_that_do_not_fit_are_refused(tmp_path: Path, digits, experts) -> None:
    few = digits.select(range(6))
    found = singles(experts, few, tmp_path)
    with pytest.raises(ValueError, match=r"no table for sigma 0\.25; wanted tables of \(0\.5"):
        combine_tables({0.5: found[0.5]}, combiner=COMBINER)
    with pytest.raises(ValueError, match=r"σ = 0\.25 .*record beside it differ in seed"):
        combine_tables(found | {0.25: found[0.25].assign(seed=3)}, combiner=COMBINER)
    (tmp_path / "early").mkdir()
    early = singles(experts, few, tmp_path / "early", stop=AtRadii(radii=(0.1,)))
    with pytest.raises(ValueError, match=r"votes of σ = 0\.5 stopped early, .*; wanted a table"):
        combine_tables(early, combiner=COMBINER)
