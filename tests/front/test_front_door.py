"""`import dualrs_lab as lab`: any network and any images are certified, and what cannot says the remedy."""

import copy
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import dualrs_lab as lab
from dualrs_lab.data import Images, as_floats, load_images
from dualrs_lab.evidence import read_table
from dualrs_lab.front.pictures import as_pictures
from dualrs_lab.models import make_model, save_checkpoint, trained_on
from dualrs_lab.smoothing import GridNoise, Spec, certify, predict
from tests.adapters.served import serving
from tests.front.conftest import trained

QUICK: dict[str, Any] = {"sigma": 0.25, "n": 200, "n0": 20, "seed": 0, "progress": False}
CLAIMS = ["idx", "label", "predict", "radius", "correct", "selection", "votes"]


def same(one: lab.Table, other: lab.Table) -> bool:
    return one.frame[CLAIMS].equals(other.frame[CLAIMS])


@pytest.fixture(scope="module")
def few(images: Images) -> Images:
    return images.select(range(12))


@pytest.fixture(scope="module")
def plain(network: nn.Module, few: Images) -> lab.Table:
    return lab.certify(network, few, **QUICK)


# Networks.


def test_the_front_door_says_what_the_wing_says(network: nn.Module, few: Images, plain: lab.Table) -> None:
    spec = Spec(noise=GridNoise(0.25), n=200, n0=20, seed=0)
    found = certify(network, few.pixels, classes=10, spec=spec, labels=few.labels.tolist())
    assert [(c.predict, c.radius) for c in found] == [
        *zip(plain.frame.predict, plain.frame.radius, strict=True)
    ]
    assert plain.frame["image"].tolist() == few.digests(range(12))
    answers = lab.predict(network, few, sigma=0.25, n=200, seed=0)
    assert answers.tolist() == predict(network, few.pixels, classes=10, spec=spec).tolist()


def test_functions_of_tensors_arrays_and_labels_are_networks(
    network: nn.Module, few: Images, plain: lab.Table
) -> None:
    first, last = (network[k].weight.numpy() for k in (1, 4))
    biases = [network[k].bias.numpy() for k in (1, 4)]

    def of_arrays(x: np.ndarray) -> np.ndarray:
        assert isinstance(x, np.ndarray)
        hidden = np.maximum(x.reshape(len(x), -1) @ first.T + biases[0], 0)
        return hidden @ last.T + biases[1]

    named = [str(digit) for digit in range(10)]
    assert same(lab.certify(lambda x: network(x), few, **QUICK), plain)
    assert same(lab.certify(of_arrays, few, **QUICK), plain)
    assert same(lab.certify(lambda x: network(x).argmax(1), few, **QUICK), plain)
    pixels, labels = few.pixels.numpy(), few.labels
    labelled = lab.certify(lambda x: network(x).argmax(1).tolist(), pixels, labels, classes=named, **QUICK)
    assert same(labelled, plain)
    assert labelled.record["info"]["answers"] == "labels only"


def test_a_pipeline_of_scikit_learn_is_a_black_box(few: Images) -> None:
    x, labels = as_floats(load_images("digits", "train"))
    box = LogisticRegression(max_iter=200).fit(x.flatten(1).numpy(), labels.numpy())
    table = lab.certify(lambda x: box.predict(x.reshape(len(x), -1)), few, **QUICK)
    assert table.frame["correct"].mean() > 0.5
    assert same(lab.certify(box, few, **QUICK), table)
    unlabelled = lab.certify(box, few.pixels, classes=10, **QUICK)
    assert unlabelled.frame["votes"].tolist() == table.frame["votes"].tolist()
    assert unlabelled.record["info"]["network"] == "LogisticRegression"


def test_what_answers_with_names_or_behind_an_address_is_certified(
    network: nn.Module, few: Images, plain: lab.Table
) -> None:
    words = np.array([f"digit {k}" for k in range(10)])

    def labels(x: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(x)).argmax(1).numpy()

    named = lab.certify(lambda x: words[labels(x)], few.pixels, few.labels, classes=[*words], **QUICK)
    assert same(named, plain)
    with pytest.raises(ValueError, match=r"certify: .*hold no numbers.*classes=\[…\] says"):
        lab.certify(lambda x: words[labels(x)], few, **QUICK)
    with serving(labels) as served:
        assert same(lab.certify(served.url, few, **QUICK), plain)  # the images say how many classes there are
        remote = lab.certify(lab.load_network(served.url), few.pixels, few.labels, classes=10, **QUICK)
        assert same(remote, plain)
        assert remote.record["info"]["answers"] == "labels only"


def test_a_checkpoint_goes_by_its_path(tmp_path: Path, few: Images) -> None:
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    save_checkpoint(tmp_path / "mine.safetensors", model)
    by_path = lab.certify(tmp_path / "mine.safetensors", few.pixels, **QUICK)
    assert same(by_path, lab.certify(model, few.pixels, **QUICK))
    loaded = lab.load_network(str(tmp_path / "mine.safetensors"))
    assert not loaded.training
    with pytest.raises(FileNotFoundError, match=r"load_network: no file nowhere\.safetensors; wanted a"):
        lab.certify("nowhere.safetensors", few, **QUICK)


def test_a_network_in_training_mode_is_asked_in_evaluation_mode_and_stays_as_it_is(few: Images) -> None:
    network = trained(0.25, batchnorm=True)
    table, answers = lab.certify(network, few, **QUICK), lab.predict(network, few, sigma=0.25, n=200, seed=0)
    network.train()
    before = {name: part.clone() for name, part in network.state_dict().items()}
    assert same(lab.certify(network, few, **QUICK), table)
    assert lab.predict(network, few, sigma=0.25, n=200, seed=0).tolist() == answers.tolist()
    lab.diagnose(network, few, sigma=0.25, seed=0)
    assert network.training
    assert all(torch.equal(part, before[name]) for name, part in network.state_dict().items())
    x, _ = as_floats(few)
    as_it_is = copy.deepcopy(network)(x)  # the fault would show: the statistics of a batch give other logits
    assert not torch.allclose(as_it_is, network.eval()(x), atol=0.1)


def test_a_network_of_logits_within_an_answer_is_read(
    network: nn.Module, few: Images, plain: lab.Table
) -> None:
    class Answer(dict):
        logits: Tensor

    class Hugging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, x: Tensor) -> Answer:
            found = Answer()
            found.logits = self.inner(x)
            return found

    assert same(lab.certify(Hugging(), few, **QUICK), plain)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda net: 7, r"got a int, which cannot be called; wanted a module of torch"),
        (lambda net: lambda x: net(x)[:, :1], r"one logit .*torch\.cat\(\[-network\(x\), network\(x\)\]"),
        (lambda net: lambda x: (net(x), 0), r"a tuple of 2 parts; wanted logits .*network\(x\)\[…\]"),
        (lambda net: lambda x: ["cat"] * len(x), r"hold no numbers, such as .*the place of its class"),
        (lambda net: lambda x: net(x).argmax(1) + 0.5, r"Are these labels, such as .*\.5\? They are whole"),
        (lambda net: lambda x: net(x).argmax(1) + 5, r"labels from 5 to 1\d, and there are 10 classes"),
        (lambda net: lambda x: net(x[:, :, :4]), r"could not answer float images \(\d, 1, 8, 8\).*Resize"),
        (lambda net: nn.Linear(3, 10), r"Linear could not answer float images .*wrap it"),
        (lambda net: lambda x: net(x) - net(x).mean(0) * 9, r"when they are asked"),
        (lambda net: lambda x: net(x) + torch.rand(len(x), 1), r"draws from the global random generator"),
    ],
)  # fmt: skip
def test_what_is_no_network_is_refused_with_the_remedy(network: nn.Module, few: Images, change, text) -> None:
    with pytest.raises(ValueError, match=rf"(?s)certify: .*{text}"):
        lab.certify(change(network), few, **QUICK)


def test_classes_are_found_or_asked_for(network: nn.Module, few: Images) -> None:
    with pytest.raises(ValueError, match=r"labels only, which do not tell how many there are; give classes="):
        lab.predict(lambda x: network(x).argmax(1), few.pixels, sigma=0.25, n=200, seed=0)
    with pytest.raises(ValueError, match=r"tells 10 classes, and 7 were named; leave classes out"):
        lab.certify(network, few.pixels, classes=7, **QUICK)
    with pytest.raises(ValueError, match=r"got classes 1; wanted their number"):
        lab.certify(network, few.pixels, classes=1, **QUICK)


def test_nan_logits_are_refused(network: nn.Module, few: Images) -> None:
    with pytest.raises(FloatingPointError, match="NaN"):
        lab.certify(lambda x: network(x) * torch.nan, few, **QUICK)


# Images.


def test_images_of_every_kind_are_the_same_images(
    tmp_path: Path, network: nn.Module, few: Images, plain: lab.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUALRS_CACHE", str(tmp_path / "cache"))
    pixels, labels = few.pixels, few.labels.tolist()
    drawn = [Image.fromarray(image[0].numpy()) for image in pixels]
    (tmp_path / "flat").mkdir()
    for number, (image, label) in enumerate(zip(drawn, labels, strict=True)):
        (tmp_path / "sorted" / str(label)).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "sorted" / str(label) / f"{number:02}.png")
        image.save(tmp_path / "flat" / f"{number:02}.png")
    for kind in (
        pixels,
        pixels.numpy(),
        pixels.permute(0, 2, 3, 1),
        pixels.numpy().transpose(0, 2, 3, 1),
        [*pixels],
        [*pixels.numpy().transpose(0, 2, 3, 1)],
        drawn,
    ):
        assert same(lab.certify(network, kind, labels, **QUICK), plain)
    flat = lab.certify(network, f"{tmp_path / 'flat'}?channels=1", **QUICK)
    assert flat.frame["votes"].tolist() == plain.frame["votes"].tolist()
    assert not flat.labelled
    source = f"{tmp_path / 'sorted'}?channels=1"
    found = lab.load_images(source)
    order = [labels.index(int(found.classes[k])) for k in found.labels]
    assert len(found) == 12
    assert found.labels.tolist() == sorted(found.labels.tolist())
    assert order
    one = lab.predict(network, drawn[0], sigma=0.25, n=200, seed=0)
    assert one.tolist() == lab.predict(network, pixels[:1], sigma=0.25, n=200, seed=0).tolist()
    with pytest.raises(ValueError, match=r"no class folders, so they have no labels; sort them"):
        lab.load_images(f"{tmp_path / 'flat'}?channels=1")
    with pytest.raises(FileNotFoundError, match=r"is no folder; wanted a folder of images, or a name"):
        lab.load_images(tmp_path / "nowhere")


def test_a_folder_with_its_own_split_is_its_test_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUALRS_CACHE", str(tmp_path / "cache"))
    for part, shade in (("train", 10), ("test", 200)):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (4, 4), (shade, 0, 0)).save(tmp_path / part / name / "1.png")
    assert lab.load_images(tmp_path).pixels[0, 0, 0, 0] == 200
    assert len(lab.load_images(tmp_path, "all")) == 4
    assert lab.load_images(f"folder:{tmp_path}?size=2", "train").shape == (3, 2, 2)
    assert len(lab.load_images("digits")) == len(load_images("digits", "test"))


def test_floats_get_gaussian_noise_and_the_table_says_so(network: nn.Module, few: Images) -> None:
    x, labels = as_floats(few)
    table = lab.certify(network, x, labels, **QUICK)
    assert table.record["identity"]["noise"] == "GaussianNoise"
    assert "plain Gaussian in floating point" in repr(table)
    assert same(table, lab.certify(network, x.numpy().astype(np.float64), labels.numpy(), **QUICK))
    assert table.frame["correct"].mean() > 0.5


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (np.zeros((8, 8), np.uint8), r"got images \(8, 8\); wanted uint8 \(N, C, H, W\)"),
        (np.zeros((2, 8, 8), np.uint8), r"images\[None\] for one image, images\[:, None\] for grey ones"),
        (np.zeros((2, 3, 8, 3), np.uint8), r'may have their channels first or last; say layout="NCHW"'),
        (np.zeros((2, 8, 8, 4), np.uint8), r"have neither 1 nor 3 channels first or last; say layout="),
        (np.zeros((2, 1, 8, 8), np.int64), r"images of int64; .*astype\('uint8'\)"),
        (np.full((2, 1, 8, 8), 255.0), r"floats from 255 to 255; .*astype\('uint8'\)"),
        (np.full((2, 1, 8, 8), -1.0), r"are they normalised\? .*lambda x: network\(\(x - mean\) / std\)"),
        (np.full((2, 1, 8, 8), np.nan), r"hold NaN or infinity; .*repair"),
        (np.array([["a"]]), r"got an array of <U1; wanted uint8"),
        ([], r"got no images; wanted at least one"),
        (np.zeros((0, 1, 8, 8), np.uint8), r"got no images; wanted at least one"),
        ([Image.new("L", (8, 8)), Image.new("L", (9, 9))], r"different shapes, .*\.resize\(\(64, 64\)\)"),
        ([Image.new("I;16", (8, 8))], r"mode I;16, which has more than 8 bits .*convert it to 8 bits"),
        ([(np.zeros((8, 8)), 3)], r"got a list of tuple; wanted uint8"),
        (3, r"got images of type int; .*\[image for image, _ in dataset\]"),
    ],
)  # fmt: skip
def test_images_that_cannot_be_read_are_refused_with_the_remedy(network: nn.Module, images, text) -> None:
    with pytest.raises(ValueError, match=rf"certify: .*{text}"):
        lab.certify(network, images, **QUICK)


def test_a_layout_that_was_said_is_taken() -> None:
    x = np.arange(2 * 3 * 8 * 3, dtype=np.uint8).reshape(2, 3, 8, 3)
    assert as_pictures("t", x, layout="NCHW").shape == (3, 8, 3)
    assert as_pictures("t", x, layout="NHWC").shape == (3, 3, 8)
    assert as_pictures("t", [Image.fromarray(x[0])]).shape == (3, 3, 8)  # a PIL image says it itself
    with pytest.raises(ValueError, match=r"got layout 'HWC'; wanted one of NCHW, NHWC"):
        as_pictures("t", x, layout="HWC")


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([1] * 5, r"got labels \(5,\) for 12 images; wanted \(12,\)"),
        (np.eye(12), r"of one-hot rows: labels\.argmax\(1\)"),
        (["cat"] * 12, r"\[names\.index\(label\) for label in labels\]"),
        ([-1] * 12, r"Where labels are unknown, leave them out"),
        ([10] * 12, r"labels run to 10, .*Do they count from 1\? labels - 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_the_remedy(network, few: Images, labels, text) -> None:
    with pytest.raises(ValueError, match=rf"certify: .*{text}"):
        lab.certify(network, few.pixels, labels, **QUICK)


@pytest.mark.parametrize("sigma", [64, 0, float("nan"), "0.25"])
def test_a_noise_level_out_of_range_is_refused(network: nn.Module, few: Images, sigma: Any) -> None:
    remedy = r".*sigma=0\.251" if sigma == 64 else ""
    with pytest.raises(ValueError, match=rf"certify: got sigma .*pixels in \[0, 1\]{remedy}"):
        lab.certify(network, few, **QUICK | {"sigma": sigma})


# Tables.


def test_a_table_says_what_is_certified(plain: lab.Table, few: Images) -> None:
    assert len(plain) == 12
    assert plain.labelled
    text, page = repr(plain), plain._repr_html_()
    for told in ("12 images", "σ = 0.25", "200 draws", "certified as their label", "at least 0.999"):
        assert told in text
        assert told in page
    one = plain.summary((0.0, 0.25)).iloc[0]
    assert one["images"] == 12
    assert one["0"] == plain.frame["correct"].mean()
    assert one["0.25"] == ((plain.frame["radius"] >= 0.25) & (plain.frame["correct"] == 1)).mean()
    assert plain.plot().get_ylabel() == "certified accuracy"
    named = replace(plain, name="<img src=x>", record={})
    assert "<img" not in named._repr_html_()


def test_without_labels_nothing_is_said_of_accuracy(network: nn.Module, few: Images) -> None:
    table = lab.certify(network, few.pixels, **QUICK)
    text = repr(table)
    assert "Without labels nothing is said of accuracy" in text
    assert "their label" not in text
    assert "acr" not in table.summary()
    assert table.summary((0.0,)).iloc[0]["0"] == (table.frame["predict"] >= 0).mean()
    assert table.plot().get_ylabel() == "share with a certificate"


def test_a_saved_table_comes_back_and_is_read_by_the_commands(
    tmp_path: Path, plain: lab.Table, capsys: pytest.CaptureFixture[str]
) -> None:
    from dualrs_lab.__main__ import main

    path = plain.save(tmp_path / "mine.tsv")
    assert same(lab.read_table(path), plain)
    assert read_table(path).attrs["identity"] == plain.record["identity"]
    assert main(["summary", str(path)]) == 0
    assert "mine" in capsys.readouterr().out
    path.write_text(path.read_text().replace("0.25", "0.5"))
    with pytest.raises(ValueError, match=r"sha256|radius"):
        lab.read_table(path)
    with pytest.raises(ValueError, match=r"is there already; choose another file"):
        plain.save(path)
    with pytest.raises(ValueError, match=r"ends in \.tsv"):
        plain.save(tmp_path / "mine.csv")
    with pytest.raises(ValueError, match="read without a record"):
        lab.Table(plain.frame).save(tmp_path / "other.tsv")


def test_rows_are_kept_as_they_come_and_gone_on_with(
    tmp_path: Path, network: nn.Module, few: Images, plain: lab.Table
) -> None:
    path, asked = tmp_path / "long.tsv", 0

    def dying(x: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        if asked == 40:
            raise ConnectionError("gone")
        return network(x)

    def quick(model: Any, **more: Any) -> lab.Table:
        return lab.certify(model, few, out=path, batch=100, **{**QUICK, **more})

    with pytest.raises(ConnectionError):
        quick(dying)
    kept = len(path.read_text().splitlines()) - 1
    assert 0 < kept < 12
    first, asked = asked, 1000
    assert same(quick(dying), plain)
    assert asked - 1000 < first + 20
    assert same(lab.read_table(path), plain)
    before = path.read_bytes()
    assert same(quick(dying), plain)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"certify: .*made with other settings \(n\)"):
        quick(dying, n=300)
    other = functools.wraps(dying)(lambda x: -network(x))  # of the same name
    with pytest.raises(ValueError, match=r"certify: .*made by other networks"):
        quick(other)


def test_tables_side_by_side(tmp_path: Path, network: nn.Module, fragile: nn.Module, images: Images) -> None:
    one, other = (lab.certify(net, images, **QUICK) for net in (network, fragile))
    found = lab.summary({"with noise": one, "without": other}, (0.0, 0.25))
    assert found.index.tolist() == ["with noise", "without"]
    assert found.loc["with noise", "acr"] > found.loc["without", "acr"]
    path = one.save(tmp_path / "one.tsv")
    axes = lab.compare({"with noise": path, "without": other.frame})
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["with noise", "without"]
    assert len(lab.summary([one, other])) == 2
    foreign = lab.certify(network, images.select(range(20, 40)), **QUICK)
    with pytest.raises(ValueError, match=r"compare: .* differ in the (label|image) of idx"):
        lab.compare({"one": one, "foreign": foreign})
    with pytest.raises(ValueError, match=r"summary: got no table"):
        lab.summary([])


def test_a_checkpoint_is_compared_with_the_classes_of_the_images(tmp_path: Path, few: Images) -> None:
    named = replace(few, classes=tuple("abcdefghij"))
    other = replace(few, classes=tuple("jihgfedcba"), labels=9 - few.labels)
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    trained_on(model, named)
    save_checkpoint(
        tmp_path / "net.safetensors", model, data={"classes": named.classes, "shape": named.shape}
    )
    as_trained = lab.certify(tmp_path / "net.safetensors", named, **QUICK)
    with pytest.warns(UserWarning, match="its outputs were moved"):
        moved = lab.certify(tmp_path / "net.safetensors", other, **QUICK)
    assert moved.frame["correct"].tolist() == as_trained.frame["correct"].tolist()
    assert "outputs moved" in moved.record["classes"][0]
    with pytest.raises(ValueError, match="trained for images of 1 x 8 x 8"):
        lab.certify(model, np.zeros((2, 1, 9, 9), np.uint8), **QUICK)


def test_labels_of_a_folder_are_found_by_name(network: nn.Module, few: Images, plain: lab.Table) -> None:
    """Some of the classes, in an order of their own; places in another list would be other classes."""
    here = [4, 2, 0]
    some = few.select([n for n, label in enumerate(few.labels.tolist()) if label in here])
    labels = torch.tensor([here.index(label) for label in some.labels.tolist()])
    mine = replace(some, labels=labels, classes=("four", "two", "zero"))
    outputs = ["zero", "one", "two", "three", "four", "5", "6", "7", "8", "9"]
    table = lab.certify(network, mine, classes=outputs, **QUICK)
    assert table.frame["label"].tolist() == some.labels.tolist()
    assert table.frame["correct"].mean() > 0.5
    explicit = lab.certify(network, mine, some.labels, **QUICK)
    assert explicit.frame["label"].tolist() == some.labels.tolist()
    with pytest.raises(
        ValueError, match=r"the images have 3 classes \(four, two, zero\), .*give classes=\[…\]"
    ):
        lab.certify(network, mine, **QUICK)
    with pytest.raises(ValueError, match=r"the class 'four', which is not once among the classes a, b"):
        lab.certify(network, mine, classes=list("abcdefghij"), **QUICK)
    with pytest.raises(
        ValueError, match=r"got classes 'abc'; wanted their number, at least 2, or their names"
    ):
        lab.certify(network, mine, classes="abc", **QUICK)
