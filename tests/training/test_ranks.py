"""Several processes train the network that one process trains, and end together.

Processes are forked from one that has imported torch; they join by gloo on the CPU, in float32.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from dualrs_lab.__main__ import main
from dualrs_lab.attacks import L2, PGD
from dualrs_lab.data import Images, load_images
from dualrs_lab.draws import SliceGenerator, drawn, of_batch, of_slice
from dualrs_lab.models import make_model
from dualrs_lab.pixels import OtherImages, Pixels, RandomPixels, TopFraction, Uniform
from dualrs_lab.runtime import make_generator

from dualrs_lab.training import launch, loop, normalisation, ranks  # isort: skip
from dualrs_lab.training import (
    Adversarial,
    AttackedNoise,
    CatRs,
    Consistency,
    EasyImages,
    Gaussian,
    Macer,
    Mart,
    Ranks,
    SmoothAdversarial,
    Standard,
    Trades,
    TrainConfig,
    WholeBatchNorm,
    call_together,
    device_of_rank,
    join_ranks,
    train,
    whole_batch_statistics,
)

SIZE = 2
EXACT, ROUGH = 1e-4, 2e-3  # of weights of about 0.1, after six steps in float32; where losses have kinks
KINKS = ("attacked noise", "macer", "at by signs", "easy images")
INNER = PGD(steps=2, step=0.5, norm=L2(), best=False, blind=0.99)
SIGNS = PGD(steps=2, step=0.05, best=False, blind=0.99)  # where a rounding may change a sign
PART = Pixels(mask=TopFraction(fraction=0.3), high=1.0, low=0.5)
OBJECTIVES: dict[str, Any] = {
    "gaussian": Gaussian(sigma=0.25),
    "consistency": Consistency(sigma=0.25),
    "smoothadv": SmoothAdversarial(sigma=0.25, eps=0.5, steps=2),
    "cat-rs": CatRs(sigma=0.25, draws=2, steps=2),
    "attacked noise": AttackedNoise(sigma=0.25, draws=2, steps=2),
    "macer": Macer(sigma=0.25, draws=4),
    "at": Adversarial(budget=Uniform(eps=1.0), attack=INNER),
    "at by signs": Adversarial(budget=Uniform(eps=0.1), attack=SIGNS),
    "trades": Trades(budget=Uniform(eps=1.0), attack=INNER),
    "mart": Mart(budget=Uniform(eps=1.0), attack=INNER),
    "part": Adversarial(budget=PART, attack=INNER),
    "random pixels": Adversarial(budget=RandomPixels(of=PART), attack=INNER),
    "other images": Adversarial(budget=OtherImages(of=PART), attack=INNER),
    "easy images": EasyImages(objective=Gaussian(sigma=0.1), start=1, threshold=0.05),
}
QUICK = ("gaussian", "consistency", "at", "part")


@cache
def digits() -> Images:
    return load_images("digits", "train").select(range(100))


def network() -> nn.Module:
    return make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.37], seed=0)


def config(**changes: Any) -> TrainConfig:
    # batches of 33: one process has 16 images, the other 17
    return TrainConfig(
        **{"epochs": 2, "seed": 0, "batch": 33, "lr": 0.02, "crop": 1, "bfloat16": False} | changes
    )


def trained(objective: Any, *, group: Ranks = ranks.ALONE, **changes: Any) -> dict[str, Tensor]:
    model = network()
    history = train(
        model, digits(), objective=objective, config=config(**changes), progress=False, ranks=group
    )
    losses = torch.tensor(history["loss"].to_numpy(), dtype=torch.float32)
    return {"losses": losses, **{name: value.float() for name, value in model.state_dict().items()}}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


# What runs in each process of a group.


def _train_all(group: Ranks, out: Path, names: tuple[str, ...]) -> None:
    for name in names:
        torch.save(trained(OBJECTIVES[name], group=group), out / f"{name} {group.rank}.pt")


def _wrongly(group: Ranks, out: Path) -> None:
    """The same with one thing wrong each, which the comparison must notice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "whole_batch_statistics", contextlib.nullcontext)
        torch.save(trained(Standard(), group=group), out / f"statistics {group.rank}.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SliceGenerator, "check", lambda *_: None)
        torch.save(trained(DrawsItself(), group=group), out / f"noise {group.rank}.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks.Step, "forward", lambda self, objective, *args: objective(self.model, *args[:-1]))
        torch.save(trained(Standard(), group=group), out / f"weights of slices {group.rank}.pt")
    with pytest.raises(ValueError, match=r"DrawsItself draws from its generator by itself.*drawn"):
        trained(DrawsItself(), group=group)
    with pytest.raises(ValueError, match="batches of 1 for 2 processes"):
        train(network(), digits().select([0]), objective=Standard(), config=config(), ranks=group)


def _normalise(group: Ranks, out: Path) -> None:
    for kind, shape in BATCHES.items():
        x, own = _batch(shape), group.slice(shape[0])
        norm = getattr(nn, kind)(shape[1])
        part = x[own].requires_grad_()
        with whole_batch_statistics(norm):
            assert isinstance(norm, WholeBatchNorm)
            _loss(norm, part, own.start).backward()
        assert type(norm) is getattr(nn, kind)
        slopes = {"x": part.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
        torch.save(norm.state_dict() | slopes, out / f"{kind} {group.rank}.pt")


def _go_on_and_die(group: Ranks, out: Path) -> None:
    """Go on from a state of one process; then leave one of two processes, of which one is killed."""
    model = network()
    how: dict[str, Any] = {"progress": False, "ranks": group}
    train(model, digits(), objective=Gaussian(sigma=0.25), config=config(), state=out / "one.pt", **how)
    torch.save(model.state_dict(), out / f"gone on {group.rank}.pt")
    dying = Dying(group.rank)
    train(network(), digits(), objective=dying, config=config(epochs=3), state=out / "two.pt", **how)


def _command(out: Path, breaks: int | None, epochs: int) -> None:
    """`dualrs-lab train`, in which a file cannot be read by the process `breaks`."""
    if int(os.environ["RANK"]) == breaks:
        loop.augment = _broken  # type: ignore[assignment]
    words = ["train", "--data", "digits", "--sigmas", "0.25", "--epochs", str(epochs), "--device", "cpu"]
    raise SystemExit(main([*words, "--folder", str(out / "files")]))


def _broken(*_: object) -> Tensor:
    raise OSError(5, "Input/output error", "photo.jpg")


@dataclass(frozen=True)
class DrawsItself:
    """Noise that no other process may have, drawn past `drawn`."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return Standard()(model, x + 0.25 * torch.randn(x.shape, generator=generator), y, generator)


class Dying:
    """The Gaussian objective, in whose second epoch process 1 is killed."""

    def __init__(self, rank: int | None = None) -> None:
        self.left = 4 if rank == 1 else math.inf

    def identity(self) -> dict[str, Any]:
        return {}

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return Gaussian(sigma=0.25)(model, x, y, generator)


BATCHES = {"BatchNorm1d": (5, 3), "BatchNorm2d": (7, 4, 3, 3), "BatchNorm3d": (5, 2, 2, 3, 2)}


def _batch(shape: tuple[int, ...]) -> Tensor:
    return 5 + 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _loss(norm: nn.Module, x: Tensor, first: int) -> Tensor:
    # one that differs from image to image, so that the gradient through mean and variance counts
    weights = torch.arange(first, first + len(x), dtype=torch.float32).view(-1, *[1] * (x.ndim - 1))
    return (norm(x).square() * weights + norm(x).pow(3)).sum()


# How a group is started.


def _enter(task: Callable[..., None], rank: int, port: int, out: Path, args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(SIZE), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    ranks.GRACE = 0.2
    said = (out / f"said {rank}.txt").open("w")
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    if task is _command:
        task(out, *args)
    with join_ranks("cpu") as group:
        task(group, out, *args)


def start(task: Callable[..., None], out: Path, *args: Any) -> list[Any]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=_enter, args=(task, rank, port, out, args)) for rank in range(SIZE)]
    for process in processes:
        process.start()
    return processes


def end(processes: list[Any], within: float = 120) -> list[int | None]:
    until = time.monotonic() + within
    for process in processes:
        process.join(max(0.1, until - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def said(out: Path) -> list[str]:
    return [(out / f"said {rank}.txt").read_text() for rank in range(SIZE)]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two processes have trained, as one process will have to."""
    out = tmp_path_factory.mktemp("ranks")
    assert end(start(_all, out)) == [0, 0], said(out)
    return out


def _all(group: Ranks, out: Path) -> None:
    _train_all(group, out, QUICK)
    torch.save(trained(OBJECTIVES["gaussian"], group=group, average=0.5), out / f"mean {group.rank}.pt")
    _normalise(group, out)
    _wrongly(group, out)


def kept(out: Path, name: str) -> list[dict[str, Tensor]]:
    return [torch.load(out / f"{name} {rank}.pt", weights_only=True) for rank in range(SIZE)]


@pytest.mark.parametrize("name", QUICK)
def test_two_processes_train_the_network_of_one(together: Path, name: str) -> None:
    one, (first, second) = trained(OBJECTIVES[name]), kept(together, name)
    assert distance(first, second) == 0
    assert distance(one, first) < EXACT


def test_the_mean_of_the_weights_is_the_same_in_two_processes(together: Path) -> None:
    plain, one = (trained(OBJECTIVES["gaussian"], average=average) for average in (0.0, 0.5))
    first, second = kept(together, "mean")
    assert distance(first, second) == 0
    assert distance(one, first) < EXACT
    assert distance(one, plain) > 5 * EXACT


def test_that_comparison_notices_what_is_wrong(together: Path) -> None:
    for wrong, objective in {
        "statistics": Standard(),
        "weights of slices": Standard(),
        "noise": DrawsItself(),
    }.items():
        assert distance(trained(objective), kept(together, wrong)[0]) > 5 * EXACT, wrong


@pytest.mark.parametrize("kind", BATCHES)
def test_batch_norm_over_processes_is_that_of_the_whole_batch(together: Path, kind: str) -> None:
    norm, x = getattr(nn, kind)(BATCHES[kind][1]), _batch(BATCHES[kind]).requires_grad_()
    _loss(norm, x, 0).backward()
    first, second = kept(together, kind)
    slopes = {
        "x": torch.cat([first["x"], second["x"]]),
        **{name: first[name] + second[name] for name in ("weight", "bias")},
    }
    assert x.grad is not None
    torch.testing.assert_close(slopes["x"], x.grad, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(slopes["weight"], norm.weight.grad, rtol=1e-5, atol=1e-3)
    for name, value in norm.state_dict().items():
        if name.startswith("running") or name == "num_batches_tracked":
            torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-5)


def test_a_killed_process_ends_the_group_and_any_number_goes_on(tmp_path: Path) -> None:
    def interrupt(row: Mapping[str, Any]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    whole = network()
    gaussian: dict[str, Any] = {"objective": Gaussian(sigma=0.25), "config": config(), "progress": False}
    train(whole, digits(), **gaussian)
    with pytest.raises(KeyboardInterrupt):
        train(network(), digits(), state=tmp_path / "one.pt", after=interrupt, **gaussian)
    codes = end(start(_go_on_and_die, tmp_path), within=60)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, None)
    assert distance(dict(whole.state_dict()), kept(tmp_path, "gone on")[0]) < EXACT
    assert "lost" in said(tmp_path)[0]
    undisturbed, resumed = network(), network()
    how: dict[str, Any] = {"objective": Dying(), "config": config(epochs=3), "progress": False}
    train(undisturbed, digits(), **how)
    history = train(resumed, digits(), state=tmp_path / "two.pt", **how)
    assert len(history) == 3
    assert distance(dict(undisturbed.state_dict()), dict(resumed.state_dict())) < EXACT


def test_an_error_of_one_process_is_told_once_and_ends_all(tmp_path: Path) -> None:
    began = time.monotonic()
    assert end(start(_command, tmp_path, 1, 2), within=60) == [1, 2]
    first, second = said(tmp_path)
    assert "error" not in first  # the bar of rank 0
    assert second.startswith("dualrs-lab: error: train: photo.jpg: Input/output error")
    assert second.count("\n") == 1
    assert time.monotonic() - began < 60
    assert [path.name for path in (tmp_path / "files").glob("*.safetensors")] == []


def test_an_error_of_all_processes_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "digits_digits_narrow_sigma0.25_seed0.safetensors").write_text("a novel")
    codes = end(start(_command, tmp_path, None, 2), within=60)
    assert sorted(codes) in ([1, 2], [2, 2])
    assert "".join(said(tmp_path)).count("holds no tensors, and stays as it is") == 1


def test_slices_of_a_batch_draw_what_the_whole_batch_draws() -> None:
    for count, size in ((7, 2), (5, 3), (4, 4)):
        for images, shape in ((0, (count, 3)), (1, (2, count, 3)), (0, (2 * count, 3))):
            whole, parts = drawn(torch.randn, shape, images=images, generator=make_generator(0)), []
            for rank in range(size):
                own = Ranks(rank, size).slice(count)
                sizes = [*shape]
                sizes[images] = shape[images] // count * (own.stop - own.start)
                generator = Ranks(rank, size).generator(make_generator(0), count)
                parts.append(drawn(torch.randn, sizes, images=images, generator=generator))
            several = shape[images] // count
            joint = torch.cat([part.unflatten(images, (several, -1)) for part in parts], dim=images + 1)
            assert torch.equal(joint.flatten(images, images + 1), whole)


def test_a_shape_that_does_not_count_images_is_refused() -> None:
    generator = Ranks(0, 2).generator(make_generator(0), 6)
    with pytest.raises(ValueError, match=r"drawn: got a shape \(4, 2\) whose dimension 0 should count 3"):
        drawn(torch.rand, (4, 2), generator=generator)


def test_of_one_process_nothing_is_cut() -> None:
    generator, values = make_generator(0), torch.arange(3)
    assert Ranks().generator(generator, 3) is generator
    assert of_batch(values, generator) is values
    assert of_slice(values, generator) is values


def test_a_gpu_each_or_the_cpu_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of_rank("cpu", 1, 2) == torch.device("cpu")
    monkeypatch.setattr(ranks, "pick_device", lambda name: torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of_rank("auto", 1, 2) == torch.device("cuda:1")
    with pytest.raises(ValueError, match="3 processes want a GPU each, and there are 2"):
        device_of_rank("cuda", 0, 3)
    with pytest.raises(ValueError, match="say cuda"):
        device_of_rank("cuda:0", 0, 2)


def test_on_cuda_batch_norm_is_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    # there is none here: that the change of kind leaves nothing out, and is undone
    norm, whole = nn.BatchNorm2d(3), nn.SyncBatchNorm(3)
    monkeypatch.setattr(normalisation, "_on_cuda", lambda part: True)
    with whole_batch_statistics(nn.Sequential(norm)):
        assert type(norm) is nn.SyncBatchNorm
        assert vars(norm).keys() == vars(whole).keys()
    assert type(norm) is nn.BatchNorm2d
    assert vars(norm).keys() == vars(nn.BatchNorm2d(3)).keys()


def test_a_batch_norm_of_another_kind_is_refused() -> None:
    class Own(nn.BatchNorm2d):
        pass

    with pytest.raises(ValueError, match="train: 0 is a Own"), whole_batch_statistics(nn.Sequential(Own(3))):
        pass


@pytest.mark.slow
def test_every_objective_is_the_same_in_two_processes(tmp_path: Path) -> None:
    names = tuple(OBJECTIVES)
    assert end(start(_train_all, tmp_path, names), within=300) == [0, 0], said(tmp_path)
    far = {name: distance(trained(OBJECTIVES[name]), kept(tmp_path, name)[0]) for name in names}
    assert {name: value for name, value in far.items() if value > (ROUGH if name in KINKS else EXACT)} == {}


@pytest.mark.slow
def test_the_command_in_two_processes_goes_on_after_a_kill(tmp_path: Path) -> None:
    """As a person does it: `--processes 2`, kill -9 of one, the same again; and undisturbed."""
    options = {"data": "digits", "arms": "PART 0.1", "eps": 0.2, "lows": 0.1, "steps": 2, "step": 0.12}
    options |= {"epochs": 4, "warmup": 1}
    words = [sys.executable, "-m", "dualrs_lab", "part"]
    words += [f"--{name}={value}" for name, value in options.items()]
    told: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    two = [*words, "--processes", "2", "--folder", str(tmp_path / "two")]
    first = subprocess.Popen(two, **told)
    while not [*tmp_path.glob("two/*.state.pt")]:
        assert first.poll() is None, first.communicate()
        time.sleep(0.1)
    ranks_of = [*psutil.Process(first.pid).children()]
    (victim,) = (child for child in ranks_of if child.environ().get("RANK") == "1")
    victim.kill()
    _, error = first.communicate(timeout=60)
    assert first.returncode == 2
    assert "error: part: process 1 of 2 was ended by SIGKILL, and so all were; call the same" in error
    assert error.count("error") == 1
    assert not any(child.is_running() for child in ranks_of)
    call_together("part", processes=2, folder=tmp_path / "two", **options)
    assert not [*tmp_path.glob("two/*.state.pt")]
    subprocess.run([*words, "--processes", "2", "--folder", str(tmp_path / "whole")], check=True, **told)
    found = (load_file(next(tmp_path.glob(f"{name}/*01_seed0.safetensors"))) for name in ("two", "whole"))
    assert distance(*found) == 0
    with pytest.raises(ValueError, match=r"part: ended with 2: .*wanted one of AT, PART 0.1"):
        call_together("part", processes=2, data="digits", arms=["ART"], lows=[0.1])


@pytest.mark.parametrize(
    ("codes", "cause"),
    [
        ({0: -signal.SIGTERM, 1: -signal.SIGKILL}, (1, -signal.SIGKILL)),
        ({0: 1, 1: -signal.SIGKILL}, (1, -signal.SIGKILL)),
        ({0: -signal.SIGTERM, 1: 2}, (1, 2)),
        ({0: 1, 1: 70, 2: 1}, (1, 70)),
        ({0: -signal.SIGTERM}, (0, -signal.SIGTERM)),
    ],
)
def test_the_launcher_names_the_process_with_which_it_began(
    codes: dict[int, int], cause: tuple[int, int]
) -> None:
    assert launch._cause(codes) == cause
