"""The job of a table: frozen once, taken up, recorded, read when it is complete, whatever it certifies."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from dualrs_lab.data import Images
from dualrs_lab.evidence import LOG_COLUMNS
from dualrs_lab.smoothing import FastPath, GridNoise, Job, Sampled, Sampling, freeze_each, job, steps_of
from dualrs_lab.smoothing import frozen as fastpath

COLUMNS = (*LOG_COLUMNS, "method", "votes")
CPU = torch.device("cpu")


def network(seed: int) -> nn.Module:
    made = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    made[1].load_state_dict({"weight": torch.eye(3, 4) + seed, "bias": torch.arange(3.0)})
    return made


NETWORKS = [network(0), network(1)]


@pytest.fixture
def images() -> Images:
    pixels = torch.arange(28, dtype=torch.uint8).view(7, 1, 2, 2)
    return Images(pixels=pixels, labels=torch.arange(7) % 3, classes=tuple("abc"), name="few", split="test")


class Watched:
    """The rows of a job that tells where it has been."""

    def __init__(self) -> None:
        self.waves: list[list[int]] = []

    def __call__(self, voters, waves) -> Iterator[list[dict[str, object]]]:
        for x, labels, idx in waves:
            self.waves.append(list(idx))
            yield [
                self.row(i, label, int(pixels.sum())) for i, label, pixels in zip(idx, labels, x, strict=True)
            ]

    @staticmethod
    def row(idx: int, label: int, votes: int) -> dict[str, object]:
        right = int(label == 1)
        said = {"idx": idx, "label": label, "predict": 1, "radius": 0.5, "correct": right, "time": 0.1}
        return said | {"method": "watched", "votes": f"1:{votes}"}


def made(rows: Watched, **changes) -> Job:
    given = {
        "call": "certify_watched",
        "spec": Sampling(seed=3, n0=5, n=50),
        "identity": {"method": "watched", "rule": (0.1, 0.2)},
        "networks": [Sampled(m, GridNoise(s), 3) for m, s in zip(NETWORKS, (0.25, 0.5), strict=True)],
        "like": NETWORKS[0],
        "rows": rows,
        "wave": 2,
        "passes": 0,
        "columns": COLUMNS,
    }
    return Job(**given | changes)


def run(one: Job, images: Images, path: Path, **changes) -> pd.DataFrame:
    given = {"skip": 1, "max_images": -1, "replace": False, "progress": False, "info": None}
    return one.run(images, path, **given | changes)


def record(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text())


def test_a_table_is_begun_resumed_and_read(images: Images, tmp_path: Path, monkeypatch) -> None:
    path, first, second = tmp_path / "t.tsv", Watched(), Watched()
    few = run(made(first), images, path, skip=3, max_images=2, info={"why": "test"})
    assert first.waves == [[0, 3]]
    assert list(few.columns) == [*COLUMNS, "image"]
    told = record(path)
    assert told["identity"] == {
        "method": "watched", "rule": [0.1, 0.2],
        "fast": FastPath(compile=False, cuda_graph=False).steps(torch.float32),
    }  # fmt: skip
    assert (told["info"], told["skip"], told["max_images"], told["batch"]) == ({"why": "test"}, 3, 2, None)
    assert told["provenance"]["device"] == "cpu"
    whole = run(made(second), images, path)
    assert second.waves == [[1, 6], [4, 2], [5]]  # what was there is not done again
    assert whole["idx"].tolist() == list(range(7))
    assert whole["votes"].tolist() == [f"1:{sum(range(4 * i, 4 * i + 4))}" for i in range(7)]
    before = path.read_bytes(), path.with_suffix(".json").read_bytes()
    monkeypatch.setattr(job, "freeze", lambda *_, **__: pytest.fail("a complete table needs no network"))
    again = run(made(Watched()), images, path, skip=3)
    assert again["idx"].tolist() == [0, 3, 6]
    assert (path.read_bytes(), path.with_suffix(".json").read_bytes()) == before


def test_a_wave_fills_its_passes(images: Images, tmp_path: Path) -> None:
    one = made(Watched(), spec=Sampling(seed=3, batch=100), passes=3)  # a pass holds one block of one image
    run(one, images, tmp_path / "t.tsv")
    assert one.rows.waves == [[0, 4, 2], [6, 1, 5], [3]]  # spread over the images


def test_disagreement_is_that_of_each_network_and_measured_once(images: Images, tmp_path: Path) -> None:
    path, asked = tmp_path / "t.tsv", []

    def told(each: list[dict[str, float]]) -> list[float]:
        asked.append(each)
        return [share["share"] for share in each]

    run(made(Watched(), told=told), images, path, max_images=2)
    run(made(Watched(), told=told), images, path)
    assert len(asked) == 1
    assert record(path)["disagreement"] == [share["share"] for share in asked[0]]
    assert [each["draws"] for each in asked[0]] == [700, 700]
    run(made(Watched()), images, tmp_path / "list.tsv", max_images=1)
    assert record(tmp_path / "list.tsv")["disagreement"] == asked[0]


def test_other_settings_are_refused_or_set_aside(images: Images, tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    run(made(Watched()), images, path, max_images=2)
    before = path.read_bytes()
    for changes, named in (
        ({"identity": {"method": "watched", "rule": (0.1, 0.3)}}, "rule"),
        ({"spec": Sampling(seed=3, n0=5, n=50, fast=FastPath(fold=False))}, "fast"),
        ({"spec": Sampling(seed=3, n0=5, n=50, dtype=torch.bfloat16)}, "fast"),
    ):
        with pytest.raises(ValueError, match=rf"certify_watched: .*t\.tsv .* other settings \({named}\)"):
            run(made(Watched(), **changes), images, path)
    assert path.read_bytes() == before
    with pytest.warns(UserWarning, match=r"it is now t_old1\.tsv"):
        run(made(Watched(), identity={"method": "other"}), images, path, max_images=1, replace=True)
    assert (tmp_path / "t_old1.tsv").read_bytes() == before


def test_a_choice_that_was_left_open_stays_as_it_was_begun(
    images: Images, tmp_path: Path, monkeypatch
) -> None:
    """And what was chosen is not what was begun: that is another table."""
    path, one = tmp_path / "t.tsv", made(Watched())
    run(one, images, path, max_images=2)
    monkeypatch.setitem(fastpath._REPAYS, "cpu", 0.0)
    monkeypatch.setattr(fastpath, "_compiled", lambda *_: pytest.fail("the table was begun without"))
    run(one, images, path)
    monkeypatch.setattr(fastpath, "_compiled", lambda call, *_: call)
    chosen = replace(one, spec=replace(one.spec, fast=FastPath(compile=True)))
    with pytest.raises(ValueError, match=r"other settings \(fast\)"):
        run(chosen, images, path)


def test_compiling_is_weighed_by_all_images_of_the_job(images: Images, tmp_path: Path, monkeypatch) -> None:
    weighed = []

    def settle(fast: FastPath, like: nn.Module, shape: tuple[int, ...], *, inputs: int) -> FastPath:
        weighed.append((like, shape, inputs))
        return fastpath.settle(fast, like, shape, inputs=inputs)

    monkeypatch.setattr(job, "settle", settle)
    run(made(Watched()), images, tmp_path / "t.tsv", skip=2)
    assert weighed == [(NETWORKS[0], (1, 2, 2), 4 * 50)]


def test_a_step_that_fails_for_one_network_is_told_for_each(images: Images, monkeypatch) -> None:
    spec, networks = Sampling(seed=3), made(Watched()).networks
    voters = freeze_each(networks, images.shape, CPU, spec, FastPath(compile=False))
    assert [voter.noise.sigma for voter in voters] == [0.25, 0.5]
    assert steps_of(voters) == {"fast": voters[0].steps}
    voters[1].steps = {**voters[1].steps, "fold": False}
    assert steps_of(voters) == {"fast": voters[0].steps, "fast_each": [voter.steps for voter in voters]}
