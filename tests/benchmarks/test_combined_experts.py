"""Experts trained through a combiner, as a benchmark: every part at toy size, once and in any order."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import combined_experts as bench
from benchmarks.quality import BOTH, SHIPPED, SHIPPED_SYSTEMS, SIGMAS
from dualrs_lab.combine import Combiner, combine_tables, read_combiner, read_image_votes
from dualrs_lab.evidence import read_table
from dualrs_lab.experiment import Experiment, Shelf
from dualrs_lab.models import fingerprint, load_checkpoint


def run(out: Path, *parts: str) -> pd.DataFrame:
    more = ["--parts", *parts] if parts else []
    return bench.main(["--toy", "--threads", "1", "--device", "cpu", "--out", str(out), *more])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    out = tmp_path_factory.mktemp("combined")
    return out, run(out)


def files(out: Path) -> Experiment:
    return Experiment(folder=out, data="digits", model="digits_narrow", n=200)


@pytest.mark.slow
def test_every_part_is_made_once(made: tuple[Path, pd.DataFrame]) -> None:
    out, board = made
    slow = [path for path in out.rglob("*") if path.suffix in (".safetensors", ".tsv")]
    assert len(slow) == 3 * 2 + 1 + 2 * (3 * 2 + 1) + 1  # experts, tables and votes, thrice; combined.tsv
    before = {path: path.stat().st_mtime_ns for path in slow}
    pd.testing.assert_frame_equal(run(out), board)
    assert {path: path.stat().st_mtime_ns for path in slow} == before
    written = pd.read_csv(out / "comparison_combined.csv", index_col="rule")
    pd.testing.assert_frame_equal(written, board, atol=1e-6)


@pytest.mark.slow
def test_experts_were_trained_through_the_combiner_or_for_themselves(made: tuple[Path, pd.DataFrame]) -> None:
    out, _ = made
    first, kept = files(out / "first"), read_combiner(Shelf(out / "first").combiner("even"))
    started = {s: fingerprint(load_checkpoint(first.expert(s))[0]) for s in SIGMAS}
    for sigma in SIGMAS:
        for through, combiner in (("combiner", kept), ("alone", Combiner.single((sigma,), 0))):
            path = files(out).tuned(sigma, through=through)
            record = json.loads(path.with_suffix(".json").read_text())
            training = record["training"]
            assert record["sigma"] == sigma
            assert training["objective"]["combiner"] == combiner.text
            assert training["objective"]["accuracy"] == bench.ACCURACY
            assert training["start"] == [started[s] for s in combiner.sigmas]
            table = files(out).tuned_certificates(sigma, through=through).with_suffix(".json")
            expert = load_checkpoint(path)[0]
            assert json.loads(table.read_text())["identity"]["model"] == fingerprint(expert) != started[sigma]


@pytest.mark.slow
def test_the_combiner_is_learnt_anew_from_votes_of_the_new_experts(made: tuple[Path, pd.DataFrame]) -> None:
    out, board = made
    sigmas = SIGMAS[::-1]
    combiner = read_combiner(Shelf(out).combiner("combined"))
    about = json.loads(Shelf(out).combiner("combined").read_text())["settings"]["about"]
    own = [files(out).tuned(s, through="combiner") for s in SIGMAS]
    assert about["experts"] == [fingerprint(load_checkpoint(path)[0]) for path in own]
    assert about == read_image_votes(out / "votes_combined.safetensors", sigmas)[2]
    table = read_table(out / "combined_tuned.tsv")
    assert table["combiner"].unique().tolist() == [combiner.text]
    tables = {s: read_table(files(out).tuned_certificates(s, through="combiner")) for s in SIGMAS}
    wanted = combine_tables(tables, combiner=combiner, alpha=0.001)
    assert table["radius"].tolist() == pytest.approx(wanted["radius"].tolist())
    mean = (wanted["radius"] * (wanted["predict"] == wanted["label"])).mean()
    assert board.loc["trained together, combiner", "acr"] == pytest.approx(mean)


@pytest.mark.slow
def test_the_comparison_holds_everything_before_and_after(made: tuple[Path, pd.DataFrame]) -> None:
    rows = {*made[1].index}
    for called in ("", "trained alone, ", "trained together, "):
        for end in ("", BOTH):
            assert {f"{called}σ = {s:g}{end}" for s in SIGMAS} <= rows
            assert {f"{called}envelope{end}", f"{called}oracle{end}"} <= rows
    after = {f"trained {how}, combiner{end}" for how in ("alone", "together") for end in ("", " as it was")}
    assert {"combiner"} | after <= rows


@pytest.mark.slow
def test_what_was_not_trained_alone_is_left_out(made: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    out = shutil.copytree(made[0], tmp_path / "some")
    for path in [*out.glob("*sigma0.25*_alone*"), *out.glob("*combiner_alone*")]:
        path.unlink()
    rows, whole = {*run(out, "board").index}, {*made[1].index}
    lost = {f"trained alone, σ = 0.25{end}" for end in ("", BOTH)}
    assert whole - rows == lost | {"trained alone, combiner"}


def test_the_shipped_comparison_follows_from_the_shipped_tables() -> None:
    systems = Path(bench.__file__).parents[1] / "data" / "cifar10_systems"
    given = {"data": "", "device": torch.device("cpu"), "size": bench.FULL}
    shipped = bench.Bench(first=SHIPPED, shelf=SHIPPED_SYSTEMS, out=systems, **given)
    written = pd.read_csv(systems / "comparison_combined.csv", index_col="rule")
    pd.testing.assert_frame_equal(written, bench.board(shipped).round(6))
    alone, mixed = (written.loc[f"trained alone, {of}"] for of in (f"σ = 1{BOTH}", "combiner as it was"))
    assert mixed["0"] - alone["0"] > 0.05  # what the page says of them
    assert mixed["acr"] > written.loc["trained together, combiner as it was", "acr"]


@pytest.mark.slow
def test_a_part_that_lacks_another_says_so(tmp_path: Path) -> None:
    run(tmp_path, "alone-0.5")
    assert [path.name for path in tmp_path.glob("*.safetensors")] == [
        "digits_digits_narrow_sigma0.5_seed0_alone.safetensors"
    ]
    for part in ("votes-combined", "certify-combined-1", "board"):
        with pytest.raises(FileNotFoundError, match=r"run python -m benchmarks\.combined_experts"):
            run(tmp_path, part)
    assert run(tmp_path, "certify-alone-0.5").empty


def test_images_must_be_named_unless_it_is_a_dry_run(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--out", str(tmp_path)])
    assert "give --data, or --toy" in capsys.readouterr().err
