"""The runner against real kernels: every way to end, told truthfully, and nothing left behind."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dualrs_lab.headless import (
    Options,
    Progress,
    Request,
    Run,
    Status,
    check_notebook,
    execute,
    is_done,
    log_tail,
    make_plan,
    make_slots,
    only_failed,
    read_notebook,
    read_records,
    read_status,
    record,
    source_hash,
    update_source,
)
from dualrs_lab.headless.processes import raise_on_terminate
from dualrs_lab.headless.runner import _longest_first

PICTURE = (
    "import base64\nfrom IPython.display import Image\nhead = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAf'\n"
    "Image(base64.b64decode(head + 'FcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='))"
)
ESCAPING_CHILD = (
    "import os, subprocess, sys, time\n"
    "sleep = [sys.executable, '-c', 'import time; time.sleep(300)']\n"
    "child = subprocess.Popen(sleep, start_new_session=True)\n"
    "with open('{name}.pids', 'w') as file:\n"
    "    print(os.getppid(), os.getpid(), child.pid, file=file, flush=True)\n"
    "time.sleep(300)"
)
HIDDEN_CHILD = (  # no environment, no parent, nothing printed, a session of its own
    "import subprocess, sys\n"
    "sleep = [sys.executable, '-c', 'import time; time.sleep(300)']\n"
    "hide = 'start_new_session=True, env={}, stdout=s.DEVNULL, stderr=s.DEVNULL'\n"
    "code = f'import subprocess as s; print(s.Popen({sleep}, {hide}).pid)'\n"
    "done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)\n"
    "open('left.pids', 'w').write(done.stdout)"
)
RECORD = "from dualrs_lab.headless import record\n"
LAB: dict[str, tuple[str, list[str]]] = {
    "10_good": (
        'n: int = 3  # a number\nname: str = "a"\nfolder: str = "../runs/files"',
        [
            RECORD + "from pathlib import Path\nassert Path.cwd().name == 'notebooks'\n"
            "Path(folder, 'made.txt').write_text(name * n)\nrecord(n=n, twice=[n, n])",
            "from os import environ\n"
            "print('cuda', [environ['CUDA_VISIBLE_DEVICES']], environ['OMP_NUM_THREADS'])",
            "for i in range(30_000):\n    print('line', i)\nprint('the end')",
            "import sys\nfor i in range(3):\n    print(f'\\r{i}', end='', file=sys.stderr, flush=True)",
            PICTURE,
        ],
    ),
    "11_consumer": (
        'folder: str = "../runs/files"',
        [RECORD + "from pathlib import Path\nrecord(text=Path(folder, 'made.txt').read_text())"],
    ),
    "20_error": (
        "n: int = 0",
        [RECORD + "record(before=1)", "print('words')\n1 / n", RECORD + "record(after=1)"],
    ),
    "21_blocked": ("", ["1"]),
    "30_dead": ("", [RECORD + "record(before=2)", "import os\nos.kill(os.getpid(), 9)", "print('never')"]),
    "31_exits": ("", ["import os\nos._exit(3)"]),
    "32_killed": ("", ["import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(300)"]),
    "33_leaves": ("", [HIDDEN_CHILD]),
    "05_slow": ("", [RECORD + "record(before=3)\nprint('first')", ESCAPING_CHILD.format(name="slow")]),
}
PROFILES = '["11_consumer"]\nneeds = ["10_good"]\n["21_blocked"]\nneeds = ["20_error"]\n'


def write_notebook(path: Path, parameters: str, sources: list[str]) -> None:
    def cell(source: str, number: int, tags: tuple[str, ...] = ()) -> dict[str, Any]:
        cell = {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {"tags": list(tags)},
            "source": source,
        }
        return cell | {"execution_count": None, "outputs": []}

    title = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# A title with $x^2$"}
    cells = [title, *([cell(parameters, 0, ("parameters",))] if parameters else [])]
    cells += [cell(source, number) for number, source in enumerate(sources, 1)]
    nb = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(nb), encoding="utf-8")


@dataclass
class Lab:
    """A small notebooks folder after one run of everything in it."""

    root: Path
    plan: dict[str, Run]
    statuses: dict[str, Status]
    shown: str

    def replan(self, *notebooks: str, **settings: str) -> list[Run]:
        folder = self.root / "notebooks"
        return make_plan(
            Request(folder=folder, out=self.root / "runs", notebooks=notebooks, settings=settings)
        )

    def output(self, name: str) -> dict[str, Any]:
        return read_notebook(self.root / "runs" / name / f"{name}.ipynb")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    root = tmp_path_factory.mktemp("lab")
    for name, (parameters, sources) in LAB.items():
        write_notebook(root / "notebooks" / f"{name}.ipynb", parameters, sources)
    (root / "notebooks" / "profiles.toml").write_text(PROFILES)
    plan = make_plan(Request(folder=root / "notebooks", out=root / "runs", settings={"name": "b"}))
    stream = io.StringIO()
    options = Options(slots=make_slots(3, "cpu"), timeout=25)
    statuses = execute(plan, root / "runs", options, Progress(stream))
    return Lab(
        root=root,
        plan={run.name: run for run in plan},
        statuses={status["run"]: status for status in statuses},
        shown=stream.getvalue(),
    )


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        ({}, ["20_first", "21_second", "22_long", "00_lesson", "30_last"]),
        ({"22_long": 2.5}, ["22_long", "20_first", "21_second", "00_lesson", "30_last"]),
        ({"22_long": 1.5}, ["20_first", "22_long", "21_second", "00_lesson", "30_last"]),
        ({"30_last": 50}, ["20_first", "21_second", "22_long", "30_last", "00_lesson"]),
        ({"00_lesson": 9}, ["00_lesson", "20_first", "21_second", "22_long", "30_last"]),
    ],
    ids=str,
)
def test_what_begins_the_longest_way_comes_first(
    tmp_path: Path, seconds: dict[str, float], wanted: list[str]
) -> None:
    """By seconds where profiles.toml knows some, else every run counts as one."""
    tables: dict[str, dict[str, object]] = {name: {} for name in wanted}
    for name in wanted:
        write_notebook(tmp_path / "notebooks" / f"{name}.ipynb", "", ["1"])
    tables["21_second"]["needs"] = ["20_first"]
    tables["30_last"]["needs"] = ["21_second", "22_long"]
    for name, value in seconds.items():
        tables[name]["seconds"] = value
    lines = [
        f'["{name}"]\n' + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    ]
    (tmp_path / "notebooks" / "profiles.toml").write_text("".join(lines))
    plan = make_plan(Request(folder=tmp_path / "notebooks", out=tmp_path / "runs"))
    assert [run.name for run in _longest_first(plan)] == wanted
    keys = {run.name: run.key for run in plan}
    (tmp_path / "notebooks" / "profiles.toml").write_text("".join(lines).replace("seconds", "# seconds"))
    again = make_plan(Request(folder=tmp_path / "notebooks", out=tmp_path / "runs"))
    assert {run.name: run.key for run in again} == keys  # a hint is no reason to run anything again


def ended(lab: Lab, name: str) -> tuple[str, str]:
    assert read_status(lab.root / "runs" / name) == lab.statuses[name]
    return lab.statuses[name]["state"], lab.statuses[name]["message"]


def test_each_end_is_told_as_it_was(lab: Lab) -> None:
    assert ended(lab, "10_good") == ("ok", "")
    assert ended(lab, "11_consumer") == ("ok", "")
    assert ended(lab, "33_leaves") == ("ok", "")
    assert ended(lab, "20_error") == ("error", "ZeroDivisionError: division by zero (in cell [3])")
    assert ended(lab, "21_blocked") == ("blocked", "it needs 20_error, which ended as error")
    assert ended(lab, "31_exits") == ("dead-kernel", "the kernel exited with code 3")
    assert ended(lab, "05_slow") == ("timeout", "stopped after 25.0 s of wall clock (--timeout)")
    for name, state in (("30_dead", "dead-kernel"), ("32_killed", "killed")):
        assert ended(lab, name)[0] == state
        assert "signal 9" in ended(lab, name)[1]
        assert "memory" in ended(lab, name)[1]


def gone(pid: int, seconds: float = 15) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_a_timeout_ends_kernel_and_grandchildren(lab: Lab) -> None:
    pids = [int(text) for text in (lab.root / "notebooks" / "slow.pids").read_text().split()]
    assert len(pids) == 3
    assert all(gone(pid, 2) for pid in pids)
    assert lab.statuses["05_slow"]["seconds"] < 60


def test_what_a_good_run_leaves_behind_is_ended_too(lab: Lab) -> None:
    assert gone(int((lab.root / "notebooks" / "left.pids").read_text()), 2)


def test_what_a_timed_out_run_wrote_is_kept(lab: Lab) -> None:
    outputs = lab.output("05_slow")["cells"][1]["outputs"]
    assert outputs[0]["text"] == ["first\n"]
    assert (lab.root / "runs" / "05_slow" / "05_slow.html").is_file()
    assert not list((lab.root / "runs").rglob("*.part.ipynb"))


def test_results_of_failed_runs_count_too(lab: Lab) -> None:
    recorded = {name: read_records(lab.root / "runs" / name) for name in lab.statuses}
    assert recorded["10_good"] == {"n": 3, "twice": [3, 3]}
    assert recorded["11_consumer"] == {"text": "bbb"}
    assert recorded["20_error"] == {"before": 1}
    assert recorded["30_dead"] == {"before": 2}
    assert recorded["05_slow"] == {"before": 3}
    table = (lab.root / "runs" / "results.csv").read_text()
    assert "30_dead,,dead-kernel,{},before,2" in table


def test_a_record_says_what_made_it(lab: Lab) -> None:
    status = lab.statuses["10_good"]
    assert status["parameters"] == {"n": 3, "name": "b", "folder": "../runs/files"}
    assert status["given"] == {"name": "b"}
    assert status["cells"] == [7, 7]  # with the injected parameters
    assert status["device"] == "cpu"
    assert status["kernel_starts"] == 1
    assert status["peak_mb"] > 10
    assert status["provenance"]["versions"]["papermill"]
    assert status["started"] <= status["finished"]
    assert 0 < status["seconds"] < 100


def printed(cell: dict[str, Any]) -> str:
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def test_each_run_keeps_to_its_slot(lab: Lab) -> None:
    assert printed(lab.output("10_good")["cells"][4]).startswith("cuda [''] ")


def test_outputs_are_normal_and_bounded(lab: Lab) -> None:
    nb = lab.output("10_good")
    assert "papermill" not in json.dumps(nb["metadata"]) + json.dumps(
        [cell["metadata"] for cell in nb["cells"]]
    )
    assert [cell["id"] for cell in nb["cells"]] == [
        "title", "cell-0", "injected-parameters", *(f"cell-{number}" for number in range(1, 6)),
    ]  # fmt: skip
    lines, bar, picture = nb["cells"][5:]
    assert len(printed(lines)) < 101_000
    assert printed(lines).endswith("[cut by dualrs-lab after 100000 characters; more of it is in log.txt]\n")
    assert len(lines["outputs"]) == 1
    assert "the end" in (lab.root / "runs" / "10_good" / "log.txt").read_text()
    assert printed(bar) == "2"
    assert "image/png" in picture["outputs"][0]["data"]


def test_pages_need_no_network_for_text_and_figures(lab: Lab) -> None:
    page = (lab.root / "runs" / "10_good" / "10_good.html").read_text(encoding="utf-8")
    scripts = [part.partition(">")[0] for part in page.split("<script")[1:]]
    assert all("src=" not in script or "async" in script for script in scripts)
    assert "data:image/png;base64" in page
    index = (lab.root / "runs" / "index.html").read_text(encoding="utf-8")
    assert "3 of 9 runs ended well" in index
    assert 'href="10_good/10_good.html"' in index


def test_events_are_plain_lines_with_the_log_of_failures(lab: Lab) -> None:
    assert "\x1b" not in lab.shown
    assert "10_good: started (cpu)" in lab.shown
    assert "20_error: error after" in lab.shown
    assert "    | ZeroDivisionError: division by zero" in lab.shown
    assert log_tail(lab.root / "runs" / "20_error", 1) == "    | ZeroDivisionError: division by zero"


def test_done_runs_are_skipped_and_the_rest_is_not(lab: Lab) -> None:
    plan = lab.replan("11_consumer", name="b")
    stream = io.StringIO()
    before = time.monotonic()
    statuses = execute(plan, lab.root / "runs", Options(slots=make_slots(1, "cpu")), Progress(stream))
    assert time.monotonic() - before < 2
    assert [(status["run"], status["state"], status["earlier"]) for status in statuses] == [
        ("10_good", "ok", True), ("11_consumer", "ok", True),
    ]  # fmt: skip
    assert "2 of 2 runs are done already" in stream.getvalue()
    assert [is_done(run) for run in lab.replan("11_consumer", name="c")] == [False, False]
    assert not any(is_done(lab.plan[name]) for name in lab.plan if name[:2] not in ("10", "11", "33"))


def test_an_edited_source_is_not_done(lab: Lab) -> None:
    path = lab.root / "notebooks" / "10_good.ipynb"
    text = path.read_text()
    try:
        path.write_text(text.replace("A title", "Another title"))
        assert [is_done(run) for run in lab.replan("11_consumer", name="b")] == [False, False]
    finally:
        path.write_text(text)
    assert [is_done(run) for run in lab.replan("11_consumer", name="b")] == [True, True]


def test_only_failed_takes_what_it_needs_along(lab: Lab) -> None:
    names = [run.name for run in only_failed(list(lab.plan.values()))]
    assert names == ["05_slow", "20_error", "21_blocked", "30_dead", "31_exits", "32_killed"]
    assert only_failed(lab.replan("11_consumer", name="b")) == []


def test_update_stamps_the_source(lab: Lab) -> None:
    run = lab.plan["10_good"]
    text = run.notebook.read_text()
    try:
        update_source(run)
        nb = read_notebook(run.notebook)
        assert source_hash(nb) == run.source == nb["metadata"]["dualrs_lab"]["source_hash"]
        assert [cell["id"] for cell in nb["cells"]] == [
            "title",
            "cell-0",
            *(f"cell-{n}" for n in range(1, 6)),
        ]
        assert [cell["execution_count"] for cell in nb["cells"][1:]] == [1, 2, 3, 4, 5, 6]
        assert check_notebook(run.notebook) == []
        assert is_done(lab.replan("10_good", name="b")[0])  # outputs are no part of the key
        run.notebook.write_text(text.replace("A title", "Another title"))
        with pytest.raises(ValueError, match=r"10_good\.ipynb was edited while it ran"):
            update_source(run)
    finally:
        run.notebook.write_text(text)


def test_nothing_of_a_run_stays_in_the_temporary_folder(lab: Lab) -> None:
    assert not list((lab.root / "notebooks").glob("kernel*"))
    assert sorted(path.name for path in (lab.root / "notebooks").iterdir()) == sorted(
        [f"{name}.ipynb" for name in LAB] + ["left.pids", "profiles.toml", "slow.pids"]
    )


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", Path, list[int]]]:
    """The command line with one run in its long cell: the runner, its folder, and the run's processes."""
    write_notebook(tmp_path / "notebooks" / "50_sleep.ipynb", "", [ESCAPING_CHILD.format(name="sleep")])
    write_notebook(tmp_path / "notebooks" / "51_waits.ipynb", "", ["1"])
    process = subprocess.Popen(
        [sys.executable, "-m", "dualrs_lab", "run", "--devices", "cpu"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # a suite that was itself started in the background of a shell hands down an ignored Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    pids = tmp_path / "notebooks" / "sleep.pids"
    try:
        wait_for(lambda: pids.is_file() and pids.read_text().endswith("\n"))
        yield process, tmp_path, [int(text) for text in pids.read_text().split()]
    finally:
        process.kill()
        process.communicate(timeout=20)


def wait_for(condition: Callable[[], bool], seconds: float = 40) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


def test_ctrl_c_ends_all_and_says_so(sleeper: tuple["subprocess.Popen[str]", Path, list[int]]) -> None:
    process, folder, pids = sleeper
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.strip() == "dualrs-lab: cancelled"
    assert all(gone(pid) for pid in pids)
    assert read_status(folder / "runs" / "50_sleep")["state"] == "interrupted"
    waiting = read_status(folder / "runs" / "51_waits")
    assert (waiting["state"], waiting["message"]) == ("interrupted", "cancelled before it started")
    assert "interrupted" in (folder / "runs" / "index.html").read_text()


def test_a_killed_runner_leaves_no_process_and_no_lie(
    sleeper: tuple["subprocess.Popen[str]", Path, list[int]],
) -> None:
    process, folder, pids = sleeper
    environment = Path(f"/proc/{pids[1]}/environ").read_bytes().split(b"\0")
    scratch = next(
        Path(e.decode().partition("=")[2]) for e in environment if e.startswith(b"JUPYTER_RUNTIME_DIR=")
    )
    assert scratch.is_dir()
    process.kill()
    process.wait(10)
    assert all(gone(pid) for pid in pids)
    wait_for(lambda: not scratch.exists())
    status = read_status(folder / "runs" / "50_sleep")
    assert (status["state"], status["message"]) == ("interrupted", "its runner ended while it was running")


def test_a_polite_kill_cancels_like_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        raise_on_terminate()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_record_writes_plain_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUALRS_RECORD", str(tmp_path / "records.jsonl"))
    record(a=1, b=2.5, c="σ", d=True, e=None, f=[1, (2, 3)], g={"x": {0.25: 1}})
    record(a=np.int64(2), h=np.float32(0.5), i=np.arange(3), j=np.bool_(True), k={"n": np.float64(0.1)})
    assert read_records(tmp_path) == {
        "a": 2, "b": 2.5, "c": "σ", "d": True, "e": None, "f": [1, [2, 3]], "g": {"x": {"0.25": 1}},
        "h": 0.5, "i": [0, 1, 2], "j": True, "k": {"n": 0.1},
    }  # fmt: skip


@pytest.mark.parametrize("value", [object(), Path("x"), {1, 2}, [object()], {"a": b"x"}, 1j])
def test_record_refuses_what_a_table_cannot_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    monkeypatch.setenv("DUALRS_RECORD", str(tmp_path / "records.jsonl"))
    with pytest.raises(ValueError, match=r"record\(x=…\): got .*; want numbers, text, lists or dicts"):
        record(fine=1, x=value)
    assert not (tmp_path / "records.jsonl").exists()


def test_record_is_quiet_outside_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DUALRS_RECORD", raising=False)
    monkeypatch.chdir(tmp_path)
    record(a=1)
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="record"):
        record(a=object())


def test_starts_without_torch_and_papermill() -> None:
    heavy = ["torch", "papermill", "numpy", "pandas", "nbformat", "nbconvert", "matplotlib", "jupyter_client"]
    code = "import sys, dualrs_lab.headless.runner, dualrs_lab.__main__\n"
    code += f"print(sorted({{*{heavy}}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
