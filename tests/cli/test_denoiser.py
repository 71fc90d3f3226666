"""`dualrs-lab denoiser`, and --denoiser in front of any network."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dualrs_lab.__main__ import main
from dualrs_lab.adapters import load_network
from dualrs_lab.data import load_images
from dualrs_lab.denoising import Behind, load_denoiser
from dualrs_lab.evidence import read_table
from dualrs_lab.models import fingerprint

CPU = ["--device", "cpu"]
DIGITS = ["--data", "digits", *CPU]
FLOAT = ["--dtype", "float32"]
TRAIN = ["denoiser", *DIGITS, "--sigmas", "0.1,0.6", "--epochs", "4", "--widths", "16,32"]
CERTIFY = [
    "certify",
    *FLOAT,
    *DIGITS,
    "--sigma",
    "0.5",
    "--n",
    "200",
    "--alpha",
    "0.01",
    "--max",
    "20",
    "--skip",
    "20",
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    words = ["--sigmas", "0", "--epochs", "6", "--folder", str(folder)]
    assert main(["train", *DIGITS, *words]) == 0
    (network,) = folder.glob("*.safetensors")
    network.with_suffix(".json").rename(folder / "net.json")
    network.rename(folder / "net.safetensors")
    assert main([*TRAIN, "--out", str(folder / "d.safetensors")]) == 0
    return folder


def test_a_denoiser_takes_noise_away_and_says_how_much(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lab / "d.safetensors"
    before = path.read_bytes()
    assert main([*TRAIN, "--out", str(path)]) == 0  # it is there: nothing is trained
    assert path.read_bytes() == before
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("σ = 0.6"))
    left = float(line.split("denoised")[1])
    assert left < 0.75 * 0.6**2
    assert main([*TRAIN, "--seed", "1", "--out", str(path)]) == 2
    assert "was made with other settings" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_with_a_network_it_learns_that_networks_answers(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--start", str(lab / "d.safetensors"), "--model", str(lab / "net.safetensors"), "--epochs", "2"]
    assert main([*TRAIN[:-4], *words, "--out", str(lab / "s.safetensors")]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("σ = 0.6"))
    alone, behind = (float(part.split()[-1]) for part in line.split("accuracy")[1].split(","))
    assert behind > alone
    told = json.loads((lab / "s.json").read_text())["training"]
    assert told["start"] == fingerprint(load_denoiser(lab / "d.safetensors"))
    assert told["objective"]["classifier"] == fingerprint(load_network(lab / "net.safetensors"))


def test_certified_behind_it_both_are_named_and_the_table_goes_on(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, denoiser = lab / "net.safetensors", lab / "d.safetensors"
    command = [*CERTIFY, "--model", str(network)]
    assert main([*command, "--out", str(lab / "alone.tsv")]) == 0
    front = [*command, "--denoiser", str(denoiser), "--out", str(lab / "behind.tsv")]
    assert main([*front, "--max", "7"]) == 0
    assert len(read_table(lab / "behind.tsv")) == 7
    assert main(front) == 0
    alone, behind = (read_table(lab / f"{name}.tsv") for name in ("alone", "behind"))
    assert len(behind) == 20
    assert behind["correct"].sum() > alone["correct"].sum()
    info = json.loads((lab / "behind.json").read_text())["info"]
    pair = Behind(load_denoiser(denoiser), load_network(network))
    assert info["denoiser"] == {"source": denoiser.name, "fingerprint": fingerprint(pair.denoiser)}
    assert info["network_fingerprint"] == fingerprint(pair.classifier)
    assert info["checkpoint_sha256"] == sha256(network.read_bytes()).hexdigest()
    assert json.loads((lab / "behind.json").read_text())["identity"]["model"] == fingerprint(pair)
    assert json.loads((lab / "behind.json").read_text())["classes"] == ["by name"]
    capsys.readouterr()
    assert main([*command, "--out", str(lab / "behind.tsv")]) == 2  # without it, it is another network
    assert "behind.tsv" in capsys.readouterr().err
    assert main(["verify", str(lab / "behind.tsv")]) == 0


def test_attacks_go_through_both(lab: Path) -> None:
    words = [
        "attack",
        *DIGITS,
        "--model",
        str(lab / "net.safetensors"),
        "--denoiser",
        str(lab / "d.safetensors"),
    ]
    words += ["--no-auto", "--eps", "0.1", "--max", "10", "--skip", "40", "--out", str(lab / "attacked.tsv")]
    assert main(words) == 0
    record = json.loads((lab / "attacked.json").read_text())
    pair = Behind(load_denoiser(lab / "d.safetensors"), load_network(lab / "net.safetensors"))
    assert record["identity"]["model"] == fingerprint(pair)
    assert record["info"]["denoiser"]["source"] == "d.safetensors"


def test_a_diffusion_model_goes_in_front_by_its_name(lab: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    folder = lab / "ddpm"
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=4,
    )  # fmt: skip
    net.save_pretrained(folder)
    diffusers.DDPMScheduler(num_train_timesteps=1000).save_pretrained(folder)
    words = [
        *CERTIFY,
        "--max",
        "2",
        "--model",
        str(lab / "net.safetensors"),
        "--denoiser",
        f"diffusers:{folder}",
    ]
    assert main([*words, "--no-fold", "--out", str(lab / "ddpm.tsv")]) == 0
    told = json.loads((lab / "ddpm.json").read_text())["info"]["denoiser"]
    assert told["source"] == "diffusers:ddpm"
    assert 0 < told["step"] < 1000
    assert len(told["fingerprint"]) == 16


@pytest.mark.parametrize(
    ("denoiser", "said"),
    [
        ("nowhere.safetensors", "certify: denoiser nowhere.safetensors not found"),
        ("net.safetensors", "or the command dualrs-lab denoiser, wrote"),
        ("wide.safetensors", "does not hold the weights it names"),
        ("grey.safetensors", "takes no images of 1 x 8 x 8"),
        ("diffusers:nowhere/at all", "diffusers"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    denoiser: str, said: str, lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(lab)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = json.loads((lab / "d.json").read_text())
    (lab / "wide.safetensors").write_bytes((lab / "d.safetensors").read_bytes())
    wide = {"name": "denoiser", "channels": 3, "widths": [16, 32]}
    (lab / "wide.json").write_text(json.dumps(told | {"architecture": wide}))
    _colour(lab / "grey.safetensors", lab)
    capsys.readouterr()
    words = [*CERTIFY, "--model", "net.safetensors", "--denoiser", denoiser, "--out", "never.tsv"]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
    assert not (lab / "never.tsv").exists()


def _colour(path: Path, lab: Path) -> None:
    # a denoiser of three channels
    from dualrs_lab.models import Denoiser, Normalize, PixelDenoiser
    from dualrs_lab.models.checkpoints import save_tensors

    model = PixelDenoiser(Normalize([0.5] * 3, [0.5] * 3), Denoiser(3, (16, 32)))
    save_tensors(path, model, {"architecture": {"name": "denoiser", "channels": 3, "widths": [16, 32]}})
    assert load_file(path)["normalize.mean"].shape == torch.Size([3, 1, 1])
    assert load_images("digits", "test").shape[0] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sigmas", "0.5", "--out", "d.safetensors"], "the least and the greatest level"),
        (["--sigmas", "0.5,0.1", "--out", "d.safetensors"], "the least and the greatest level"),
        (["--sigmas", "0,0", "--out", "d.safetensors"], "the least and the greatest level"),
        (["--sigmas", "0.1,0.5", "--out", "d.pt"], "want a name that ends in .safetensors"),
        (["--sigmas", "0.1,0.5", "--widths", "16", "--out", "d.safetensors"], "two numbers of channels"),
        (["--sigmas", "0.1,0.5", "--start", "no.safetensors", "--out", "d.safetensors"], "not found"),
        (["--sigmas", "0.1,0.5", "--anchor", "-1", "--out", "d.safetensors"], "--anchor"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_trained(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["denoiser", *DIGITS, *words]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
    assert not [*tmp_path.iterdir()]


def test_a_diffusion_model_wants_a_noise_level(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["attack", *DIGITS, "--model", str(lab / "net.safetensors"), "--denoiser", "diffusers:some/where"]
    assert main([*words, "--no-auto", "--eps", "0.1", "--out", str(lab / "never.tsv")]) == 2
    assert "is made for one noise level, and none was given" in capsys.readouterr().err
