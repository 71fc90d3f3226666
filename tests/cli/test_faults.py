"""Errors of any kind reach people as one line, and a fault of the package says so; developers see where."""

import errno
import os
import pickle
import subprocess
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from dualrs_lab import __main__
from dualrs_lab.__main__ import COMMANDS, main
from dualrs_lab.cli.faults import INTERNAL, REFUSED, explain, one_line_warnings

ROOT = Path(__file__).parents[2]
GIVEN = Namespace(
    tables=[Path("a.tsv")], checkpoint=Path("n.safetensors"), out=Path("t.tsv"), data="folder:pics"
)


def system(number: int, name: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), name) if name else OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a.tsv: no"), "summary: a.tsv: no"),
        (ValueError("summary: a.tsv: no"), "summary: a.tsv: no"),
        (ValueError("no sigma"), "summary: no sigma (in n.safetensors, a.tsv)"),
        (ValueError("--radii: no"), "summary: --radii: no"),
        (ValueError("pics are no images"), "summary: pics are no images"),
        (ValueError(""), "summary: ValueError (in n.safetensors, a.tsv)"),
        (system(errno.ENOSPC, "t.tsv"), "summary: t.tsv: No space left on device; make room"),
        (system(errno.ENOSPC), "summary: No space left on device; make room, or choose another place "
         "(in n.safetensors, t.tsv, a.tsv)"),
        (system(errno.EACCES, "a.tsv"), "summary: a.tsv: Permission denied; see to the right"),
        (system(errno.EROFS, "t.tsv"), "summary: t.tsv: Read-only file system; choose another place"),
        (system(errno.ENAMETOOLONG, "a.tsv"), "summary: a.tsv: File name too long; choose a shorter name"),
        (system(errno.ELOOP, "a.tsv"), "summary: a.tsv: Too many levels of symbolic links; its"),
        (FileNotFoundError("table a.tsv not found"), "summary: table a.tsv not found"),
        (MemoryError(), "summary: not enough memory (of this machine); take"),
        (RecursionError("maximum"), "summary: a file holds lists within lists without end"),
        (OverflowError("a.tsv: too large"), "summary: a.tsv: too large"),
        (FloatingPointError("NaN logits"), "summary: NaN logits (in n.safetensors, a.tsv)"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "summary: a file is not UTF-8 text (bad at byte "
         "0); see that it is the right one (in n.safetensors, a.tsv)"),
        (SafetensorError("header too small"), "summary: header too small (in n.safetensors, a.tsv)"),
        (pickle.UnpicklingError("a.tsv"), "summary: a.tsv"),
        (ModuleNotFoundError("No module named 'torch'"), "summary: No module named 'torch'; install"),
        (torch.OutOfMemoryError("CUDA out of memory"), "summary: CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "summary: DefaultCPUAllocator: can't"),
        (ValueError("two\nlines,\ta bell \a and \x1b[31mred\x1b[0m in a.tsv"),
         "summary: two lines, a bell \\x07 and \\x1b[31mred\\x1b[0m in a.tsv"),
    ],
)  # fmt: skip
def test_what_input_can_cause_is_told_with_the_command_and_the_file(error: Exception, text: str) -> None:
    told, code = explain(error, "summary", GIVEN)
    assert code == REFUSED == 2
    assert told.startswith(text)
    assert told.isprintable()


@pytest.mark.parametrize(
    "error", [KeyError("sigma"), TypeError("no"), RuntimeError("mat1 and mat2"), AssertionError()]
)
def test_anything_else_is_a_fault_of_the_package(error: Exception) -> None:
    told, code = explain(error, "mix", GIVEN)
    assert code == INTERNAL == 70
    assert told.startswith(f"mix: internal error ({type(error).__name__}: ")
    assert "set DUALRS_TRACEBACK=1 to see where" in told


def test_a_line_stays_a_line_however_much_there_is_to_say() -> None:
    told, _ = explain(ValueError("x" * 10**6), "mix", None)
    assert len(told) < 1600
    assert told.endswith(" …")


Running = Callable[[Callable[[Namespace], int]], int]


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Running:
    """Runs something in place of the command `status`."""

    def run(instead: Callable[[Namespace], int]) -> int:
        commands = [one._replace(run=instead) if one.name == "status" else one for one in COMMANDS]
        monkeypatch.setattr(__main__, "COMMANDS", commands)
        return main(["status", "here"])

    return run


def failing(_: Namespace) -> int:
    raise KeyError("sigma")


def test_a_traceback_comes_for_who_asks_for_it(
    running: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert running(failing) == 70
    line = "dualrs-lab: error: status: internal error (KeyError: 'sigma'); set DUALRS_TRACEBACK=1"
    assert capsys.readouterr().err.startswith(line)
    monkeypatch.setenv("DUALRS_TRACEBACK", "1")
    assert running(failing) == 70
    shown = capsys.readouterr().err.splitlines()
    assert shown[0] == "Traceback (most recent call last):"
    assert any("in failing" in part for part in shown)
    assert shown[-1].startswith(line)


def test_warnings_are_a_line_each() -> None:
    before = warnings.formatwarning
    with one_line_warnings():
        shown = warnings.formatwarning("one\nof two", UserWarning, "module.py", 3)
    assert shown == "dualrs-lab: warning: one of two\n"
    assert warnings.formatwarning is before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_output_to_a_full_disk_is_one_line_too() -> None:
    command = [sys.executable, "-m", "dualrs_lab", "summary", "data/cifar10_systems/dual.tsv"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "summary: No space left on device; make room" in done.stderr
