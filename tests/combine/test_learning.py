"""What is learnt beats each expert where it must, goes on after a kill, and touches no file of others."""

import hashlib
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from dualrs_lab.combine import (
    Combiner,
    Learning,
    Pairs,
    Search,
    combined_radius,
    learn_combiner,
    lengths,
    read_combiner,
    read_image_votes,
    train,
    worth,
)
from dualrs_lab.data import Images, load_images
from dualrs_lab.locks import writing
from dualrs_lab.smoothing import image_votes, label_votes
from dualrs_lab.store import read_record
from tests.combine.test_combiners import lattice
from tests.smoothing.test_smoothed_attacks import ridge

SIGMAS = (1.0, 0.5)


def problem(count: int, seed: int, n: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Votes (N, 2, 3) and labels: of any image one expert is sure, and the other has no idea."""
    chance = np.random.default_rng(seed)
    labels, knows = chance.integers(0, 3, count), chance.integers(0, 2, count)
    p = np.full((count, 2, 3), 1 / 3)
    p[np.arange(count), knows] = 0.02
    p[np.arange(count), knows, labels] = 0.96
    return chance.multinomial(n, p), labels


def learning(**changes) -> Learning:
    given = {"seed": 0, "starts": 2, "changes": 1500, "terms": 4, "radii": (0.0, 0.25, 0.5)}
    return Learning(**given | changes)


VOTES, LABELS = problem(120, 0)


def learnt(path: Path, **changes) -> Combiner:
    return learn_combiner(VOTES, LABELS, SIGMAS, learning=learning(**changes), path=path)


def value(combiner: Combiner) -> float:
    """The share of new images that is certified, over the radii."""
    votes, labels = problem(500, 1, n=10_000)
    radius = combined_radius(votes, labels, combiner=combiner, alpha=0.001)
    return float((radius[:, None] > np.array([0.0, 0.25, 0.5])).mean(axis=0).sum())


def test_it_beats_every_expert_where_one_is_sure_and_the_other_has_no_idea(tmp_path: Path) -> None:
    """So on the images that were held out, and on new ones, with more draws and at their own level."""
    found = learnt(tmp_path / "c.json")
    singles = [value(Combiner.single(SIGMAS, i)) for i in range(2)]
    print(f"{value(found):.2f} against {singles} of single experts: {found.text}")
    assert value(found) > max(singles) + 0.4
    held = train._prepared(VOTES, LABELS, SIGMAS, learning()).choosing
    assert len(held.own) == 30
    alone = [worth(Combiner.single(SIGMAS, i), held, learning()) for i in range(2)]
    made = json.loads((tmp_path / "c.json").read_text())
    each = [one["worth"] for one in made["tried"]]
    assert worth(found, held, learning()) == max(each) > max(alone) + 0.4
    assert len(each) == 2


def test_one_seed_gives_one_combiner_and_another_gives_another(tmp_path: Path) -> None:
    first = learnt(tmp_path / "a.json", changes=300)
    assert learnt(tmp_path / "b.json", changes=300) == first == read_combiner(tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert learnt(tmp_path / "c.json", changes=300, seed=1) != first
    assert json.loads((tmp_path / "a.json").read_text())["tried"][0] != first


def test_the_weights_of_radii_are_a_dial() -> None:
    """Worth by hand: what counts is certified beyond a radius, weighted."""
    pairs = Pairs(np.array([[0.1, 0.0], [0.3, 0.0], [0.6, 0.0], [-0.2, 0.0]]), np.full((4, 1, 2), -0.2))
    combiner = Combiner.single(SIGMAS, 0)
    np.testing.assert_allclose(pairs.radii(combiner), [0.15, 0.25, 0.4, 0.0])
    assert worth(combiner, pairs, learning(weights=(1, 0, 0))) == 0.75
    assert worth(combiner, pairs, learning(weights=(0, 4, 1))) == 4 * 0.25
    assert worth(combiner, pairs, learning()) == 0.75 + 0.25


def test_lengths_that_are_learnt_from_are_those_of_the_certification() -> None:
    """Shares of votes stand for as many draws as will be counted, at the level of all bounds."""
    from dualrs_lab.evidence import lower_bound, upper_bound

    votes = np.array([[[60, 30, 10], [100, 0, 0]]] * 2)
    data = train._prepared(votes, np.array([0, 0]), SIGMAS, learning(alpha=0.01))
    low = [lower_bound(np.floor(10_000 * s), 10_000, 0.0025) for s in (60.5 / 101, 100.5 / 101)]
    np.testing.assert_allclose(
        data.learning.own[0], [lengths([[p]], [s])[0, 0] for p, s in zip(low, SIGMAS, strict=True)]
    )
    assert data.learning.rivals.shape == (1, 2, 2)
    high = [upper_bound(np.ceil(10_000 * s), 10_000, 0.0025) for s in (30.5 / 101, 0.5 / 101)]
    wanted = [lengths([[min(h, 1 - p)]], [s])[0, 0] for h, p, s in zip(high, low, SIGMAS, strict=True)]
    np.testing.assert_allclose(data.learning.rivals[0, 0], wanted)
    assert (data.learning.rivals[0, 0] >= data.learning.rivals[0, 1]).all()


def test_after_a_kill_it_goes_on_with_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut, calls = tmp_path / "whole.json", tmp_path / "cut.json", []
    learnt(whole, changes=200, starts=3)
    once = train._from_start

    def dies(data, sigmas, how, start):
        calls.append(start)
        if start == 1 and calls.count(1) == 1:
            raise KeyboardInterrupt
        return once(data, sigmas, how, start)

    monkeypatch.setattr(train, "_from_start", dies)
    with pytest.raises(KeyboardInterrupt):
        learnt(cut, changes=200, starts=3)
    assert len(json.loads(cut.read_text())["tried"]) == 1
    assert learnt(cut, changes=200, starts=3) == read_combiner(whole)
    assert calls == [0, 1, 1, 2]
    assert cut.read_bytes() == whole.read_bytes()
    learnt(cut, changes=200, starts=3)  # nothing is left to do
    assert calls == [0, 1, 1, 2]


def test_each_search_starts_from_another_expert_the_best_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    class Idle:
        def __init__(self, pairs: Pairs, start: Combiner, *, seed: int, **how) -> None:
            begun.append((start, seed, len(pairs.own), how["terms"], how["radii"]))

        def run(self, changes: int) -> Combiner:
            assert changes == 1500
            return begun[-1][0]

    monkeypatch.setattr(train, "Search", Idle)
    votes = VOTES.copy()
    votes[:, 0] = 33  # an expert that never knows
    path = tmp_path / "c.json"
    found = learn_combiner(votes, LABELS, SIGMAS, learning=learning(starts=3), path=path)
    assert [start.text for start, *_ in begun] == ["half0.5:0.0", "half1:0.0", "half0.5:0.0"]
    assert len({seed for _, seed, *_ in begun}) == 3  # the same expert, other changes
    assert {one[2:] for one in begun} == {(90, 4, (0.0, 0.25, 0.5))}
    assert found == Combiner.single(SIGMAS, 1)  # the best of all that was tried, not the last


def test_what_was_learnt_with_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    learnt(path, changes=10)
    before = path.read_bytes()
    for changes, named in (
        ({"seed": 1}, "seed"),
        ({"starts": 3}, "starts"),
        ({"weights": (1, 2, 3)}, "weights"),
    ):
        with pytest.raises(ValueError, match=rf"learn_combiner: .*other settings \({named}\)"):
            learnt(path, **{"changes": 10} | changes)
    with pytest.raises(ValueError, match=r"other settings \(about\)"):
        learn_combiner(VOTES, LABELS, SIGMAS, learning=learning(changes=10), path=path, about={"n": 3})
    with pytest.raises(ValueError, match=r"other settings \(sigmas\)"):
        learn_combiner(VOTES, LABELS, (1.0, 0.25), learning=learning(changes=10), path=path)
    assert path.read_bytes() == before


STRANGERS = [
    "", "hello", "[]", "3", "{}", "null", '{"settings": {}, "combiner": "half1:0", "tried": []}',
    '{"settings": null, "combiner": "half1:0", "tried": []}', "[" * 100_000, "\ufeff{}",
    '{"settings": {"sigmas": [1.0]}, "combiner": "half1:0", "tried": [{"combiner": "half1:0"}]}',
    '{"settings": {"sigmas": [1.0]}, "combiner": "half1:0", "tried": [{"worth": "x", "combiner": "zero:0"}]}',
    '{"settings": ["sigmas"], "combiner": "half1:0", "tried": []}',
    '{"settings": {"sigmas": [1.0]}, "combiner": 3, "tried": []}',
    '{"settings": {"sigmas": ["x"]}, "combiner": "half1:0", "tried": []}',
    '{"settings": {"sigmas": [1.0]}, "combiner": "half2:0", "tried": []}',
    '{"settings": {"sigmas": [1.0]}, "combiner": "half1:0", "tried": 7}',
]  # fmt: skip


@pytest.mark.parametrize("content", STRANGERS, ids=map(str, range(len(STRANGERS))))
def test_a_file_of_somebody_else_is_refused_and_stays_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(content, "utf-8")
    for call in (lambda: learnt(path), lambda: read_combiner(path)):
        with pytest.raises(ValueError, match=r"c\.json"):
            call()
    assert path.read_text("utf-8") == content
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]


def test_places_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"wanted a name that ends in \.json"):
        learnt(tmp_path / "c.tsv")
    with pytest.raises(FileNotFoundError, match=r"read_combiner: .*no such file"):
        read_combiner(tmp_path / "none.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match=r"folder\.json"):
        learnt(tmp_path / "folder.json")


def test_of_two_writers_the_second_is_told(tmp_path: Path) -> None:
    path, said = tmp_path / "c.json", []

    def second() -> None:
        try:
            learnt(path)
        except ValueError as error:
            said.append(str(error))

    with writing("first", path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(said) == 1
    assert "learn_combiner" in said[0]
    assert "c.json" in said[0]
    assert not path.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radii": (0.5, 0.25)}, "ascending radii"),
        ({"radii": (0.0, 0.0)}, "ascending radii"),
        ({"radii": (-0.1, 0.5)}, "ascending radii"),
        ({"radii": (0.0, np.inf)}, "ascending radii"),
        ({"radii": (0.0, np.nan)}, "ascending radii"),
        ({"weights": (1.0,)}, "as many weights"),
        ({"weights": (1.0, -1.0, 1.0)}, "as many weights"),
        ({"weights": (0.0, 0.0, 0.0)}, "not all 0"),
        ({"weights": (1.0, np.inf, 0.0)}, "weights"),
        ({"weights": (1.0, np.nan, 0.0)}, "weights"),
        ({"weights": (np.nan, 1.0, 0.0)}, "weights"),
        ({"starts": 0}, "starts"),
        ({"changes": -1}, "changes"),
        ({"terms": 0}, "terms"),
        ({"held_out": 1.5}, "held_out"),
        ({"alpha": 0.0}, "alpha"),
        ({"seed": -1}, "seed"),
        ({"draws": 1.5}, "draws"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learning(**changes)


@pytest.mark.parametrize(
    ("votes", "labels", "sigmas", "message"),
    [
        (VOTES[:, 0], LABELS, SIGMAS, r"wanted \(N, K, C\)"),
        (VOTES, LABELS[:5], SIGMAS, "labels"),
        (VOTES, LABELS, (1.0,), "K of them"),
        (VOTES[:1], LABELS[:1], SIGMAS, "two images"),
        (VOTES[:, :, :1], 0 * LABELS, SIGMAS, "two classes"),
        (VOTES, LABELS - 1, SIGMAS, "labels from -1 to 1"),
        (VOTES, LABELS + 1, SIGMAS, "labels from 1 to 3"),
    ],
)
def test_votes_that_do_not_fit_are_refused(tmp_path: Path, votes, labels, sigmas, message: str) -> None:
    with pytest.raises(ValueError, match=rf"learn_combiner: got .*{message}"):
        learn_combiner(votes, labels, sigmas, learning=learning(), path=tmp_path / "c.json")
    assert not [*tmp_path.iterdir()]


# The search.


def some_pairs(count: int = 80) -> Pairs:
    chance = np.random.default_rng(3)
    own = chance.normal(0.2, 0.3, (count, 2))
    return Pairs(own, own[:, None] - chance.normal(0.2, 0.4, (count, 3, 2)))


def search(pairs: Pairs, start: Combiner, **changes) -> Search:
    given = {"radii": (0.0, 0.25), "weights": (1.0, 1.0), "terms": 6, "seed": 4}
    return Search(pairs, start, **given | changes)


def smooth_worth(pairs: Pairs, combiner: Combiner) -> float:
    steps = (pairs.radii(combiner)[:, None] - np.array([0.0, 0.25])) / 0.04 + 0.5
    return float(np.clip(steps, 0, 1).sum(axis=1).mean())


def test_worth_never_falls_and_is_that_of_the_combiner(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = some_pairs()
    found, seen = search(pairs, Combiner.single(SIGMAS, 1)), []
    assert found.worth == pytest.approx(smooth_worth(pairs, Combiner.single(SIGMAS, 1)), abs=1e-5)
    tries = Search._try

    def watched(self, *rest) -> None:
        tries(self, *rest)
        seen.append(self.worth)
        shifts = self._shifts[(self._shifts < np.inf).any(axis=1)]
        if len(seen) % 40 == 0:
            assert self.worth == pytest.approx(smooth_worth(pairs, Combiner.of(SIGMAS, shifts)), abs=1e-5)

    monkeypatch.setattr(Search, "_try", watched)
    best = found.run(800)
    assert len(seen) == 800
    assert (np.diff(seen) >= 0).all()
    assert seen[-1] > seen[0] + 0.1
    assert smooth_worth(pairs, best) == pytest.approx(seen[-1], abs=1e-5)


def test_pruning_changes_no_radius_and_leaves_less() -> None:
    chance, pairs, fewer = np.random.default_rng(5), some_pairs(), 0
    for _ in range(30):
        start = lattice(chance, SIGMAS)
        pruned = search(pairs, start)._pruned()
        np.testing.assert_allclose(pairs.radii(pruned), pairs.radii(start), atol=1e-6)
        fewer += int((start.array < np.inf).sum() - (pruned.array < np.inf).sum())
        assert pruned.spends <= start.spends
    assert fewer > 20


# Votes of all classes.


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "train").select(range(30))


@pytest.fixture(scope="module")
def experts() -> list[torch.nn.Module]:
    images = load_images("digits", "train")
    return [ridge(images, images.labels, sigma) for sigma in SIGMAS]


HOW = {"sigmas": SIGMAS, "n": 50, "seed": 3}


@pytest.fixture
def kept(tmp_path: Path, digits, experts) -> Path:
    path = tmp_path / "votes.safetensors"
    image_votes(experts, digits, path, **HOW)
    return path


def test_votes_of_all_classes_hold_those_for_the_label(kept: Path, tmp_path: Path, digits, experts) -> None:
    found = image_votes(experts, digits, kept, **HOW)
    assert (found["counts"].dtype, found["counts"].shape) == (torch.int32, (30, 2, 10))
    assert (found["counts"].sum(2) == 50).all()
    assert torch.equal(found["labels"], torch.as_tensor(digits.labels).long())
    for i, label in enumerate(digits.labels.tolist()):
        assert found["votes"][i].tolist() == found["counts"][i, :, label].tolist()
    assert found["votes"].float().mean() > 15
    assert torch.equal(label_votes(experts, digits, kept, **HOW), found["votes"])  # one file for both
    assert torch.equal(label_votes(experts, digits, tmp_path / "l.safetensors", **HOW), found["votes"])
    before = kept.stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"image_votes: .*other settings \(seed\)"):
        image_votes(experts, digits, kept, **HOW | {"seed": 4})
    with pytest.raises(ValueError, match=r"image_votes: got 2 experts and 1 sigmas"):
        image_votes(experts, digits, kept, **HOW | {"sigmas": (1.0,)})
    assert kept.stat().st_mtime_ns == before


def test_votes_are_read_in_the_order_that_is_asked_for(kept: Path, digits, experts) -> None:
    found = image_votes(experts, digits, kept, **HOW)
    counts, labels, about = read_image_votes(kept, SIGMAS)
    assert (counts.dtype, labels.dtype) == (np.int64, np.int64)
    assert (counts == found["counts"].numpy()).all()
    assert labels.tolist() == digits.labels.tolist()
    assert (about["n"], about["seed"], len(about["experts"])) == (50, 3, 2)
    turned, _, _ = read_image_votes(kept, SIGMAS[::-1])
    assert (turned == counts[:, ::-1]).all()


def held(path: Path, data: bytes) -> None:
    """As if `path` had been made so."""
    path.write_bytes(data)
    record = read_record(path) | {"sha256": hashlib.sha256(data).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(record))


def test_files_that_hold_no_votes_of_all_classes_are_refused(
    kept: Path, tmp_path: Path, digits, experts
) -> None:
    for sigmas in ((1.0,), (1.0, 0.25), (1.0, 0.5, 0.25)):
        with pytest.raises(ValueError, match=r"read_image_votes: .* for the sigmas \[1\.0, 0\.5\]; wanted"):
            read_image_votes(kept, sigmas)
    with pytest.raises((ValueError, FileNotFoundError), match=r"none\.safetensors"):
        read_image_votes(tmp_path / "none.safetensors", SIGMAS)
    before = kept.read_bytes()
    held(kept, save({"votes": np.zeros((30, 2), dtype=np.int32)}))  # as there were before
    assert label_votes(experts, digits, kept, **HOW).shape == (30, 2)
    with pytest.raises(ValueError, match=r"image_votes: .* holds votes for the label only"):
        image_votes(experts, digits, kept, **HOW)
    held(kept, before)
    for data, shown in (
        (save({"votes": np.zeros((3, 2), dtype=np.int32)}), "holds votes for"),
        (save({"weight": np.zeros(3)}), "holds weight for"),
        (b"hello", "holds no tensors for"),
    ):
        held(kept, data)
        with pytest.raises(ValueError, match=rf"{shown} .*wanted counts and labels"):
            read_image_votes(kept, SIGMAS)
    kept.write_bytes(b"changed")
    with pytest.raises(ValueError, match="is not the file that was finished"):
        read_image_votes(kept, SIGMAS)
