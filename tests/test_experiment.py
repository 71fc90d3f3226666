"""Names of files are those that runs begun earlier left; what is missing says who makes it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from dualrs_lab.evidence import write_table
from dualrs_lab.experiment import Experiment, Shelf, network_label

DATA = Path(__file__).parent.parent / "data"
LAB = Experiment(folder="files", data="digits", model="digits_cnn", seed=3, n=200)
NAMES = {  # as notebooks typed them before there was an Experiment: a run that was killed then goes on now
    LAB.expert(0.0): "digits_digits_cnn_sigma0_seed3.safetensors",
    LAB.expert(0.25): "digits_digits_cnn_sigma0.25_seed3.safetensors",
    LAB.certificates(1.0): "digits_digits_cnn_sigma1_seed3_smoothed1_n200.tsv",
    LAB.certificates(0.0, smoothed=0.25): "digits_digits_cnn_sigma0_seed3_smoothed0.25_n200.tsv",
    LAB.early(0.25, 20000): "digits_digits_cnn_sigma0.25_seed3_smoothed0.25_early20000.tsv",
    LAB.tuned(0.12): "digits_digits_cnn_sigma0.12_seed3_tuned.safetensors",
    LAB.tuned(0.12, through="combiner"): "digits_digits_cnn_sigma0.12_seed3_combined.safetensors",
    LAB.tuned(0.12, through="alone"): "digits_digits_cnn_sigma0.12_seed3_alone.safetensors",
    LAB.tuned_certificates(0.5): "digits_digits_cnn_sigma0.5_seed3_tuned_smoothed0.5_n200.tsv",
    LAB.labels(2): "digits_digits_cnn_labels_seed3_2.safetensors",
    LAB.router: "digits_digits_cnn_router_seed3",
    LAB.dual: "digits_digits_cnn_dual_seed3_n200.tsv",
    LAB.cascade: "digits_digits_cnn_cascade_tuned_seed3_n200.tsv",
    LAB.arm("PART 0.1", 1): "digits_digits_cnn_pixels_PART_01_seed1.safetensors",
    LAB.arm("random pixels 0.1", 0): "digits_digits_cnn_pixels_random_pixels_01_seed0.safetensors",
    LAB.attacked("AT", 2, "last"): "digits_digits_cnn_pixels_AT_seed2_last_attacked.tsv",
    LAB.attacked("AT", 2, "best"): "digits_digits_cnn_pixels_AT_seed2_best_attacked.tsv",
    LAB.attacked("TRADES PART", 0): "digits_digits_cnn_pixels_TRADES_PART_seed0.attacked.tsv",
    LAB.autoattack("AT", 0): "digits_digits_cnn_pixels_AT_seed0_autoattack.tsv",
    LAB.mixing("accurate"): "digits_digits_cnn_mixing_accurate_seed3.safetensors",
    LAB.mixing("robust"): "digits_digits_cnn_mixing_robust_seed3.safetensors",
    LAB.mixing("head"): "digits_digits_cnn_mixing_head_seed3.safetensors",
    LAB.systems("weights"): "digits_digits_cnn_mixing_weights_seed3.tsv",
    LAB.systems("published"): "digits_digits_cnn_mixing_published_seed3.tsv",
    LAB.systems("systems"): "digits_digits_cnn_mixing_systems_seed3.tsv",
    LAB.systems("auto"): "digits_digits_cnn_mixing_auto_seed3.tsv",
    LAB.board("pixels"): "digits_digits_cnn_board_pixels.csv",
    LAB.board("mixing"): "digits_digits_cnn_board_mixing.csv",
    LAB.board("certified_mixing"): "digits_digits_cnn_board_certified_mixing.csv",
    LAB.board("adaptive"): "digits_digits_cnn_board_adaptive.csv",
}


@pytest.mark.parametrize(("path", "name"), NAMES.items(), ids=NAMES.values())
def test_every_file_has_the_name_that_it_always_had(path: Path, name: str) -> None:
    assert path == Path("files") / name


def test_a_missing_file_says_which_notebook_to_run_first(tmp_path: Path) -> None:
    lab = Experiment(folder=tmp_path, data="digits", model="digits_cnn").made
    missing = {
        "20_train": lambda: lab.expert(0.25),
        "21_certify": lambda: lab.certificates(0.25),
        "22_dual": lambda: lab.dual,
        "23_pixel_reweighting": lambda: lab.arm("AT", 0),
        "24_mixing": lambda: lab.mixing("robust"),
        "25_adaptive": lambda: lab.board("adaptive"),
    }
    for notebook, file in missing.items():
        with pytest.raises(FileNotFoundError, match=rf"digits_digits_cnn_.* is missing; run {notebook} with"):
            file()
    with pytest.raises(FileNotFoundError, match=r"no certificates of digits_digits_cnn, .* run 21_certify"):
        lab.tables()


def test_a_file_that_is_there_is_named_and_a_router_is_only_the_beginning_of_names(tmp_path: Path) -> None:
    lab = Experiment(folder=tmp_path, data="digits", model="digits_cnn")
    lab.expert(0.25).touch()
    assert lab.made.expert(0.25) == lab.expert(0.25)
    assert lab.made.router == lab.router


def test_a_network_that_is_given_is_one_for_all_levels_under_a_name_of_its_own(tmp_path: Path) -> None:
    """Tables of it never have the names of those of trained experts, nor of another network."""
    lab = Experiment(folder=tmp_path, data="digits", model="torchvision:resnet18", n=200)
    said = [
        {"weights": "a.pt"}, {"mean": [0.5]}, {"std": [0.5]}, {"denoiser": "d.safetensors"}, {"mean": [0.4]},
        {"model": "hf:a/b"}, {"model": "/x/net.onnx"}, {"model": "/y/net.onnx"}, {"model": "my_code:make"},
        {"model": "https://user:secret@host/p?key=secret"}, {"model": "digits_narrow"},
    ]  # fmt: skip
    every = [lab, *(replace(lab, **one) for one in said)]
    names = [one.certificates(0.25).name for one in every]
    assert len({*names}) == len(names)
    assert names[-1] == "digits_digits_narrow_sigma0.25_seed0_smoothed0.25_n200.tsv"
    assert all("secret" not in name and "/" not in name for name in names)
    assert [one.given for one in every] == [True] * (len(every) - 1) + [False]
    assert lab.levels_of([0.0, 0.5, 0.25]) == [0.25, 0.5]
    assert every[-1].levels_of([0.0, 0.5, 0.25]) == [0.25, 0.5, 0.0]
    for sigma in (0.25, 0.5):
        lab.certificates(sigma).touch()
    every[-1].certificates(1.0).touch()
    assert lab.levels() == [(0.25, 0.25), (0.5, 0.5)]
    assert replace(lab, weights="a.pt", mean=(0.5,)).origin(0.25) == {
        "checkpoint": "torchvision:resnet18", "weights": "a.pt", "mean": [0.5],
    }  # fmt: skip
    for call in (lab.expert, lab.tuned):
        with pytest.raises(ValueError, match="got torchvision:resnet18, which is given and not trained"):
            call(0.25)


def test_what_is_said_of_a_network_from_elsewhere_is_refused_of_one_that_is_trained() -> None:
    with pytest.raises(ValueError, match=r"got mean, denoiser for the network 'auto', which is trained here"):
        Experiment(folder=".", data="digits", model="auto", mean=[0.5], denoiser="d.safetensors")


@pytest.mark.parametrize("call", ["mixing", "systems", "board"])
def test_a_name_that_nobody_makes_is_refused(call: str) -> None:
    with pytest.raises(ValueError, match=rf"Experiment\.{call}: got 'roubst'; wanted one of "):
        getattr(LAB, call)("roubst")


def test_tables_are_found_by_level_with_those_of_no_noise_last(tmp_path: Path) -> None:
    lab = Experiment(folder=tmp_path, data="digits", model="digits_cnn", n=200)
    row = pd.DataFrame(
        {"idx": [0], "label": [1], "predict": [1], "radius": [0.1], "correct": [1], "time": [0.0]}
    )
    for trained, smoothed in [(0.0, 0.25), (0.5, 0.5), (0.12, 0.12)]:
        write_table(lab.certificates(trained, smoothed=smoothed), row)
    others = (
        Experiment(folder=tmp_path, data="digits", model="digits_cnn", n=2000),
        lab.tuned_certificates(0.5),
    )
    write_table(others[0].certificates(0.25), row)
    write_table(others[1], row)
    assert lab.levels() == [(0.12, 0.12), (0.5, 0.5), (0.0, 0.25)]
    assert list(lab.tables()) == ["σ = 0.12", "σ = 0.5", "no noise in training, σ = 0.25"]
    assert list(lab.singles()) == [0.12, 0.5]
    assert list(lab.singles([0.5])) == [0.5]
    with pytest.raises(FileNotFoundError, match="run 21_certify"):
        lab.singles([1.0])


def test_a_label_says_noise_of_training_where_it_is_another() -> None:
    assert network_label(0.5, 0.5) == "σ = 0.5"
    assert network_label(0.0, 0.25) == "no noise in training, σ = 0.25"
    assert network_label(0.25, 0.5) == "σ = 0.5, trained at 0.25"


def test_the_shipped_experts_and_tables_are_where_it_says() -> None:
    shipped = Experiment.shipped(DATA).made
    assert all(shipped.expert(sigma).exists() for sigma in (0.25, 0.5, 1.0))
    assert {sigma: len(table) for sigma, table in shipped.singles().items()} == {
        0.25: 500,
        0.5: 500,
        1.0: 500,
    }


def test_a_shelf_names_what_benchmarks_leave() -> None:
    pixels, mixing = Shelf(DATA, "cifar10_pixels"), Shelf(DATA / "cifar10_mixing")
    for path in [
        pixels.network("at"),
        pixels.attacked("part4", 2),
        pixels.autoattack("at"),
        mixing.answers("systems"),
    ]:
        assert path.exists(), path
    assert all(Shelf(DATA, "published_logs").log(sigma).exists() for sigma in (0.12, 0.25, 0.5, 1.0))
    assert set(pixels.read("arms")["seed"]) == {0, 1, 2}
    with pytest.raises(
        FileNotFoundError, match=r"no table 'arm' in .*; tables there: arms, autoattack, more"
    ):
        pixels.read("arm")


def test_names_load_no_torch() -> None:
    code = "import sys, dualrs_lab.experiment; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
