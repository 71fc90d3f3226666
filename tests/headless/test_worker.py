"""A run from inside: bounded outputs, a second start only if no cell could have run, named deaths."""

from pathlib import Path
from typing import Any

import pytest
from nbformat.v4 import new_output

from dualrs_lab.headless import worker


def stream(text: str, name: str = "stdout") -> Any:
    return new_output("stream", name=name, text=text)


def shown(*new: Any) -> list[Any]:
    """The outputs of a cell after these arrived one by one."""
    outs: list[Any] = []
    for one in new:
        before = len(outs)
        outs.append(one.copy())
        worker._bound_stream(outs, before)
    return outs


def test_text_is_joined_and_a_bar_takes_one_line() -> None:
    outs = shown(
        stream("a\n"), stream("b\n"), *[stream(f"\r{i}%", "stderr") for i in range(5000)], stream("end")
    )
    assert [(out.name, out.text) for out in outs] == [
        ("stdout", "a\nb\n"),
        ("stderr", "4999%"),
        ("stdout", "end"),
    ]


def test_text_is_cut_with_a_notice_once() -> None:
    outs = shown(*[stream("z" * 60_000, name) for name in ("stdout", "stderr", "stdout", "stderr")])
    whole = "".join(out.text for out in outs)
    assert whole.count("cut by dualrs-lab") == 1
    assert whole.count("z") == worker.STREAM_LIMIT


def test_rich_output_has_a_bound_and_says_so() -> None:
    big = "x" * (worker.RICH_LIMIT + 1)
    assert worker._bounded({"text/plain": "a", "image/png": "b"}) == {"text/plain": "a", "image/png": "b"}
    assert worker._bounded({"text/html": big, "image/png": "b", "text/plain": "a"}) == {
        "image/png": "b", "text/plain": f"[text/html of {len(big)} characters left out by dualrs-lab]",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "memory", "text"),
    [
        (-9, True, "the kernel was killed (signal 9): out of memory"),
        (-9, False, "the kernel was killed (signal 9): by someone, or for want of memory in a container"),
        (-11, False, "the kernel died of signal 11 (SIGSEGV)"),
        (3, True, "the kernel exited with code 3"),
    ],
)
def test_deaths_are_named(code: int, memory: bool, text: str) -> None:
    assert worker._cause_of_death(code, memory) == text


@pytest.mark.parametrize(
    ("answered", "ends", "state", "starts"),
    [
        (False, ["error", "ok"], "ok", 2),
        (False, ["error", "error"], "error", 2),
        (True, ["error"], "error", 1),
        (False, ["ok"], "ok", 1),
    ],
)
def test_only_a_kernel_that_never_answered_is_started_again(
    monkeypatch: pytest.MonkeyPatch, answered: bool, ends: list[str], state: str, starts: int
) -> None:
    monkeypatch.setattr(worker._Kernel, "answered", answered)
    monkeypatch.setattr(worker, "_attempt", lambda job: {"state": ends.pop(0), "message": ""})
    outcome = worker._outcome({})
    assert (outcome["state"], outcome["kernel_starts"], ends) == (state, starts, [])


def test_a_run_that_never_began_leaves_no_notebook(tmp_path: Path) -> None:
    worker._keep(tmp_path / "part", tmp_path / "out.ipynb", tmp_path / "page.html")
    assert not list(tmp_path.iterdir())
