"""The stages for a GPU at toy size on a CPU: they end well, keep their minutes and lose nothing."""

import dataclasses
import json
import os
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.gpu import checks, speed
from benchmarks.gpu import stage as harness
from benchmarks.gpu.stage import Clock, pack, parser, parts, stage, unpack
from benchmarks.subjects import SHIPPED, shipped
from dualrs_lab.models import load_checkpoint
from dualrs_lab.smoothing import FastPath

CPU = torch.device("cpu")


def options(out: Path, *more: str, minutes: float = 1.0):
    return parser("A stage.", minutes=minutes).parse_args(["--out", str(out), "--device", "cpu", *more])


def record(out: Path) -> dict:
    return json.loads((out / "record.json").read_text())


def test_a_clock_tells_what_is_left_and_keeps_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock(1)
    assert 59 < clock.left() <= 60
    assert clock.enough(50)
    assert not clock.enough(61)
    clock.say("begun")
    assert clock.steps[0][1] == "begun"
    assert capsys.readouterr().out.endswith(" s] begun\n")


def test_a_part_that_fails_stops_none_and_is_told_in_the_end(tmp_path: Path) -> None:
    def work(arguments, clock, out) -> None:
        works = {
            "bad": (0.0, lambda: 1 / 0),
            "good": (0.0, lambda: (out / "good.txt").write_text("done")),
            "long": (1e9, lambda: (out / "long.txt").write_text("done")),
        }
        parts(clock, works)

    assert (
        stage("toy", work, options(tmp_path, "--commit", "abc", "--data", "folder:/some/where/images")) == 1
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.txt", "record.json"]
    found = record(tmp_path)
    assert "ZeroDivisionError" in " ".join(step["step"] for step in found["steps"])
    assert "failed: bad" in found["error"]
    assert any("long: left out" in step["step"] for step in found["steps"])
    command = f"python -m benchmarks.gpu.toy --minutes 1.0 --out {tmp_path.name} --device cpu"
    assert found["command"] == f"{command} --data folder:images --commit abc"
    assert (found["commit"], found["torch"], found["device"]) == ("abc", torch.__version__, "cpu")
    assert str(Path.cwd()) not in json.dumps(found)


def test_a_stage_that_ends_well_has_no_error_and_one_beyond_its_minutes_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stage("toy", lambda *_: None, options(tmp_path / "well")) == 0
    assert record(tmp_path / "well")["error"] == ""
    monkeypatch.setattr(harness, "GRACE", 0.2)
    start = time.monotonic()
    assert stage("toy", lambda *_: time.sleep(60), options(tmp_path / "late", "--minutes", "0.001")) == 1
    assert time.monotonic() - start < 30
    assert "KeyboardInterrupt" in record(tmp_path / "late")["error"]


def test_archives_restore_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "ARCHIVE", 60_000)
    monkeypatch.setattr(harness, "PIECE", 50_000)
    out = tmp_path / "out"
    (out / "deep" / "er").mkdir(parents=True)
    written = {
        "a.csv": b"x,y\n" * 1000, "deep/noise.bin": os.urandom(170_000), "deep/er/empty": b"",
        "deep/er/some.bin": os.urandom(40_000), "exact.bin": os.urandom(50_000),
    }  # fmt: skip
    for name, data in written.items():
        (out / name).write_bytes(data)
    tensors = {"a": torch.randn(100), "b": torch.arange(3), "c": torch.randn(2).bfloat16()}
    save_file(tensors, out / "net.safetensors", {"made": "here"})
    pack(out)
    archives = sorted(path.name for path in out.iterdir())
    assert archives == [f"out_{i + 1}.zip" for i in range(len(archives))]
    assert 5 <= len(archives) <= 8
    assert all((out / name).stat().st_size <= 60_000 for name in archives)
    unpack(out)
    for name, data in written.items():
        assert (out / name).read_bytes() == data, name
    found = load_file(out / "net.safetensors")
    assert torch.equal(found["a"], tensors["a"].half())
    assert all(torch.equal(found[name], tensors[name]) for name in "bc")
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == {
        *written, "net.safetensors", *archives
    }  # fmt: skip


def test_what_does_not_fit_is_named_and_stays_while_small_files_are_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "ARCHIVE", 60_000)
    monkeypatch.setattr(harness, "ARCHIVES", 2)
    (tmp_path / "table.csv").write_text("1,2\n")
    for number in range(3):
        (tmp_path / f"net{number}.bin").write_bytes(os.urandom(50_000 + number))
    with pytest.raises(ValueError, match=r"2 archives do not hold net2\.bin"):
        pack(tmp_path)
    assert len([*tmp_path.glob("*.zip")]) == 2
    assert (tmp_path / "net2.bin").exists()
    unpack(tmp_path)
    assert (tmp_path / "table.csv").read_text() == "1,2\n"


@pytest.mark.slow
def test_speed_at_toy_size(tmp_path: Path) -> None:
    assert speed.main(["--toy", "--device", "cpu", "--minutes", "10", "--out", str(tmp_path)]) == 0
    found = pd.read_csv(tmp_path / "speed.csv")
    assert {"per_draw", "per_draw, digits_cnn", "machine", "per_image", "split"} <= set(found["part"])
    drawn = found[(found["part"] == "per_draw") & (found["quantity"] == "time per draw")]
    assert {"textbook", "textbook, passes of 200", "+ BatchNorm folded"} <= set(drawn["arm"])
    assert (drawn["median"] > 0).all()
    assert "| at radii" in (tmp_path / "speed.md").read_text()
    assert record(tmp_path)["error"] == ""


@pytest.mark.parametrize("main", [speed.main, checks.main], ids=["speed", "checks"])
def test_a_stage_with_three_seconds_ends_well(tmp_path: Path, main) -> None:
    assert main(["--toy", "--device", "cpu", "--minutes", "0.05", "--out", str(tmp_path)]) == 0
    assert record(tmp_path)["seconds"] < 60


@pytest.mark.slow
def test_checks_at_toy_size(tmp_path: Path) -> None:
    assert checks.main(["--toy", "--device", "cpu", "--minutes", "10", "--out", str(tmp_path)]) == 0
    found = pd.read_csv(tmp_path / "checks.csv")
    assert set(found["part"]) == {"tests", "notebooks", "copies"}
    assert (found["outcome"] == "ok").all()
    assert found.set_index("name").loc["device auto", "detail"] == "cpu"
    assert (pd.read_csv(tmp_path / "disagreement.csv")["otherwise_percent"] < 3).all()


def test_a_copy_of_another_network_is_seen() -> None:
    subject = shipped(SHIPPED, CPU, images=2, sigma=0.5, seed=0, engine_batch=200)
    other, _ = load_checkpoint(str(SHIPPED).replace("sigma0.5", "sigma0.25"))
    voters = {
        "own": subject.voter(FastPath(compile=False), torch.float32),
        "other": dataclasses.replace(subject, network=other).voter(FastPath(compile=False), torch.float32),
    }
    found = checks.disagreements(subject, voters, blocks=1).set_index("copy")
    assert found.loc["own", "otherwise"] <= 1
    assert found.loc["other", "otherwise_percent"] > 3
    assert checks._copy_row("other", 0.5, found.reset_index())["outcome"] == "failure"
    assert checks._copy_row("+ CUDA graph", 0.5, found.reset_index())["outcome"] == "left out"


def test_a_test_that_failed_and_a_notebook_of_another_device_are_failures(tmp_path: Path) -> None:
    case = ET.fromstring('<testcase name="t" time="1.5"><failure message="no"/></testcase>')
    row = checks._test_row(case)
    assert (row["outcome"], row["seconds"], row["detail"]) == ("failure", 1.5, "no")
    run = tmp_path / "notebooks" / "20_train"
    run.mkdir(parents=True)
    (run / "status.json").write_text(json.dumps({"state": "ok", "run": "20_train", "device": "cuda:0"}))
    (run.parent / "net.json").write_text(json.dumps({"provenance": {"device": "cpu"}}))
    one = checks.Beside.begin("notebooks", [sys.executable, "-c", "print(1)"], tmp_path)
    rows = checks._ran(one, Clock(1), tmp_path, torch.device("cuda"))
    assert [row["outcome"] for row in rows] == ["ok", "failure"]
    found = checks.Checks(tmp_path / "checks.csv")
    found.add(rows)
    with pytest.raises(RuntimeError, match="1 of 2 checks did not pass: notebooks device auto"):
        checks._raise_on_failures(found)


def test_a_process_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    one = checks.Beside.begin("slow", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path)
    with pytest.raises(TimeoutError, match="slow: stopped after its time"):
        one.end(0.1)
    assert one.process.poll() is not None
