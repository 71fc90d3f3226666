"""Folders of runs at addresses: worked on here, brought and sent file by file."""

import json
import os
from pathlib import Path

import fsspec
import pytest

from dualrs_lab.__main__ import main
from dualrs_lab.afar import Workplace, bring_folder, sending_folder
from dualrs_lab.cli.outputs import _stage
from dualrs_lab.headless import find_runs
from tests.afar.disks import BadFileSystem
from tests.cli.test_main import write_notebook


def files(protocol: str = "bad") -> dict[str, str]:
    """What is in the folder of runs there."""
    store = fsspec.filesystem(protocol).store
    return {path.removeprefix("/far/runs/"): file.getvalue().decode() for path, file in sorted(store.items())}


def write(name: str, text: str, *, again: object = None) -> Path:
    """A run that leaves one file in the folder."""

    def made_again(folder: Path) -> None:
        (folder / "index.html").write_text(
            " ".join(sorted(path.parent.name for path in folder.glob("*/status.json")))
        )

    with sending_folder("run", "bad://far/runs", first=_stage, again=made_again) as here:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
        made_again(here)
        if again is not None:
            again()  # type: ignore[operator]
    return here


def elsewhere(monkeypatch: pytest.MonkeyPatch, cache: Path, name: str) -> None:
    monkeypatch.setenv("DUALRS_AFAR", str(cache.with_name(name)))


def test_files_are_sent_before_what_says_that_a_run_has_ended_and_hidden_ones_stay() -> None:
    with sending_folder("run", "bad://far/runs", first=_stage, again=lambda folder: None) as here:
        for name in (
            "index.html",
            "a/status.json",
            "a/x.txt",
            "files/t.json",
            "files/t.tsv",
            ".lock",
            "a/.t.tmp",
        ):
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_text(name)
        (here / "link").symlink_to("/etc/passwd")
    parts = [path.rpartition("/")[2] for what, path in BadFileSystem.done if what == "put"]
    order = [
        name
        for part in parts
        for name in ("x.txt", "t.json", "t.tsv", "status.json", "index.html")
        if name in part
    ]
    assert order == ["x.txt", "t.json", "t.tsv", "status.json", "index.html"]
    assert [*files()] == ["a/status.json", "a/x.txt", "files/t.json", "files/t.tsv", "index.html"]


def test_only_what_is_new_is_fetched_and_sent(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a/status.json", "one")
    elsewhere(monkeypatch, cache, "another")
    BadFileSystem.done.clear()
    here = write("b/status.json", "two")
    assert (here / "a/status.json").read_text() == "one"
    assert files() == {"a/status.json": "one", "b/status.json": "two", "index.html": "a b"}
    BadFileSystem.done.clear()
    write("b/status.json", "two")
    assert BadFileSystem.done == []
    elsewhere(monkeypatch, cache, cache.name)
    write("a/status.json", "three")
    sent = [path for what, path in BadFileSystem.done if what == "put"]
    assert len(sent) == 1
    assert files()["a/status.json"] == "three"


def test_what_others_send_meanwhile_is_on_the_page_of_all(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other() -> None:
        elsewhere(monkeypatch, cache, "another")
        write("b/status.json", "two")

    write("a/status.json", "one", again=other)
    assert files() == {"a/status.json": "one", "b/status.json": "two", "index.html": "a b"}


def test_a_file_that_was_changed_at_both_places_is_refused_and_neither_is_lost(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other() -> None:
        elsewhere(monkeypatch, cache, "another")
        write("a/status.json", "two")

    with pytest.raises(ValueError, match=r"a/status\.json was changed in bad://far/runs and in \S+, and "):
        write("a/status.json", "one", again=other)
    assert files()["a/status.json"] == "two"
    assert [path.read_text() for path in cache.glob("work/*/runs/a/status.json")] == ["one"]


def test_when_sending_ends_in_the_middle_the_next_call_sends_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    BadFileSystem.mischief["fail put of"] = "status.json"
    with pytest.raises(OSError, match="bad://far/runs cannot be sent: the line is down"):
        write("a/status.json", "one")
    assert "a/status.json" not in files()
    write("a/x.txt", "1")
    assert files() == {"a/status.json": "one", "a/x.txt": "1", "index.html": "a"}


def test_a_kill_between_a_file_and_the_list_of_what_was_sent_is_no_change_at_both_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put = Workplace._put

    def killed(self: Workplace, name: str) -> None:
        put(self, name)
        raise KeyboardInterrupt

    monkeypatch.setattr(Workplace, "_put", killed)
    with pytest.raises(KeyboardInterrupt):
        write("a/status.json", "one")
    monkeypatch.setattr(Workplace, "_put", put)
    write("a/x.txt", "1")
    assert files() == {"a/status.json": "one", "a/x.txt": "1", "index.html": "a"}


def test_what_was_removed_there_is_no_longer_here_and_nothing_there_is_removed(cache: Path) -> None:
    here = write("a/status.json", "one")
    write("b/status.json", "two")
    fsspec.filesystem("bad").rm_file("/far/runs/a/status.json")
    (here / "b/status.json").unlink()
    write("c/status.json", "three")
    assert not (here / "a/status.json").exists()
    assert [*files()] == ["b/status.json", "c/status.json", "index.html"]


@pytest.mark.parametrize(
    "name",
    [
        "/far/runs/../../evil.txt",
        "/far/runs/a\\..\\evil.txt",
        "/elsewhere/evil.txt",
        "/far/runs/a\nb",
        "/far/runsevil",
    ],
)
def test_a_listed_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path, cache: Path) -> None:
    write("a/status.json", "one")
    BadFileSystem.mischief["lists"] = [name]
    with pytest.raises(ValueError, match=r"is no name for a file|which is not below it"):
        write("b/status.json", "two")
    with pytest.raises(ValueError, match=r"is no name for a file|which is not below it"):
        bring_folder("status", "bad://far/runs", lambda name: True)
    assert not [*tmp_path.rglob("*evil*")]


def test_a_file_is_no_folder() -> None:
    fsspec.filesystem("bad").pipe_file("/far/runs", b"x")
    with pytest.raises(ValueError, match="bad://far/runs is a file; name a folder"):
        write("a/status.json", "one")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    head = "n: int = 2\nfolder: str = '../runs/files'"
    body = "from pathlib import Path\nfrom dualrs_lab.headless import record\n"
    body += "Path(folder, f'{n}.txt').write_text(str(n * n))\nrecord(square=n * n)"
    write_notebook(tmp_path / "notebooks" / "10_a.ipynb", head, body)
    (tmp_path / "notebooks" / "profiles.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_runs_go_to_an_address_and_are_known_as_done_on_another_machine(
    lab: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", "memory://far/runs"]
    assert main(["run", "10_a", *out, "--dry-run"]) == 0
    assert files("memory") == {}
    assert main(["run", "10_a", *out]) == 0
    there = files("memory")
    assert {"10_a/status.json", "10_a/records.jsonl", "files/2.txt", "index.html", "results.csv"} <= {*there}
    assert json.loads(there["10_a/status.json"])["state"] == "ok"
    os.rename(cache, lab / "machine one")
    capsys.readouterr()
    assert main(["status", "memory://far/runs"]) == 0
    assert "10_a  ok" in capsys.readouterr().out
    assert len([*cache.rglob("status.json")]) == 1
    assert not [*cache.rglob("*.html")]  # only what is asked for was fetched
    assert main(["run", "10_a", *out, "--dry-run"]) == 0
    assert "done  10_a" in capsys.readouterr().out
    assert main(["run", "10_a", *out, "-p", "n=3"]) == 0
    (here,) = cache.glob("work/*/runs")
    assert [one.records for one in find_runs(here)] == [{"square": 9}]
    assert files("memory")["files/3.txt"] == "9"
    assert main(["gallery", "memory://far/runs"]) == 0
    for words in (["status", "memory://far/runs", "--report"], ["train", "--data", "digits", "--sigmas", "0",
                  "--folder", "memory://far/files"], ["run", "10_a", *out, "--on", "slurm", "--time", "5"],
                  ["status", "memory://far/none"]):  # fmt: skip
        assert main(words) == 2, words
