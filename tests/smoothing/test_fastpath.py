"""The frozen copy is the network it was, up to rounding that is measured; a failing step warns."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._inductor.utils import run_and_get_code

from dualrs_lab.data import load_images
from dualrs_lab.models import load_checkpoint, make_model
from dualrs_lab.runtime import pick_dtype
from dualrs_lab.smoothing import (
    FastPath,
    FrozenVoter,
    GaussianNoise,
    GridNoise,
    NoiseBlocks,
    Voter,
    count_votes,
    disagreement,
    evaluation_copy,
    flops,
    freeze,
    settle,
)
from dualrs_lab.smoothing import frozen as fastpath

CPU, NOISE, SHAPE = torch.device("cpu"), GridNoise(0.25), (1, 8, 8)
SHIPPED = (
    Path(__file__).parents[2]
    / "data"
    / "cifar10_jpeg"
    / "cifar10_jpeg_fast_narrow_sigma0.5_seed0.safetensors"
)
SWITCHES = [FastPath(fold=fold, channels_last=last) for fold in (False, True) for last in (False, True)]


def network(seed: int = 0) -> nn.Module:
    """A network whose BatchNorm statistics are worth folding."""
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=seed)
    images = load_images("digits", "train").pixels[:200].float() / 255
    with torch.no_grad():
        model.train()
        model(images)
    return model.eval()


def digits(count: int = 7) -> torch.Tensor:
    return load_images("digits", "test").pixels[:count]


def blocks(shape: tuple[int, ...] = SHAPE) -> NoiseBlocks:
    return NoiseBlocks(NOISE, shape, seed=0, stream="estimation")


def frozen(
    model: nn.Module, fast: FastPath, dtype: torch.dtype = torch.float32, batch: int = 300
) -> FrozenVoter:
    return freeze(model, NOISE, SHAPE, classes=10, device=CPU, dtype=dtype, fast=fast, batch=batch)


def votes(voter: Voter, x: torch.Tensor, n: int) -> np.ndarray:
    return count_votes(voter, x, blocks(), n=n, classes=10)


@pytest.mark.parametrize("fast", SWITCHES)
def test_every_switch_leaves_the_answers_alone(fast: FastPath) -> None:
    model, x = network(), digits(64).float() / 255
    copied = evaluation_copy(model, SHAPE, device=CPU, dtype=torch.float32, fast=fast)
    torch.testing.assert_close(copied(x), model(x), rtol=1e-4, atol=1e-5)
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in copied.modules()) != fast.fold
    assert not any(parameter.requires_grad for parameter in copied.parameters())


def test_the_original_is_left_as_it_was() -> None:
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flops(model, SHAPE)
    frozen(model, FastPath(), torch.bfloat16)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_without_any_step_the_votes_are_those_of_the_plain_network() -> None:
    model, x = network(), digits()
    voter = frozen(model, FastPath.plain())
    switches = dict.fromkeys(["fold", "channels_last", "compile", "cuda_graph"], False)
    assert voter.steps == {"dtype": "float32", **switches}
    plain = Voter(model, NOISE, classes=10, units=3, channels_last=False)
    assert (votes(voter, x, 500) == votes(plain, x, 500)).all()
    assert disagreement(model, voter, x, blocks()) == {"draws": 300, "share": 0.0}


def test_compiled_networks_vote_as_their_originals_and_keep_apart() -> None:
    """More networks than the compiler keeps programs for one piece of code, each with its own weights."""
    x, models = digits(), [network(seed) for seed in range(4)]
    with torch._dynamo.config.patch(cache_size_limit=2):  # of eight: the more, the longer this takes
        voters = [frozen(model, FastPath(compile=True)) for model in models]
        counted = [votes(voter, x, 300) for voter in voters]
    assert all(voter.steps["compile"] for voter in voters)
    for model, voter, counts in zip(models, voters, counted, strict=True):
        eager = votes(frozen(model, FastPath(compile=False)), x, 300)
        # float32: another order of sums moves a vote only where two logits agree to seven digits
        assert abs(counts - eager).sum() <= 2 * 2
        assert disagreement(model, voter, x, blocks())["share"] <= 0.01
    assert len({counts.tobytes() for counts in counted}) > 2  # untrained, some answer one class only


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="wants layers with packed weights")
def test_a_compiled_program_holds_its_weights_as_constants() -> None:
    """Which mkldnn packs beforehand; where weights are inputs, convolutions are others."""
    _, programs = run_and_get_code(frozen, network(seed=11), FastPath(compile=True))
    assert "mkldnn" in "".join(programs)
    assert "extern_kernels.convolution" not in "".join(programs)


def test_a_compiled_image_gets_the_same_votes_alone_and_in_company() -> None:
    x, voter = digits(), frozen(network(), FastPath(compile=True), torch.bfloat16)
    together = votes(voter, x, 250)
    for i in (0, 3, 6):
        assert (votes(voter, x[i : i + 1], 250) == together[i]).all()


def test_the_fast_copy_of_a_trained_network_rarely_votes_otherwise_and_the_record_says_how_often() -> None:
    """fast_narrow in bfloat16, folded: rounding moves votes of near ties."""
    model, _ = load_checkpoint(SHIPPED)
    x = torch.randint(256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    noise = NoiseBlocks(GridNoise(0.5), (3, 32, 32), seed=0, stream="estimation")
    settings = {"classes": 10, "device": CPU, "dtype": torch.bfloat16, "fast": FastPath()}
    found = disagreement(model, freeze(model, noise.noise, (3, 32, 32), batch=400, **settings), x, noise)
    assert found["draws"] == 400
    assert found["share"] < 0.03

    other, _ = load_checkpoint(str(SHIPPED).replace("sigma0.5", "sigma0.25"))
    wrong = disagreement(other, freeze(model, noise.noise, (3, 32, 32), batch=400, **settings), x, noise)
    assert wrong["share"] > 0.03  # the measure sees a network that is another one


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1)) * (2.0 if bool((x.sum() > 0).item()) else 1.0)


def test_a_step_that_fails_is_left_out_with_a_warning_that_says_why() -> None:
    model = Untraceable()
    with pytest.warns(UserWarning, match=r"without the step 'fold': TraceError"):
        voter = frozen(model, FastPath())
    assert not voter.steps["fold"]
    with pytest.warns(UserWarning, match="without the step 'compile'"):
        voter = frozen(model, FastPath(fold=False, compile=True))
    assert not voter.steps["compile"]
    x = digits()
    assert (votes(voter, x, 200).sum(axis=1) == 200).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="wants a machine where CUDA graphs fail")
def test_cuda_graphs_without_a_gpu_are_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="without the step 'cuda_graph'"):
        voter = frozen(network(), FastPath(cuda_graph=True))
    assert not voter.steps["cuda_graph"]


def test_compiling_is_chosen_where_it_repays() -> None:
    model = network()
    work = flops(model, SHAPE)
    enough = math.ceil(fastpath._REPAYS["cpu"] / work)
    assert not settle(FastPath(), model, SHAPE, inputs=enough - 10).compile
    assert settle(FastPath(), model, SHAPE, inputs=enough + 10).compile
    assert settle(FastPath(compile=False), model, SHAPE, inputs=10**12).compile is False
    assert settle(FastPath(), model, SHAPE, inputs=1).cuda_graph is False


def test_flops_are_those_of_a_layer_counted_by_hand() -> None:
    assert flops(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)), (3, 10, 10)) == 2 * 8 * 3 * 9 * 100


def test_nan_logits_are_caught_in_the_frozen_copy_too() -> None:
    model = network()
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="NaN"):
        votes(frozen(model, FastPath(fold=False)), digits(), 100)


@pytest.mark.gpu
@pytest.mark.parametrize("compile_it", [False, True])
def test_cuda_graphs_give_the_votes_of_the_launches_they_replace(compile_it: bool) -> None:
    device, model, x = torch.device("cuda"), network().cuda(), digits().cuda()
    noise = NoiseBlocks(NOISE, SHAPE, seed=0, stream="estimation", device=device)
    dtype = pick_dtype(device)
    counted = []
    for graph in (False, True):
        fast = FastPath(compile=compile_it, cuda_graph=graph)
        voter = freeze(model, NOISE, SHAPE, classes=10, device=device, dtype=dtype, fast=fast, batch=300)
        assert voter.steps["cuda_graph"] == graph
        counted.append(count_votes(voter, x, noise, n=950, classes=10))
    assert (counted[0] == counted[1]).all()


def test_plain_gaussian_noise_is_frozen_too() -> None:
    noise = GaussianNoise(0.25)
    voter = freeze(
        network(), noise, SHAPE, classes=10, device=CPU, dtype=torch.float32, fast=FastPath(), batch=200
    )
    drawn = NoiseBlocks(noise, SHAPE, seed=0, stream="estimation")
    assert (count_votes(voter, digits().float() / 255, drawn, n=200, classes=10).sum(axis=1) == 200).all()
