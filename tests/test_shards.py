"""A table in parts: byte for byte the table of one process, and nothing merged that does not belong."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from dualrs_lab.__main__ import main
from dualrs_lab.attacks import Threat, evaluate_table
from dualrs_lab.cascade import Cascade, CascadeSpec, certify_cascade_table
from dualrs_lab.combine import Combiner, CombineSpec, certify_combined_table
from dualrs_lab.data import Images, load_images
from dualrs_lab.dual import DualSpec, Median, certify_dual_table
from dualrs_lab.locks import writing
from dualrs_lab.mixing import Mix, evaluate_systems_table
from dualrs_lab.models import make_model, save_checkpoint
from dualrs_lab.shards import Portion, Shard, auto_shard, find_parts, is_finished, numbers_text
from dualrs_lab.smoothing import AtRadii, GridNoise, Spec, certify_table
from dualrs_lab.store import read_record, seal

ROOT = Path(__file__).parent.parent
CLASSES = [str(k) for k in range(10)]


def linear(classes: int, seed: int) -> torch.nn.Module:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))
    with torch.no_grad():
        network[1].weight.normal_(generator=torch.Generator().manual_seed(seed))
        network[1].bias.zero_()
    return network.eval()


def conv(classes: int, seed: int) -> torch.nn.Module:
    return make_model("digits_narrow", classes=classes, channels=1, mean=[0.3], std=[0.3], seed=seed).eval()


Make = Callable[..., pd.DataFrame]


def of_networks(certify: Callable[..., pd.DataFrame], *networks: object, spec: object) -> Make:
    return lambda images, path, **more: certify(*networks, images, path, spec=spec, progress=False, **more)


DRAWS = {"seed": 0, "n0": 20, "n": 200, "batch": 400}
NOISE = GridNoise(0.25)


def kinds(make: Callable[[int, int], torch.nn.Module]) -> dict[str, Make]:
    """Every call that makes a table in parts, of networks that `make` makes of classes and seed."""
    f, g, h, chooser = make(10, 0), make(10, 1), make(10, 2), make(2, 3)
    threat = Threat(eps=0.1, seed=0, steps=2, auto=(), batch=4)
    original = Spec(noise=NOISE, certify="original", dtype=torch.bfloat16, **DRAWS)
    router = DualSpec(estimator=Median(0.25), sigmas=(0.25, 0.5), n_estimator=200, **DRAWS)
    combined = CombineSpec(combiner=Combiner.surest((0.5, 0.25)), **DRAWS)
    cascade = CascadeSpec(cascade=Cascade((0.5, 0.25)), **DRAWS)
    early = Spec(noise=NOISE, stop=AtRadii(radii=(0.1, 0.2)), **DRAWS)
    return {
        "plain": of_networks(certify_table, f, spec=Spec(noise=NOISE, **DRAWS)),
        "at radii": of_networks(certify_table, f, spec=early),
        "attack": lambda images, path, **more: evaluate_table(
            f, images, path, threat=threat, progress=False, **more
        ),
        "mixes": lambda images, path, **more: evaluate_systems_table(
            f,
            g,
            {"weight 0": Mix(f, g, 0), "h": Mix(f, g, 1)},
            images,
            path,
            threat=threat,
            progress=False,
            **more,
        ),
        "the original": of_networks(certify_table, f, spec=original),
        "cascade": of_networks(certify_cascade_table, [g, h], spec=cascade),
        "combined": of_networks(certify_combined_table, [g, h], spec=combined),
        "dual": of_networks(certify_dual_table, [chooser], [g, h], spec=router),
    }


QUICK = kinds(linear)
PLAIN = QUICK["plain"]


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits", "test").select(range(16))


def rows(path: Path) -> list[list[str]]:
    """Every cell of a table as it is written, but for times."""
    header, *lines = [line.split("\t") for line in path.read_text().split("\n")]
    timeless = [number for number, name in enumerate(header) if "seconds" not in name and name != "time"]
    return [[line[number] for number in timeless] for line in (header, *lines[:-1])]


def make_parts(make: Make, images: Images, path: Path, of: int, **more: object) -> None:
    numbers = [*range(1, of + 1)]
    random.Random(0).shuffle(numbers)
    for number in numbers:
        make(images, path, shard=Shard(number, of), **more)


@pytest.mark.parametrize("kind", QUICK)
@pytest.mark.parametrize("network", [linear, pytest.param(conv, marks=pytest.mark.slow)])
def test_merged_parts_are_byte_for_byte_the_table_of_one_process(
    images: Images, tmp_path: Path, kind: str, network: Callable[[int, int], torch.nn.Module],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    make, whole, path = kinds(network)[kind], tmp_path / "whole.tsv", tmp_path / "t.tsv"
    expected = make(images, whole, skip=2)
    make_parts(make, images, path, 2, skip=2)
    assert [pd.read_csv(part, sep="\t")["idx"].nunique() for part in find_parts(path).values()] == [4, 4]
    assert main(["merge", str(path)]) == 0
    assert rows(path) == rows(whole)
    assert expected["idx"].nunique() == 8
    ours, theirs = read_record(path), read_record(whole)
    assert ours["merged"]["of"] == 2
    own = ("provenance", "sha256", "merged")
    assert {k: v for k, v in ours.items() if k not in own} == {
        k: v for k, v in theirs.items() if k not in own
    }
    before = path.read_bytes()
    make(images, path, skip=2)  # the merged table is that of the call without a shard: nothing is to be done
    assert make(images, path, skip=2, shard=Shard(1, 4)).shape[1] == expected.shape[1]
    assert path.read_bytes() == before
    assert not Shard(1, 4).part(path).exists()
    capsys.readouterr()
    assert main(["verify", str(path)]) in (0, 3)  # no votes in a table of attacks
    assert "WRONG" not in capsys.readouterr().out


def test_there_may_be_more_parts_than_images(images: Images, tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    make_parts(PLAIN, images, path, 6, max_images=4)
    assert [shard.number for shard in find_parts(path)] == [1, 2, 3, 4]
    assert main(["merge", str(path), "--remove-parts"]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["t.json", "t.tsv"]
    assert len(rows(path)) == 5


def refused(capsys: pytest.CaptureFixture[str], path: Path) -> str:
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    assert main(["merge", str(path)]) == 2
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.removeprefix("dualrs-lab: error: ").strip()


@pytest.fixture(scope="module")
def made(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_parts(PLAIN, images, folder / "t.tsv", 6)
    return folder


@pytest.fixture
def path(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "t.tsv"


def test_missing_and_unfinished_parts_are_named(
    path: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (2, 3, 6):
        Shard(number, 6).part(path).unlink()
    begun = Shard(4, 6).part(path).with_suffix(".json")
    begun.write_text(json.dumps(json.loads(begun.read_text()) | {"sha256": None}))
    told = refused(capsys, path)
    assert told.startswith(f"merge: of the 6 parts of {path}: 2-3,6 missing, 4 unfinished; call the command")
    assert "--shard I/6 for each of these" in told
    for number in (2, 3, 4, 6):
        PLAIN(images, path, shard=Shard(number, 6))
    assert main(["merge", str(path)]) == 0


def test_no_parts_and_parts_of_two_numbers_are_told(
    path: Path, images: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "merge: no parts u.part-I-of-N.tsv in" in refused(capsys, tmp_path / "u.tsv")
    PLAIN(images, path, shard=Shard(1, 4))
    assert f"merge: {path} has parts of 4 and of 6; wanted all of one number" in refused(capsys, path)


def test_a_part_under_another_name_is_told(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ending in (".tsv", ".json"):
        two, three = (Shard(number, 6).part(path).with_suffix(ending) for number in (2, 3))
        shutil.copy(two, three)
    assert "t.part-3-of-6.tsv is not part 3/6: t.part-3-of-6.json tells that it is part 2 of 6" in refused(
        capsys, path
    )


def test_a_foreign_file_in_the_place_of_a_part_is_told_and_kept(
    path: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    part = Shard(3, 6).part(path)
    part.with_suffix(".json").unlink()
    assert "is not part 3/6: t.part-3-of-6.json tells of no part" in refused(capsys, path)
    part.write_text("my notes\n")
    assert "is not part 3/6" in refused(capsys, path)
    with pytest.raises(ValueError, match=r"is no table of certificates, and stays as it is"):
        PLAIN(images, path, shard=Shard(3, 6))
    assert part.read_text() == "my notes\n"


def test_a_part_of_other_settings_is_told(
    path: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (Shard(3, 6).part(path), Shard(3, 6).part(path).with_suffix(".json")):
        file.unlink()
    spec = Spec(noise=NOISE, **DRAWS | {"seed": 1})
    of_networks(certify_table, linear(10, 0), spec=spec)(images, path, shard=Shard(3, 6))
    told = refused(capsys, path)
    assert "t.part-3-of-6.tsv and t.part-1-of-6.tsv are not of one making" in told
    assert "(seed): found {'seed': 1}, wanted {'seed': 0}" in told
    with pytest.raises(ValueError, match=r"was made with other settings \(seed\)"):
        PLAIN(images, path, shard=Shard(3, 6))


def test_a_part_of_other_images_is_told(
    path: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (Shard(3, 6).part(path), Shard(3, 6).part(path).with_suffix(".json")):
        file.unlink()
    PLAIN(images, path, shard=Shard(3, 6), max_images=9)
    assert "are not of the same images" in refused(capsys, path)


@pytest.mark.parametrize("change", ["cut", "twice", "edited"])
def test_a_corrupted_part_is_told(path: Path, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    part = Shard(5, 6).part(path)
    data = part.read_bytes()
    lines = data.splitlines(keepends=True)
    part.write_bytes(
        {"cut": data[:-300], "twice": data + lines[-1], "edited": data.replace(b"\t0.001", b"\t0.002")}[
            change
        ]
    )
    told = refused(capsys, path)
    assert "t.part-5-of-6.tsv" in told
    assert "traceback" not in told.lower()


@pytest.mark.parametrize("left_out", [1, 8])
def test_a_part_whose_rows_are_not_those_of_its_images_is_told(
    images: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str], left_out: int
) -> None:
    """Sealed anew: one mix is missing of one image, or every row."""
    path = tmp_path / "t.tsv"
    make_parts(QUICK["mixes"], images, path, 2, skip=2)
    part = Shard(2, 2).part(path)
    lines = part.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 4 * 2
    part.write_text("".join(lines[:-left_out]))
    seal("test", part)
    assert main(["merge", str(path)]) == 2
    assert str(part) in capsys.readouterr().err
    assert not path.exists()


def test_a_part_that_is_being_written_is_told(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with writing("other", Shard(5, 6).part(path)):
        # the thread that holds may hold again, so another process has to ask
        command = [sys.executable, "-m", "dualrs_lab", "merge", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert f"t.part-5-of-6.tsv is being written by process {os.getpid()} on " in done.stderr
    assert not path.exists()


def test_a_table_that_is_there_is_not_replaced(
    path: Path, images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    PLAIN(images, path, max_images=3)
    assert "t.tsv is there already, and is not what the parts make" in refused(capsys, path)
    spec = Spec(noise=NOISE, **DRAWS | {"seed": 1})
    with pytest.raises(ValueError, match=r"t\.tsv was made with other settings \(seed\)"):
        of_networks(certify_table, linear(10, 0), spec=spec)(images, path, shard=Shard(3, 6))


def test_merging_twice_is_merging_once(path: Path) -> None:
    assert main(["merge", str(path)]) == 0
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    assert main(["merge", str(path)]) == 0
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before
    assert is_finished(path)


def test_a_killed_shard_goes_on(images: Images, path: Path) -> None:
    part = Shard(2, 6).part(path)
    before, record = part.read_bytes(), part.with_suffix(".json")
    part.write_bytes(before[:-40])  # as a kill leaves it
    record.write_text(json.dumps(json.loads(record.read_text()) | {"sha256": None, "record_sha256": None}))
    PLAIN(images, path, shard=Shard(2, 6))
    assert part.read_bytes().startswith(before[: before[:-40].rfind(b"\n") + 1])
    assert main(["merge", str(path)]) == 0


@pytest.mark.slow
def test_a_certificate_in_shards_that_are_killed_is_that_of_one_command(tmp_path: Path) -> None:
    network, table = tmp_path / "net.safetensors", tmp_path / "c.tsv"
    save_checkpoint(network, conv(10, 0), data={"classes": CLASSES, "shape": [1, 8, 8]})
    words = ["certify", "--model", str(network), "--data", "digits", "--max", "200", "--sigma", "0.25"]
    words += ["--n", "2000", "--n0", "20", "--no-compile", "--device", "cpu", "--out", str(table)]
    part = Shard(2, 2).part(table)
    shard = [sys.executable, "-m", "dualrs_lab", *words, "--shard", "2/2"]
    process = subprocess.Popen(shard, cwd=ROOT, stderr=subprocess.DEVNULL)
    while not (part.exists() and part.read_bytes().count(b"\n") > 10):
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = part.read_bytes()
    kept = before[: before.rfind(b"\n") + 1]
    assert 10 < kept.count(b"\n") < 101
    assert main([*words, "--shard", "2/2"]) == 0
    assert {*kept.splitlines()} <= {*part.read_bytes().splitlines()}
    assert main([*words, "--shard", "1/2"]) == 0
    assert main(["merge", str(table)]) == 0
    assert main([*words, "--out", str(tmp_path / "whole.tsv")]) == 0
    assert rows(table) == rows(tmp_path / "whole.tsv")


def test_shards_share_out_all_and_nothing_twice() -> None:
    for images, of, together in ((10, 3, 1), (10, 12, 1), (23, 5, 4), (1, 1, 1), (7, 2, 10)):
        parts = [Portion(Shard(number, of), images, 3, together).idx for number in range(1, of + 1)]
        assert sorted(number for part in parts for number in part) == [*range(0, 3 * images, 3)]
        assert max(map(len, parts)) - min(map(len, parts)) <= together
    assert Portion(Shard(2, 3), 10, 1).idx == [1, 4, 7]
    assert Portion(Shard(2, 2), 10, 1, 3).idx == [3, 4, 5, 9]


def test_numbers_are_written_as_an_array_of_slurm_takes_them() -> None:
    assert numbers_text([1, 2, 3, 7, 9, 10]) == "1-3,7,9-10"
    assert numbers_text([]) == ""


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "4"}, Shard(1, 4)),
        ({"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "4"}, Shard(4, 4)),
        ({"ID": "7", "MIN": "0", "MAX": "7", "COUNT": "8"}, Shard(8, 8)),
        ({"ID": "1", "MIN": "1", "MAX": "8", "COUNT": "8"}, Shard(1, 8)),
    ],
)
def test_a_scheduler_tells_which_shard_this_is(environment: dict[str, str], shard: Shard) -> None:
    assert (
        auto_shard({k if "_" in k else f"SLURM_ARRAY_TASK_{k}": v for k, v in environment.items()}) == shard
    )


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "neither SLURM_ARRAY_TASK_ID"),
        ({"JOB_COMPLETION_INDEX": "0"}, "JOB_COMPLETIONS is ''; wanted a whole number"),
        ({"JOB_COMPLETION_INDEX": "4", "JOB_COMPLETIONS": "4"}, "5/4: want I/N"),
        ({"ID": "3", "MIN": "3", "MAX": "7", "COUNT": "2"}, "the array has 2 tasks from 3 to 7"),
        (
            {"ID": "3", "MIN": "3", "MAX": "4", "COUNT": "2"},
            "wanted one that begins at 0 or 1 and has no gaps",
        ),
        ({"ID": "3", "MIN": "0", "MAX": "4", "COUNT": "x"}, "SLURM_ARRAY_TASK_COUNT is 'x'"),
    ],
)
def test_what_leaves_open_which_shard_this_is_is_refused(environment: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        auto_shard({k if "_" in k else f"SLURM_ARRAY_TASK_{k}": v for k, v in environment.items()})
