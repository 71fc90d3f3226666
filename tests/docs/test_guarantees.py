"""docs/guarantees.md: every promise names a test that is there."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from traitlets.config import Config

from dualrs_lab.__main__ import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
TEST = re.compile(r"`([a-z_]+/)?(test_\w+\.py)(?:::(test_\w+))?`")
PROMISES = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if re.match(r"\| (?!promise)", line)]


def named(cell: str) -> list[tuple[str, str]]:
    """Files below tests/, and the test in each; "" for all of them."""
    return [(folder + file, test) for folder, file, test in TEST.findall(cell)]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda cells: cells[0][:40])
def test_a_promise_names_a_test_that_is_there(promise: Sequence[str]) -> None:
    said, held = promise
    assert said.endswith(".")
    assert re.fullmatch(rf"{TEST.pattern}(?:, {TEST.pattern})*", held), held
    for file, test in named(held):
        text = (ROOT / "tests" / file).read_text()
        assert not test or f"def {test}(" in text, f"{file}::{test}"


def test_every_test_of_faults_is_behind_a_promise() -> None:
    behind = {file for cells in PROMISES for file, _ in named(cells[-1])}
    there = {f"faults/{path.name}" for path in (ROOT / "tests" / "faults").glob("test_*.py")}
    assert there == {file for file in behind if file.startswith("faults/")}


def test_the_lab_is_served_on_this_machine_only_and_asks_for_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command leaves both to the server, whose defaults they are."""
    # Here, as it takes seconds to import: less without a grammar of internationalised URLs.
    monkeypatch.setitem(sys.modules, "rfc3987_syntax", None)
    from jupyter_server.auth.identity import IdentityProvider
    from jupyter_server.serverapp import ServerApp

    seen: list[str] = []

    def execute(_: str, command: list[str], __: dict[str, str]) -> None:
        seen.extend(command)
        raise KeyboardInterrupt  # execvpe does not come back

    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execvpe", execute)
    main(["lab"])
    assert seen[1:3] == ["-m", "jupyterlab"]
    assert not [word for word in seen if re.search(r"\b(ip|token|password|allow_\w+|disable_\w+)=", word)]
    assert ServerApp.ip.default_value in ("localhost", "127.0.0.1", "")
    assert ServerApp(config=Config()).ip in ("localhost", "127.0.0.1")
    assert len(IdentityProvider(config=Config()).token) >= 32
