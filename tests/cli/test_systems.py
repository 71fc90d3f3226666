"""`dualrs-lab combine | cascade`: learnt, read or told; and one clear line for what does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest

from dualrs_lab.__main__ import main, make_parser
from dualrs_lab.cascade import Cascade, CascadeCertificate, from_tables
from dualrs_lab.combine import CombinedCertificate, Combiner, Learning
from dualrs_lab.data import load_images
from dualrs_lab.evidence import at_confidence, read_table
from dualrs_lab.models import Graded, make_model, save_checkpoint
from dualrs_lab.smoothing import GridNoise, Spec, certify_table, image_votes
from dualrs_lab.store import plain, read_record
from dualrs_lab.training import Gaussian, recipe, train
from tests.cli.test_main import complaint
from tests.smoothing.test_smoothed_attacks import ridge

SIGMAS = (0.5, 0.25)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of two experts, and votes about training images."""
    folder = tmp_path_factory.mktemp("experts")
    images, test = load_images("digits", "train"), load_images("digits", "test").select(range(20))
    experts = [ridge(images, images.labels, sigma) for sigma in SIGMAS]
    for model, sigma in zip(experts, SIGMAS, strict=True):
        spec = Spec(noise=GridNoise(sigma), seed=0, n0=50, n=400)
        certify_table(model, test, folder / f"t{sigma}.tsv", spec=spec, progress=False)
    image_votes(experts, images.select(range(60)), folder / "votes.safetensors", sigmas=SIGMAS, n=50, seed=0)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tables(made: Path) -> list[str]:
    return [str(made / f"t{sigma}.tsv") for sigma in SIGMAS[::-1]]


def test_a_combiner_is_learnt_and_serves_again(made: Path, here: Path, capsys) -> None:
    train = ["--train", str(made / "votes.safetensors"), "--changes", "200", "--starts", "2", "--seed", "3"]
    weights = ["--radii-weights", "1,1,1,0,0,0,0,0"]
    assert main(["combine", *tables(made), *train, *weights, "--radii", "0,0.1", "--out", "c.tsv"]) == 0
    shown = capsys.readouterr().out
    assert "learning from 60 images into c_learnt.json" in shown
    assert "combiner" in shown.splitlines()[-1]
    found = read_table(here / "c.tsv")
    assert len(found) == 20
    claims = [CombinedCertificate.from_row(row) for row in found.to_dict("records")]
    assert [claim.recomputed() for claim in claims] == found["radius"].tolist()
    learnt = json.loads((here / "c_learnt.json").read_text())
    assert learnt["combiner"] == found["combiner"][0]
    assert (len(learnt["tried"]), learnt["settings"]["weights"][3]) == (2, 0)
    assert (learnt["settings"]["about"]["n"], learnt["settings"]["seed"]) == (50, 3)
    identity = json.loads((here / "c.json").read_text())["identity"]
    assert (identity["sigmas"], identity["combiner"]) == ([0.5, 0.25], learnt["combiner"])
    assert (len(identity["tables"]), identity["method"], identity["alpha"]) == (2, "combine", 0.001)
    assert main(["combine", *tables(made), "--combiner", "c_learnt.json", "--out", "d.tsv"]) == 0
    again = read_table(here / "d.tsv")
    assert again.drop(columns="time").equals(found.drop(columns="time"))
    looser = ["--combiner", "c_learnt.json", "--alpha", "0.1", "--out", "e.tsv"]
    assert main(["combine", *tables(made), *looser]) == 0
    assert read_table(here / "e.tsv")["radius"].sum() > found["radius"].sum()


def test_whoever_is_surest_needs_no_learning(made: Path, here: Path, capsys) -> None:
    for out, handicaps in (("a.tsv", "0,0"), ("b.tsv", "0,0.1"), ("c.tsv", "-0.1,0")):
        assert main(["combine", *tables(made), f"--surest={handicaps}", "--out", out]) == 0
    capsys.readouterr()
    a, b, c = (read_table(here / name) for name in ("a.tsv", "b.tsv", "c.tsv"))
    assert a["combiner"][0] == Combiner.surest(SIGMAS, (0.0, 0.0)).text
    assert b["combiner"][0] == Combiner.surest(SIGMAS, (0.0, 0.1)).text
    np.testing.assert_allclose(b["radius"], c["radius"], atol=1e-9)  # only the difference counts
    assert a["radius"].tolist() != b["radius"].tolist()
    assert sorted(path.name for path in here.glob("*.tsv")) == ["a.tsv", "b.tsv", "c.tsv"]


def test_what_does_not_fit_is_one_line_and_leaves_no_table(made: Path, here: Path, capsys) -> None:
    two, votes = tables(made), str(made / "votes.safetensors")
    (here / "stranger.json").write_text("{}")
    (here / "text.safetensors").write_text("hello")
    (here / "there.tsv").write_text("mine")
    out = ["--out", "new.tsv"]
    for words, message in (
        ([*two, *out], "--train"),
        ([*two, "--surest", "0,0", "--combiner", "x.json", *out], "not allowed with"),
        (["--surest", "0,0", *out], "TABLE"),
        (["none.tsv", "--surest", "0", *out], "table none.tsv not found"),
        ([two[0], two[0], "--surest", "0,0", *out], "one table for each of several"),
        ([*two, "--surest", "0", *out], "--surest: want a handicap for each of 2 experts"),
        ([*two, "--surest", "0,x", *out], "--surest"),
        ([*two, "--surest", "0,inf", *out], "--surest"),
        ([*two, "--surest", "0,nan", *out], "--surest"),
        ([*two, "--combiner", "none.json", *out], "none.json"),
        ([*two, "--combiner", "stranger.json", *out], "stranger.json is no combiner"),
        ([*two, "--combiner", str(here), *out], str(here)),
        ([*two, "--train", "none.safetensors", *out], "file of votes none.safetensors not found"),
        ([*two, "--train", "text.safetensors", *out], "text.safetensors holds no tensors"),
        ([two[0], "--train", votes, *out], "votes.safetensors holds counts, labels, votes for the sigmas"),
        ([*two, "--train", votes, "--radii-weights", "1,2", *out], "as many weights"),
        ([*two, "--train", votes, "--radii-weights", "0,0,0,0,0,0,0,0", *out], "not all 0"),
        ([*two, "--train", votes, "--radii-weights=-1,0,0,0,0,0,0,0", *out], "--radii-weights"),
        ([*two, "--train", votes, "--starts", "0", *out], "--starts"),
        ([*two, "--train", votes, "--changes", "x", *out], "--changes"),
        ([*two, "--train", votes, "--seed", "-1", *out], "--seed"),
        ([*two, "--surest", "0,0", "--alpha", "1", *out], "--alpha"),
        ([*two, "--surest", "0,0", "--out", "there.tsv"], "there.tsv"),
        ([*two, "--surest", "0,0", "--out", "new.txt"], "--out"),
        ([*two, "--surest", "0,0"], "--out"),
    ):
        assert message in complaint(capsys, "combine", *words), words
    assert sorted(path.name for path in here.iterdir()) == ["stranger.json", "text.safetensors", "there.tsv"]
    assert (here / "there.tsv").read_text() == "mine"


def test_a_combiner_of_other_experts_or_settings_is_refused(made: Path, here: Path, capsys) -> None:
    train = ["--train", str(made / "votes.safetensors"), "--starts", "1"]
    assert main(["combine", *tables(made), *train, "--changes", "10", "--out", "c.tsv"]) == 0
    capsys.readouterr()
    message = complaint(capsys, "combine", tables(made)[0], "--combiner", "c_learnt.json", "--out", "d.tsv")
    assert "c_learnt.json is of sigmas (0.5, 0.25); the tables of (0.25,)" in message
    (here / "c.tsv").unlink()
    (here / "c.json").unlink()
    before = (here / "c_learnt.json").read_bytes()
    assert main(["combine", *tables(made), *train, "--changes", "20", "--out", "c.tsv"]) == 2
    assert "other settings (changes)" in capsys.readouterr().err
    assert main(["combine", *tables(made), *train, "--changes", "10", "--out", "c.tsv"]) == 0
    assert (here / "c_learnt.json").read_bytes() == before


def test_defaults_are_those_of_the_code() -> None:
    words = ["combine", "t.tsv", "--train", "v.safetensors", "--out", "c.tsv"]
    found = make_parser(words).parse_args(words)
    assert (found.starts, found.changes, found.alpha) == (Learning.starts, Learning.changes, Learning.alpha)
    assert tuple(found.radii_weights) == ()


def test_a_cascade_is_learnt_and_most_of_alpha_is_given_to_one(made: Path, here: Path, capsys) -> None:
    train = ["--train", str(made / "votes.safetensors"), "--radii-weights", "1,1,1,1,0,0,0,0"]
    assert main(["cascade", *tables(made), *train, "--radii", "0,0.1", "--out", "learnt.tsv"]) == 0
    shown = capsys.readouterr().out
    assert "learnt from 60 images, the best of 208 settings: σ = 0." in shown
    found = read_table(here / "learnt.tsv")
    claims = [CascadeCertificate.from_row(row) for row in found.to_dict("records")]
    assert [claim.recomputed() for claim in claims] == found["radius"].tolist()
    told = ["--thresholds", "0,-0.3", "--shares", "0.9,0.1"]
    assert main(["cascade", *tables(made), *told, "--out", "told.tsv"]) == 0
    record = json.loads((here / "told.json").read_text())
    assert record["identity"]["shares"] == [0.9, 0.1]
    assert record["levels"] == {
        "each bound at σ = 0.5": 0.001 * 0.9,
        "each bound at σ = 0.25": 0.001 * 0.1 / 2,
    }
    assert main(["verify", "told.tsv"]) == 0


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        (["--shares", "0.9,0.2"], "at most 1 in all"),
        (["--shares", "0.9"], "share of the level for each of 2"),
        (["--train", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--thresholds", "0,0", "--train", "votes.safetensors"], "not allowed with"),
    ],
)
def test_cascades_that_do_not_fit_are_refused(told, wanted, made: Path, here: Path, capsys) -> None:
    assert wanted in complaint(capsys, "cascade", *tables(made), *told, "--out", "x.tsv")
    assert not (here / "x.tsv").exists()


# Experts that vote where they are sure.


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of two experts, and graded votes about training images."""
    folder = tmp_path_factory.mktemp("graded")
    images, experts = load_images("digits", "train"), []
    for seed, sigma in enumerate(SIGMAS):
        model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=seed)
        config = recipe(images, epochs=2, seed=0)
        train(model, images, objective=Gaussian(sigma=sigma), config=config, progress=False)
        experts.append(model.eval())
        names = {"classes": list(images.classes), "shape": list(images.shape)}
        save_checkpoint(folder / f"e{sigma}.safetensors", experts[-1], data=names)
    how = {"sigmas": SIGMAS, "n": 50, "seed": 0, "progress": False}
    some = images.select(range(60))
    image_votes([Graded(one, (0.3, 0.5)) for one in experts], some, folder / "votes.safetensors", **how)
    return folder


def certified(graded: Path, sigma: float, *more: str) -> list[str]:
    words = ["certify", "--checkpoint", str(graded / f"e{sigma}.safetensors"), "--data", "digits", "--max"]
    how = ["--n", "300", "--dtype", "float32", "--out", f"t{sigma}.tsv"]
    return [*words, "12", "--sigma", str(sigma), *how, *more]


def test_experts_are_certified_by_how_sure_they_are(graded: Path, here: Path, capsys) -> None:
    for sigma in SIGMAS:
        assert main(certified(graded, sigma, "--sure", "0.3,0.5")) == 0
        shown = capsys.readouterr().out
        assert all(f"t{sigma}, sure {s}" in shown for s in ("0 ", "0.3", "0.5"))
    assert "confidences" in read_record(here / "t0.5.tsv")["identity"]["sure"]
    both = ["t0.25.tsv", "t0.5.tsv"]
    assert main(["cascade", *both, "--ask", "0.5@0.5:0.2,0.25,0.5:-0.1", "--out", "c.tsv"]) == 0
    asked = Cascade((0.5, 0.25, 0.5), (0.2, 0.0, -0.1), answers=10, confidences=(0.5, 0.0, 0.0))
    identity = read_record(here / "c.tsv")["identity"]
    assert {name: identity[name] for name in asked.settings()} == plain(asked.settings())
    found = read_table(here / "c.tsv")
    want = from_tables({s: read_table(f"t{s:g}.tsv") for s in SIGMAS}, cascade=asked)
    assert found["radius"].tolist() == want["radius"].tolist()
    assert {"votes_0.5@0.5", "votes_0.25", "votes_0.5"} <= {*found}
    assert main(["cascade", *both, "--out", "every.tsv"]) == 0
    counted = {s: at_confidence(read_table(f"t{s:g}.tsv"), 0) for s in SIGMAS}
    every = from_tables(counted, cascade=Cascade(SIGMAS))
    assert read_table(here / "every.tsv")["radius"].tolist() == every["radius"].tolist()
    assert "answers" not in read_table(here / "every.tsv")
    assert main(["combine", *both, "--surest", "0,0", "--out", "combined.tsv"]) == 0  # counts every vote
    capsys.readouterr()
    assert main(["verify", *both, "c.tsv", "every.tsv", "combined.tsv"]) == 0
    assert "of sigma 0.5@0.5 0.25 0.5, n" in capsys.readouterr().out.splitlines()[2]
    assert main(["summary", "t0.5.tsv"]) == 0
    assert "t0.5, sure 0.5" in capsys.readouterr().out


def test_parts_are_merged_and_summed_up_by_confidence(graded: Path, here: Path, capsys) -> None:
    for part in ("1/2", "2/2"):
        assert main(certified(graded, 0.5, "--sure", "0.3,0.5", "--shard", part)) == 0
    capsys.readouterr()
    assert main(["merge", "t0.5.tsv"]) == 0
    assert "t0.5, sure 0.5" in capsys.readouterr().out
    assert main(["cascade", "t0.5.tsv", "--ask", "0.5@0.5", "--out", "c.tsv"]) == 0


def test_order_and_confidences_are_learnt_from_graded_votes(graded: Path, here: Path, capsys) -> None:
    for sigma in SIGMAS:
        assert main(certified(graded, sigma, "--sure", "0.3,0.5")) == 0
    train_ = ["--train", str(graded / "votes.safetensors"), "--stages", "3"]
    above = ["--above", "0.9,0.5,0.2,0,0,0,0,0", "--radii-weights", "1,1,1,0,0,0,0,0"]
    for name, more in (("c", []), ("above", above)):
        assert main(["cascade", "t0.25.tsv", "t0.5.tsv", *train_, *more, "--out", f"{name}.tsv"]) == 0
        said = capsys.readouterr().out
        assert "learnt from 60 images, search: " in said
        identity = read_record(here / f"{name}.tsv")["identity"]
        sure = identity.get("confidences", [0.0] * len(identity["sigmas"]))
        assert 1 <= len(sure) == len(identity["sigmas"]) <= 3
        assert {*sure} <= {0.0, 0.3, 0.5}
        assert all(f"where it is {s:g} sure" in said for s in sure if s)
    assert main(["verify", "c.tsv", "above.tsv"]) == 0


def test_confidences_that_do_not_fit_get_one_line(graded: Path, here: Path, made: Path, capsys) -> None:
    assert main(certified(graded, 0.5, "--sure", "0.3,0.5")) == 0
    capsys.readouterr()
    for sure in ("0.5,0.3", "0.5,0.5"):
        assert "ascending" in complaint(capsys, *certified(graded, 0.25, "--sure", sure))
    assert "made with other settings" in complaint(capsys, *certified(graded, 0.5, "--sure", "0.3"))
    out, loud = ("--out", "c.tsv"), str(made / "t0.5.tsv")
    votes = ("--train", str(graded / "votes.safetensors"))
    for words, wanted in (
        (("t0.5.tsv", "--ask", "0.5@0.4"), "wanted one of these"),
        (("t0.5.tsv", "--ask", "0.25@0.3"), "no table for sigma 0.25"),
        (("t0.5.tsv", "--ask", "0.5@0.3,0.5@0.3"), "different confidences of one"),
        (("t0.5.tsv", "--ask", "half"), "as in 0.5@0.6:0.3"),
        (("t0.5.tsv", "--ask", "0.5@0.3", *votes), "not allowed with"),
        ((loud, "--ask", "0.5@0.3"), "certify their networks with --sure; got none"),
    ):
        assert wanted in complaint(capsys, "cascade", *words, *out)
    assert [path.name for path in here.glob("*.tsv")] == ["t0.5.tsv"]
