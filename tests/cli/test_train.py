"""`dualrs-lab train` makes what notebook 20 makes, and goes on from it; `soup` is the mean of several."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from dualrs_lab.__main__ import main
from dualrs_lab.data import load_images
from dualrs_lab.experiment import Experiment
from dualrs_lab.models import load_checkpoint, save_checkpoint
from dualrs_lab.runtime import pick_device
from dualrs_lab.training import accuracy, for_noise, new_network, recipe, train_checkpoint

TRAIN = ["train", "--data", "digits", "--epochs", "1", "--device", "cpu"]


def test_the_files_are_those_of_the_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--sigmas", "0,0.25", "--folder", str(tmp_path / "ours")]) == 0
    out = capsys.readouterr().out
    assert out.count("accuracy 0.") == 2
    images, check = load_images("digits", "train"), load_images("digits", "test").spread(1000)
    theirs = Experiment(folder=tmp_path / "theirs", data=images.title, model="digits_narrow", seed=0)
    train_checkpoint(  # as in the notebook
        theirs.expert(0.25), lambda: new_network("digits_narrow", images, seed=0), images,
        objective=for_noise(0.25), config=recipe(images, epochs=1, seed=0), device=pick_device("cpu"),
        validate=lambda network: accuracy(network, check, sigma=0.25, seed=0), progress=False,
    )  # fmt: skip
    ours = tmp_path / "ours" / theirs.expert(0.25).name
    assert ours.read_bytes() == theirs.expert(0.25).read_bytes()
    one, two = (json.loads(path.with_suffix(".json").read_text()) for path in (ours, theirs.expert(0.25)))
    assert one["training"] == two["training"]
    assert one["history"][-1]["validation"] == two["history"][-1]["validation"]
    assert load_checkpoint(ours)[1]["sigma"] == 0.25


def test_what_is_there_is_not_trained_again_and_other_settings_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TRAIN, "--sigmas", "0.25", "--folder", str(tmp_path)]
    assert main(command) == 0
    (path,) = tmp_path.glob("*.safetensors")
    made = path.read_bytes(), path.stat().st_mtime_ns
    assert main(command) == 0
    assert (path.read_bytes(), path.stat().st_mtime_ns) == made
    capsys.readouterr()
    assert main([*command, "--consistency", "2"]) == 2
    err = capsys.readouterr().err
    assert "was made with other settings (objective)" in err
    assert err.endswith("remove it; --replace keeps it under another name\n")
    assert path.read_bytes() == made[0]
    with pytest.warns(UserWarning, match="was made with other settings; it is now"):
        assert main([*command, "--consistency", "2", "--replace"]) == 0
    assert len([*tmp_path.glob("*.safetensors")]) == 2


def test_trained_certified_and_verified_each_file_is_named_by_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, "--sigmas", "0.25", "--folder", "nets"]) == 0
    (path,) = (tmp_path / "nets").glob("*.safetensors")
    words = ["--checkpoint", str(path), "--data", "digits", "--sigma", "0.25", "--device", "cpu"]
    for rule, levels in (
        ("two-bounds", [0.005, 0.005]),
        ("cohen", [0.01]),
        ("selected", [0.005, 0.01, 0.005]),
    ):
        table = tmp_path / f"{rule}.tsv"
        more = ["--max", "4", "--n", "200", "--alpha", "0.01", "--rule", rule, "--out", str(table)]
        assert main(["certify", *words, *more]) == 0
        record = json.loads(table.with_suffix(".json").read_text())
        assert record["info"]["checkpoint_sha256"] == sha256(path.read_bytes()).hexdigest()
        assert [*record["levels"].values()] == levels
        assert record["rows"] == 4
        assert record["identity"].keys() >= {"model", "images", "noise", "sigma", "seed", "alpha", "n", "n0"}
        assert record["provenance"]["versions"].keys() >= {"numpy", "scipy", "torch"}
        capsys.readouterr()
        assert main(["verify", str(table)]) == 0
        assert f"network {record['identity']['model']}, images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sigmas", "0.25,0.25"], "train: --sigmas: a level comes twice"),
        (["--sigmas", "-1"], "--sigmas"),
        (["--sigmas", "0.25", "--model", "nothing"], "nothing"),
        (["--sigmas", "0.25", "--epochs", "0"], "--epochs: 0: want a whole number >= 1"),
        (["--sigmas", "0.25", "--device", "gpu"], "train: --device 'gpu'"),
        (["--sigmas", "0.25", "--data", "nowhere"], "nowhere"),
        (["--sigmas", "0.25", "--folder", "file"], "train: --folder file: it is a file; name a folder"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_trained(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["train", "--data", "digits", *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _trained(folder: Path, *words: str) -> Path:
    assert main([*TRAIN, "--sigmas", "0.25", "--folder", str(folder), *words]) == 0
    (path,) = folder.glob("*.safetensors")
    return path


def test_networks_that_went_on_from_one_start_are_averaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = _trained(tmp_path / "begun")
    arms = [
        _trained(tmp_path / recipe, "--start", str(begun), "--recipe", recipe)
        for recipe in ("gaussian", "consistency")
    ]
    assert json.loads(arms[0].with_suffix(".json").read_text())["training"]["start"]
    out = tmp_path / "soup.safetensors"
    words = ["soup", *map(str, arms), "--data", "digits", "--shares", "1,3", "--device", "cpu"]
    capsys.readouterr()
    assert main([*words, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert [line.split()[-1] for line in told.splitlines()] == [str(path) for path in (*arms, out)]
    made, info = load_checkpoint(out)
    assert info["sigma"] == 0.25
    weights = [dict(load_checkpoint(path)[0].named_parameters()) for path in arms]
    for name, weight in made.named_parameters():
        wanted = (weights[0][name] + 3 * weights[1][name]) / 4
        assert (weight - wanted).abs().max() < 1e-6
    before = out.read_bytes()
    assert main([*words, "--out", str(out)]) == 0  # there already
    assert out.read_bytes() == before
    words[words.index("1,3")] = "1,1"
    assert main([*words, "--out", str(out)]) == 2
    assert "was made with other settings (soup)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["net.safetensors"], "soup: got 1 networks"),
        (["net.safetensors", "net.safetensors", "--shares", "1"], "and shares (1.0,)"),
        (["net.safetensors", "net.safetensors", "--shares", "0,1"], "--shares"),
        (["net.safetensors", "other.safetensors"], "say by --sigma what theirs is for"),
        (["net.safetensors", "wide.safetensors", "--sigma", "0.25"], "wanted one architecture"),
        (["net.safetensors", "nowhere.safetensors"], "network nowhere.safetensors not found"),
        (["net.safetensors", "net.bin"], "want a name that ends in .safetensors"),
    ],
)
def test_what_cannot_be_averaged_is_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    images = load_images("digits", "train")
    for file, name, sigma in (
        ("net", "digits_narrow", 0.25),
        ("other", "digits_narrow", 0.5),
        ("wide", "digits_cnn", 0.25),
    ):
        network = new_network(name, images, seed=0)
        data = {"classes": [*images.classes], "shape": [*images.shape]}
        save_checkpoint(tmp_path / f"{file}.safetensors", network, sigma=sigma, data=data)
    assert main(["soup", *words, "--data", "digits", "--device", "cpu", "--out", "soup.safetensors"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "soup.safetensors").exists()


def test_a_start_of_another_architecture_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = load_images("digits", "train")
    save_checkpoint(tmp_path / "wide.safetensors", new_network("digits_cnn", images, seed=0), sigma=0.0)
    words = ["--sigmas", "0.25", "--start", str(tmp_path / "wide.safetensors"), "--folder", str(tmp_path)]
    assert main([*TRAIN, *words, "--model", "digits_narrow"]) == 2
    assert "is a digits_cnn, --model digits_narrow; leave --model out" in capsys.readouterr().err
