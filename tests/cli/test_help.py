"""Help ends with an example that works, a shell completes commands and options."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dualrs_lab.__main__ import COMMANDS, main, make_parser
from dualrs_lab.cli.parser import Command
from dualrs_lab.headless import workbench

NAMED = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)


def lines_of(example: str) -> list[list[str]]:
    """The words of each call of ours."""
    calls = [call for line in example.splitlines() for call in line.split("&&")]
    return [words for words in map(shlex.split, calls) if words[0] == "dualrs-lab"]


@NAMED
def test_help_ends_with_an_example(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    if command.takes_rest:
        return  # its help is that of JupyterLab
    with pytest.raises(SystemExit, match="0"):
        main([command.name, "--help"])
    *_, before, last = capsys.readouterr().out.rstrip().rsplit("\nexample:\n", 1)
    assert before
    assert last == "\n".join(f"  {line}" for line in command.example.splitlines())


@NAMED
def test_examples_are_calls_that_the_parser_takes(command: Command) -> None:
    assert command.name in [words[1] for words in lines_of(command.example)]
    for _, *words in lines_of(command.example):
        options, rest = make_parser(words).parse_known_args(words)
        assert options.command.takes_rest or not rest


def test_the_help_of_all_commands_ends_with_examples_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    shown = said.split("example:\n")[1]
    assert [words[1] for words in lines_of(shown.replace("  ", ""))] == ["new", "run", "certify"]
    assert all(f"\n    {command.name} " in said for command in COMMANDS)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("dualrs-lab ce", {"certify"}), ("dualrs-lab ver", {"verify"}),
     ("dualrs-lab train --con", {"--consistency"}),
     ("dualrs-lab certify --noise ", {"grid", "gaussian"})],
)  # fmt: skip
def test_a_shell_completes_commands_options_and_choices(
    typed: str, offered: set[str], tmp_path: Path
) -> None:
    pytest.importorskip("argcomplete")
    out = tmp_path / "offered"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": typed, "COMP_POINT": str(len(typed)), "_ARGCOMPLETE_IFS": "\n"}
    environment = os.environ | asked | {"_ARGCOMPLETE_STDOUT_FILENAME": str(out)}
    subprocess.run([sys.executable, "-m", "dualrs_lab"], env=environment, check=True)
    assert {word.strip() for word in out.read_text().split("\n")} == offered


def test_notebooks_of_an_installed_package_are_not_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebooks = tmp_path / "site" / "dualrs_lab" / "workbench" / "notebooks"
    notebooks.mkdir(parents=True)
    (notebooks / "a.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    monkeypatch.setattr(workbench, "__file__", str(tmp_path / "site" / "dualrs_lab" / "headless" / "w.py"))
    monkeypatch.chdir(tmp_path)
    assert main(["lab"]) == 2
    assert "`dualrs-lab new DIR`" in capsys.readouterr().err
    assert main(["run", "--update"]) == 2
    assert "belong to the installed package" in capsys.readouterr().err
    assert main(["run", "--dry-run"]) == 0
    assert main(["new", "bench"]) == 0
    assert "2 files in bench; next: cd bench && dualrs-lab lab" in capsys.readouterr().out
    assert main(["new", "bench"]) == 2
    assert "bench is there and not empty" in capsys.readouterr().err
