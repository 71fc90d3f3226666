"""Two writers of one file: the second is told who the first is, in one line, and nothing is touched."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dualrs_lab import locks
from dualrs_lab.data import Images, load_images
from dualrs_lab.evidence import keep_table, read_table
from dualrs_lab.locks import lock_path, writing
from dualrs_lab.store import read_record
from tests.faults.deaths import COUNT, make
from tests.faults.trees import tree
from tests.test_store import KEPT, TABLES

ROOT = Path(__file__).parent.parent.parent

# Makes a table; after its first rows it waits to be told to go on.
WRITER = """
import sys
from pathlib import Path
from tests.faults import deaths

class Gate:
    def write(self, _, text):
        if not self.passed:
            self.passed = True
            print("writing", flush=True)
            sys.stdin.readline()

gate = Gate()
gate.passed = False
deaths.os = type("os", (), {"write": gate.write})
alpha, replace = float(sys.argv[2]), sys.argv[3] == "replace"
try:
    deaths.make(Path(sys.argv[1]), alpha=alpha, told=1, replace=replace)
except ValueError as error:
    sys.exit(f"{error}")
"""


def start(path: Path, alpha: float = 0.01, how: str = "refuse") -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(path), str(alpha), how]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, **streams)


def test_of_several_writers_one_writes_and_the_others_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    first = start(path)
    assert first.stdout.readline() == "writing\n"
    before = tree(tmp_path)
    others = [start(path), start(path, 0.02, "replace")]
    for other in others:
        _, said = other.communicate("\n")
        assert other.returncode == 1
        assert said.startswith(f"make: {path} is being written by process {first.pid} on ")
        assert said.count("\n") == 1
    assert tree(tmp_path) == before
    _, said = first.communicate("\n")
    assert (first.returncode, said) == (0, "")
    assert read_table(path)["idx"].tolist() == list(range(COUNT))
    assert read_record(path)["identity"] == {"alpha": 0.01}
    assert not lock_path(path).exists()


def test_the_lock_of_a_killed_writer_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    first = start(path)
    first.stdout.readline()
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert lock_path(path).exists()  # the file is still there, but nobody holds it
    make(path)
    assert read_table(path)["idx"].tolist() == list(range(COUNT))
    assert not lock_path(path).exists()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another thread, such as that of a second cell, writes `path`."""
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with writing("other", path):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(60)
    try:
        yield
    finally:
        leave.set()
        thread.join()


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits", "test").select(range(4))


@pytest.mark.parametrize("call", KEPT)
def test_every_call_that_keeps_a_file_is_kept_out(images: Images, tmp_path: Path, call: str) -> None:
    path = tmp_path / ("t.tsv" if call in TABLES else "t.safetensors")
    with held(path), pytest.raises(ValueError, match=rf"^{call}: {path} is being written by another thread"):
        KEPT[call](images, path, progress=False)
    assert not [*tmp_path.iterdir()]
    made = KEPT[call](images, path, progress=False)
    before = tree(tmp_path)
    with held(path):  # what is complete is read beside a writer
        assert type(KEPT[call](images, path, progress=False)) is type(made)
        with pytest.raises(ValueError, match=r"is being written|was made with other settings"):
            KEPT[call](images, path, seed=1, replace=True, progress=False)
    assert tree(tmp_path) == before


def test_a_table_that_is_made_at_once_is_kept_out_as_well(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    make(path)
    table = read_table(path)
    other = tmp_path / "other.tsv"
    with (
        held(other),
        pytest.raises(ValueError, match=r"^call: .*other\.tsv is being written by another thread"),
    ):
        keep_table("call", other, table, {"identity": {}})
    with pytest.raises(ValueError, match=r"^call: .*t\.tsv is there already; choose another file or remove"):
        keep_table("call", path, table, {"identity": {}})


def test_a_thread_may_hold_again_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    with writing("call", path):
        with writing("call", path, tmp_path / "u.tsv"):
            assert lock_path(tmp_path / "u.tsv").exists()
        assert lock_path(path).exists()
    assert not [*tmp_path.iterdir()]


def test_a_file_system_without_locks_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "lockf", none)
    with (
        pytest.warns(UserWarning, match=r"^call: .* is on a file system without locks; see that nobody else"),
        writing("call", tmp_path / "t.tsv"),
    ):
        pass
