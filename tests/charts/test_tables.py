"""Tables are found by path and pattern, and have names that tell them apart."""

import shutil
from pathlib import Path

import pytest

from dualrs_lab.charts import find_tables, read_tables
from dualrs_lab.evidence import read_table

DATA = Path(__file__).parents[2] / "data"
LOG = DATA / "published_logs" / "cohen2019_cifar10_resnet110_sigma_0.50.tsv"


def test_what_is_named_is_found_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b.tsv", "a.tsv"):
        (tmp_path / name).touch()
    named = [str(tmp_path / "b.tsv"), str(tmp_path / "*.tsv")]
    assert [path.name for path in find_tables(named, own="", shipped="")] == ["b.tsv", "a.tsv"]
    with pytest.raises(FileNotFoundError, match=r"find_tables: none\*\.tsv matches no file"):
        find_tables(["none*.tsv"], own=tmp_path, shipped=tmp_path)


def test_without_names_it_is_what_ships_and_what_is_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.tsv").touch()
    found = find_tables([], own=tmp_path, shipped=DATA)
    assert found[-1] == tmp_path / "mine.tsv"
    assert LOG in found
    with pytest.raises(FileNotFoundError, match="there are no tables in none or"):
        find_tables([], own="none", shipped=tmp_path)


def test_what_is_no_table_of_certificates_is_left_out_or_refused(tmp_path: Path) -> None:
    copies = [tmp_path / f"{name}_sigma_0.50.tsv" for name in ("a", "b")]
    copies.append(tmp_path / "a_sigma0.5_seed1.tsv")
    for path in copies:
        shutil.copyfile(LOG, path)
    other = tmp_path / "attacked.tsv"
    other.write_text("idx\tlabel\tnatural\n0\t1\t1\n")
    tables, left = read_tables([*copies, other], strict=False)
    assert [*tables] == ["a σ = 0.5", "b σ = 0.5", "a_sigma0.5_seed1"]
    assert [*left] == [other]
    with pytest.raises(ValueError, match=r"attacked\.tsv"):
        read_tables([other], strict=True)
    with pytest.raises(ValueError, match="none of the tables"):
        read_tables([other], strict=False)


def test_where_votes_are_told_apart_every_one_counts() -> None:
    folder, stem = DATA / "cifar10_recipes", "cifar10_jpeg_wide_start_CAT-RS_sigma0.5_seed0"
    graded = folder / f"{stem}_graded0.5_n10000.tsv"
    assert graded not in find_tables([], own=DATA, shipped=DATA)
    tables, _ = read_tables([graded, folder / f"{stem}_smoothed0.5_n10000.tsv"], strict=True)
    shown, plain = tables.values()
    same = plain[plain["idx"].isin(shown["idx"])]
    assert (shown["predict"] < 10).all()
    assert abs(shown["correct"].mean() - same["correct"].mean()) < 0.02  # drawn elsewhere
    assert read_table(graded)["predict"].max() >= 10  # as it is kept
