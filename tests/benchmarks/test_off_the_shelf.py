"""`python -m benchmarks.off_the_shelf`, tiny and on the digits; and what the shipped tables show."""

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import off_the_shelf
from benchmarks.off_the_shelf import ALONE, CALLED, KINDS, SIGMAS, SQUARES, STABLE
from benchmarks.pages import shelf
from dualrs_lab.denoising import load_denoiser
from dualrs_lab.evidence import read_table
from dualrs_lab.models import fingerprint


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    out = tmp_path_factory.mktemp("shelf")
    return out, off_the_shelf.main(["--toy", "--out", str(out), "--device", "cpu", "--threads", "1"])


@pytest.mark.slow
def test_every_network_and_system_is_on_the_board(made: tuple[Path, pd.DataFrame]) -> None:
    out, found = made
    assert {*found.index.get_level_values(0)} == {*CALLED.values()}
    behind = found.loc[CALLED[STABLE]]
    assert {"σ = 0.12", "σ = 0.25, two bounds", "cascade, routed", "whoever is surest"} <= {*behind.index}
    assert (behind.loc["oracle"] >= behind.loc["σ = 0.25"] - 1e-9).all()
    written = pd.read_csv(out / "board.csv", index_col=[0, 1])
    pd.testing.assert_frame_equal(written, found.round(6), check_names=False)
    seen = pd.read_csv(out / "accuracy.csv", index_col=0)
    assert seen.loc[CALLED[ALONE], "0"] > 0.8
    assert [*seen.columns] == ["0", *(f"{s:g}" for s in SIGMAS), "images"]


@pytest.mark.slow
def test_tables_name_the_denoiser_and_stability_begins_with_squared_errors(
    made: tuple[Path, pd.DataFrame],
) -> None:
    out, _ = made
    files = {kind: out / f"denoiser_{kind}.safetensors" for kind in (SQUARES, STABLE)}
    told = json.loads(files[STABLE].with_suffix(".json").read_text())["training"]
    assert told["start"] == fingerprint(load_denoiser(files[SQUARES]))
    for kind in KINDS:
        path = out / f"{off_the_shelf.table_name(kind, 0.25, off_the_shelf.TOY.n)}.tsv"
        record = json.loads(path.with_suffix(".json").read_text())
        assert record["info"].get("denoiser") == (None if kind == ALONE else files[kind].name)
        assert len(read_table(path)) == 13


@pytest.mark.slow
def test_parts_that_are_there_are_not_made_again(made: tuple[Path, pd.DataFrame]) -> None:
    out, found = made
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    words = ["--toy", "--out", str(out), "--device", "cpu", "--threads", "1", "--parts", "stable", "board"]
    pd.testing.assert_frame_equal(off_the_shelf.main(words), found)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_without_the_package_it_says_where_the_network_is_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(off_the_shelf, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install pyautoattack"):
        off_the_shelf.shipped_network()


def test_the_shipped_board_follows_from_the_votes() -> None:
    found = {kind: {} for kind in KINDS}  # type: dict[str, dict[float, pd.DataFrame]]
    for (kind, sigma), table in shelf.tables().items():
        found[kind][sigma] = table
    again = off_the_shelf.board(found)
    pd.testing.assert_frame_equal(again.round(6), shelf.read_board(), check_names=False)
    zero = shelf.read_board()["0"]
    assert zero[CALLED[STABLE], "σ = 0.25, two bounds"] > zero[CALLED[ALONE], "σ = 0.25, two bounds"]
