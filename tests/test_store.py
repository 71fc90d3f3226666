"""The same settings go on, others are refused or set aside with a warning: by every call that keeps files."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from dualrs_lab.attacks import PGD, Threat, evaluate, evaluate_table
from dualrs_lab.cascade import Cascade, CascadeSpec, certify_cascade_table
from dualrs_lab.data import Images, load_images
from dualrs_lab.dual import DualSpec, Median, certify_dual_table
from dualrs_lab.files import replace_json
from dualrs_lab.mixing import (
    AdaptiveMix,
    Mix,
    MixingLoss,
    evaluate_systems,
    evaluate_systems_table,
    make_head,
    train_mixing,
)
from dualrs_lab.models import Classifier, make_model
from dualrs_lab.smoothing import GridNoise, Spec, certify_table, label_votes
from dualrs_lab.store import (
    check_place,
    plain,
    positions,
    read_record,
    record_path,
    refuse_other,
    take_up,
    write_record,
)
from dualrs_lab.training import Gaussian, TrainConfig, train_checkpoint

WANTED = {"seed": 0, "radii": [0.25, 0.5]}


def kept(folder: Path, name: str = "a.tsv", **settings) -> Path:
    """A file with its record."""
    path = folder / name
    path.write_bytes(b"kept")
    replace_json(path.with_suffix(".json"), {"identity": WANTED | settings})
    return path


def test_settings_are_compared_as_their_file_gives_them_back(tmp_path: Path) -> None:
    settings = {"radii": (0.1, 1 / 3), "stop": {"rule": "AtRadii", "radii": (0.25,)}}
    path = tmp_path / "t.tsv"
    replace_json(path.with_suffix(".json"), {"identity": settings})
    assert read_record(path)["identity"] == plain(settings)
    assert plain(settings)["radii"] == [0.1, 1 / 3]
    assert read_record(tmp_path / "none.tsv") == {}


def test_files_of_the_same_settings_are_taken_up(tmp_path: Path) -> None:
    files = [kept(tmp_path, "a.tsv"), tmp_path / "b.tsv", kept(tmp_path, "c.tsv")]
    assert take_up("call", files, WANTED) == [files[0], files[2]]
    assert take_up("call", files[1:2], WANTED) == []
    network = tmp_path / "net.safetensors"
    network.write_bytes(save({"kept": torch.zeros(1)}))
    replace_json(network.with_suffix(".json"), {"training": WANTED})
    assert take_up("call", [network], WANTED, key="training") == [network]


def test_other_settings_are_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    files = [kept(tmp_path, "a.tsv"), kept(tmp_path, "b.tsv", seed=1)]
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        ValueError,
        match=r"^call: .*b\.tsv was made with other settings \(seed\): found {'seed': 1}, wanted {'seed': 0};"
        r" choose another file or remove it; replace=True keeps it under another name$",
    ):
        take_up("call", files, WANTED)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_settings_are_set_aside_with_their_kin_and_said_so(tmp_path: Path) -> None:
    """All files of one call go together: half of another pair is still another pair."""
    files = [kept(tmp_path, "a.tsv"), kept(tmp_path, "b.tsv", seed=1), tmp_path / "c.tsv"]
    with pytest.warns(UserWarning, match=r"^b\.tsv was made with other settings; it is now b_old1\.tsv$"):
        assert take_up("call", files, WANTED, replace=True) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a_old1.json", "a_old1.tsv", "b_old1.json", "b_old1.tsv",
    ]  # fmt: skip
    assert read_record(tmp_path / "b_old1.tsv")["identity"] == WANTED | {"seed": 1}


def test_a_file_without_its_record_is_other_settings(tmp_path: Path) -> None:
    path = kept(tmp_path)
    path.with_suffix(".json").unlink()
    for wanted in (WANTED, {}):
        with pytest.raises(ValueError, match="found no record beside it"):
            take_up("call", [path], wanted)


def test_a_record_belongs_to_one_file(tmp_path: Path) -> None:
    table, network = tmp_path / "a.tsv", tmp_path / "a.safetensors"
    write_record("call", table, {"identity": WANTED})
    assert read_record(table) == {"identity": WANTED, "record_of": ".tsv"}
    assert read_record(network) == {}
    with pytest.raises(ValueError, match=r"^call: .*a\.json is the record of a\.tsv, and stays as it is"):
        write_record("call", network, {"training": {}})
    with pytest.raises(ValueError, match=r"^call: got .*a\.safetensors; wanted a name that ends in \.tsv$"):
        check_place("call", network, ".tsv")


def test_a_record_from_before_is_known_by_what_it_says_and_by_what_is_there(tmp_path: Path) -> None:
    table, network = tmp_path / "a.tsv", tmp_path / "a.safetensors"
    for record, of_table, of_network in (
        ({"identity": WANTED}, True, True),  # also of votes for labels
        ({"training": WANTED}, False, True),
        ({"architecture": {}}, False, True),
        ({"lr": 0.1}, False, False),
    ):
        replace_json(tmp_path / "a.json", record)
        assert bool(read_record(table)) == of_table
        assert bool(read_record(network)) == of_network
    replace_json(tmp_path / "a.json", {"identity": WANTED})
    table.touch()
    assert (bool(read_record(table)), bool(read_record(network))) == (True, False)


def test_the_record_of_a_file_that_is_gone_is_not_overwritten(tmp_path: Path) -> None:
    """A kill while both were set aside leaves it behind; it follows its file."""
    path = kept(tmp_path, seed=1)
    path.rename(tmp_path / "a_old1.tsv")
    with pytest.raises(ValueError, match=r"other settings \(seed\)"):
        take_up("call", [path], WANTED)
    with pytest.warns(UserWarning, match=r"^a\.json was made with other settings; it is now a_old1\.json$"):
        assert take_up("call", [path], WANTED, replace=True) == []
    assert read_record(tmp_path / "a_old1.tsv")["identity"] == WANTED | {"seed": 1}


@pytest.mark.parametrize("name", ["t", "t_0.25", "t.txt", "t.json", ".tsv"])
def test_only_names_with_an_ending_have_a_record(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"record_path: got .*; wanted a name that ends in \.tsv or \.safe"):
        record_path(tmp_path / name)
    assert read_record(tmp_path / name) == {}


def test_what_one_side_lacks_differs_even_from_none() -> None:
    refuse_other("call", "p", WANTED, dict(WANTED))
    with pytest.raises(
        ValueError, match=r"\(stop\): found {}, wanted {'stop': None}; choose another file or"
    ):
        refuse_other("call", "p", WANTED, WANTED | {"stop": None})
    with pytest.raises(ValueError, match=r"\(stop\): found {'stop': None}, wanted {}; wait"):
        refuse_other("call", "p", WANTED | {"stop": None}, WANTED, remedy="wait")


def test_positions_by_hand() -> None:
    assert [*positions("call", 7, 3, -1)] == [0, 3, 6]
    assert [*positions("call", 7, 3, 2)] == [0, 3]
    assert [*positions("call", 7, 1, 9)] == [*range(7)]
    assert [*positions("call", 0, 1, -1)] == []


# Every call that keeps files, on images and networks that take no time.


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits", "test").select(range(4))


def network(seed: int = 0) -> Classifier:
    return make_model("digits_cnn", classes=10, channels=1, mean=[0.3], std=[0.37], seed=seed).eval()


G, H = network(0), network(1)
DRAWS = {"n0": 10, "n": 20}
CONFIG = TrainConfig(epochs=1, seed=0, batch=2, crop=0, flip=False)
CPU = torch.device("cpu")


def plain_table(images: Images, path: Path, seed: int = 0, **more) -> object:
    return certify_table(G, images, path, spec=Spec(noise=GridNoise(0.25), seed=seed, **DRAWS), **more)


def dual_table(images: Images, path: Path, seed: int = 0, **more) -> object:
    chooser = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    nn.init.constant_(chooser[1].weight, 0.5)
    nn.init.zeros_(chooser[1].bias)
    spec = DualSpec(estimator=Median(0.5), sigmas=(0.25, 0.5), n_estimator=20, seed=seed, **DRAWS)
    return certify_dual_table([chooser], [G, H], images, path, spec=spec, **more)


def cascade_table(images: Images, path: Path, seed: int = 0, **more) -> object:
    spec = CascadeSpec(cascade=Cascade((0.5, 0.25)), n_side=10, seed=seed, **DRAWS)
    return certify_cascade_table([G, H], images, path, spec=spec, **more)


def attacked(images: Images, path: Path, seed: int = 0, **more) -> object:
    threat = Threat(eps=0.1, seed=seed, steps=1, mma=False, auto=())
    return evaluate_table(G, images, path, threat=threat, **more)


def systems(images: Images, path: Path, seed: int = 0, **more) -> object:
    threat = Threat(eps=0.1, seed=seed, steps=1, mma=False, auto=())
    return evaluate_systems_table(G, H, {"mix": Mix(G, H, 0.7)}, images, path, threat=threat, **more)


def labels(images: Images, path: Path, seed: int = 0, **more) -> object:
    del more["progress"]
    return label_votes([G, H], images, path, sigmas=(0.25, 0.5), n=10, seed=seed, **more)


def checkpoint(images: Images, path: Path, seed: int = 0, **more) -> object:
    config = dataclasses.replace(CONFIG, seed=seed)
    return train_checkpoint(
        path, network, images, objective=Gaussian(sigma=0.25), config=config, device=CPU, **more
    )


def head(images: Images, path: Path, seed: int = 0, **more) -> object:
    mix = AdaptiveMix(G, H, make_head("pooled", G, H, shape=images.shape, seed=0))
    objective, config = MixingLoss(eps=0.1, attack=PGD(steps=1)), dataclasses.replace(CONFIG, seed=seed)
    return train_mixing(path, mix, images, objective=objective, config=config, **more)


TABLES = {
    "certify_table": plain_table,
    "certify_dual_table": dual_table,
    "certify_cascade_table": cascade_table,
    "evaluate_table": attacked,
    "evaluate_systems_table": systems,
}
KEPT = TABLES | {"label_votes": labels, "train_checkpoint": checkpoint, "train_mixing": head}


@pytest.mark.parametrize("call", KEPT)
def test_every_call_goes_on_refuses_and_sets_aside(images: Images, tmp_path: Path, call: str) -> None:
    make, path = KEPT[call], tmp_path / ("t.tsv" if call in TABLES else "t.safetensors")
    make(images, path, progress=False)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    make(images, path, progress=False)
    with pytest.raises(
        ValueError, match=rf"^{call}: .*{path.name} was made with other settings \(\w+\): found"
    ):
        make(images, path, seed=1, progress=False)
    assert {file: file.read_bytes() for file in tmp_path.iterdir() if file in before} == before
    old = f"t_old1{path.suffix}"
    with pytest.warns(UserWarning, match=rf"^{path.name} was made with other settings; it is now {old}$"):
        make(images, path, seed=1, replace=True, progress=False)
    assert (tmp_path / old).read_bytes() == before[path]
    assert json.loads((tmp_path / "t_old1.json").read_text()) == json.loads(before[tmp_path / "t.json"])
    make(images, path, seed=1, progress=False)


@pytest.mark.parametrize("call", [*TABLES, "evaluate", "evaluate_systems"])
@pytest.mark.parametrize(("skip", "most"), [(0, -1), (-2, -1), (1, 0), (1, -5)])
def test_images_that_make_no_sense_are_refused_alike(
    images: Images, tmp_path: Path, call: str, skip: int, most: int
) -> None:
    threat = Threat(eps=0.1, seed=0, mma=False, auto=())
    only: dict[str, Callable[..., object]] = {
        "evaluate": lambda i, _, **k: evaluate(G, i, threat=threat, **k),
        "evaluate_systems": lambda i, _, **k: evaluate_systems(G, H, {}, i, threat=threat, **k),
    }
    wanted = rf"^{call}: got skip {skip}, max_images {most}; wanted skip >= 1, max_images >= 1 or -1$"
    with pytest.raises(ValueError, match=wanted):
        (TABLES | only)[call](images, tmp_path / "t.tsv", skip=skip, max_images=most)
    assert not [*tmp_path.iterdir()]
