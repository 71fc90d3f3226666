"""What answers outside torch certifies as any network does: functions, estimators, graphs, endpoints."""

import copy
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dualrs_lab.__main__ import main
from dualrs_lab.adapters import Endpoint, Outside, ask_endpoint, black_box, load_network
from dualrs_lab.attacks import PGD, pgd
from dualrs_lab.data import Images, as_floats, load_images
from dualrs_lab.evidence import read_table
from dualrs_lab.models import as_is, fingerprint, make_model, want_gradients
from dualrs_lab.runtime import make_generator
from dualrs_lab.smoothing import FastPath, GridNoise, Spec, certify, certify_table
from tests.adapters.served import serving

SPEC = Spec(noise=GridNoise(0.25), seed=0, n0=100, n=100, alpha=0.05, batch=100)
CLASSES = 10


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "test").select(range(40))


@pytest.fixture(scope="module")
def pipeline() -> Any:
    x, y = as_floats(load_images("digits", "train"))
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(
        x.flatten(1).numpy(), y.numpy()
    )


def brightest(images: NDArray[np.float32]) -> NDArray[np.int64]:
    """A row of the image for a class: quick, and a function of one image."""
    return images.mean(axis=(1, 3)).argmax(axis=1)


def test_a_scikit_learn_pipeline_certifies_as_a_black_box(pipeline: Any, digits: Images) -> None:
    x, y = as_floats(digits)
    by_rows = load_network(pipeline, classes=CLASSES)
    by_labels = black_box(lambda images: pipeline.predict(images.reshape(len(images), -1)), classes=CLASSES)
    by_logits = black_box(lambda images: pipeline.decision_function(images.reshape(len(images), -1)))
    predicted = torch.from_numpy(pipeline.predict(x.flatten(1).numpy()))
    assert float((predicted == y).float().mean()) > 0.8
    found = []
    for box in (by_rows, by_labels, by_logits):
        assert torch.equal(box(x).argmax(1), predicted)
        found.append(certify(box, digits.pixels[:3], classes=CLASSES, spec=SPEC))
    votes = [[one.votes for one in each] for each in found]
    assert votes[0] == votes[1] == votes[2]


def test_names_of_classes_stand_for_their_places() -> None:
    words = np.array(["cat", "dog"])
    box = black_box(lambda images: words[(images.mean((1, 2, 3)) > 0.5).astype(int)], classes=("cat", "dog"))
    x = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    assert box(x).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="got the label 'dog'; wanted one of cat"):
        black_box(lambda images: words[[1] * len(images)], classes=("cat",))(x)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda images: np.zeros(len(images) + 1, dtype=int), r"answers \(\d,\) of int64 for"),
        (lambda images: np.zeros((len(images), 2, 2)), "wanted logits"),
        (lambda images: np.full(len(images), 10), "labels from 10 to 10, and there are 10 classes"),
        (lambda images: np.full(len(images), -1), "labels from -1 to -1"),
        (lambda images: np.full(len(images), 0.5), r"Are these labels, such as 0\.5\?"),
        (lambda images: ["?"] * len(images), "list that hold no numbers, such as '?'"),
        (lambda images: None, r"answers \(\) of float32"),
        (lambda images: images.reshape(len(images), -1)[:, :3], "tells 3 classes, and 10 were named"),
        (lambda images: np.full((len(images), CLASSES), np.nan), "NaN logits"),
        (lambda images: np.full(len(images), np.nan), "NaN logits"),
        (lambda images: np.arange(len(images)) % 10, "when they"),
        (lambda images: brightest(images - images.mean(axis=0)), "when they"),
    ],
)  # fmt: skip
def test_answers_that_are_no_function_of_one_image_are_refused(
    answer: Any, text: str, digits: Images
) -> None:
    with pytest.raises((ValueError, FloatingPointError), match=text):
        certify(black_box(answer, classes=CLASSES), digits.pixels[:2], classes=CLASSES, spec=SPEC)


def test_labels_alone_do_not_tell_how_many_there_are(digits: Images) -> None:
    with pytest.raises(ValueError, match="do not tell how many there are; give classes=10"):
        certify(black_box(brightest), digits.pixels[:2], classes=CLASSES, spec=SPEC)
    with pytest.raises(ValueError, match="got a int, which cannot be called; wanted a module of torch"):
        load_network(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got weights for a network that is there"):
        load_network(brightest, weights="a.pt")


def test_whether_a_function_takes_arrays_or_tensors_is_found_by_asking(digits: Images) -> None:
    x, _ = as_floats(digits)
    network = make_model("digits_narrow", classes=CLASSES, channels=1, mean=[0.3], std=[0.3], seed=0).eval()
    of_tensors = load_network(lambda images: network(images))
    assert torch.equal(of_tensors(x), network(x))
    (found,) = certify(of_tensors, digits.pixels[:1], classes=CLASSES, spec=SPEC)
    assert sum(count for _, count in found.votes) == SPEC.n

    def of_arrays(images: Any) -> Any:
        assert isinstance(images, np.ndarray), f"got a {type(images).__name__}"
        return brightest(images)

    assert load_network(of_arrays, classes=CLASSES)(x).argmax(1).tolist() == brightest(x.numpy()).tolist()
    with pytest.raises(ValueError, match=r"of_none could not answer .*: KeyError: 'here'; wanted a function"):
        black_box(lambda images: {}["here"], name="of_none")(x)


def test_a_function_around_a_network_that_is_not_held_still_is_refused(digits: Images) -> None:
    layers = (torch.nn.Flatten(), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, CLASSES))
    network = torch.nn.Sequential(*layers).train()
    box, before = load_network(lambda images: network(images)), network[1].running_mean.clone()
    with pytest.raises(ValueError, match=r"a function around a Sequential in training mode.*\.eval\(\)"):
        certify(box, digits.pixels[:2], classes=CLASSES, spec=SPEC)
    assert torch.equal(network[1].running_mean, before)
    network.eval()
    certify(box, digits.pixels[:2], classes=CLASSES, spec=SPEC)


def test_a_box_is_asked_in_float32_and_without_steps(tmp_path: Path, digits: Images) -> None:
    seen: set[np.dtype[Any]] = set()

    def watched(images: NDArray[np.float32]) -> NDArray[np.int64]:
        seen.add(images.dtype)
        return brightest(images)

    spec = Spec(**{**vars(SPEC), "dtype": torch.bfloat16, "fast": FastPath()})
    network = load_network(watched, classes=CLASSES)
    certify_table(network, digits.select([0, 1]), tmp_path / "t.tsv", spec=spec, progress=False)
    record = json.loads((tmp_path / "t.json").read_text())
    assert record["identity"]["fast"] == FastPath.plain().steps(torch.float32)
    assert record["disagreement"]["share"] == 0
    assert seen == {np.dtype(np.float32)}


def test_a_table_knows_a_box_by_its_name_and_by_its_answers(tmp_path: Path, digits: Images) -> None:
    some, path = digits.select([0, 1]), tmp_path / "t.tsv"
    how = {"spec": SPEC, "progress": False}
    first = certify_table(load_network(brightest, classes=CLASSES), some, path, **how)
    assert certify_table(load_network(brightest, classes=CLASSES), some, path, **how).equals(first)
    other = black_box(lambda images: 9 - brightest(images), classes=CLASSES, name="brightest")
    assert fingerprint(other) == fingerprint(black_box(brightest, classes=CLASSES))
    renamed = black_box(brightest, classes=CLASSES, name="b")
    for box, reason in ((other, "their answers to the fixed images"), (renamed, "model")):
        with pytest.raises(ValueError, match=reason):
            certify_table(load_network(box), some, path, **how)


def test_attacks_refuse_by_name_what_has_no_gradients(digits: Images) -> None:
    box = load_network(brightest, classes=CLASSES)
    with pytest.raises(ValueError, match="evaluate: the black box brightest answers, and has no gradients"):
        want_gradients("evaluate", box)
    assert as_is(box) == "the black box brightest"
    network = make_model("digits_narrow", classes=CLASSES, channels=1, mean=[0.3], std=[0.3], seed=0).eval()
    want_gradients("evaluate", network)
    assert as_is(network) == ""
    x, y = as_floats(digits)
    attack, generator = PGD(steps=1, step=0.1, restarts=1), make_generator(0)
    pgd(network, x[:2], y[:2], 0.1, attack=attack, generator=generator)  # the control


def test_copies_of_a_box_ask_the_same_and_move_alone() -> None:
    asked: list[int] = []

    def ask(images: NDArray[np.float32]) -> NDArray[np.int64]:
        asked.append(len(images))
        return brightest(images)

    box = Outside(ask, kind="a box", identity="00ff", classes=CLASSES, batch=4)
    other = copy.deepcopy(box)
    other.identity += 1
    assert box.identity.tolist() == [0, 255]
    assert torch.equal(other(torch.rand(6, 1, 8, 8)).sum(1), torch.ones(6))
    assert asked == [4, 2]


# ---- ONNX


def graph(path: Path, batch: int | str, shape: tuple[int, ...] = (1, 8, 8)) -> NDArray[np.float32]:
    onnx = pytest.importorskip("onnx", reason="needs pip install onnx")
    pytest.importorskip("onnxruntime", reason="needs pip install 'dualrs-lab[onnx]'")
    weight = np.random.default_rng(0).normal(size=(64, CLASSES)).astype(np.float32)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    made = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", kind, [batch, *shape])],
        [helper.make_tensor_value_info("y", kind, [batch, CLASSES])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return weight


@pytest.mark.parametrize("batch", [1, 3, "n"])
def test_a_graph_for_a_fixed_number_of_images_is_asked_for_so_many(tmp_path: Path, batch: int | str) -> None:
    weight = graph(tmp_path / "g.onnx", batch)
    network = load_network(tmp_path / "g.onnx", mean=0, std=1)
    x = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(network(x), x.flatten(1) @ torch.from_numpy(weight))


def test_a_graph_says_its_classes_and_resizes_to_its_images(tmp_path: Path, digits: Images) -> None:
    graph(tmp_path / "g.onnx", "n")
    with pytest.raises(ValueError, match="tells 10 classes, 4 were wanted"):
        load_network(tmp_path / "g.onnx", mean=0, std=1, classes=4)
    network = load_network(tmp_path / "g.onnx", mean=0, std=1)
    assert network(torch.rand(2, 1, 16, 16)).shape == (2, CLASSES)
    with pytest.raises(ValueError, match=r"the ONNX graph g.onnx takes images|is for images of"):
        network(torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match="has no gradients"):
        want_gradients("attack", network)


# ---- endpoints


@pytest.mark.parametrize(
    ("reply", "sends"),
    [("labels", "npy"), ("logits", "npy"), ("npy", "npy"), ("npy", "json"), ("labels", "json")],
)
def test_an_endpoint_gives_labels_or_logits_in_numpy_or_json(reply: str, sends: str, digits: Images) -> None:
    def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.eye(CLASSES, dtype=np.float32)[brightest(images)]

    with serving(logits if reply == "logits" else brightest, reply) as served:
        network = ask_endpoint(served.url, classes=CLASSES, batch=7, sends=sends)
        x, _ = as_floats(digits)
        assert network(x).argmax(1).tolist() == brightest(x.numpy()).tolist()
        assert served.batches == [(7, 1, 8, 8)] * 5 + [(5, 1, 8, 8)]


def test_a_labels_only_server_certifies_as_the_function_behind_it(digits: Images) -> None:
    with serving(brightest) as served:
        network = load_network(served.url, classes=CLASSES)
        found = certify(network, digits.pixels[:2], classes=CLASSES, spec=SPEC)
    same = certify(black_box(brightest, classes=CLASSES), digits.pixels[:2], classes=CLASSES, spec=SPEC)
    assert [one.votes for one in found] == [one.votes for one in same]


def test_busy_servers_are_asked_again_after_longer_and_longer() -> None:
    waited: list[float] = []
    with serving(brightest) as served:
        served.faults = [503, 500, 429]
        ask = Endpoint(url=served.url, sleep=waited.append)
        images = np.zeros((2, 1, 8, 8), dtype=np.float32)
        assert ask(images).tolist() == [0, 0]
        assert waited == [0.5, 1.0, 2.0]
        served.faults = [503] * 5
        with pytest.raises(ConnectionError, match=r"gave no answer in 5 tries.*HTTP 503.*it goes on"):
            ask(images)
        assert len(waited) == 3 + 4
        served.faults = [400]
        with pytest.raises(ValueError, match=r"refuses the images: HTTP 400.*busy"):
            ask(images)
        assert len(waited) == 3 + 4  # another try would not change it


def test_a_rate_is_kept() -> None:
    waited: list[float] = []
    with serving(brightest) as served:
        ask = Endpoint(url=served.url, rate=0.001, sleep=waited.append)
        for _ in range(3):
            ask(np.zeros((1, 1, 8, 8), dtype=np.float32))
    assert [round(each, -2) for each in waited] == [1000, 2000]


def test_an_endpoint_that_is_not_there_says_so() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{free.getsockname()[1]}/x?key=secret"
    ask = Endpoint(url=url, retries=1, sleep=lambda _: None)
    with pytest.raises(ConnectionError, match="gave no answer in 2 tries") as told:
        ask(np.zeros((1, 1, 8, 8), dtype=np.float32))
    assert "secret" not in str(told.value)
    assert "secret" not in json.dumps(load_network(url, classes=2).info)


def test_a_slow_endpoint_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        ask = Endpoint(url=url, retries=0, timeout=0.2)
        with pytest.raises(ConnectionError, match="timed out"):
            ask(np.zeros((1, 1, 8, 8), dtype=np.float32))


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"labels": {"a": 1}}', b"\x93NUMPY", b""])
def test_a_reply_of_another_kind_is_shown(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Endpoint(url="http://127.0.0.1:1/x")
    monkeypatch.setattr(ask, "_sent", lambda *_: (body, "text/html"))
    with pytest.raises(ValueError, match=r"sent text/html that begins|wanted logits"):
        Outside(ask, kind="the endpoint", identity="00", classes=2)(torch.rand(1, 1, 2, 2))


@pytest.mark.parametrize(
    "how", [{"url": "file:///etc/passwd"}, {"sends": "xml"}, {"rate": 0}, {"timeout": -1}, {"retries": -1}]
)
def test_settings_of_an_endpoint_that_make_no_sense_are_refused(how: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Endpoint: "):
        Endpoint(**{"url": "http://127.0.0.1:1/x", **how})


def test_an_endpoint_that_dies_in_the_middle_loses_no_row(tmp_path: Path, digits: Images) -> None:
    path, how = tmp_path / "t.tsv", {"spec": SPEC, "progress": False}
    with serving(brightest) as served:
        # the name is the address, so that the same one goes on: a server that comes back has the same
        network = load_network(ask_endpoint(served.url, classes=CLASSES, retries=0))
        served.dies_after = 60
        with pytest.raises(ConnectionError, match="images that were done are kept"):
            certify_table(network, digits, path, **how)
        kept = read_table(path)
        assert 0 < len(kept) < len(digits)
        before = path.read_text()
        served.dies_after = -1
        table = certify_table(network, digits, path, **how)
        assert [*table["idx"]] == [*range(len(digits))]
        rows = {*before.splitlines()}
        assert rows <= {*path.read_text().splitlines()}  # as they were, with their times
    whole = certify_table(
        load_network(black_box(brightest, classes=CLASSES)), digits, tmp_path / "w.tsv", **how
    )
    assert table["votes"].equals(whole["votes"])


# ---- the command line


def test_a_command_certifies_what_is_behind_an_address_and_does_not_attack_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(brightest) as served:
        source = [f"--model={served.url}", "--classes=10", "--data=digits", "--max=2", "--device=cpu"]
        assert main(["certify", *source, "--sigma=0.25", "--n=100", "--out=t.tsv"]) == 0
        record = json.loads(Path("t.json").read_text())
        assert record["info"]["checkpoint"] == served.url
        assert record["info"]["network"]["known_by"] == "its name, and its answers to fixed images"
        capsys.readouterr()
        assert main(["attack", *source, "--eps=0.1", "--no-auto", "--out=a.tsv"]) == 2
        assert f"attack: the endpoint {served.url} answers, and has no gradients" in capsys.readouterr().err
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert main(["certify", *source, "--sigma=0.25", "--n=100", "--seed=1", "--out=u.tsv"]) == 2
    assert "gave no answer in 5 tries" in capsys.readouterr().err
