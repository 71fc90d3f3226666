"""Files at addresses are fetched once and whole, anew when they change, and nothing is left half."""

import os
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.core import url_to_fs

from dualrs_lab.__main__ import main
from dualrs_lab.adapters import load_network
from dualrs_lab.afar import at_hand, by_address, cache_folder, expand
from dualrs_lab.attacks import read_evaluation
from dualrs_lab.charts import find_tables, read_tables
from dualrs_lab.evidence import read_table
from dualrs_lab.models import load_checkpoint, make_model, save_checkpoint
from tests.afar.disks import BadFileSystem
from tests.cli.test_main import DIGITS
from tests.faults.deaths import make
from tests.faults.trees import tree

ROOT = Path(__file__).parents[2]


def put(address: str, *paths: Path) -> None:
    """Copies of these files in the folder of an address."""
    fs, folder = url_to_fs(address)
    fs.makedirs(folder, exist_ok=True)
    for path in paths:
        fs.pipe_file(f"{folder}/{path.name}", path.read_bytes())


@pytest.fixture
def table(tmp_path: Path) -> Path:
    make(tmp_path / "here" / "t.tsv")
    return tmp_path / "here" / "t.tsv"


@pytest.mark.parametrize("protocol", ["memory", "file", "bad"])
def test_a_table_is_read_with_its_record_and_fetched_once(
    tmp_path: Path, table: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"file://{tmp_path}/far" if protocol == "file" else f"{protocol}://bucket/far"
    put(folder, table, table.with_suffix(".json"))
    found, here = read_table(f"{folder}/t.tsv"), read_table(table)
    assert found.equals(here)
    assert found.attrs["identity"] == here.attrs["identity"]  # by its record, which came as well
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{folder}/t.tsv with its .json: fetched" in said
    assert str(cache_folder()) in said
    BadFileSystem.done.clear()
    read_table(f"{folder}/t.tsv")
    assert BadFileSystem.done == []


def test_what_changed_there_is_read_anew_and_the_old_copy_is_not_mixed_with_it(
    tmp_path: Path, table: Path
) -> None:
    put("memory://far", table, table.with_suffix(".json"))
    first = at_hand("test", "memory://far/t.tsv")
    assert at_hand("test", "memory://far/t.tsv") == first
    table.unlink()
    table.with_suffix(".json").unlink()
    make(table, alpha=0.02)
    put("memory://far", table, table.with_suffix(".json"))
    second = at_hand("test", "memory://far/t.tsv")
    assert second != first
    assert {*read_table("memory://far/t.tsv")["alpha"]} == {0.02}
    assert {*read_table(first)["alpha"]} == {0.01}  # who reads it still, has it whole
    fsspec.filesystem("memory").rm_file("/far/t.json")  # a record that is gone is gone
    assert not at_hand("test", "memory://far/t.tsv").with_suffix(".json").exists()


def test_a_copy_that_nobody_has_read_for_a_week_goes_when_a_new_version_comes(
    tmp_path: Path, table: Path
) -> None:
    put("memory://far", table)
    first = at_hand("test", "memory://far/t.tsv")
    os.utime(first.parent, (0, time.time() - 8 * 24 * 3600))
    put("memory://far", table)
    assert at_hand("test", "memory://far/t.tsv").is_file()
    assert not first.exists()


@pytest.mark.parametrize("mischief", [{"cut get": True}, {"fail get": ConnectionError("gone")}])
def test_a_download_that_is_cut_off_leaves_nothing_and_the_next_is_whole(
    table: Path, cache: Path, mischief: dict[str, object]
) -> None:
    put("bad://far", table, table.with_suffix(".json"))
    BadFileSystem.mischief.update(mischief)
    with pytest.raises(OSError, match=r"bad://far/t.tsv cannot be fetched: .*; the same call"):
        read_table("bad://far/t.tsv")
    assert tree(cache / "read") == {
        name: kind for name, kind in tree(cache / "read").items() if "/" not in name
    }
    assert read_table("bad://far/t.tsv").equals(read_table(table))


def test_one_that_changes_while_it_is_fetched_is_fetched_again_as_of_one_moment(
    tmp_path: Path, table: Path
) -> None:
    put("bad://far", table, table.with_suffix(".json"))
    make(tmp_path / "other" / "t.tsv", alpha=0.02)
    other = [tmp_path / "other" / name for name in ("t.tsv", "t.json")]
    BadFileSystem.mischief["before get"] = lambda: put("bad://far", *other)
    found = read_table("bad://far/t.tsv")
    assert {*found["alpha"]} == {0.02} == {found.attrs["identity"]["alpha"]}


def test_so_is_one_that_changes_between_its_two_files(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        for file in ("t.tsv", "t.json"):
            (tmp_path / name / file).write_text(name)
    put("bad://far", tmp_path / "old" / "t.tsv", tmp_path / "old" / "t.json")
    new = [tmp_path / "new" / file for file in ("t.json", "t.tsv")]
    BadFileSystem.mischief["after get"] = lambda: put("bad://far", *new)
    found = at_hand("test", "bad://far/t.tsv")
    assert [found.read_text(), found.with_suffix(".json").read_text()] == ["new", "new"]
    assert [*found.parent.parent.iterdir()] == [found.parent]


def test_a_full_disk_here_is_told_and_leaves_nothing(table: Path, cache: Path) -> None:
    put("bad://far", table)
    BadFileSystem.mischief["fail get"] = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space left on device while it is fetched") as error:
        read_table("bad://far/t.tsv")
    assert error.value.errno == 28
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_two_processes_at_once_both_have_it_whole(tmp_path: Path, table: Path) -> None:
    put(f"file://{tmp_path}/far", table, table.with_suffix(".json"))
    code = (
        f"from dualrs_lab.evidence import read_table; print(len(read_table('file://{tmp_path}/far/t.tsv')))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    assert [one.communicate()[0].strip() for one in both] == ["24"] * 3
    assert len([*cache_folder().glob("read/*/*/t.tsv")]) == 1


@pytest.fixture
def network(tmp_path: Path) -> Path:
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    save_checkpoint(tmp_path / "here" / "net.safetensors", model, data=DIGITS)
    return tmp_path / "here" / "net.safetensors"


def test_a_checkpoint_and_plain_weights_are_read_from_afar(network: Path) -> None:
    put("memory://far", network, network.with_suffix(".json"))
    here, _ = load_checkpoint(network)
    x = torch.rand(2, 1, 8, 8)
    for found in (
        load_checkpoint("memory://far/net.safetensors")[0],
        load_network("memory://far/net.safetensors"),
    ):
        assert torch.equal(found(x), here(x))
    assert load_network("memory://far/net.safetensors").info["source"] == "net.safetensors"


def test_nothing_from_afar_is_unpickled(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": Runs()}, tmp_path / "evil.pt")
    put("memory://far", tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="nothing in a checkpoint is ever run"):
        load_network("memory://far/evil.pt")
    assert not (tmp_path / "ran").exists()


def test_every_command_that_reads_tables_takes_addresses_and_patterns(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put("memory://far", table, table.with_suffix(".json"))
    assert main(["summary", "memory://far/*.tsv"]) == 0
    assert "\nt " in capsys.readouterr().out
    assert main(["verify", "memory://far/t.tsv"]) == 0
    assert capsys.readouterr().out.startswith("memory://far/t.tsv: certified: ")
    assert main(["board", "memory://far/t.tsv", "--out", "memory://far/b.html"]) == 0
    assert "open memory://far/b.html in a browser" in capsys.readouterr().out
    assert b"<html" in fsspec.filesystem("memory").cat_file("/far/b.html")
    tables, _ = read_tables(find_tables(["memory://far/*.tsv"], own="x", shipped="x"), strict=True)
    assert [*tables] == ["t"]
    assert expand("test", "memory://far/t.tsv") == ["memory://far/t.tsv"]
    with pytest.raises(FileNotFoundError, match=r"find_tables: memory://far/x\*.tsv matches no file"):
        find_tables(["memory://far/x*.tsv"], own="x", shipped="x")


def test_what_is_wrong_is_told_by_the_address_in_one_line(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["summary", "memory://far/none.tsv"]) == 2
    assert capsys.readouterr().err == (
        "dualrs-lab: error: summary: memory://far/none.tsv not found; see that the address is right, and "
        "that you may read it\n"
    )
    put("memory://far", table)
    assert main(["summary", "memory://far"]) == 2
    assert "memory://far is a folder; wanted a file" in capsys.readouterr().err
    table.write_text(table.read_text().replace("\t", "\t\t", 1))
    put("memory://far", table)
    assert main(["verify", "memory://far/t.tsv"]) == 1
    assert capsys.readouterr().out.startswith("memory://far/t.tsv: WRONG: read_table(memory://far/t.tsv): ")
    with pytest.raises(FileNotFoundError, match=r"read_evaluation: memory://far/e\.tsv not found"):
        read_evaluation("memory://far/e.tsv")


def test_a_folder_of_images_is_one_of_this_machine() -> None:
    from dualrs_lab.data import load_images

    with pytest.raises(ValueError, match="thousands of small files would each be fetched alone"):
        load_images("folder:s3://bucket/images", "test")


@pytest.mark.parametrize(
    ("protocol", "package", "missing"),
    [("s3", "s3fs", "s3fs"), ("gs", "gcsfs", "gcsfs"), ("hf", "huggingface_hub", "huggingface_hub"),
     ("http", "aiohttp", "aiohttp"), ("memory", "fsspec", "fsspec.core")],
)  # fmt: skip
def test_a_package_that_is_missing_is_named_with_the_extra(
    protocol: str, package: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    known = sys.modules["fsspec.registry"]._registry
    monkeypatch.delitem(known, "" if protocol == "memory" else protocol, raising=False)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    with pytest.raises(ValueError, match=rf"{package}: pip install 'dualrs-lab\[afar\]'"):
        at_hand("test", f"{protocol}://org/name/t.tsv")


def test_a_protocol_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"test: nothing://x/t\.tsv: Protocol not known"):
        at_hand("test", "nothing://x/t.tsv")


def test_a_path_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert at_hand("test", tmp_path / "t.tsv") == tmp_path / "t.tsv"
    assert at_hand("test", "memory:/t.tsv") == Path("memory:/t.tsv")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memory:").mkdir()
    (tmp_path / "memory:" / "t.tsv").write_text("x")
    assert at_hand("test", "memory://t.tsv") == Path("memory://t.tsv")  # of that name here
    assert by_address(tmp_path) == str(tmp_path)
