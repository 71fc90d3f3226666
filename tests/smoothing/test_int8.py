"""The int8 step is taken where it repays; what was chosen is recorded, and a resume does not measure."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.utils import run_and_get_code

from dualrs_lab.data import Images, load_images
from dualrs_lab.models import make_model
from dualrs_lab.smoothing import (
    FastPath,
    FrozenVoter,
    GridNoise,
    NoiseBlocks,
    Sampled,
    Sampling,
    Spec,
    certify_table,
    count_votes,
    disagreement,
    freeze,
    freeze_each,
    int8,
    int8_reason,
    quantised,
    settle,
    slower,
    steps_of,
)
from dualrs_lab.smoothing import frozen as fastpath
from dualrs_lab.training import Gaussian, recipe, train

CPU, NOISE, SHAPE = torch.device("cpu"), GridNoise(0.25), (1, 8, 8)
here = pytest.mark.skipif(bool(int8_reason(CPU)), reason=f"int8 cannot be tried here: {int8_reason(CPU)}")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A trained network: the votes of an untrained one are nearly ties."""
    images = load_images("digits", "train")
    network = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    train(
        network,
        images,
        objective=Gaussian(sigma=0.25),
        config=recipe(images, epochs=6, seed=0),
        progress=False,
    )
    return network.eval()


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "test")


def frozen(model: nn.Module, fast: FastPath, images: Tensor | None, dtype=torch.bfloat16) -> FrozenVoter:
    how = {"classes": 10, "device": CPU, "dtype": dtype, "batch": 300}
    return freeze(model, NOISE, SHAPE, fast=fast, calibration=images, **how)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with int8, on which nothing is compiled; what is quantised is listed, and stays as it is."""
    asked: list[str] = []

    def quantised(network: nn.Module, shown: Tensor) -> nn.Module:
        asked.append(f"{tuple(shown.shape)}, {shown.dtype}")
        return network

    monkeypatch.setattr(int8, "int8_reason", lambda device: "")
    monkeypatch.setattr(int8, "quantised", quantised)
    monkeypatch.setattr(fastpath, "_compiled", lambda run, *_: run)
    return asked


@here
def test_an_int8_copy_votes_as_its_original_but_for_near_ties(model: nn.Module, digits: Images) -> None:
    x = digits.pixels[:9]
    voter, programs = run_and_get_code(frozen, model, FastPath(int8=True), digits.pixels[:100])
    assert "qconv_pointwise" in "".join(programs)  # integers are multiplied, and not turned back into floats
    assert "qlinear_pointwise" in "".join(programs)
    assert voter.steps == FastPath(compile=True, cuda_graph=False, int8=True).steps(torch.bfloat16)
    assert voter.steps["int8"]
    blocks = NoiseBlocks(NOISE, SHAPE, seed=0, stream="estimation")
    found = disagreement(model, voter, x, blocks)
    assert found["share"] < 0.02
    together = count_votes(voter, x, blocks, n=200, classes=10)
    for i in (0, 8):
        assert (count_votes(voter, x[i : i + 1], blocks, n=200, classes=10) == together[i]).all()


@here
def test_ranges_are_those_of_the_images_that_were_shown(model: nn.Module, digits: Images) -> None:
    x = digits.pixels[:50].float() / 255
    own, dark = quantised(model, x), quantised(model, x * 0.01)
    far = [(copied(x) - model(x)).abs().mean() for copied in (own, dark)]
    assert far[0] < 0.1 * far[1]
    assert not any(part.training for part in own.modules())


def test_without_images_int8_is_not_open_and_cannot_be_asked_for(model: nn.Module, pretended) -> None:
    assert "int8" not in frozen(model, FastPath(compile=False), None).steps
    with pytest.raises(ValueError, match=r"freeze: int8 takes its ranges from images; give some"):
        frozen(model, FastPath(int8=True), None)
    with pytest.raises(ValueError, match=r"FastPath: got int8 without compile"):
        FastPath(int8=True, compile=False)
    assert pretended == []


def test_an_open_int8_is_tried_in_16_bits_alone(
    model: nn.Module, digits: Images, pretended, monkeypatch
) -> None:
    monkeypatch.setattr(int8, "slower", lambda *_: "")
    assert "int8" not in frozen(model, FastPath(compile=True), digits.pixels, torch.float32).steps
    assert pretended == []
    voter = frozen(model, FastPath(compile=True), digits.pixels)
    assert voter.steps["int8"]
    assert voter.dtype == torch.float32
    assert pretended == ["(300, 1, 8, 8), torch.float32"]


@pytest.mark.parametrize(
    ("where", "name", "says", "told"),
    [
        (int8, "slower", "a pass takes 2 ms in int8, and 1 ms without", "a pass takes 2 ms"),
        (int8, "int8_reason", "this CPU multiplies no int8", "this CPU multiplies no int8"),
        (fastpath, "disagreement", {"draws": 100.0, "share": 0.02}, "2.00% of its votes are others"),
    ],
)
def test_an_open_int8_is_left_out_for_a_reason_that_is_told(
    model: nn.Module, digits: Images, pretended, monkeypatch, where, name: str, says, told: str
) -> None:
    monkeypatch.setattr(int8, "slower", lambda *_: "")
    monkeypatch.setattr(where, name, lambda *_: says)
    voter = frozen(model, FastPath(compile=True), digits.pixels)
    assert "int8" not in voter.steps
    assert voter.left_out["int8"].startswith(told)
    assert voter.dtype == torch.bfloat16


def test_an_int8_that_was_asked_for_and_fails_is_told_of(
    model: nn.Module, digits: Images, pretended, monkeypatch
) -> None:
    monkeypatch.setattr(int8, "slower", lambda *_: pytest.fail("nothing to choose"))
    assert frozen(model, FastPath(int8=True), digits.pixels).steps["int8"]
    monkeypatch.setattr(int8, "int8_reason", lambda device: "torchao is not installed")
    with pytest.warns(UserWarning, match="without the step 'int8': RuntimeError: torchao is not installed"):
        assert "int8" not in frozen(model, FastPath(int8=True), digits.pixels).steps
    monkeypatch.setattr(int8, "int8_reason", lambda device: "")
    monkeypatch.setattr(int8, "quantised", lambda *_: 1 / 0)
    with pytest.warns(UserWarning, match="without the step 'int8': ZeroDivisionError"):
        assert "int8" not in frozen(model, FastPath(int8=True), digits.pixels).steps


def sleeping(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def test_the_slower_of_two_is_named_by_its_time() -> None:
    assert slower(sleeping(0.002), sleeping(0.01), seconds=0.1) == ""
    assert "ms in int8, and" in slower(sleeping(0.01), sleeping(0.002), seconds=0.1)
    assert slower(sleeping(0.01), sleeping(0.01), seconds=0.1) != ""  # as quick is not worth it


def test_int8_is_weighed_where_much_is_drawn_in_a_compiled_program(model: nn.Module) -> None:
    much, few = 10**10, 10**3
    assert settle(FastPath(compile=True), model, SHAPE, inputs=much).int8 is None
    assert settle(FastPath(compile=True), model, SHAPE, inputs=few).int8 is False
    assert settle(FastPath(compile=False), model, SHAPE, inputs=much).int8 is False
    assert settle(FastPath(int8=True), model, SHAPE, inputs=few) == FastPath(
        compile=True, cuda_graph=False, int8=True
    )
    assert FastPath.plain().int8 is False


def test_a_choice_of_the_first_network_holds_for_all(
    model: nn.Module, digits: Images, pretended, monkeypatch
) -> None:
    answers = iter(["", pytest.fail])
    monkeypatch.setattr(int8, "slower", lambda *_: next(answers))
    networks = [Sampled(model, GridNoise(sigma), 10) for sigma in (0.25, 0.5)]
    spec = Sampling(seed=0, dtype=torch.bfloat16, batch=300)
    voters = freeze_each(networks, SHAPE, CPU, spec, FastPath(compile=True), calibration=digits.pixels)
    assert steps_of(voters) == {"fast": voters[0].steps}
    assert voters[0].steps["int8"]


def record(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("quicker", [True, False])
def test_the_first_run_decides_and_a_resume_does_not_measure(
    model: nn.Module, digits: Images, tmp_path: Path, pretended, monkeypatch, quicker: bool
) -> None:
    monkeypatch.setattr(int8, "slower", lambda *_: "" if quicker else "a pass takes longer")
    monkeypatch.setattr(fastpath, "_INT8_REPAYS", 0.0)
    spec = Spec(noise=NOISE, seed=0, n0=20, n=100, dtype=torch.bfloat16, fast=FastPath(compile=True))
    path = tmp_path / "t.tsv"
    first = certify_table(model, digits, path, spec=spec, max_images=2, progress=False)
    told = record(path)
    assert told["identity"]["fast"].get("int8", False) is quicker
    assert told.get("left_out") == (None if quicker else {"int8": "a pass takes longer"})
    monkeypatch.setattr(int8, "slower", lambda *_: pytest.fail("it is decided"))
    monkeypatch.setattr(fastpath, "_INT8_REPAYS", 1e99)  # nor does it matter how much there is to draw
    both = certify_table(model, digits, path, spec=spec, max_images=4, progress=False)
    assert both["votes"].tolist()[:2] == first["votes"].tolist()
    assert record(path)["identity"] == told["identity"]
    assert record(path).get("left_out") == told.get("left_out")
    other = FastPath(compile=True, int8=not quicker)
    chosen = Spec(noise=NOISE, seed=0, n0=20, n=100, dtype=torch.bfloat16, fast=other)
    with pytest.raises(ValueError, match=r"other settings \(fast\)"):
        certify_table(model, digits, path, spec=chosen, max_images=6, progress=False)


def test_a_table_from_before_int8_goes_on_without(
    model: nn.Module, digits: Images, tmp_path: Path, pretended, monkeypatch
) -> None:
    spec = Spec(noise=NOISE, seed=0, n0=20, n=100, dtype=torch.bfloat16, fast=FastPath(compile=True))
    path = tmp_path / "t.tsv"
    certify_table(model, digits, path, spec=spec, max_images=2, progress=False)
    assert "int8" not in record(path)["identity"]["fast"]
    monkeypatch.setattr(fastpath, "_INT8_REPAYS", 0.0)
    certify_table(model, digits, path, spec=spec, max_images=4, progress=False)
    assert pretended == []
