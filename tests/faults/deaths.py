"""A program that dies: makes a table in forked children, which are killed or end within a step on the disk.

`python -m tests.faults.deaths kills NUMBER FOLDER` kills children at random moments; `crashes STRIDE FOLDER`
ends them before, within and after every STRIDE-th step: each write, rename, removal, cut and flush. After
every death the same work is done again, and what is on the disk is compared with what it should be. Prints
what was counted, as JSON. A child that is gone has cleaned up nothing.
"""

import io
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from dualrs_lab.evidence import Certificate, decide, fill, keep_table, read_table
from dualrs_lab.store import read_record

COUNT = 24
ORDER = [(7 * i) % COUNT for i in range(COUNT)]  # images are not done in order


def certificate(idx: int, alpha: float = 0.01) -> Certificate:
    votes = np.array([3 + idx % 5, 90 + idx, 2])
    return decide([1, 9, 0], votes, idx=idx, label=1, sigma=0.25, alpha=alpha, seed=0, seconds=0.5)


def make(
    path: Path, *, alpha: float = 0.01, pause: float = 0.0, told: int = -1, replace: bool = False
) -> None:
    """The table at `path`; `told` is a descriptor that gets the idx of rows that are on the disk."""

    def groups(todo: list[int]) -> Iterator[list[Certificate]]:
        some = [idx for idx in ORDER if idx in todo]
        for first in range(0, len(some), 2):
            yield [certificate(idx, alpha) for idx in some[first : first + 2]]
            if told >= 0:
                os.write(told, "".join(f"{idx} " for idx in some[first : first + 2]).encode())
            time.sleep(pause)

    record = {"identity": {"alpha": alpha}, "info": "x" * 50}
    with warnings.catch_warnings(action="ignore"):
        fill(
            "make", path, range(COUNT), groups, record=record, disagreement=lambda: 0.0, replace=replace,
            progress=False,
        )  # fmt: skip


def begin_again(path: Path, *, told: int = -1) -> None:
    make(path, alpha=0.02, told=told, replace=True)


def put(path: Path, *, told: int = -1) -> None:
    if path.exists() and read_record(path).get("sha256"):
        return  # done before the death
    if path.exists():
        path.unlink()  # as the message of `keep_table` says
    keep_table("put", path, pd.DataFrame([certificate(i).to_row() for i in range(COUNT)]), {"identity": {}})


def whole(path: Path, alpha: float = 0.01) -> None:
    """The table is complete, in order, sealed and the same as if nothing had happened."""
    table = read_table(path)
    assert table["idx"].tolist() == list(range(COUNT)), table["idx"].tolist()
    rows = [Certificate.from_row(row) for row in table.to_dict("records")]
    assert rows == [certificate(i, alpha) for i in range(COUNT)]
    assert read_record(path)["sha256"]


def whole_and_kept(path: Path) -> None:
    """The new table is whole, and the old one, with its record, under another name."""
    whole(path, 0.02)
    old = path.with_name("t_old1.tsv")
    whole(old)
    assert read_record(old)["identity"] == {"alpha": 0.01}
    assert not path.with_name("t_old2.json").exists()


def child(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(3)


def ended(pid: int) -> int:
    """The exit code of a child, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kills(number: int, folder: Path) -> dict[str, int]:
    """Kill `number` children at random moments; rows that were told of must be there, and each once."""
    chance, done, tables = random.Random(0), 0, 0
    while done < number:
        path, known = folder / f"t{tables}.tsv", set[int]()
        while True:
            read, write = os.pipe()
            pid = child(lambda p=path, w=write: make(p, pause=0.002, told=w))
            os.close(write)
            time.sleep(chance.uniform(0, 0.03) if chance.random() < 0.9 else 1)
            os.kill(pid, signal.SIGKILL)
            code = ended(pid)
            with os.fdopen(read) as told:
                known |= {int(idx) for idx in told.read().split()}
            assert code in (0, -signal.SIGKILL), code
            lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
            found = [int(line.split(b"\t")[0]) for line in lines]
            assert known <= set(found), (known, found)
            assert len(found) == len(set(found)), found
            if code == 0:
                break
            done += 1
        whole(path)
        tables += 1
    return {"kills": done, "tables": tables}


STEPS = ("fsync", "replace", "rename", "truncate", "ftruncate", "unlink", "write", "open", "mkdir")


def dying(work: Callable[[], None], at: int, when: str) -> Callable[[], None]:
    """`work` that ends at its step number `at`: before it, after it, or (a write) half way through."""
    passed = iter(range(1_000_000))

    def step(act: Callable[..., object], half: Callable[..., object] | None = None) -> Callable[..., object]:
        def taken(*arguments: object, **more: object) -> object:
            number = next(passed)
            if number == at and when == "before":
                os._exit(9)
            if number == at and when == "within" and half:
                half(*arguments)
                os._exit(9)
            result = act(*arguments, **more)
            if number == at and when == "after":
                os._exit(9)
            return result

        return taken

    def opened(file: object, mode: str = "r", *arguments: object, **more: object) -> object:
        stream = real(file, mode, *arguments, **more)
        if not set(mode) & set("wax"):
            return stream

        def half(data: bytes) -> None:
            stream.write(data[: len(data) // 2])
            stream.flush()

        return Stream(stream, step(stream.write, half))

    real = io.open

    def run() -> None:
        for name in STEPS:
            act = getattr(os, name)
            half = (lambda fd, data, act=act: act(fd, data[: len(data) // 2])) if name == "write" else None
            setattr(os, name, step(act, half))
        io.open = opened
        work()

    return run


class Stream:
    """A file whose writes are steps."""

    def __init__(self, stream: object, write: Callable[..., object]) -> None:
        self._stream, self.write = stream, write

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


CASES = {
    "begun": (lambda path: None, make, whole),
    "resumed": (lambda path: cut(path), make, whole),
    "set aside": (lambda path: make(path), begin_again, whole_and_kept),
    "kept": (lambda path: None, put, whole),
}


def cut(path: Path) -> None:
    """A table that a kill has left with half of a row, and its record."""
    make(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:8]) + b"23\t1\t1")
    record = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(record | {"sha256": None}))


def crashes(stride: int, folder: Path) -> dict[str, int]:
    """End children at every `stride`-th step of each case, then do the work again, undisturbed."""
    counted = {}
    for number, (name, (prepare, work, check)) in enumerate(CASES.items()):
        points = 0
        for when in ("before", "within", "after"):
            at = number % stride
            while True:
                shutil.rmtree(folder / "case", ignore_errors=True)
                (folder / "case").mkdir(parents=True)
                path = folder / "case" / "t.tsv"
                prepare(path)
                code = ended(child(dying(lambda p=path, w=work: w(p), at, when)))
                assert code in (0, 9), (name, when, at, code)
                assert ended(child(lambda p=path, w=work: w(p))) == 0, (name, when, at)
                check(path)
                left = [one.name for one in path.parent.iterdir() if one.name.endswith(".lock")]
                assert not left or name == "kept", (name, when, at, left)  # nothing was left to write
                if code == 0 and when != "within":
                    break
                points += code == 9
                at += stride
                if when == "within" and at > 200:
                    break
        counted[name] = points
    return counted


if __name__ == "__main__":
    mode, amount, where = sys.argv[1:]
    print(json.dumps({"kills": kills, "crashes": crashes}[mode](int(amount), Path(where))))
