"""Claims of notebooks: strict where they are run as they ship, words where a reader tries other settings."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dualrs_lab.headless import Request, Slot, make_plan
from dualrs_lab.headless.watch import _environment
from dualrs_lab.lessons import available, expect
from dualrs_lab.settings import STRICT

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("holds", [True, np.True_, np.ones(3, bool), torch.ones(2, dtype=torch.bool)])
def test_what_holds_is_silent(
    holds: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STRICT, "1")
    expect("it is so", holds)
    assert not capsys.readouterr().out


def test_what_does_not_hold_is_said_and_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(STRICT, raising=False)
    expect("more noise, less accuracy", pd.Series([True, False, False]))
    said = "Does not hold with these settings (2 of 3): more noise, less accuracy\n"
    assert capsys.readouterr().out == said
    expect("one", False)
    assert capsys.readouterr().out == "Does not hold with these settings: one\n"


def test_a_run_of_what_ships_is_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STRICT, "1")
    with pytest.raises(AssertionError, match="more noise, less accuracy"):
        expect("more noise, less accuracy", [True, False])


def test_what_is_no_claim_is_refused() -> None:
    with pytest.raises(ValueError, match="got no claim"):
        expect(" ", True)
    with pytest.raises(TypeError, match=r"'a share' is float64 \(\); wanted true or false"):
        expect("a share", 0.5)


@pytest.mark.parametrize(
    ("asked", "strict"),
    [
        ({}, True),
        ({"settings": {"shipped": "elsewhere"}}, True),  # where files are changes no claim
        ({"settings": {"epochs": "2"}}, False),
        ({"profile": "paper"}, False),
    ],
)
def test_a_runner_knows_what_ships(asked: dict[str, object], strict: bool, tmp_path: Path) -> None:
    request = Request(folder=ROOT / "notebooks", out=tmp_path, notebooks=("22_dual",), **asked)  # type: ignore[arg-type]
    run = make_plan(request)[-1]
    environment = _environment(run, Slot(device="cpu", environment={}), "mark", str(tmp_path))
    assert environment[STRICT] == ("1" if strict else "0")


def test_what_is_not_there_is_said_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert available("numpy", "the plane")
    assert capsys.readouterr().out == ""
    assert not available("no_such_module", "section 11")
    assert capsys.readouterr().out == (
        "There is no no_such_module here, so section 11 is left out. Everything else runs without it.\n"
    )
