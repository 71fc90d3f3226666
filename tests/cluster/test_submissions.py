"""What goes to a cluster, what is known of it, and what is refused, without any scheduler."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dualrs_lab.__main__ import main
from dualrs_lab.cluster import (
    LOST_AFTER,
    ClusterTask,
    Stage,
    Submission,
    Work,
    find_submissions,
    home_of,
    make_on_devices,
    queue_name,
    read_minutes,
    read_queue,
    stages_of_plan,
    stages_of_table,
)
from dualrs_lab.headless import Request, Run, make_plan, make_slots
from dualrs_lab.locks import LOCK_WAIT, writing
from dualrs_lab.models import make_model, save_checkpoint
from dualrs_lab.panels import monitor
from dualrs_lab.shards import find_parts
from tests.cli.test_main import complaint, write_notebook

DATA = {"classes": [str(digit) for digit in range(10)], "shape": [1, 8, 8]}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    notebooks = tmp_path / "notebooks"
    for name, needs in (("10_a", []), ("20_b", ["10_a"]), ("30_c", ["10_a", "20_b"]), ("40_alone", [])):
        cells = ["n: int = 1", "assert n != 3"] if name != "40_alone" else ["m: int = 1"]
        write_notebook(notebooks / f"{name}.ipynb", *cells)
        with (notebooks / "profiles.toml").open("a") as file:
            file.write(f'["{name}"]\nneeds = {json.dumps(needs)}\n')
    (tmp_path / "s.toml").write_text("grid.n = [1, 2, 3]\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan_of(lab: Path, *notebooks: str) -> list[Run]:
    request = Request(folder=lab / "notebooks", out=lab / "runs", notebooks=notebooks, sweep=lab / "s.toml")
    return make_plan(request)


def test_each_notebook_is_an_array_and_waits_point_by_point(lab: Path) -> None:
    stages = stages_of_plan(plan_of(lab), ["run"], Path("runs"), done=())
    told = {stage.name: (len(stage.works), stage.after, stage.paired) for stage in stages}
    assert told == {
        "10_a": (3, (), False),
        "20_b": (3, ("10_a",), True),
        "30_c": (3, ("10_a", "20_b"), True),
        "40_alone": (1, (), False),
        "report": (1, ("10_a", "20_b", "30_c", "40_alone"), False),
    }
    assert stages[1].works[2].commands == (("run", "--only", "20_b@n=3"),)


def test_what_is_done_is_left_out_where_a_whole_point_is(lab: Path) -> None:
    plan = plan_of(lab, "30_c")
    done = {
        run.name for run in plan if run.point == "n=1" or run.name in ("10_a@n=2", "10_a@n=3", "20_b@n=2")
    }
    stages = stages_of_plan(plan, ["run"], Path("runs"), done=done)
    told = {stage.name: ([work.name for work in stage.works], stage.after, stage.paired) for stage in stages}
    assert told == {
        "20_b": (["20_b@n=2", "20_b@n=3"], (), False),
        "30_c": (["30_c@n=2", "30_c@n=3"], ("20_b",), True),
        "report": (["report"], ("20_b", "30_c"), False),
    }
    assert stages_of_plan(plan, ["run"], Path("runs"), done={run.name for run in plan}) == []


def test_parts_of_a_table_share_tasks_and_are_merged() -> None:
    parts, merge = stages_of_table(["certify"], Path("c.tsv"), [1, 3, 4], 4, at_once=2)
    assert [work.name for work in parts.works] == ["1/4, 3/4", "4/4"]
    assert parts.works[0].commands[1] == ("certify", "--shard", "3/4")
    assert (merge.after, merge.works[0].commands) == (("parts",), (("merge", "c.tsv"),))
    assert [stage.name for stage in stages_of_table(["certify"], Path("c.tsv"), [], 4)] == ["merge"]


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("2:00:00", 120), ("1:30", 2), ("1-0", 1440), ("1-12:30", 2190), ("0:0:1", 1)],
)
def test_times_are_read_as_slurm_reads_them(text: str, minutes: int) -> None:
    assert read_minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "0", "1h", "-5", "1:2:3:4", "1-", "٣"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="want a time"):
        read_minutes(text)


@pytest.fixture
def told(tmp_path: Path) -> Submission:
    one = Submission(tmp_path / "c.slurm" / "1")
    one.folder.mkdir(parents=True)
    one.write(["certify"], [{"name": "1/1", "stage": "parts", "job": "7_0"}])
    return one


@pytest.mark.parametrize(
    ("known", "beats", "queue", "state"),
    [
        ("", False, None, "queued"),
        ("", False, {"7_0": "PENDING"}, "queued"),
        ("", False, {}, "lost"),
        ("running", True, None, "running"),
        ("running", True, {"7_0": "RUNNING"}, "running"),
        ("running", True, {"7_0": "PENDING"}, "queued"),
        ("running", False, None, "lost"),
        ("running", False, {"7_0": "RUNNING"}, "lost"),
        ("running", False, {}, "lost"),
        ("preempted", False, {"7_0": "PENDING"}, "queued"),
        ("stopped", False, {}, "stopped"),
        ("ok", False, {}, "ok"),
        ("failed", False, {"7_0": "COMPLETING"}, "failed"),
    ],
)
def test_a_task_is_judged_by_its_record_its_beats_and_the_queue(
    told: Submission, known: str, beats: bool, queue: dict[str, str] | None, state: str
) -> None:
    if known:
        told.note(0, state=known, attempts=2, host="node3")
        told.beat(0)
        if not beats:
            before = time.time() - LOST_AFTER - 1
            os.utime(told.folder / "task-0.beat", (before, before))
    (task,) = told.tasks(queue)
    assert (task.state, task.name, task.job) == (state, "1/1", "7_0")


def test_the_monitor_shows_how_tasks_on_a_cluster_are(told: Submission) -> None:
    record = {"command": ["certify", "--on", "slurm", "--out", "c.tsv"], "cwd": str(told.folder.parents[1])}
    assert monitor._submitted(record) == ["on the cluster: 1 queued"]
    told.note(0, state="ok", host="node3")
    assert monitor._submitted(record) == ["on the cluster: 1 ok"]
    assert monitor._submitted(record | {"command": ["certify", "--out", "c.tsv"]}) == []


def test_a_record_that_cannot_be_read_harms_nobody(told: Submission) -> None:
    (told.folder / "task-0.json").write_text("{")
    assert told.tasks({"7_0": "RUNNING"})[0].state == "queued"
    (told.folder / "submission.json").write_text("[]")
    with pytest.raises(ValueError, match="is no record of a submission"):
        told.tasks()


def a_task(folder: Path, *words: str, followed: bool = False) -> ClusterTask:
    told = Submission(folder / "c.slurm" / "1")
    told.folder.mkdir(parents=True, exist_ok=True)
    return ClusterTask(
        folder=str(told.folder), number=0, key="k", commands=(words,), cwd=str(folder), followed=followed
    )


CALL = """
import sys
from pathlib import Path
from tests.cluster.test_submissions import a_task
import dualrs_lab.cluster.task as task
task._CHILDREN.clear()
a_task(Path(sys.argv[1]), *sys.argv[3:], followed=sys.argv[2] == "followed")()
"""


def call(folder: Path, how: str, *words: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", CALL, str(folder), how, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=root)


@pytest.mark.parametrize(("how", "ends"), [("followed", 0), ("alone", 1)])
def test_a_task_tells_how_its_command_ended(tmp_path: Path, how: str, ends: int) -> None:
    done = call(tmp_path, how, "summary", "none.tsv")
    assert done.returncode == ends
    assert "summary: table none.tsv not found" in done.stderr
    known = Submission(tmp_path / "c.slurm" / "1").known(0)
    assert (known["state"], known["code"], known["attempts"]) == ("failed", 2, 1)


def test_a_task_that_ends_well_says_so_and_counts_its_attempts(tmp_path: Path) -> None:
    call(tmp_path, "alone", "--version")
    assert call(tmp_path, "alone", "--version").returncode == 0
    known = Submission(tmp_path / "c.slurm" / "1").known(0)
    assert (known["state"], known["attempts"]) == ("ok", 2)


# --- a Slurm that only takes notes ---

SBATCH = """#!{python}
import pathlib, sys
folder = pathlib.Path({folder!r})
number = len([*folder.glob("*.sh")]) + 1
text = pathlib.Path(sys.argv[-1]).read_text()
if (folder / "refuse").exists() and number > 1:
    sys.exit("sbatch: error: invalid partition specified: nowhere")
(folder / f"{{number}}.sh").write_text(text)
print(f"Submitted batch job {{number}}")
"""
SQUEUE = """#!{python}
import pathlib
for path in pathlib.Path({folder!r}).glob("[0-9].sh"):
    print(f"{{path.stem}}|PENDING")
"""
SCANCEL = """#!{python}
import pathlib, sys
for job in sys.argv[1:]:
    (pathlib.Path({folder!r}) / f"{{job}}.sh").rename(pathlib.Path({folder!r}) / f"cancelled-{{job}}")
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("submitit", reason="submission needs submitit")
    folder = tmp_path / "notes"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL, "srun": SQUEUE}.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(text.format(python=sys.executable, folder=str(folder)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return folder


SWEEP = ["run", "--sweep", "s.toml", "--on", "slurm", "--time", "2:00:00"]


def test_a_sweep_is_submitted_once_with_what_it_needs(
    lab: Path, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SWEEP, "--gpus", "1", "--cpus", "4", "--mem", "32G", "--partition", "P", "--max-running", "2"]
    assert main([*words, "--sbatch", "account=ml"]) == 0
    assert "11 tasks in 5 arrays" in capsys.readouterr().out
    first, second, third, alone, report = ((notes / f"{k}.sh").read_text() for k in range(1, 6))
    for line in ("array=0-2%2", "time=120", "gpus-per-node=1", "cpus-per-task=4", "mem=32G", "partition=P",
                 "account=ml", "requeue", "kill-on-invalid-dep=yes", "signal=USR2@90"):  # fmt: skip
        assert f"#SBATCH --{line}\n" in first
    assert "dependency" not in first + alone
    assert "#SBATCH --dependency=aftercorr:1\n" in second
    assert "#SBATCH --dependency=aftercorr:1,aftercorr:2\n" in third
    assert "#SBATCH --dependency=afterany:1,afterany:2,afterany:3,afterany:4\n" in report
    before = [*notes.iterdir()]
    assert main(words) == 0
    assert "runs is submitted already; nothing was submitted" in capsys.readouterr().out
    assert [*notes.iterdir()] == before
    assert len(find_submissions(home_of(Path("runs")))) == 1
    assert main(["status", "runs"]) == 1
    assert "11 queued" in capsys.readouterr().out
    assert main(["cancel", "runs"]) == 0
    assert "5 tasks cancelled" in capsys.readouterr().out
    assert len([*notes.glob("cancelled-*")]) == 5
    assert main(["status", "runs"]) == 1
    assert "11 lost" in capsys.readouterr().out


def test_where_slurm_refuses_nothing_is_left_in_the_queue(
    lab: Path, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (notes / "refuse").touch()
    told = complaint(capsys, *SWEEP)
    assert told.startswith("run: --on slurm: Slurm did not take the jobs: ")
    assert "invalid partition specified: nowhere" in told
    assert [path.name for path in notes.iterdir() if path.suffix == ".sh"] == []
    assert read_queue(home_of(Path("runs"))) == {}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("run --gpus 2", "run: --gpus is for a cluster; wanted --on slurm with it"),
        ("run --on slurm", "run: --on slurm: wanted --time H:M:S"),
        ("run --on slurm --time soon", "argument --time: 'soon': want a time such as 2:00:00"),
        ("run --on slurm --time 1 --sbatch account", "--sbatch: 'account': want an option of sbatch"),
        ("run --on slurm --time 1 --update", "run: --update does not go with --on slurm"),
        ("run 40_alone --on slurm --time 1 --fail-fast", "run: --fail-fast does not go with --on slurm"),
        ("run --only 40_alnoe", "--only 40_alnoe: no such run in this plan; did you mean '40_alone'?"),
        ("cancel", "nothing was submitted for runs; wanted the --out of a command with --on slurm"),
        (
            "certify --model m --data digits --sigma 1 --out c.tsv --on slurm",
            "certify: --on slurm: wanted --time",
        ),
        (
            "certify --model m --data digits --sigma 1 --out c.tsv --on slurm --time 1 --shard 1/2",
            "each task is a shard already; wanted --shards N",
        ),
        ("certify --model m --data digits --sigma 1 --out c.tsv --shards 4", "--shards is for a cluster"),
    ],
)
def test_what_makes_no_sense_on_a_cluster_is_refused(
    lab: Path, notes: Path, capsys: pytest.CaptureFixture[str], words: str, told: str
) -> None:
    assert told in complaint(capsys, *words.split())
    assert not [*notes.iterdir()]


def test_without_slurm_the_error_says_so(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "submitit", None)
        assert "run: --on slurm needs submitit: pip install 'dualrs-lab[slurm]'" in complaint(capsys, *SWEEP)
    pytest.importorskip("submitit")
    assert "run: --on slurm: no sbatch here" in complaint(capsys, *SWEEP)


def test_one_run_of_a_plan_wants_its_needs_done(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--sweep", "s.toml", "--only", "20_b@n=2"]) == 1
    status = json.loads((lab / "runs/20_b@n=2/status.json").read_text())
    assert (status["state"], status["message"]) == ("blocked", "it needs 10_a@n=2, which ended as not run")
    assert sorted(path.name for path in (lab / "runs").iterdir() if path.is_dir()) == ["20_b@n=2"]


def test_a_task_takes_over_the_run_of_the_one_before_it(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = lab / "runs/40_alone/status.json"
    assert main(["run", "40_alone"]) == 0
    known = json.loads(record.read_text())
    dead = {"pid": 7, "born": "1", "host": "a-node-that-died", "task": "mine"}
    record.write_text(json.dumps(known | {"state": "running", "runner": dead}))
    monkeypatch.setenv("DUALRS_TASK", "another's")
    assert main(["run", "40_alone"]) == 2
    monkeypatch.setenv("DUALRS_TASK", "mine")
    assert main(["run", "40_alone"]) == 0
    assert json.loads(record.read_text())["state"] == "ok"


def test_parts_are_made_on_all_devices_and_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, table = tmp_path / "net.safetensors", tmp_path / "c.tsv"
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    save_checkpoint(network, model, data=DATA)
    words = ["certify", "--model", str(network), "--data", "digits", "--max", "6", "--sigma", "0.25"]
    words += ["--n", "100", "--n0", "10", "--batch", "100", "--out", str(table), "--devices", "cpu,cpu"]
    assert main(words) == 0
    assert [shard.of for shard in find_parts(table)] == [2, 2]
    assert "c " in capsys.readouterr().out
    assert main(words) == 0
    assert "is finished already; nothing was started" in capsys.readouterr().out
    assert main([*words, "--out", str(tmp_path / "d.tsv"), "--model", "none.pt"]) == 2
    assert (
        "certify: part 1/2 failed: dualrs-lab: error: certify: checkpoint none.pt not found"
        in capsys.readouterr().err
    )


def test_each_device_takes_the_next_part_until_none_is_left(tmp_path: Path) -> None:
    slots = make_slots(2, "cpu")
    assert make_on_devices(["summary", "none.tsv"], [2, 3, 5], 6, slots, tmp_path / "logs") == [2, 3, 5]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [
        f"part-{number}-of-6.txt" for number in (2, 3, 5)
    ]
    assert "unknown argument '--shard'" in (tmp_path / "logs" / "part-5-of-6.txt").read_text()


def test_a_task_waits_for_the_lock_of_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, hold = (
        tmp_path / "t.tsv",
        "from pathlib import Path; import sys, time; from dualrs_lab.locks import writing",
    )
    hold += "\nwith writing('x', Path(sys.argv[1])): print('held', flush=True); time.sleep(1.5)"
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", hold, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="is being written by process"), writing("call", path):
            pass
        monkeypatch.setenv(LOCK_WAIT, "60")
        with writing("call", path):
            assert holder.wait(10) == 0


def test_jobs_are_found_by_the_name_of_what_they_make(tmp_path: Path) -> None:
    assert home_of(Path("a/c.tsv")) == Path("a/c.slurm")
    assert home_of(Path("runs")) == Path("runs/.slurm")
    assert queue_name(tmp_path / "x") == queue_name(tmp_path / "y" / ".." / "x") != queue_name(tmp_path / "y")
    assert find_submissions(tmp_path) == []
    assert Stage(name="s", works=(Work(name="w", commands=()),)).after == ()
