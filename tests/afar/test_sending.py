"""What goes to an address is worked on here, goes on after a kill, and appears there whole or not at all."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from fsspec.core import url_to_fs

from dualrs_lab.__main__ import main
from dualrs_lab.afar import sending
from dualrs_lab.evidence import Certificate, read_table
from dualrs_lab.front.table import Table
from dualrs_lab.models import make_model, save_checkpoint
from dualrs_lab.store import read_record
from tests.afar.disks import BadFileSystem
from tests.afar.test_reading import ROOT, put
from tests.cli.test_main import DIGITS
from tests.faults import deaths
from tests.faults.deaths import COUNT, certificate, make, whole
from tests.test_shards import rows


def made(address: str, alpha: float = 0.01) -> Path:
    with sending("made", address) as path:
        make(path, alpha=alpha)
    return path


def names(protocol: str = "memory") -> list[str]:
    return sorted(fsspec.filesystem(protocol).store)


@pytest.mark.parametrize("protocol", ["memory", "file", "bad"])
def test_a_table_is_sent_whole_with_its_record_and_the_same_again_does_nothing(
    tmp_path: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"file://{tmp_path}/far" if protocol == "file" else f"{protocol}://bucket/far"
    here = made(f"{folder}/t.tsv")
    said = capsys.readouterr().err
    assert re.fullmatch(rf"dualrs-lab: {folder}/t.tsv: t.json and t.tsv sent, [\d.]+ kB; a copy .*\n", said)
    assert str(here.parent) in said
    fs, path = url_to_fs(folder)
    assert sorted(one.rpartition("/")[2] for one in fs.find(path)) == ["t.json", "t.tsv"]
    assert fs.cat_file(f"{path}/t.tsv") == here.read_bytes()
    assert read_record(here)["sha256"]
    before = fs.info(f"{path}/t.tsv")
    made(f"{folder}/t.tsv")
    assert "t.tsv is as it was: there was nothing to send" in capsys.readouterr().err
    assert fs.info(f"{path}/t.tsv") == before
    assert len(read_table(f"{folder}/t.tsv")) == COUNT


def test_what_is_at_the_address_decides_as_a_file_here_does(cache: Path, tmp_path: Path) -> None:
    made("memory://far/t.tsv")
    os.rename(cache, tmp_path / "of another machine")
    made("memory://far/t.tsv")  # fetched, found done, not drawn again
    kept = fsspec.filesystem("memory").cat_file("/far/t.tsv")
    with pytest.raises(ValueError, match="was made with other settings"):
        made("memory://far/t.tsv", alpha=0.02)
    assert fsspec.filesystem("memory").cat_file("/far/t.tsv") == kept


def test_with_replace_the_old_one_is_kept_here_and_what_was_there_is_not_lost(cache: Path) -> None:
    made("memory://far/t.tsv")
    old = fsspec.filesystem("memory").cat_file("/far/t.tsv")
    with sending("made", "memory://far/t.tsv") as path:
        make(path, alpha=0.02, replace=True)
    assert path.with_name("t_old1.tsv").read_bytes() == old
    assert {*read_table("memory://far/t.tsv")["alpha"]} == {0.02}


def begun(address: str) -> None:
    """A table whose making is interrupted in the middle."""

    def one(idx: int, alpha: float) -> Certificate:
        if idx == deaths.ORDER[9]:
            raise KeyboardInterrupt
        return certificate(idx, alpha)

    with pytest.MonkeyPatch.context() as patch, sending("made", address) as path:
        patch.setattr(deaths, "certificate", one)
        make(path)


def test_what_was_begun_here_goes_on_and_nothing_is_there_until_it_is_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(KeyboardInterrupt):
        begun("memory://far/t.tsv")
    assert names() == []
    said = capsys.readouterr().err
    assert "memory://far/t.tsv: not sent; the same call goes on from" in said
    kept = Path(said.split()[-1], "t.tsv").read_bytes().splitlines()
    assert len(kept) == 9
    made("memory://far/t.tsv")
    assert {*kept} <= {*fsspec.filesystem("memory").cat_file("/far/t.tsv").splitlines()}
    assert len(read_table("memory://far/t.tsv")) == COUNT


def test_of_what_was_begun_and_what_somebody_else_has_finished_the_latter_counts(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        begun("memory://far/t.tsv")
    other_machine(monkeypatch, cache, "another")
    made("memory://far/t.tsv")
    other_machine(monkeypatch, cache, cache.name)
    here = made("memory://far/t.tsv")
    assert "what was made here is kept as" in capsys.readouterr().err
    assert here.with_name("t_old1.tsv").read_bytes().count(b"\n") == 9
    whole(here)


@pytest.mark.parametrize("at", ["t.json", "t.tsv"])
def test_when_sending_fails_in_the_middle_no_half_is_there_and_the_next_call_sends_the_rest(
    at: str, capsys: pytest.CaptureFixture[str]
) -> None:
    BadFileSystem.mischief["fail put of"] = at
    with pytest.raises(OSError, match=r"bad://far/t\.tsv cannot be sent: the line is down") as error:
        made("bad://far/t.tsv")
    assert "pass" not in str(error.value)
    assert "abc" not in str(error.value)
    assert names("bad") == ([] if at == "t.json" else ["/far/t.json"])
    BadFileSystem.done.clear()
    made("bad://far/t.tsv")
    sent = [path.rpartition("/")[2] for what, path in BadFileSystem.done if what == "put"]
    assert len(sent) == (2 if at == "t.json" else 1)
    assert names("bad") == ["/far/t.json", "/far/t.tsv"]
    assert len(read_table("bad://far/t.tsv")) == COUNT


def test_a_reader_never_meets_a_table_without_its_record(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    before = BadFileSystem.pipe_file

    def pipe(self: BadFileSystem, path: str, value: bytes, **more: object) -> None:
        before(self, path, value, **more)
        seen.append(names("bad"))

    monkeypatch.setattr(BadFileSystem, "pipe_file", pipe)
    made("bad://far/t.tsv")
    assert seen
    assert all("/far/t.json" in found for found in seen if "/far/t.tsv" in found)


def other_machine(monkeypatch: pytest.MonkeyPatch, cache: Path, name: str) -> None:
    monkeypatch.setenv("DUALRS_AFAR", str(cache.with_name(name)))


def test_of_two_that_made_the_same_the_first_stays_and_the_other_is_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with sending("made", "memory://far/t.tsv") as slow:
        make(slow)
        slow.write_bytes(slow.read_bytes())
        other_machine(monkeypatch, cache, "another")
        quick = made("memory://far/t.tsv")
        data = quick.read_bytes().replace(b"\t0.5\t", b"\t0.7\t")  # its times are others
        assert data != quick.read_bytes()
        record = json.loads(quick.with_suffix(".json").read_text())
        fsspec.filesystem("memory").pipe_file("/far/t.tsv", data)
        record["sha256"] = "other"
        fsspec.filesystem("memory").pipe_file("/far/t.json", json.dumps(record).encode())
    said = capsys.readouterr().err
    assert "was made by somebody else meanwhile, and stays; what was made here is kept as" in said
    assert fsspec.filesystem("memory").cat_file("/far/t.tsv") == data == slow.read_bytes()
    assert slow.with_name("t_old1.tsv").is_file()


def test_of_two_of_other_settings_the_second_is_refused_and_keeps_its_own(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly() -> None:
        with sending("made", "memory://far/t.tsv") as path:
            make(path)
            other_machine(monkeypatch, cache, "another")
            made("memory://far/t.tsv", alpha=0.02)

    with pytest.raises(ValueError, match=r"far/t\.tsv was made with other settings \(alpha\)") as error:
        slowly()
    (slow,) = cache.glob("work/*/t.tsv")
    assert str(slow.parent) in str(error.value)
    whole(slow)
    assert {*read_table("memory://far/t.tsv")["alpha"]} == {0.02}


def test_one_that_has_more_of_the_same_rows_takes_the_place_and_says_so(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with sending("made", "memory://far/t.tsv") as path:
        make(path)
        record = json.loads(path.with_suffix(".json").read_text()) | {"rows": 5, "record_sha256": None}
        put("memory://far", path)
        fsspec.filesystem("memory").pipe_file("/far/t.tsv", b"".join(path.read_bytes().splitlines(True)[:6]))
        fsspec.filesystem("memory").pipe_file("/far/t.json", json.dumps(record).encode())
    assert "has 5 rows of the same making; 24 take their place" in capsys.readouterr().err
    assert len(read_table("memory://far/t.tsv")) == COUNT


def test_a_second_process_of_this_machine_is_told(tmp_path: Path) -> None:
    code = (
        "from dualrs_lab.afar import sending\nimport time\n"
        f"with sending('made', 'file://{tmp_path}/far/t.tsv'):\n print('in', flush=True)\n time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == "in\n"
        with pytest.raises(ValueError, match=f"is being written by process {first.pid}"):
            made(f"file://{tmp_path}/far/t.tsv")
        first.kill()
    made(f"file://{tmp_path}/far/t.tsv")  # the lock died with it


SLOW = """
import sys, time
import fsspec
from fsspec.implementations.local import LocalFileSystem
class Slow(LocalFileSystem):
    def put_file(self, lpath, rpath, **more):
        with open(lpath, "rb") as a, open(rpath, "wb") as b:
            while data := a.read(300):
                b.write(data); b.flush(); time.sleep(float(sys.argv[2]))
fsspec.register_implementation("file", Slow, clobber=True)
from dualrs_lab.afar import sending
from tests.faults.deaths import make
with sending("made", sys.argv[1]) as path:
    make(path)
"""


def test_a_kill_while_it_is_sent_leaves_no_half_and_the_next_call_ends_it(tmp_path: Path) -> None:
    far = tmp_path / "far"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SLOW, f"file://{far}/t.tsv"]
    for _ in range(2):
        sender = subprocess.Popen([*command, "0.1"], env=environment, cwd=ROOT)
        while not (parts := [*far.glob(".t.tsv.*.tmp")]) or not parts[0].stat().st_size:
            assert sender.poll() is None
            time.sleep(0.02)
        sender.send_signal(signal.SIGKILL)
        sender.wait()
        assert not (far / "t.tsv").exists()
    subprocess.run([*command, "0"], env=environment, cwd=ROOT, check=True)
    assert sorted(path.name for path in far.iterdir()) == ["t.json", "t.tsv"]
    whole(far / "t.tsv")


class Odd(fsspec.AbstractFileSystem):
    """Of which nobody knows how it keeps files."""

    protocol = "odd"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://127.0.0.1:9/t.tsv", "http(s) is only read"),
        ("simplecache::memory://far/t.tsv", "goes through another file system"),
        ("odd://far/t.tsv", "whole or not at all"),
        ("memory://far/", "is no name for a file"),
    ],
)
def test_where_nothing_is_sent_whole_it_is_refused_before_anything_is_made(address: str, why: str) -> None:
    if address.startswith("http"):
        pytest.importorskip("aiohttp")
    fsspec.register_implementation("odd", Odd, clobber=True)
    with pytest.raises(ValueError, match=why.replace("(", r"\(").replace(")", r"\)")), sending("x", address):
        raise AssertionError


def test_a_table_of_the_front_door_is_saved_to_an_address(tmp_path: Path) -> None:
    make(tmp_path / "t.tsv")
    from dualrs_lab import read_table as read

    table = read(tmp_path / "t.tsv")
    assert isinstance(table, Table)
    table.save("memory://far/s.tsv")
    assert read("memory://far/s.tsv").record["identity"] == {"alpha": 0.01}
    with pytest.raises(ValueError, match="is there already"):
        table.save("memory://far/s.tsv")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The words that certify a network at an address into a table at another."""
    monkeypatch.chdir(tmp_path)
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    save_checkpoint(tmp_path / "net.safetensors", model, data=DIGITS)
    put("memory://far", tmp_path / "net.safetensors", tmp_path / "net.json")

    def words(out: str, *more: str) -> list[str]:
        return ["certify", "--model", "memory://far/net.safetensors", "--data", "digits", "--sigma", "0.25",
                "--max", "12", "--n", "200", "--n0", "20", "--no-compile", "--device", "cpu",
                "--out", out, *more]  # fmt: skip

    return words


def test_certify_attack_and_merge_work_from_address_to_address(
    lab: Callable[..., list[str]], cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(lab("whole.tsv")) == 0
    assert main(lab("memory://far/c.tsv")) == 0
    fs = fsspec.filesystem("memory")
    fs.get_file("/far/c.tsv", "c.tsv")
    assert rows(Path("c.tsv")) == rows(Path("whole.tsv"))
    capsys.readouterr()
    assert main(lab("memory://far/c.tsv", "--seed", "1")) == 2
    said = capsys.readouterr().err
    assert "memory://far/c.tsv was made with other settings (seed)" in said
    assert str(cache / "work") not in said
    for number in (1, 2, 3):  # each on a machine of its own
        os.rename(cache, tmp_path / f"machine {number}")
        assert main(lab("memory://far/p.tsv", "--shard", f"{number}/3")) == 0
        assert f"in memory://far/p.part-{number}-of-3.tsv; with all 3 parts: merge memory://far/p.tsv" in (
            capsys.readouterr().out
        )
    assert main(["merge", "memory://far/p.tsv", "--remove-parts"]) == 2
    assert "nothing is removed at an address" in capsys.readouterr().err
    assert main(["merge", "memory://far/p.tsv"]) == 0
    fs.get_file("/far/p.tsv", "p.tsv")
    assert rows(Path("p.tsv")) == rows(Path("whole.tsv"))
    assert "/far/p.part-2-of-3.tsv" in names()
    fs.rm_file("/far/p.part-2-of-3.tsv")
    assert main(["merge", "memory://far/p.tsv"]) == 2
    assert "of the 3 parts of memory://far/p.tsv: 2 missing" in capsys.readouterr().err


def test_with_slurm_a_table_is_made_where_all_nodes_see_it(
    lab: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(lab("memory://far/c.tsv", "--on", "slurm", "--time", "5")) == 2
    assert "tasks work in a folder that they all see; wanted a path there" in capsys.readouterr().err
    words = lab("c.tsv", "--on", "slurm", "--time", "5")
    words[2] = "https://user:secret@host/net.safetensors"
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "https://host/net.safetensors holds a password or a key" in said
    assert "secret" not in said
