"""A table of calls that are no good: each is a ValueError or FileNotFoundError that says whose and what."""

import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dualrs_lab import (
    attacks,
    cascade,
    combine,
    data,
    dual,
    evidence,
    headless,
    mixing,
    models,
    pixels,
    smoothing,
)
from dualrs_lab.attacks import Effort
from dualrs_lab.runtime import fold_seed, make_generator, pick_device
from dualrs_lab.training import TrainConfig

NAN, INF = math.nan, math.inf
Calls = Iterator[tuple[str, Callable[[], object]]]


# ---- settings


NOISE = smoothing.GridNoise(0.25)
SPEC = smoothing.Spec(noise=NOISE, seed=0, n=100, n0=10)
SETTINGS = {
    "Spec": SPEC,
    "DualSpec": dual.DualSpec(estimator=dual.Median(0.25), sigmas=(0.25, 0.5), seed=0),
    "CascadeSpec": cascade.CascadeSpec(cascade=cascade.Cascade((0.5, 0.25)), seed=0),
    "CombineSpec": combine.CombineSpec(combiner=combine.Combiner.surest((0.5, 0.25)), seed=0),
    "Learning": combine.Learning(seed=0),
    "Effort": Effort(eps=0.1, seed=0),
    "Threat": attacks.Threat(eps=0.1, seed=0),
    "PGD": attacks.PGD(),
    "TrainConfig": TrainConfig(epochs=1, seed=0),
    "InputSpecific": smoothing.InputSpecific(),
    "GridNoise": NOISE,
    "GaussianNoise": smoothing.GaussianNoise(0.25),
}
WHOLE = (0, -1, 1.5, NAN, INF, 10**30, "1", True)
BAD = {
    "Spec": {
        "n": WHOLE,
        "n0": WHOLE,
        "batch": WHOLE,
        "seed": (-1, 2**63, 0.5, None),
        "alpha": (0, 1, NAN, -1, "1"),
    },
    "DualSpec": {"n_estimator": WHOLE, "alpha": (0.0, NAN), "seed": (-1,)},
    "CascadeSpec": {"n_side": WHOLE, "n": (0,)},
    "CombineSpec": {"n": WHOLE, "n0": WHOLE, "alpha": (0, 1, NAN, "1"), "seed": (-1, 0.5)},
    "Learning": {
        **dict.fromkeys(("terms", "starts", "changes", "draws"), WHOLE),
        "held_out": (-0.1, 1.5, NAN, "1"),
        "alpha": (0, 1, NAN, "1"),
        "seed": (-1, 2**63, 0.5, None),
        "radii": ((0.5, 0.25), (NAN,), (-1.0,), (INF,)),
        "weights": ((1.0,), (NAN,) * 8, (-1.0,) * 8, (0.0,) * 8, (INF,) * 8),
    },
    "Effort": {"eps": (0, -1, NAN, INF, 1e9, "8/255"), "batch": WHOLE},
    "Threat": {
        "eps": (0, NAN, INF, 8),
        "seed": (-1, 2**70),
        "restarts": WHOLE,
        "steps": WHOLE,
        "targets": WHOLE,
    },
    "PGD": {
        "steps": WHOLE,
        "restarts": WHOLE,
        "step": (0, -1, NAN, INF),
        "start": (-1, NAN),
        "blind": (-1, NAN),
    },
    "TrainConfig": {
        "epochs": WHOLE,
        "batch": (1, *WHOLE),
        "lr": (0, -1, NAN, INF),
        "momentum": (-1, 1, NAN),
        "weight_decay": (-1, NAN),
        "warmup": (-0.1, 1, NAN),
        "crop": (-1, 1.5),
        "seed": (-1,),
    },
    "InputSpecific": {"pilot": WHOLE, "loss": (0, -1, NAN, INF, "x")},
    "GridNoise": {"sigma": (0, -1, NAN, INF, 1e-300, 10, 1e30, "x", None)},
    "GaussianNoise": {"sigma": (0, -1, NAN, INF, 1e-300, 1e30, "x", None)},
}


def of_settings() -> Calls:
    for name, fields in BAD.items():
        for field, values in fields.items():
            for value in values:
                yield name, lambda n=name, f=field, v=value: dataclasses.replace(SETTINGS[n], **{f: v})
    for radii in ([0.2, 0.1], [], [NAN], [INF], [-1], [0.1, 0.1]):
        yield "AtRadii", lambda radii=radii: smoothing.AtRadii(radii=radii)
    for sigmas in ((), (0,), (-1, 0.5), (0.5, 0.5), (NAN,), (INF,)):
        yield "Cascade", lambda sigmas=sigmas: cascade.Cascade(sigmas)
    for thresholds in ((1,), (NAN, 0), (INF, 0), (0, 0, 0)):
        yield "Cascade", lambda thresholds=thresholds: cascade.Cascade((0.5, 0.25), thresholds)
    for fraction in (0, -0.1, 1.1, NAN):
        yield "TopFraction", lambda fraction=fraction: pixels.TopFraction(fraction=fraction)


# ---- numbers and tables


def table(count: int = 4) -> Any:
    rows = [
        evidence.decide([20, 1], [90, 10], idx=i, label=0, sigma=0.5, alpha=0.001, seed=0, seconds=0.0)
        for i in range(count)
    ]
    return evidence.frame(rows)


def of_numbers() -> Calls:
    for name in ("lower_bound", "upper_bound"):
        bound = getattr(evidence, name)
        for k, n, alpha in (
            (-1, 9, 0.1),
            (11, 9, 0.1),
            (5, 9, 0),
            (5, 9, 1),
            (5, 9, NAN),
            (NAN, 9, 0.1),
            (5, NAN, 0.1),
        ):
            yield name, lambda bound=bound, k=k, n=n, alpha=alpha: bound(k, n, alpha)
    for p, sigma in ((-0.1, 1), (1.1, 1), (NAN, 1), (0.9, 0), (0.9, -1), (0.9, NAN), (0.9, INF)):
        yield "rs_radius", lambda p=p, sigma=sigma: evidence.rs_radius(p, sigma)
    for counts in ([[1, 2]], [1.5, 2], [-1, 2], []):
        yield (
            "",
            lambda counts=counts: evidence.decide(
                counts, [5, 5], idx=0, label=0, sigma=0.5, alpha=0.001, seed=0, seconds=0.0
            ),
        )
    for changes in (
        {"form": "x"},
        {"form": ""},
        {"rule": "x"},
        {"rule": ""},
        {"weight": -1},
        {"weight": 2},
        {"weight": NAN},
        {"sigma": 0.25},
        {"sigma": NAN},
        {"form": "closed"},
    ):
        yield "", lambda changes=changes: mixing.mixed(table(), **{"weight": 0.8} | changes)
    yield "noise_of", lambda: mixing.mixed(table().drop(columns="sigma"), 0.8)
    yield "average_radius", lambda: evidence.average_radius(table()[:0])
    yield "certified_accuracy", lambda: evidence.certified_accuracy(table().assign(label=-1), 0.1)
    one = cascade.Cascade((0.5,))
    for tables in ({}, {0.25: table()}, {0.5: table().assign(bound="betting")}, {0.5: table()[:0]}):
        yield "", lambda tables=tables: cascade.from_tables(tables, cascade=one)


# ---- files


LOG = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"


def of_files() -> Calls:
    for number in range(len(FILES)):
        yield f"{number}.tsv", lambda number=number: evidence.read_table(f"{number}.tsv")
        yield f"{number}.safetensors", lambda number=number: models.load_checkpoint(f"{number}.safetensors")
        yield f"{number}.pth", lambda number=number: models.import_checkpoint(f"{number}.pth")
    for read, name in (
        (evidence.read_table, "none.tsv"),
        (models.load_checkpoint, "none.safetensors"),
        (evidence.read_table, "folder"),
        (models.import_checkpoint, "none.pth"),
        (models.import_checkpoint, "folder"),
        (headless.read_notebook, "none.ipynb"),
        (headless.read_notebook, "folder"),
        (headless.read_notebook, "0.tsv"),
        (headless.read_sweep, Path("none.toml")),
        (headless.read_sweep, Path("1.tsv")),
        (evidence.read_table, "pipe"),
        (models.import_checkpoint, "pipe"),
    ):
        yield str(name), lambda read=read, name=name: read(name)
    for name in ("", "x", "folder:", "folder:none", "folder:a\0b", "digits:x", "folder:folder", None, 3):
        yield "load_images", lambda name=name: data.load_images(name, "train")
    for split in ("val", "", None, 0):
        yield "load_images", lambda split=split: data.load_images("digits", split)


FILES = (
    b"",
    b"hello",
    b"\xff\xfe\x00",
    bytes(range(256)) * 9,
    LOG.encode()[:-1],
    LOG.encode() + b"1\t2\n",
    b"[]",
    b"{}",
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made, before = tmp_path_factory.mktemp("calls"), os.getcwd()
    os.chdir(made)
    for number, content in enumerate(FILES):
        for ending in ("tsv", "safetensors", "pth", "json"):
            Path(f"{number}.{ending}").write_bytes(content)
    Path("folder").mkdir()
    os.mkfifo("pipe")
    yield made
    os.chdir(before)


# ---- networks and images


def network() -> Any:
    return models.make_model("digits_cnn", **PLAIN)


PLAIN: dict[str, Any] = {"classes": 10, "channels": 1, "mean": [0.5], "std": [0.5], "seed": 0}
X, Y = torch.rand((2, 1, 8, 8), generator=torch.Generator().manual_seed(0)), torch.zeros(2, dtype=torch.int64)
GIVEN: dict[str, Any] = {
    "pixels": torch.zeros(2, 1, 2, 2, dtype=torch.uint8),
    "labels": Y,
    "classes": ("a",),
    "name": "x",
    "split": "test",
}


def attacked(**changes: Any) -> object:
    given = {"x": X, "y": Y, "budget": 0.1, "model": network().eval()} | changes
    model, x, y, budget = (given.pop(name) for name in ("model", "x", "y", "budget"))
    attack = attacks.PGD(steps=1)
    return attacks.pgd(model, x, y, budget, attack=attack, generator=make_generator(0), **given)


def of_networks() -> Calls:
    for changes in (
        {"name": ""},
        {"name": "x"},
        {"name": None},
        {"classes": 0},
        {"classes": -1},
        {"classes": 1.5},
        {"classes": "x"},
        {"classes": 10**30},
        {"channels": 0},
        {"channels": 2},
        {"channels": -1},
        {"seed": -1},
        {"seed": 2**70},
    ):
        yield (
            "make_model",
            lambda changes=changes: models.make_model(**{"name": "digits_cnn"} | PLAIN | changes),
        )
    for mean, std in (
        ([], []),
        ([0.5], [0.0]),
        ([0.5], [-1.0]),
        ([NAN], [1.0]),
        ([0.5], [NAN]),
        ([0.5], [INF]),
        ([0.5], []),
    ):
        yield "Normalize", lambda mean=mean, std=std: models.Normalize(mean, std)
    for changes in (
        {"x": X * 3},
        {"x": (X * 255).byte()},
        {"y": Y[:1]},
        {"budget": -0.1},
        {"budget": NAN},
        {"budget": INF},
        {"budget": torch.zeros(3)},
        {"model": network().train()},
    ):
        yield "pgd", lambda changes=changes: attacked(**changes)
    for changes in ({"x": X}, {"classes": 9}, {"labels": [1]}, {"idx": [1, 2, 3]}):
        given = {"x": (X * 255).byte(), "classes": 10, "spec": SPEC} | changes
        yield "", lambda given=given: smoothing.certify(network().eval(), **given)
    for weight in (-0.1, 1.1, NAN):
        yield "", lambda weight=weight: mixing.Mix(network(), network(), weight)
    for device in ("", "meta", "gpu", "cuda:99", "tpu", "cpu:x", "cuda:-1"):
        yield "pick_device", lambda device=device: pick_device(device)
    for seed in (-1, 1.5, "x", NAN, None, True):
        yield "fold_seed", lambda seed=seed: fold_seed(seed)


def of_images() -> Calls:
    for changes in (
        {"pixels": torch.zeros(2, 1, 2, 2)},
        {"pixels": torch.zeros(2, 2, dtype=torch.uint8)},
        {"labels": Y.float()},
        {"labels": Y[:1]},
        {"labels": Y + 1},
        {"labels": Y - 1},
    ):
        yield "Images", lambda changes=changes: data.Images(**GIVEN | changes)
    images = data.Images(**GIVEN)
    for count in (0, -1, 2, 1.5, NAN, None):
        yield "hold_out", lambda count=count: data.hold_out(images, count)
        if count != 2:
            yield "stride", lambda count=count: images.stride(count)
    yield "to_float", lambda: data.to_float(X)


# ---- notebooks headless


CELL = "n: int = 3\nx: float = .5\nb: bool = True\nl: list[int] = [1]"


def of_notebooks() -> Calls:
    parameters = headless.read_parameters(CELL, "nb")
    for name, texts in {
        "n": ("x", "1.5", "", "nan"),
        "x": ("x", ""),
        "b": ("1", "yes", ""),
        "l": ("a", "[1,", "1,,2"),
    }.items():
        for text in texts:
            yield f"parameter {name}", lambda name=name, text=text: parameters[name].parse(text)
    wrong = {
        "n": (True, 1.5, "1", None),
        "x": ("1", None, True),
        "b": (1, "true"),
        "l": (1, [1.5], ["1"], None),
    }
    for name, values in wrong.items():
        for value in values:
            yield f"parameter {name}", lambda name=name, value=value: parameters[name].check(value)
    for source in (
        "n = 3",
        "n: int",
        "n: complex = 3",
        "n: int = f()",
        "n: int = 'x'",
        "def f(): pass",
        "n: int =",
    ):
        yield "nb", lambda source=source: headless.read_parameters(source, "nb")
    for jobs, devices in ((0, "auto"), (-1, "cpu"), (1.5, "cpu"), (1, "gpu"), (1, ""), (1, "cuda:x")):
        yield "", lambda jobs=jobs, devices=devices: headless.make_slots(jobs, devices)
    for number, of in ((0, 1), (2, 1), (1, 0), (-1, 2)):
        yield "--shard", lambda number=number, of=of: headless.take_shard([], number, of)
    yield "record", lambda: headless.record(x=object())


CALLS = [*of_settings(), *of_numbers(), *of_files(), *of_networks(), *of_images(), *of_notebooks()]


def test_the_table_is_as_large_as_it_is_said_to_be() -> None:
    assert len(CALLS) >= 200


@pytest.mark.parametrize(
    ("named", "call"), CALLS, ids=[f"{i}-{named}"[:40] for i, (named, _) in enumerate(CALLS)]
)
def test_a_bad_call_says_whose_it_is_and_what_is_wanted(named: str, call: Callable[[], object]) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        call()
    text = str(caught.value)
    assert named in text
    assert len(text) > 20


def test_none_of_them_changed_a_file(folder: Path) -> None:
    """Runs behind the others, whose folder it is."""
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    wanted = {
        f"{n}.{end}": content
        for n, content in enumerate(FILES)
        for end in ("tsv", "safetensors", "pth", "json")
    }
    assert found == wanted
