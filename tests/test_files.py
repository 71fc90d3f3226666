"""A file is old or new, never half; the record names versions without importing them."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dualrs_lab import __version__, files


def test_replaces_whole_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.txt"
    files.replace_text(target, "α\r\nb\n")
    files.replace_text(target, "second\n")
    assert target.read_bytes() == b"second\n"
    assert os.listdir(target.parent) == ["a.txt"]


def test_text_is_utf8_with_its_own_line_ends(tmp_path: Path) -> None:
    files.replace_text(tmp_path / "a", "σ\r\n\n")
    assert (tmp_path / "a").read_bytes() == "σ\r\n\n".encode()


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.txt"
    files.replace_text(target, "old")

    def full_disk(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        files.replace_text(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_new_name_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before its name, and the folder after it: a power cut undoes neither."""
    done, flush, rename = [], os.fsync, os.replace

    def flushed(opened: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(opened).st_mode) else "file")
        flush(opened)

    def renamed(old: Path, new: Path) -> None:
        done.append("name")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    files.replace_text(tmp_path / "a.txt", "x")
    assert done == ["file", "name", "folder"]
    files.set_aside(tmp_path / "a.txt")
    assert done[3:] == ["folder"]


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, kind in {"link": "symbolic link", "folder": "folder", "pipe": "FIFO"}.items():
        with pytest.raises(
            ValueError,
            match=rf"^replace_bytes: .*{name} is a {kind}; wanted a regular file, or a name that is",
        ):
            files.replace_text(tmp_path / name, "x")
    assert sorted(os.listdir(tmp_path)) == ["folder", "kept", "link", "pipe"]
    assert (tmp_path / "link").readlink() == Path("kept")


def test_new_files_obey_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        files.replace_text(tmp_path / "a", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_json_is_sorted_and_ends_with_a_newline(tmp_path: Path) -> None:
    files.replace_json(tmp_path / "a.json", {"b": [1, 2.5], "a": "σ"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == '{\n "a": "σ",\n "b": [\n  1,\n  2.5\n ]\n}\n'


def test_json_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"replace_json\(a\.json\).*PosixPath.*convert"):
        files.replace_json(tmp_path / "a.json", {"path": Path("x")})
    assert not list(tmp_path.iterdir())


def test_digest_sees_content_and_borders(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"one")
    assert (
        files.digest(tmp_path / "a")
        == files.digest(tmp_path / "b")
        == files.digest("one")
        == files.digest(b"one")
    )
    assert files.digest("ab", "c") != files.digest("a", "bc")
    assert len(files.digest("x")) == 16


def test_provenance_names_what_made_a_result() -> None:
    record = files.provenance()
    assert record["package"] == __version__
    assert json.loads(json.dumps(record)) == record
    versions = record["versions"]
    assert isinstance(versions, dict)
    assert {"torch", "numpy", "papermill"} <= versions.keys()
    assert record["cpu"]


def test_provenance_finds_the_commit_and_its_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "__file__", str(tmp_path / "dualrs_lab" / "files.py"))
    assert files.provenance()["commit"] == "unknown"
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    (tmp_path / "a").write_text("1")
    for arguments in (["init", "-q"], ["add", "a"], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    commit = files.provenance()["commit"]
    assert isinstance(commit, str)
    assert len(commit) == 40
    (tmp_path / "a").write_text("2")
    assert files.provenance()["commit"] == commit + "+dirty"


def test_loads_without_anything_heavy() -> None:
    code = "import sys, dualrs_lab.files as f; f.provenance(); print({'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_files_in_the_way_are_kept_under_another_name(tmp_path: Path) -> None:
    for turn in ("first", "second"):
        (tmp_path / "a.tsv").write_text(turn)
        (tmp_path / "a.json").write_text(turn)
        files.set_aside(tmp_path / "a.tsv", tmp_path / "a.json", tmp_path / "none")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a_old1.tsv": "first",
        "a_old1.json": "first",
        "a_old2.tsv": "second",
        "a_old2.json": "second",
    }
    assert files.set_aside(tmp_path / "none") == []
