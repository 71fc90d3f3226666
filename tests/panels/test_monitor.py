"""RunMonitor shows tasks as they are, also those that others started, and acts on them."""

import json
from pathlib import Path

import pytest

from dualrs_lab.panels import RunMonitor
from dualrs_lab.tasks import start_task

TABLE = Path(__file__).parents[2] / "data" / "published_logs" / "cohen2019_cifar10_resnet110_sigma_0.50.tsv"


def kept(out: Path, name: str, state: str, *words: str, log: str = "", **more: object) -> None:
    (out / name).mkdir(parents=True)
    keeper = {"pid": 1, "born": "", "host": "elsewhere"}
    record = {
        "command": [*words],
        "cwd": str(out),
        "keeper": keeper,
        "state": state,
        "started": "2026",
        **more,
    }
    (out / name / "task.json").write_text(json.dumps(record))
    (out / name / "log.txt").write_text(log)


def test_it_starts_a_command_and_shows_how_it_ends(tmp_path: Path) -> None:
    monitor = RunMonitor(tmp_path, every=0)
    assert "no task yet" in monitor.text.value
    monitor.command.value = f"summary '{TABLE}'"
    monitor.start_button.click()
    assert monitor.task is not None
    assert monitor.task.wait() == "ok"
    monitor.refresh()
    assert ">ok</b>" in monitor.text.value
    assert "500" in monitor.text.value
    assert (monitor.stop_button.disabled, monitor.resume_button.disabled) == (True, False)
    monitor.resume_button.click()
    assert monitor.task.wait() == "ok"


def test_it_shows_bars_with_rate_and_time_left(tmp_path: Path) -> None:
    log = "certify:  40%|####      | 6/15 [01:05<02:10, 9.1s/image]\r"
    kept(tmp_path, "mine", "running", "certify", "--data", "digits", log=log)
    monitor = RunMonitor(tmp_path, every=0)
    assert "certify: 6 of 15, 1:05, 2:10 left, 9.1s/image" in monitor.text.value
    assert '<progress value="6" max="15" aria-label="certify">' in monitor.text.value
    assert not monitor.stop_button.disabled


def test_a_sweep_shows_each_of_its_runs(tmp_path: Path) -> None:
    run = {
        "run": "20_train@seed=1", "notebook": "20_train", "point": "seed=1", "state": "running",
        "queued": "2026-11", "message": "", "parameters": {}, "given": {}, "provenance": {},
        "runner": {"pid": 1, "born": "", "host": "elsewhere"},
    }  # fmt: skip
    old = run | {"run": "20_train", "point": "", "queued": "2025", "state": "ok"}
    for one, log in ((run, "train:  20%|##   | 3/15 [00:06<00:24, 2.0s/epoch]\r"), (old, "")):
        folder = tmp_path / "runs" / str(one["run"])
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps(one))
        (folder / "log.txt").write_text(log)
    kept(tmp_path / "tasks", "sweep", "running", "run", "--sweep", "s.toml", cwd=str(tmp_path))
    text = RunMonitor(tmp_path / "tasks", every=0).text.value
    assert "20_train@seed=1: train: 3 of 15, 6.0 s, 24.0 s left, 2.0s/epoch" in text
    assert "20_train:" not in text  # of an earlier call


def test_what_goes_wrong_is_shown(tmp_path: Path) -> None:
    monitor = RunMonitor(tmp_path, every=0)
    monitor.command.value = "summary 'one"
    monitor.start_button.click()
    assert "No closing quotation" in monitor.status.value
    kept(tmp_path, "mine", "nonsense", "run")
    monitor.refresh()
    assert ">damaged</b>" in monitor.text.value
    assert monitor.resume_button.disabled


def test_words_of_others_are_text(tmp_path: Path) -> None:
    kept(tmp_path, "mine", "ok", "summary", "<img src=x>", log="<script>alert(1)</script>\n")
    text = RunMonitor(tmp_path, every=0).text.value
    assert "<img" not in text
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_it_looks_by_itself_and_lets_go(tmp_path: Path) -> None:
    monitor = RunMonitor(tmp_path, every=0.05)
    task = start_task(["summary", TABLE], out=tmp_path)
    assert task.wait() == "ok"
    for _ in range(100):
        if ">ok</b>" in monitor.text.value:
            break
        monitor._end.wait(0.05)
    assert ">ok</b>" in monitor.text.value
    monitor.close()


@pytest.mark.parametrize("out", ["none", "."])
def test_text_for_a_reader_without_a_kernel(out: str, tmp_path: Path) -> None:
    kept(tmp_path, "mine", "ok", "status")
    text = RunMonitor(tmp_path / out, every=0)._repr_mimebundle_()["text/plain"]
    assert text == ("RunMonitor\nmine: ok" if out == "." else "RunMonitor")
