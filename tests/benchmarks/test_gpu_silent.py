"""The stage of silent votes on the CPU at toy size, and the benchmark that takes what comes back of it."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import silence, silent_votes
from benchmarks.dial import BETWEEN, CAT_RS, CONSISTENCY, SOUP, network_of
from benchmarks.gpu import silent as stage7
from benchmarks.gpu.certifying import SEED, fresh, sampling, split
from benchmarks.gpu.stage import Clock
from dualrs_lab.__main__ import main as command
from dualrs_lab.combine import read_image_votes
from dualrs_lab.data import load_images
from dualrs_lab.evidence import Certificate, at_confidence, average_radius, confidences_of, read_table
from dualrs_lab.models import Graded, fingerprint, load_checkpoint, save_checkpoint

CPU = torch.device("cpu")
CALL = ["--toy", "--device", "cpu", "--minutes", "60", "--out"]
BEGIN = "digits_digits_narrow"
FILES = {CAT_RS: f"{BEGIN}_CAT-RS", BETWEEN: f"{BEGIN}_between", SOUP: f"{BEGIN}_soup", CONSISTENCY: BEGIN}


def run_of(out: Path, kind: str, networks: dict[float, Path]) -> stage7.Run:
    clock, everything = Clock(60), load_images("digits", "train")
    like, test = (
        Graded(fresh(everything, "digits_narrow"), silent_votes.CONFIDENCES),
        load_images("digits", "test"),
    )
    return stage7.Run(
        size=stage7.TOY, clock=clock, out=out, device=CPU, everything=everything, test=test, kind=kind,
        sampling=sampling(like, test, clock), networks=networks,
    )  # fmt: skip


def saved(folder: Path) -> dict[float, Path]:
    """Untrained networks, under names as shipped ones have them."""
    images, made = load_images("digits", "train"), {}
    for sigma in (0.5, 0.25):
        made[sigma] = folder / f"{FILES[CAT_RS]}_sigma{sigma:g}_seed{SEED}.safetensors"
        data = {"name": images.title, "classes": list(images.classes), "shape": list(images.shape)}
        save_checkpoint(made[sigma], fresh(images, "digits_narrow"), data=data, sigma=sigma)
    return made


def test_files_of_shipped_networks_are_those_that_the_benchmark_asks_for(tmp_path: Path) -> None:
    for kind, sigmas in stage7.SIGMAS.items():
        networks = {sigma: network_of(sigma, kind) for sigma in sigmas}
        run = run_of(tmp_path, kind, networks)
        for sigma, path in networks.items():
            assert run.about(sigma) == {"checkpoint": path.name, "trained_sigma": sigma, "kind": kind}
            own, model = run.experts[sigma], load_checkpoint(path)[0]
            assert fingerprint(own) == fingerprint(Graded(model, silent_votes.CONFIDENCES))
            if kind in silence.KINDS:
                table = run.table(sigma, 10_000)
                table.touch()
                assert silence.graded_table(sigma, tmp_path, kind) == table
            else:
                plain = f"cifar10_jpeg_wide_start_sigma{sigma:g}_seed0_graded{sigma:g}_n10000.tsv"
                assert run.table(sigma, 10_000) == tmp_path / plain
        benches = (silence.Bench(out=tmp_path, data="digits", device=CPU, kind=k) for k in silence.KINDS)
        assert [bench.kind for bench in benches if bench.votes == run.votes] == [
            k for k in silence.KINDS if k == kind
        ]


def test_votes_that_fail_are_counted_by_the_plain_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, count = run_of(tmp_path, CAT_RS, saved(tmp_path)), stage7.image_votes

    def fails(*given, fast, **how):
        if fast != stage7.FastPath.plain():
            raise RuntimeError("no graph")
        return count(*given, fast=fast, **how)

    monkeypatch.setattr(stage7, "image_votes", fails)
    stage7.votes(run)
    assert any("RuntimeError: no graph; once more" in text for _, text in run.clock.steps)
    counts, labels, about = read_image_votes(run.votes, (0.25, 0.5))
    held = run.everything.select(split(run.everything)[1])
    assert counts.shape == (len(held), 2, 10 * (len(silent_votes.CONFIDENCES) + 1))
    assert (counts.sum(axis=2) == stage7.TOY.draws).all()
    assert labels.tolist() == held.labels.tolist()
    assert about["images"] == held.fingerprint()
    assert about["sure"] == {"answers": 10, "confidences": [*silent_votes.CONFIDENCES]}
    assert run.counting == run.size.board  # nothing is left to count


def test_a_part_that_fails_stops_no_other_and_without_time_all_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = saved(tmp_path)
    missing = {0.5: tmp_path / "missing_sigma0.5.safetensors"}
    monkeypatch.setattr(stage7, "_toys", lambda kind, *_: networks if kind == CONSISTENCY else missing)
    assert stage7.main([*CALL, str(tmp_path)]) == 1
    told = json.loads((tmp_path / "record.json").read_text())
    failed = (
        "failed: votes, CAT-RS, tables, CAT-RS, votes, between, tables, between, votes, soup, tables, soup"
    )
    assert failed in told["error"]
    assert len(list(tmp_path.glob("*_n200.tsv"))) == 2
    assert len(list(tmp_path.glob("*_graded_votes.safetensors"))) == 1
    late = tmp_path / "late"
    assert stage7.main(["--toy", "--device", "cpu", "--minutes", "1e-4", "--out", str(late)]) == 0
    said = [step["step"] for step in json.loads((late / "record.json").read_text())["steps"]]
    assert sum("left out" in text for text in said) == 9
    assert [path.name for path in late.iterdir()] == ["record.json"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("silent")
    assert stage7.main([*CALL, str(out)]) == 0
    return out


@pytest.mark.slow
def test_tables_tell_votes_apart_and_recompute(made: Path) -> None:
    for kind, sigmas in stage7.SIGMAS.items():
        for sigma in sigmas:
            table = read_table(made / f"{FILES[kind]}_sigma{sigma:g}_seed0_graded{sigma:g}_n200.tsv")
            assert table["idx"].tolist() == [*range(0, 500, 50)]
            assert confidences_of(table) == silent_votes.CONFIDENCES
            for rows in (table, at_confidence(table, 0.4)):
                again = [Certificate.from_row(row) for row in rows.to_dict("records")]
                assert {(one.sigma, one.n) for one in again} == {(sigma, 200)}
                assert [one.recomputed() for one in again] == pytest.approx(rows["radius"].tolist(), rel=1e-9)
    assert len(list(made.glob("*_CAT-RS_*_n300.tsv"))) == len(list(made.glob("*_n300.tsv"))) == 3


@pytest.mark.slow
def test_a_cascade_learns_from_them_on_the_command_line(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, sigmas in stage7.SIGMAS.items():
        tables = [f"{made}/{FILES[kind]}_sigma{s:g}_seed0_graded{s:g}_n200.tsv" for s in sigmas]
        votes, out = made / f"{FILES[kind]}_graded_votes.safetensors", tmp_path / f"{kind}.tsv"
        assert command(["cascade", *tables, "--train", str(votes), "--out", str(out)]) == 0
        assert "learnt from 25 images" in capsys.readouterr().out
        assert len(read_table(out)) == 10


@pytest.mark.slow
def test_a_second_call_changes_no_byte(made: Path) -> None:
    before = {path.name: path.read_bytes() for path in made.iterdir() if "_graded" in path.name}
    assert len(before) == 2 * (3 + 1 + 2 + 4 + 3 + 4)  # tables at both n, and votes
    assert stage7.main([*CALL, str(made)]) == 0
    assert {path.name: path.read_bytes() for path in made.iterdir() if "_graded" in path.name} == before


@pytest.mark.slow
def test_the_benchmark_learns_from_votes_that_are_named_and_from_tables_that_are_there(
    made: Path, tmp_path: Path
) -> None:
    for sigma in silent_votes.LEVELS:
        own = made / f"{FILES[CAT_RS]}_sigma{sigma:g}_seed0_graded{sigma:g}_n200.tsv"
        for suffix in (".tsv", ".json"):
            name = silence.graded_name(network_of(sigma, CAT_RS), sigma)
            shutil.copy(own.with_suffix(suffix), (tmp_path / name).with_suffix(suffix))
    assert silence.plain_levels(tmp_path) == ()
    votes = made / f"{FILES[CAT_RS]}_graded_votes.safetensors"
    call = ["--data", "digits", "--votes", str(votes), "--threads", "1", "--out", str(tmp_path)]
    found = silence.main(call)
    rows = pd.read_csv(tmp_path / "silence.csv", dtype={"confidences": str, "shares": str})
    assert len(found) == len(rows) == 2 * (len(silent_votes.GOALS) + 1)
    assert (rows["images"] == 10).all()
    silent = rows[rows["arm"] == "silent, asked again"]
    assert any(float(sure) > 0 for told in silent["confidences"] for sure in told.split())
    for _, row in rows.iterrows():  # a row says which cascade it is of
        again = silence.certified(silence.of_row(row), tmp_path)
        assert average_radius(again) == pytest.approx(row["acr"], abs=1e-6)
    assert not (tmp_path / votes.name).exists()


def test_who_may_be_silent_is_decided_by_the_tables_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, out = tmp_path / "shipped", tmp_path / "out"
    monkeypatch.setattr(silence, "TAUGHT", shipped)
    for folder in (shipped, out):
        folder.mkdir()

    def touch(sigma: float, folder: Path) -> None:
        (folder / silence.graded_name(network_of(sigma, CAT_RS), sigma)).touch()

    with pytest.raises(FileNotFoundError, match=r"graded1_n10000\.tsv: no such file"):
        silence.plain_levels(out)
    touch(0.5, out)
    assert silence.plain_levels(out) == (1.0, 0.25)
    touch(1.0, shipped)
    assert silence.plain_levels(out) == (0.25,)
    touch(0.25, shipped)
    assert silence.plain_levels(out) == ()


def test_votes_that_are_named_are_not_counted_and_have_to_be_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["--data", "digits", "--out", str(tmp_path), "--votes", str(tmp_path / "votes.safetensors")]
    for more, told in ([], "no such file"), (["--parts", "votes"], "leave the part votes out"):
        with pytest.raises(SystemExit):
            silence.main([*call, *more])
        assert told in capsys.readouterr().err
        (tmp_path / "votes.safetensors").touch()
