"""Data sets in the layouts they are published in, from the folder to the pictures of the notebooks.

The folders are made here: few images, in which a tint and the place of a bright band tell the class.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from dualrs_lab.__main__ import main
from dualrs_lab.data import load_images
from dualrs_lab.denoising import linear_schedule, timestep
from dualrs_lab.evidence import read_table
from dualrs_lab.experiment import Experiment
from dualrs_lab.headless import Request, make_plan
from dualrs_lab.models import load_checkpoint

ROOT = Path(__file__).parent.parent
WNIDS = [f"n{number:08d}" for number in range(4)]
SETTINGS: dict[str, Any] = {
    "model": "digits_narrow", "sigmas": [0.12], "epochs": 12,
    "n": 100, "images": 4, "most": 2000, "radii": [0.05], "device": "cpu",
    "eps": 0.03, "lows": [0.015], "steps": 1, "step": 0.03, "train_epochs": 2, "seeds": [0], "attacked": 4,
    "auto_images": 0, "shipped": str(ROOT / "data"),
}  # fmt: skip


def picture(label: int, number: int, side: int) -> np.ndarray:
    """uint8 (H, W, 3): noise, in the colour of the class, with a band that is as far down as its number."""
    pixels = np.random.default_rng([label, number]).integers(0, 40, (side, side, 3), dtype=np.uint8)
    pixels += np.array([50 * (label % 3), 50 * (label // 3 % 3), 50 * (label // 9)], dtype=np.uint8)
    pixels[side * label // 10 : side * (label + 1) // 10] += 100
    return pixels


def save(path: Path, *of: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(*of)).save(path, format="JPEG")


def tiny_imagenet(root: Path, patch: pytest.MonkeyPatch) -> int:
    """train/WNID/images, and val/ with its annotations."""
    base, lines = root / "tiny-imagenet-200", []
    for label, wnid in enumerate(WNIDS):
        for number in range(12):
            save(base / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", label, number, 64)
        for number in range(3):
            seen = f"val_{3 * label + number}.JPEG"
            save(base / "val" / "images" / seen, label, 100 + number, 64)
            lines.append(f"{seen}\t{wnid}\t0\t0\t62\t62\n")
    (base / "val" / "val_annotations.txt").write_text("".join(lines))
    (base / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in reversed(WNIDS)))
    (base / "words.txt").write_text("".join(f"{wnid}\tname of {wnid}, another\n" for wnid in WNIDS))
    return 64


def svhn(root: Path, patch: pytest.MonkeyPatch) -> int:
    """Two files of arrays, which say 10 for the digit 0; their checksums are those of the made ones."""
    entries, base = {}, root / "SVHN"
    base.mkdir(parents=True)
    for split, count in (("train", 60), ("test", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = np.stack([picture(int(label), i, 32) for i, label in enumerate(labels)], axis=-1)
        path = base / f"{split}_32x32.mat"
        savemat(path, {"X": pixels, "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)})
        entries[split] = ["file:///nowhere", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    patch.setattr(datasets.SVHN, "split_list", entries)
    return 32


def imagenet(root: Path, patch: pytest.MonkeyPatch) -> int:
    """train/WNID and val/WNID in many sizes; of five classes that are listed, one has no images in val/."""
    base = root / "imagenet"
    for label, wnid in enumerate(WNIDS):
        for number in range(8):
            save(base / "train" / wnid / f"{wnid}_{number}.JPEG", label, number, 230 + 10 * number)
        for number in range(2 * (label != 1)):
            save(base / "val" / wnid / f"ILSVRC2012_val_{label}{number}.JPEG", label, 100 + number, 300)
    listed = "".join(f"{wnid} name of {wnid}, another\n" for wnid in [*WNIDS, "n00000009"])
    (base / "LOC_synset_mapping.txt").write_text(listed)
    return 224


LAYOUTS = {"tiny_imagenet": (tiny_imagenet, 4), "svhn": (svhn, 10), "imagenet": (imagenet, 5)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where data sets, caches and files are."""
    monkeypatch.setenv("DUALRS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DUALRS_CACHE", str(tmp_path / "decoded"))
    return tmp_path


def band(pixels: torch.Tensor) -> int:
    """The tenth of the height in which the rows of an image (3, H, W) are bright; 224 are of 256."""
    side = pixels.shape[1]
    rows = pixels.float().mean((0, 2))
    middle = (rows > rows.min() + 50).nonzero().float().mean() + 0.5
    whole = (middle + 16) / 256 if side == 224 else middle / side
    return int(10 * whole)


def run_cells(notebook: str, given: dict[str, Any], *, until: str = "") -> dict[str, Any]:
    """What the code cells of a notebook leave, run here one by one up to the one that holds `until`."""
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    scope: dict[str, Any] = {}
    with mpl.rc_context({"figure.max_open_warning": 0}):
        for cell in cells:
            if cell.cell_type != "code":
                continue
            exec(cell.source, scope)
            if "parameters" in cell.metadata.get("tags", []):
                scope |= {name: value for name, value in given.items() if name in scope}
            if until and until in cell.source:
                break
        plt.close("all")
    return scope


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_notebook_shows_the_images_of_each_layout(name: str, place: Path, monkeypatch) -> None:
    make, classes = LAYOUTS[name]
    side = make(place / "data", monkeypatch)
    given = SETTINGS | {"dataset": name, "folder": str(place / "files")}
    scope = run_cells("20_train", given, until="recipe(")
    assert scope["images"].shape == scope["test"].shape == (3, side, side)
    assert len(scope["images"].classes) == len(scope["test"].classes) == classes
    for called, pixels, label in zip(scope["names"], *scope["test"].batch(scope["some"]), strict=True):
        assert called == scope["test"].classes[int(label)]
        assert band(pixels) == int(label)
    assert scope["config"].batch <= len(scope["images"]) // 2  # an epoch has some steps
    scope = run_cells("21_certify", {**given, "sigmas": []}, until="few =")
    assert scope["test"].classes == load_images(name, "train").classes


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_trained_certified_and_reweighted(name: str, place: Path, monkeypatch) -> None:
    make, classes = LAYOUTS[name]
    make(place / "data", monkeypatch)
    given = SETTINGS | {"dataset": name, "folder": str(place / "files")}
    for notebook in ("20_train", "21_certify"):
        run_cells(notebook, given)
    lab = Experiment(folder=place / "files", data=name, model=SETTINGS["model"], n=100).made
    network, info = load_checkpoint(lab.expert(0.12))
    assert network.architecture["classes"] == classes == len(info["data"]["classes"])
    table = read_table(lab.certificates(0.12))
    test = load_images(name, "test")
    assert table["label"].tolist() == test.labels[table["idx"].tolist()].tolist()
    if name != "imagenet":  # at 224x224 attacks on a dozen networks take minutes
        run_cells("23_pixel_reweighting", given)
        assert lab.attacked("PART 0.015", 0, "last").exists()


def denoised() -> dict[str, Any]:
    """Parameters of the one run of the profile `imagenet_denoised`."""
    request = {"folder": ROOT / "notebooks", "out": Path("runs"), "notebooks": ("21_certify",)}
    (run,) = make_plan(Request(**request, profile="imagenet_denoised"))  # nothing is trained before
    return dict(run.parameters)


def test_the_profile_of_a_denoiser_names_networks_that_there_are() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    given = denoised()
    kind, _, name = given["model"].partition(":")
    config = timm.get_pretrained_cfg(name)
    assert (kind, config.input_size, config.num_classes) == ("timm", (3, 512, 512), 1000)
    assert given["denoiser"].startswith("diffusers:")
    steps = [timestep(linear_schedule(), sigma) for sigma in given["sigmas"]]
    assert steps == sorted(set(steps))  # the model has seen each noise level


def diffusion_model(folder: Path) -> Path:
    """Of the blocks of Dhariwal and Nichol, few and narrow; it predicts the variance as well."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=256, in_channels=3, out_channels=6, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(4, 4, 8, 8, 8), resnet_time_scale_shift="scale_shift", attention_head_dim=4,
        down_block_types=("ResnetDownsampleBlock2D",) * 5, up_block_types=("ResnetUpsampleBlock2D",) * 5,
    )  # fmt: skip
    net.save_pretrained(folder / "unet")
    diffusers.DDPMScheduler(num_train_timesteps=1000).save_pretrained(folder / "scheduler")
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*the checkpoint does not name its classes")
@pytest.mark.filterwarnings("ignore:the network is sampled without the step")
def test_the_profile_of_a_denoiser_wants_no_training_images(place: Path, monkeypatch) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    imagenet(place / "data", monkeypatch)
    shutil.rmtree(place / "data" / "imagenet" / "train")
    body = timm.create_model("test_vit", num_classes=5, pretrained=False)
    torch.save(body.state_dict(), place / "body.pt")
    given = denoised() | {
        "model": "timm:test_vit", "weights": str(place / "body.pt"), "mean": [0.5], "std": [0.5],
        "denoiser": f"diffusers:{diffusion_model(place / 'ddpm')}", "folder": str(place / "files"),
        "n": 20, "n0": 10, "most": 20, "images": 1, "device": "cpu", "sigmas": [0.25, 0.5],
    }  # fmt: skip
    scope = run_cells("21_certify", given)
    assert [*scope["tables"]] == [f"σ = {sigma:g}" for sigma in given["sigmas"]]
    steps = {sigma: network.denoiser.at for sigma, network in scope["networks"].items()}
    assert steps == {sigma: timestep(linear_schedule(), sigma) for sigma in given["sigmas"]}
    assert all(len(table) == 1 for table in scope["tables"].values())


@pytest.mark.slow
def test_svhn_runs_headless_from_training_to_reweighted_attacks(place: Path, monkeypatch) -> None:
    """Its files are made here, so that every kernel is told their checksums as it starts."""
    svhn(place / "data", monkeypatch)
    told = place / "ipython" / "profile_default" / "startup" / "made.py"
    told.parent.mkdir(parents=True)
    told.write_text(
        f"from torchvision.datasets import SVHN\nSVHN.split_list = {datasets.SVHN.split_list!r}\n"
    )
    monkeypatch.setenv("IPYTHONDIR", str(place / "ipython"))
    given = SETTINGS | {"dataset": "svhn", "epochs": 4, "folder": str(place / "files")}
    words = [
        f"-p={name}={','.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in given.items()
    ]
    names = ("20_train", "21_certify", "23_pixel_reweighting")
    assert main(["run", *names, *words, "--out", str(place / "runs"), "--jobs", "1"]) == 0
    lab = Experiment(folder=place / "files", data="svhn", model=SETTINGS["model"], n=100).made
    table = read_table(lab.certificates(0.12))
    assert table["label"].tolist() == load_images("svhn", "test").labels[table["idx"].tolist()].tolist()
    assert lab.attacked("PART 0.015", 0, "last").exists()
