"""The command line: one clear line for bad input, honest exit codes, and where to look at the end."""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dualrs_lab.__main__ import COMMANDS, main, make_parser
from dualrs_lab.cascade import CascadeCertificate
from dualrs_lab.cli import attack
from dualrs_lab.cli.run import _settings
from dualrs_lab.evidence import read_table

ROOT = Path(__file__).parents[2]
LOG = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.6\t1\t0:00:01.5\n1\t5\t-1\t0.0\t0\t0:00:01.5\n"
DIGITS = {"classes": [str(digit) for digit in range(10)], "shape": [1, 8, 8]}  # what training notes


def write_notebook(path: Path, *sources: str) -> None:
    cells = [
        {"cell_type": "code", "id": f"c{number}", "metadata": {"tags": [] if number else ["parameters"]},
         "execution_count": None, "outputs": [], "source": source}
        for number, source in enumerate(sources)
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_notebook(
        tmp_path / "notebooks" / "20_train.ipynb", "sigma: float = 0.25\nepochs: int = 2", "1 / sigma"
    )
    write_notebook(tmp_path / "notebooks" / "21_certify.ipynb", "n: int = 100", "1")
    (tmp_path / "notebooks" / "profiles.toml").write_text('["21_certify".paper]\nn = 10000\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a refused command writes."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dualrs-lab: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("dualrs-lab: error: ").strip()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", "required: COMMAND (see dualrs-lab --help)"),
        ("rnu", "invalid choice: 'rnu'"),
        ("run --foo", "unknown argument '--foo'"),
        ("run -p sgima=1", "did you mean 'sigma'?"),
        ("run -p epochs=1.5", "parameter epochs of 20_train: '1.5' is not of type int"),
        ("run -p sigma", "-p 'sigma': want name=value"),
        ("run -p sigma=1 -p sigma=2", "-p sigma is given twice"),
        ("run 20_trian", "did you mean '20_train'?"),
        ("run --profile fast", "--profile fast: known: paper, quick"),
        ("run --sweep none.toml", "file none.toml not found"),
        ("run --shard 2", "--shard: '2': want I/N"),
        ("run --shard 3/2", "--shard: 3/2: want I/N with 1 <= I <= N"),
        ("run --jobs 0", "--jobs: 0: want a whole number >= 1"),
        ("run --jobs two", "invalid int value: 'two'"),
        ("run --devices gpu", "--devices 'gpu': want auto, cpu or a list"),
        ("run --timeout -1", "--timeout: -1: want a number > 0"),
        ("run --timeout nan", "--timeout: invalid float value: 'nan'; want a number > 0"),
        ("run --keep-going --fail-fast", "not allowed with argument"),
        (
            "run --update -p sigma=1",
            "--update commits a notebook at its own parameters, but 20_train got others",
        ),
        ("run --update --profile paper", "but 21_certify got others"),
        ("status", "no runs in runs"),
        ("certify", "the following arguments are required: --checkpoint/--model, --data, --sigma, --out"),
        ("certify --checkpoint no --data digits --sigma 1 --out t.tsv", "certify: checkpoint no not found"),
        ("certify --checkpoint no --data digits --sigma x --out t.tsv", "argument --sigma: invalid float"),
        (
            "certify --checkpoint no --data digits --sigma 1 --out t.tsv --noise uniform",
            "--noise: invalid choice",
        ),
        (
            "certify --checkpoint no --data digits --sigma 1 --out t.tsv --skip 0",
            "--skip: 0: want a whole number >= 1",
        ),
        ("summary none.tsv", "summary: table none.tsv not found"),
        ("cascade none.tsv --out c.tsv", "cascade: table none.tsv not found"),
        ("mix none.tsv --weight 0.8 --out m.tsv", "mix: table none.tsv not found"),
        ("mix none.tsv --weight 1.8 --out m.tsv", "mix: argument --weight: 1.8: want a number >= 0 and <= 1"),
        ("mix none.tsv --out m.tsv", "required: --weight"),
        ("summary none.tsv --radii 1,b", "--radii: '1,b': want numbers separated by commas"),
    ],
)
def test_bad_input_is_one_clear_line(
    lab: Path, capsys: pytest.CaptureFixture[str], arguments: str, text: str
) -> None:
    assert text in complaint(capsys, *arguments.split())
    assert not (lab / "runs").exists()


def test_dry_run_prints_the_plan_and_starts_nothing(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (lab / "s.toml").write_text("grid.sigma = [0.5, 1]")
    assert main(["run", "--dry-run", "--sweep", "s.toml", "-p", "epochs=3", "--jobs", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "run   20_train@sigma=0.5  sigma=0.5 epochs=3",
        "run   21_certify",
        "run   20_train@sigma=1  sigma=1.0 epochs=3",
        "3 runs, 2 at a time on auto, auto; nothing was started (--dry-run)",
    ]
    assert not (lab / "runs").exists()


def test_runs_to_the_end_and_tells_where_to_look(lab: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "run",
        "-p",
        "sigma=0",
        "--fail-fast",
        "--junit",
        "j.xml",
        "--out",
        "here",
        "--devices",
        "cpu",
    ]
    assert main(arguments) == 1
    out, err = capfd.readouterr()
    assert err == ""
    assert "20_train: error after" in out
    assert "21_certify: blocked, not started because 20_train ended as error (--fail-fast)" in out
    assert out.splitlines()[-3:] == [
        "0 of 2 runs ended well",
        f"  pages    {Path('here/index.html')}",
        f"  results  {Path('here/results.csv')}",
    ]
    suite = ElementTree.parse(lab / "j.xml").getroot()
    assert [child.tag for case in suite for child in case] == ["failure", "skipped"]
    assert main(["status", "here"]) == 1
    assert "20_train    error" in capfd.readouterr().out


def test_update_and_status_of_a_good_run(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "21_certify", "--update"]) == 0
    assert "updated  21_certify.ipynb" in capsys.readouterr().out
    stamped = json.loads((lab / "notebooks" / "21_certify.ipynb").read_text())["metadata"]["dualrs_lab"]
    assert set(stamped) == {"source_hash", "package_version"}
    assert main(["status"]) == 0
    assert capsys.readouterr().out.startswith("21_certify  ok")
    assert main(["run", "21_certify"]) == 0
    assert "1 of 1 runs are done already" in capsys.readouterr().out
    assert main(["run", "--retry-failed"]) == 0
    assert "nothing to retry" in capsys.readouterr().out


def test_a_cascade_is_certified_from_tables(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = sorted((ROOT / "data" / "cifar10_jpeg").glob("*_smoothed*.tsv"))
    assert len(shipped) == 3
    command = ["cascade", *map(str, shipped), "--radii", "0,1"]
    assert main([*command, "--out", "c.tsv"]) == 0
    shown = capsys.readouterr().out
    assert [word in shown for word in ("σ = 0.25", "σ = 1", "cascade")] == [True] * 3
    found = read_table(lab / "c.tsv")
    assert len(found) == 500
    claims = [CascadeCertificate.from_row(row) for row in found.to_dict("records")]
    assert [claim.recomputed() for claim in claims] == found["radius"].tolist()
    made = json.loads((lab / "c.json").read_text())["identity"]
    assert (made["sigmas"], made["thresholds"]) == ([1.0, 0.5, 0.25], [0, 0, 0])
    assert len(made["tables"]) == 3
    assert main([*command, "--thresholds", "0.3,0,0", "--out", "d.tsv"]) == 0
    capsys.readouterr()
    stricter = read_table(lab / "d.tsv")
    assert stricter["correct"].mean() > found["correct"].mean()
    for words, message in (
        ([*command, "--out", "c.tsv"], "c.tsv is there already"),
        ([*command, "--thresholds", "0.3", "--out", "e.tsv"], "a finite threshold for each of 3 experts"),
        (["cascade", str(shipped[0]), str(shipped[0]), "--out", "e.tsv"], "one table for each of several"),
    ):
        assert message in complaint(capsys, *words)
    assert not (lab / "e.tsv").exists()


def test_summary_reads_published_logs(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (lab / "cohen.tsv").write_text(LOG)
    assert main(["summary", "cohen.tsv", "--radii", "0,0.5,1"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split()[-4:] == ["0", "0.5", "1", "acr"]
    assert "cohen" in out


def test_mix_makes_certificates_from_a_table(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dualrs_lab.mixing import mixed

    data = Path(__file__).parents[2] / "data"
    shipped, dual = (
        sorted((data / "cifar10_jpeg").glob("*sigma0.5*.tsv"))[0],
        data / "cifar10_systems/dual.tsv",
    )
    assert main(["mix", str(shipped), "--weight", "0.76", "--radii", "0,0.5", "--out", "m.tsv"]) == 0
    assert "mix, weight 0.76" in capsys.readouterr().out
    expected = mixed(read_table(shipped), 0.76)
    assert read_table("m.tsv")["radius"].tolist() == expected["radius"].tolist()
    record = json.loads((lab / "m.json").read_text())["identity"]
    assert (record["weight"], record["form"], record["rule"]) == (0.76, "exact", "two-bounds")
    assert list(record["table"]) == [shipped.name]
    cohens = ["--form", "closed", "--rule", "cohen", "--out", "v.tsv"]
    assert main(["mix", str(shipped), "--weight", "0.76", *cohens]) == 0
    assert (read_table("v.tsv")["radius"] > 0).sum() < (read_table("m.tsv")["radius"] > 0).sum()
    (lab / "cohen.tsv").write_text(LOG)
    capsys.readouterr()
    for words, message in (
        (["mix", "cohen.tsv", "--weight", "0.8", "--out", "m.tsv"], "m.tsv is there already"),
        (["mix", "cohen.tsv", "--weight", "0.8", "--out", "o.tsv"], "no column sigma"),
        (["mix", str(shipped), "--weight", "0.8", "--form", "closed", "--out", "o.tsv"], "--rule cohen"),
        (["mix", "cohen.tsv", "--weight", "0.8", "--sigma", "0.5", "--out", "o.tsv"], "--rule cohen"),
        (["mix", str(shipped), "--weight", "0.8", "--sigma", "0.25", "--out", "o.tsv"], "leave it out"),
        (
            ["mix", "cohen.tsv", "--weight", "0.8", "--sigma", "0.05", "--rule", "cohen", "--out", "o.tsv"],
            "6 sigma",
        ),
        (["mix", str(dual), "--weight", "0.9", "--sigma", "0.5", "--out", "o.tsv"], "a table of dual"),
    ):
        assert message in complaint(capsys, *words)
    logged = ["--sigma", "0.5", "--rule", "cohen", "--out", "o.tsv"]
    assert main(["mix", "cohen.tsv", "--weight", "0.8", *logged]) == 0


def test_lab_starts_jupyterlab_with_the_shipped_settings(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], dict[str, str]]] = []

    def execute(_: str, command: list[str], environment: dict[str, str]) -> None:
        seen.append((command, environment))
        raise KeyboardInterrupt  # execvpe does not come back

    monkeypatch.setattr(os, "execvpe", execute)
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "other")
    assert main(["lab", "--port", "9999", "--no-browser"]) == 130
    command, environment = seen[0]
    assert command[1:3] == ["-m", "jupyterlab"]
    assert command[-3:] == ["--port", "9999", "--no-browser"]
    assert f"--ServerApp.root_dir={lab}" in command
    first, *others = environment["JUPYTER_CONFIG_PATH"].split(os.pathsep)
    assert others == ["other"]
    settings = json.loads((Path(first) / "labconfig" / "default_setting_overrides.json").read_text())
    assert settings["@jupyterlab/apputils-extension:kernels-settings"] == {"commsOverSubshells": "disabled"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert main(["lab", "--app"]) == 130
    assert seen[1][0][1:3] == ["-m", "jupyter_server"]


def test_help_is_quick_and_complete() -> None:
    command = [sys.executable, "-m", "dualrs_lab", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(
        name in done.stdout
        for name in ("run", "status", "certify", "cascade", "combine", "mix", "summary", "lab")
    )


def options_of(name: str, *words: str) -> list[argparse.Action]:
    """The options of a command in the parser for these words."""
    (commands,) = (action for action in make_parser(words)._actions if action.dest == "name")
    assert isinstance(commands.choices, dict)
    return list(commands.choices[name]._actions)


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_only_the_command_that_is_called_has_its_options_each_with_help(name: str) -> None:
    assert len(options_of(name)) == (name != "lab")  # --help alone
    called = options_of(name, name)
    assert len(called) > (0 if name == "lab" else 1)
    assert all(action.help for action in called)


HEAVY = ("torch", "pandas", "numpy", "scipy", "jinja2", "papermill")


@pytest.mark.parametrize("name", ["--help", *(command.name for command in COMMANDS if command.name != "lab")])
def test_help_loads_nothing_heavy(name: str) -> None:
    code = (
        "import sys\nfrom dualrs_lab.__main__ import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit:\n"
        f"    print(sorted({{*{HEAVY}}} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_summary_needs_no_torch(lab: Path) -> None:
    (lab / "cohen.tsv").write_text(LOG)
    block = "import sys\nsys.modules['torch'] = None\n"
    code = f"{block}from dualrs_lab.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "summary", str(lab / "cohen.tsv")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert "cohen" in done.stdout


def test_defaults_are_those_of_the_code() -> None:
    from dualrs_lab.attacks import Threat
    from dualrs_lab.headless import Options, Request
    from dualrs_lab.mixing import FORMS
    from dualrs_lab.smoothing import FastPath, Spec

    def parsed(text: str) -> argparse.Namespace:
        return make_parser(text.split()).parse_args(text.split())

    certify = parsed("certify --checkpoint c --data d --sigma 1 --out t.tsv")
    assert (certify.n, certify.n0, certify.alpha, certify.batch) == (Spec.n, Spec.n0, Spec.alpha, Spec.batch)
    steps = {step.name: getattr(certify, step.name) for step in dataclasses.fields(FastPath)}
    assert FastPath(**steps) == FastPath()
    attacked = parsed("attack --checkpoint c --data d --eps 1 --out t.tsv")
    assert (attacked.restarts, attacked.batch) == (Threat.restarts, Threat.batch)
    for images in (certify, attacked):
        assert (images.skip, images.max, images.device) == (1, -1, "auto")
    run = parsed("run")
    assert (run.profile, run.sweep) == (Request.profile, Request.sweep)
    assert (run.timeout, run.force, run.fail_fast) == (Options.timeout, Options.force, Options.fail_fast)
    assert parsed("cascade a --out t.tsv").alpha == Spec.alpha
    assert [parsed(f"mix a --weight 1 --out t.tsv --form {form}").form for form in FORMS] == list(FORMS)


def test_certify_writes_a_table_and_goes_on(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dualrs_lab.models import make_model, save_checkpoint

    save_checkpoint(
        "m.safetensors",
        make_model("digits_cnn", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0),
        data=DIGITS,
    )
    command = ["certify", "--checkpoint", "m.safetensors", "--data", "digits", "--sigma", "0.25"]
    command += ["--n", "100", "--n0", "20", "--skip", "50", "--device", "cpu", "--out", "t.tsv"]
    assert main([*command, "--max", "4"]) == 0
    first = (lab / "t.tsv").read_text()
    assert [line.split("\t")[0] for line in first.splitlines()] == ["idx", "0", "50", "100", "150"]
    assert main(command) == 0
    assert (lab / "t.tsv").read_text().startswith(first)
    assert capsys.readouterr().out.splitlines()[-1].split()[:3] == ["t", "two-bounds", "10"]
    assert main([*command, "--seed", "1"]) == 2
    err = capsys.readouterr().err
    assert "t.tsv was made with other settings (seed)" in err
    assert err.endswith("choose another file or remove it\n")  # this command has no --replace
    assert main(["summary", "t.tsv"]) == 0


def test_certify_stops_early_and_leaves_steps_out_where_it_is_told_to(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dualrs_lab.models import make_model, save_checkpoint

    save_checkpoint(
        "m.safetensors",
        make_model("digits_cnn", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0),
        data=DIGITS,
    )
    command = ["certify", "--checkpoint", "m.safetensors", "--data", "digits", "--sigma", "0.25"]
    command += ["--n", "400", "--max", "3", "--device", "cpu"]
    assert main([*command, "--at-radii", "0.1,0.2", "--dtype", "float32", "--no-fold", "--out", "a.tsv"]) == 0
    assert main([*command, "--loss", "0.5", "--no-channels-last", "--no-compile", "--out", "b.tsv"]) == 0
    capsys.readouterr()
    a, b = (json.loads((lab / name).read_text())["identity"] for name in ("a.json", "b.json"))
    assert a["stop"] == {"rule": "AtRadii", "radii": [0.1, 0.2], "futility": 0.001}
    assert b["stop"] == {"rule": "InputSpecific", "pilot": 1000, "loss": 0.5}
    assert main([*command, "--loss", "0.5", "--least", "300", "--out", "least.tsv"]) == 0
    assert (read_table(lab / "least.tsv")["n"] >= 300).all()
    assert main(["cascade", "least.tsv", "--out", "of_least.tsv"]) == 0
    capsys.readouterr()
    assert (a["fast"]["dtype"], a["fast"]["fold"], a["fast"]["channels_last"]) == ("float32", False, True)
    assert (b["fast"]["fold"], b["fast"]["channels_last"]) == (True, False)

    for wrong, text in [
        (["--at-radii", "0.2,0.1"], "ascending"),
        (["--at-radii", "x"], "--at-radii: 'x': want numbers"),
        (["--at-radii", "0.1", "--loss", "0.1"], "not allowed with"),
        (["--loss", "-1"], "--loss: -1: want a number > 0"),
        (["--loss", "0.1", "--least", "0"], "--least: 0: want a whole number >= 1"),
        (["--least", "100"], "got --least 100 without --loss; wanted both"),
    ]:
        assert main([*command, *wrong, "--out", "c.tsv"]) == 2
        assert text in capsys.readouterr().err


def test_certify_the_original_by_votes_of_its_copy(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dualrs_lab.models import make_model, save_checkpoint

    model = make_model("digits_cnn", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    save_checkpoint("m.safetensors", model, data=DIGITS)
    command = ["certify", "--checkpoint", "m.safetensors", "--data", "digits", "--sigma", "0.25"]
    command += ["--n", "400", "--n0", "20", "--max", "3", "--device", "cpu", "--dtype", "float32"]
    assert main([*command, "--certify", "original", "--out", "t.tsv"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[-3:]] == ["t", "t,", "t:"]
    assert [line.split()[-11] for line in said[-3:-1]] == ["original", "copy"]
    assert "t: for the original, by 100 paired draws of each image; against its copy" in said[-1]
    assert json.loads((lab / "t.json").read_text())["identity"]["paired"] == 100
    assert main(["summary", "t.tsv", "--rule", "cohen"]) == 0
    assert "a mean radius of" in capsys.readouterr().out
    assert main([*command, "--out", "copy.tsv"]) == 0
    assert " for " not in capsys.readouterr().out
    own = ["--no-fold", "--no-channels-last", "--no-compile", "--certify", "original", "--out", "own.tsv"]
    assert main([*command, *own]) == 0
    said = capsys.readouterr().out
    assert "paired" not in said
    assert said.splitlines()[-1].split()[:3] == ["own", "two-bounds", "original"]

    for number, stop in enumerate((["--at-radii", "0.1"], ["--loss", "0.1"])):
        assert main([*command, *stop, "--certify", "original", "--out", f"early{number}.tsv"]) == 0
        assert "for the original, by 100 paired draws" in capsys.readouterr().out

    for wrong, text in [
        (["--paired", "10"], "got paired 10 with certify='copy'"),
        (["--paired", "401", "--certify", "original"], "got paired 401 of n 400 draws"),
        (["--paired", "0", "--certify", "original"], "--paired: 0: want a whole number >= 1"),
        (["--certify", "both"], "invalid choice: 'both'"),
    ]:
        assert main([*command, *wrong, "--out", "no.tsv"]) == 2
        assert text in capsys.readouterr().err
    for begun, now in (("t.tsv", []), ("copy.tsv", ["--certify", "original"])):
        assert main([*command, *now, "--out", begun]) == 2
        assert f"{begun} was made with other settings (certify, paired)" in capsys.readouterr().err
    for words in ("cascade t.tsv --out c.tsv", "mix t.tsv --weight 0.8 --out x.tsv"):
        assert main(words.split()) == 2
        assert "certifies the original, by votes of its copy and pairs" in capsys.readouterr().err
        assert main([*words.split(), "--certify", "original"]) == 2
        assert "unknown argument '--certify'" in capsys.readouterr().err


def test_certify_reads_a_published_checkpoint(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np
    import torch
    from PIL import Image

    from dualrs_lab.models import MODELS

    with torch.random.fork_rng():
        torch.manual_seed(0)  # of some networks a quick copy votes otherwise often enough to warn
        network = MODELS["resnet20"](10, 3)
    state = {f"1.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"arch": "cifar_resnet20", "state_dict": state}, "checkpoint.pth.tar")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(10):
            (lab / "images" / split / str(label)).mkdir(parents=True)
            pixels = rng.integers(256, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(lab / "images" / split / str(label) / "a.png")
    command = ["certify", "--checkpoint", "checkpoint.pth.tar", "--data", "folder:images", "--sigma", "0.5"]
    with pytest.warns(UserWarning, match="does not name its classes"):
        assert main([*command, "--n", "100", "--max", "2", "--device", "cpu", "--out", "t.tsv"]) == 0
    lines = capsys.readouterr().out.splitlines()  # what follows says why so little is certified
    assert ["t", "two-bounds", "2"] in [line.split()[:3] for line in lines]


def test_relative_image_folders_are_the_users_not_the_notebooks(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _settings(["dataset=folder:here?size=32"]) == {"dataset": f"folder:{lab / 'here'}?size=32"}
    assert _settings(["dataset=digits", "x=1"]) == {"dataset": "digits", "x": "1"}


def test_attack_writes_a_table_of_answers_and_goes_on(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dualrs_lab.attacks import read_evaluation
    from dualrs_lab.models import make_model, save_checkpoint

    save_checkpoint(
        "m.safetensors",
        make_model("digits_cnn", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0),
        data=DIGITS,
    )
    command = ["attack", "--checkpoint", "m.safetensors", "--data", "digits", "--skip", "10", "--no-auto"]
    command += ["--device", "cpu", "--out", "t.tsv"]
    assert main([*command, "--eps", "8/255", "--max", "20"]) == 0
    assert read_evaluation("t.tsv")["idx"].tolist() == list(range(0, 200, 10))
    first = (lab / "t.tsv").read_text().splitlines()
    assert main([*command, "--eps", "8/255"]) == 0
    assert (lab / "t.tsv").read_text().splitlines()[:21] == first
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[-5:]] == ["under", "natural", "pgd", "mma", "worst"][-5:]
    identity = json.loads((lab / "t.json").read_text())["identity"]
    assert identity["threat"]["eps"] == 8 / 255
    for wrong, text in [
        (["--eps", "0.2"], "t.tsv was made with other settings (threat)"),
        (["--eps", "8/0"], "--eps: 8/0: want a number or a fraction such as 8/255"),
        (["--eps", "0"], "--eps: 0: want a number > 0"),
        (["--eps", "8/255", "--max", "0"], "--max: 0: want a whole number >= 1 and <= 1,000,000,000, or -1"),
        (["--eps", "8/255", "--checkpoint", "n.safetensors"], "checkpoint n.safetensors not found"),
    ]:
        assert main([*command, *wrong]) == 2
        assert text in capsys.readouterr().err


def test_attack_shows_mixes_of_two_networks_what_is_found_against_each(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dualrs_lab.attacks import Threat, read_evaluation
    from dualrs_lab.data import load_images
    from dualrs_lab.mixing import Mix, evaluate_systems
    from dualrs_lab.models import load_checkpoint, make_model, save_checkpoint
    from dualrs_lab.training import Standard, TrainConfig, train

    for seed, name in enumerate(("g", "h")):
        made = make_model("digits_cnn", classes=10, channels=1, mean=[0.3], std=[0.3], seed=seed)
        config = TrainConfig(epochs=2, seed=seed, batch=64, lr=0.1, crop=0, flip=False)
        train(made, load_images("digits", "train"), objective=Standard(), config=config, progress=False)
        save_checkpoint(f"{name}.safetensors", made, data=DIGITS)
    command = ["attack", "--model", "h.safetensors", "--accurate", "g.safetensors", "--mix", "0,0.7"]
    command += ["--data", "digits", "--skip", "25", "--no-auto", "--eps", "0.1", "--batch", "5"]
    command += ["--device", "cpu", "--out", "t.tsv"]
    assert main(command) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in shown[-2:]] == [["weight", "0"], ["weight", "0.7"]]
    g, h = (load_checkpoint(f"{name}.safetensors")[0] for name in ("g", "h"))
    mixes = {"weight 0": Mix(g, h, 0), "weight 0.7": Mix(g, h, 0.7)}
    threat = Threat(eps=0.1, seed=0, auto=(), batch=5)
    digits = load_images("digits", "test")
    wanted = evaluate_systems(g, h, mixes, digits, skip=25, threat=threat, progress=False)
    assert main(["summary", "t.tsv"]) == 0
    assert capsys.readouterr().out.splitlines() == ["t:", *shown]
    assert main(["summary", "t.tsv", "--rule", "cohen"]) == 2
    assert "--rule is for certificates, and t.tsv is of attacks" in capsys.readouterr().err
    found = read_evaluation("t.tsv")
    assert found.drop(columns="image").equals(wanted)
    right = found.groupby("system")[["natural", "on_robust", "worst"]].sum()
    assert (right["worst"] < right["on_robust"]).any()
    assert (right["on_robust"] < right["natural"]).all()
    info = json.loads((lab / "t.json").read_text())["info"]
    assert info["checkpoint"].endswith("h.safetensors")
    assert info["accurate"]["checkpoint"].endswith("g.safetensors")
    for part in ("1/2", "2/2"):
        parts = [word if word != "t.tsv" else "p.tsv" for word in command]
        assert main([*parts, "--shard", part]) == 0
        assert "10 images in p.part-" in capsys.readouterr().out
    assert main(["merge", "p.tsv"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == shown[-2:]
    assert (lab / "p.tsv").read_bytes() == (lab / "t.tsv").read_bytes()


def test_attack_without_autoattack_says_what_to_do(
    lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attack, "find_spec", lambda name: None)
    command = [
        "attack",
        "--checkpoint",
        "m.safetensors",
        "--data",
        "digits",
        "--eps",
        "0.1",
        "--out",
        "t.tsv",
    ]
    assert main(command) == 2
    assert "pip install 'dualrs-lab[attacks]', or --no-auto" in capsys.readouterr().err
