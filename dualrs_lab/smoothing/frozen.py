"""The network that is sampled: a frozen copy, made fast step by step, each step switchable and recorded.

Folded, in bfloat16 or compiled, the copy differs from the float32 original by rounding: it is another base
classifier. Its certificates are sound, since the votes are its own, but they are for this copy. So tables
record its steps, and `disagreement` measures how often it votes differently from the original.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.utils.flop_counter import FlopCounterMode

from dualrs_lab.smoothing.engine import Voter, images_together
from dualrs_lab.smoothing.noise import BLOCK, Noise, NoiseBlocks
from dualrs_lab.smoothing.settings import FastPath

__all__ = ["FrozenVoter", "disagreement", "evaluation_copy", "flops", "freeze", "settle"]


Run = Callable[[Tensor, Tensor], Tensor]


# Compiling takes 5 to 20 s on a CPU and a minute for deep networks on a GPU; beyond so many floating-point
# operations it pays for itself several times over.
_REPAYS = {"cpu": 3e13, "cuda": 1e16}


class FrozenVoter(Voter):
    """A `Voter` of a frozen copy; `steps` says what was done to it, and its precision."""

    def __init__(
        self,
        network: nn.Module,
        noise: Noise,
        shape: tuple[int, ...],
        *,
        classes: int,
        units: int,
        device: torch.device,
        dtype: torch.dtype,
        fast: FastPath,
    ) -> None:
        super().__init__(
            network,
            noise,
            classes=classes,
            units=units,
            dtype=dtype,
            channels_last=fast.channels_last,
            padded=True,
        )
        self._run: Run = super().__call__
        example = _example(noise, shape, units, device)
        for step, make in (("compile", _compiled), ("cuda_graph", _graphed)):
            if getattr(fast, step):
                try:
                    self._run = make(self._run, *example)
                except Exception as error:  # compilers and drivers raise any type
                    fast = replace(fast, **{step: False})
                    _warn(step, error)
        self.steps = fast.steps(dtype)

    def __call__(self, x: Tensor, noise: Tensor) -> Tensor:
        return self._run(x, noise)


def flops(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Floating-point operations of a forward pass of one input; a multiplication with an addition is two."""
    model = copy.deepcopy(model).eval()  # a pass in training mode would change its statistics
    parameter = next(model.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros((1, *shape), device=parameter.device, dtype=parameter.dtype))
    return int(counter.get_total_flops())


def evaluation_copy(
    model: nn.Module, *, device: torch.device, dtype: torch.dtype, fast: FastPath | None = None
) -> nn.Module:
    """A copy in evaluation mode, BatchNorm folded and channels last as `fast` says, in `dtype` on `device`.

    Where a network cannot be folded, a warning says why and the step is left out.
    """
    return _prepare(model, device, dtype, fast or FastPath())[0]


def settle(fast: FastPath, model: nn.Module, shape: tuple[int, ...], *, inputs: int) -> FastPath:
    """`fast` with every choice made, for `inputs` noisy inputs of `shape` on the device `model` lives on."""
    device = next(model.parameters()).device.type
    if fast.compile is None:
        fast = replace(fast, compile=inputs * flops(model, shape) > _REPAYS.get(device, float("inf")))
    if fast.cuda_graph is None:
        fast = replace(fast, cuda_graph=device == "cuda")
    return fast


def freeze(
    model: nn.Module,
    noise: Noise,
    shape: tuple[int, ...],
    *,
    classes: int,
    device: torch.device,
    dtype: torch.dtype,
    fast: FastPath,
    batch: int | None = None,
) -> FrozenVoter:
    """Freeze `model` into the voter that is sampled on inputs (N, *shape) of `device`, under `noise`.

    Takes the steps of `fast`; those that it leaves open (see `settle`) are not taken. A step that fails here
    (no C++ compiler, a network that cannot be traced) is left out with a warning that says why; `steps` of
    the result says what was done. Passes are padded to one size, so a vote depends on the input and its noise
    alone.
    """
    network, fast = _prepare(model, device, dtype, fast)
    fast = replace(fast, compile=bool(fast.compile), cuda_graph=bool(fast.cuda_graph))
    return FrozenVoter(
        network,
        noise,
        shape,
        classes=classes,
        units=images_together(shape, device, batch),
        device=device,
        dtype=dtype,
        fast=fast,
    )


@torch.inference_mode()
def disagreement(model: nn.Module, voter: Voter, x: Tensor, blocks: NoiseBlocks) -> dict[str, float]:
    """How often `voter` votes differently from `model` in plain float32, on the same noise.

    One block of noise for the first inputs of `x` (N, ...) that fill a pass; {"draws": …, "share": …}.
    """
    voted = compared = 0
    plain = Voter(
        copy.deepcopy(model).eval().to(device=x.device, dtype=torch.float32),
        blocks.noise,
        classes=voter.classes,
        units=1,
    )
    x = x[: voter.units]
    noise = blocks.stack([0] * voter.units)
    fast = voter(x.repeat(-(-voter.units // len(x)), *[1] * (x.ndim - 1))[: voter.units], noise)
    for one, votes in zip(x, fast, strict=False):
        voted += int((plain(one.unsqueeze(0), noise[:1])[0] != votes).sum())
        compared += BLOCK
    return {"draws": compared, "share": voted / compared}


def _prepare(
    model: nn.Module, device: torch.device, dtype: torch.dtype, fast: FastPath
) -> tuple[nn.Module, FastPath]:
    network = copy.deepcopy(model).eval().cpu()
    if fast.fold:
        try:
            network = fuse(network)
        except Exception as error:  # tracing runs the network's own code
            fast = replace(fast, fold=False)
            _warn("fold", error)
    network = network.to(device=device, dtype=dtype).requires_grad_(False)
    return (network.to(memory_format=torch.channels_last) if fast.channels_last else network), fast


def _warn(step: str, error: Exception) -> None:
    reason = next(iter(str(error).strip().splitlines()), "")
    warnings.warn(
        f"the network is sampled without the step {step!r}: {type(error).__name__}: {reason}", stacklevel=4
    )


@torch.inference_mode()
def _example(noise: Noise, shape: tuple[int, ...], units: int, device: torch.device) -> tuple[Tensor, Tensor]:
    z = noise.draw((units, BLOCK, *shape), torch.Generator(device=device).manual_seed(0))
    dtype = torch.float32 if z.is_floating_point() else torch.uint8
    return torch.zeros((units, *shape), dtype=dtype, device=device), z


@torch.inference_mode()
def _compiled(run: Any, x: Tensor, noise: Tensor) -> Run:
    # The compiler keeps at most eight programs for one piece of code; a copy gives every network its own.
    function = run.__func__
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    compiled: Run = torch.compile(
        MethodType(own, run.__self__), fullgraph=True, dynamic=False, options={"freezing": True}
    )
    compiled(x, noise)
    return compiled


@torch.inference_mode()
def _graphed(run: Run, x: Tensor, noise: Tensor) -> Run:
    # Capture wants warm kernels on a side stream and addresses that stay; results are read before the next
    # replay, since counting is queued on the same stream.
    x, noise = x.clone(), noise.clone()
    side = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(x.device))
    with torch.cuda.stream(side):
        for _ in range(3):
            run(x, noise)
    torch.cuda.current_stream(x.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        votes = run(x, noise)

    def replay(images: Tensor, blocks: Tensor) -> Tensor:
        x.copy_(images)
        noise.copy_(blocks)
        graph.replay()
        return votes

    return replay
