"""`dualrs-lab board`: any tables as one page; of those that nobody named, only what can be shown."""

import shutil
from pathlib import Path

import pytest

from dualrs_lab.__main__ import main

DATA = Path(__file__).parents[2] / "data"
LOG = DATA / "published_logs" / "cohen2019_cifar10_resnet110_sigma_0.50.tsv"


def test_tables_become_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dual = DATA / "cifar10_systems" / "dual.tsv"
    out = tmp_path / "mine.html"
    assert main(["board", str(LOG), str(dual), "--out", str(out), "--data", str(tmp_path)]) == 0
    assert "board: 2 tables; open" in capsys.readouterr().out
    page = out.read_text("utf-8")
    assert '"name":"cohen2019_cifar10_resnet110 σ = 0.5"' in page
    assert 'data-idx="' not in page  # there are no pictures in that folder


def test_without_names_it_takes_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["board"]) == 2
    assert "there are no tables in runs/files or data" in capsys.readouterr().err
    own = tmp_path / "runs" / "files"
    own.mkdir(parents=True)
    shutil.copyfile(LOG, own / "a_sigma0.25_seed0_smoothed0.25_n100.tsv")
    shutil.copyfile(LOG, own / "a_sigma0.25_seed1_smoothed0.25_n100.tsv")
    (own / "attacked.tsv").write_text("idx\tlabel\tnatural\n0\t1\t1\n")
    assert main(["board"]) == 0
    said = capsys.readouterr().out
    assert "left out runs/files/attacked.tsv" in said
    assert "board: 2 tables; open board.html" in said
    page = Path("board.html").read_text("utf-8")
    assert '"name":"a σ = 0.25"' in page
    assert '"name":"a_sigma0.25_seed1_smoothed0.25_n100"' in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.tsv"], "the table none.tsv not found"),
        (["junk.tsv"], "junk.tsv"),
        ([str(LOG), "--out", "page.txt"], "want a name that ends in .html"),
        ([str(LOG), "--radius", "-1"], "--radius"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("junk.tsv").write_text("nothing of the kind\n")
    assert main(["board", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("*.html"))
