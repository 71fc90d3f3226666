"""The network that is sampled: a frozen copy, made fast step by step, each step switchable and recorded.

Folded, in bfloat16 or compiled, the copy differs from the float32 original by rounding: it is another base
classifier. Its certificates are sound, since the votes are its own, but they are for this copy. So tables
record its steps, and `smoothing.disagreement` measures how often it votes differently from the original,
which `Spec.certify` has certified in its place.
"""

import warnings
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from types import FunctionType, MethodType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from dualrs_lab.models.conduct import apart, asked, check_conduct, duplicate
from dualrs_lab.models.probe import probe_images
from dualrs_lab.smoothing import int8
from dualrs_lab.smoothing.engine import Voter, images_together
from dualrs_lab.smoothing.noise import BLOCK, GaussianNoise, Noise, NoiseBlocks, drawing_device
from dualrs_lab.smoothing.original import BY_ROUNDING, disagreement
from dualrs_lab.smoothing.settings import FastPath

__all__ = ["FrozenVoter", "evaluation_copy", "flops", "freeze", "settle"]


Run = Callable[[Tensor, Tensor], Tensor]


# Compiling takes 5 to 20 s on a CPU and a minute for deep networks on a GPU; beyond so many floating-point
# operations it pays for itself several times over.
_REPAYS = {"cpu": 3e13, "cuda": 1e16}


_INT8_REPAYS = 1e14  # likewise, for another program to compile, calibrate and compare


_COMPARED = 10  # passes in which votes in int8 are compared with those in float32, at most


class FrozenVoter(Voter):
    """A `Voter` of a frozen copy; `steps` says what was done to it, and its precision.

    `left_out` says which steps were open, and why they were not taken. With `int8`, the network is one of
    `int8.quantised`, for passes of float32 images.
    """

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
            dtype=torch.float32 if fast.int8 else dtype,
            channels_last=fast.channels_last,
            padded=True,
        )
        self.vetted = True  # by `freeze`, in float32
        self.left_out: dict[str, str] = {}
        self._run: Run = super().__call__
        if fast.int8:
            with int8.quiet():
                self._run = _compiled(self._run, *_example(noise, shape, units, device))
            self.steps = fast.steps(dtype)
            return
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

    def under(self, noise: Noise) -> Self:
        """This frozen network under noise of another level, and of the same kind: nothing is frozen anew.

        What was compiled adds noise as it is drawn, whatever its level. ValueError for another kind.
        """
        if type(noise) is not type(self.noise):
            raise ValueError(f"FrozenVoter.under: got {noise}; wanted another level of {self.noise}")
        other = copy(self)
        other.noise = noise
        return other


def flops(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Floating-point operations of a forward pass of one input; a multiplication with an addition is two."""
    from torch.utils.flop_counter import FlopCounterMode  # it loads triton, which few calls need

    model = duplicate(model)  # a pass in training mode would change its statistics
    parameter = next(model.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        asked("freeze", model, torch.zeros((1, *shape), device=parameter.device, dtype=parameter.dtype))
    return int(counter.get_total_flops())


def evaluation_copy(
    model: nn.Module,
    shape: tuple[int, ...],
    *,
    device: torch.device,
    dtype: torch.dtype,
    fast: FastPath | None = None,
) -> nn.Module:
    """A copy in evaluation mode, BatchNorm folded and channels last as `fast` says, in `dtype` on `device`.

    It is for inputs (B, *shape). Where a network cannot be folded, or would then answer otherwise, a warning
    says why and the step is left out. Raises ValueError for a network that cannot be judged, see
    `models.check_conduct`.
    """
    shown = _shown(GaussianNoise(0.25), shape)
    return _prepare("evaluation_copy", model, shown, device, dtype, fast or FastPath())[0]


def settle(fast: FastPath, model: nn.Module, shape: tuple[int, ...], *, inputs: int) -> FastPath:
    """`fast` with every choice made, for `inputs` noisy inputs of `shape` on the device `model` lives on."""
    device = next(model.parameters()).device.type
    if fast.int8:
        fast = replace(fast, compile=True)
    if fast.compile is None:
        fast = replace(fast, compile=inputs * flops(model, shape) > _REPAYS.get(device, float("inf")))
    if fast.cuda_graph is None:
        fast = replace(fast, cuda_graph=device == "cuda")
    if fast.int8 is None and not (fast.compile and inputs * flops(model, shape) > _INT8_REPAYS):
        fast = replace(fast, int8=False)
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
    calibration: Tensor | None = None,
) -> FrozenVoter:
    """Freeze `model` into the voter that is sampled on inputs (N, *shape) of `device`, under `noise`.

    Takes the steps of `fast`; those that it leaves open (see `settle`) are not taken, but for `int8`: it
    takes its ranges from the images `calibration` (N, *shape) under noise, and where it is open and `dtype`
    has 16 bits, in a compiled program, it is kept if it is quicker and rarely votes otherwise. A step that
    fails here (no C++ compiler, a network that cannot be traced, or that answers otherwise when it is folded)
    is left out with a warning that says why; `steps` of the result says what was done. Passes are padded to
    one size, so a vote depends on the input and its noise alone. Raises ValueError for a network whose
    answers do not, see `models.check_conduct`, and for int8 without `calibration`.
    """
    shown = _shown(noise, shape)
    network, fast = _prepare("freeze", model, shown, device, dtype, fast, classes=classes)
    fast = replace(fast, compile=bool(fast.compile or fast.int8), cuda_graph=bool(fast.cuda_graph))
    units = images_together(shape, device, batch)

    def frozen(network: nn.Module, fast: FastPath) -> FrozenVoter:
        return FrozenVoter(
            network, noise, shape, classes=classes, units=units, device=device, dtype=dtype, fast=fast
        )

    def in_int8(images: Tensor) -> FrozenVoter:
        whole, _ = _prepare("freeze", model, shown, device, torch.float32, fast)
        noisy = _calibrating(noise, images, units * BLOCK)
        return frozen(int8.quantised(whole, noisy), replace(fast, int8=True))

    if fast.int8 and calibration is None:
        raise ValueError("freeze: int8 takes its ranges from images; give some as calibration")
    fits = fast.int8 if fast.int8 is not None else fast.compile and dtype.itemsize <= 2
    if calibration is None or not fits:
        return frozen(network, replace(fast, int8=False))
    quick, reason = None, int8.int8_reason(device)
    if not reason:
        try:
            quick = in_int8(calibration)
        except Exception as error:  # as of other steps
            reason = _warn("int8", error)
    elif fast.int8:
        _warn("int8", RuntimeError(reason))
    if quick and fast.int8:
        return quick
    other = frozen(network, replace(fast, int8=False))
    reason = _against(quick, other, model, calibration) if quick else reason
    other.left_out = {"int8": reason}
    return quick if quick and not reason else other


def _against(quick: FrozenVoter, other: FrozenVoter, model: nn.Module, images: Tensor) -> str:
    # why the voter in int8 is not taken in place of the other; "" if it is
    shape, device = tuple(images.shape[1:]), images.device
    example = _example(quick.noise, shape, quick.units, device)
    with torch.inference_mode():
        if reason := int8.slower(lambda: quick(*example), lambda: other(*example)):
            return reason
    blocks = NoiseBlocks(quick.noise, shape, seed=0, stream="int8", device=device)
    firsts = range(0, min(len(images), _COMPARED * quick.units), quick.units)
    found = [disagreement(model, quick, images[first : first + quick.units], blocks) for first in firsts]
    share = sum(one["share"] * one["draws"] for one in found) / sum(one["draws"] for one in found)
    return f"{share:.2%} of its votes are others than in float32" if share > BY_ROUNDING else ""


def _calibrating(noise: Noise, images: Tensor, count: int) -> Tensor:
    # `count` noisy images in the layout of a pass, each with noise of its own
    shape = tuple(images.shape[1:])
    z = noise.draw((count, *shape), torch.Generator(drawing_device(images.device)).manual_seed(0))
    x = images[torch.arange(count, device=images.device) % len(images)]
    return noise.add(x, z.to(images.device), torch.float32)


def _prepare(
    call: str,
    model: nn.Module,
    shown: Tensor,
    device: torch.device,
    dtype: torch.dtype,
    fast: FastPath,
    *,
    classes: int | None = None,
) -> tuple[nn.Module, FastPath]:
    network = duplicate(model).cpu()
    kinds = (part.dtype for part in network.parameters() if part.is_floating_point())
    shown = shown.to(next(kinds, torch.float32))
    check_conduct(call, network, shown[::3], classes=classes)
    if fast.fold:
        try:
            network = _folded(network, shown)
        except Exception as error:  # tracing runs the network's own code
            fast = replace(fast, fold=False)
            _warn("fold", error)
    network = network.to(device=device, dtype=dtype).requires_grad_(False)
    return (network.to(memory_format=torch.channels_last) if fast.channels_last else network), fast


@torch.no_grad()
def _folded(network: nn.Module, shown: Tensor) -> nn.Module:
    # Layers that are shared, hooks and weights that others are computed into make folding another network.
    folded = fuse(network)
    far, rounding = apart(network(shown), folded(shown))
    if far > rounding:
        raise ValueError(f"folded, its logits lie {far:.3g} from its own (rounding: {rounding:.1g})")
    return folded


def _shown(noise: Noise, shape: tuple[int, ...]) -> Tensor:
    # noisy images (8, *shape) in float32, by which a network is vetted before it is sampled
    images = (probe_images(shape) * 255).round().to(torch.uint8)
    steps = noise.draw((2, *shape), torch.Generator().manual_seed(0))
    return noise.add(images.unsqueeze(1), steps.unsqueeze(0), torch.float32).flatten(0, 1)


def _warn(step: str, error: Exception) -> str:
    reason = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
    warnings.warn(f"the network is sampled without the step {step!r}: {reason}", stacklevel=4)
    return reason


@torch.inference_mode()
def _example(noise: Noise, shape: tuple[int, ...], units: int, device: torch.device) -> tuple[Tensor, Tensor]:
    z = noise.draw((units, BLOCK, *shape), torch.Generator(drawing_device(device)).manual_seed(0)).to(device)
    dtype = torch.float32 if z.is_floating_point() else torch.uint8
    return torch.zeros((units, *shape), dtype=dtype, device=device), z


@torch.inference_mode()
def _compiled(run: Any, x: Tensor, noise: Tensor) -> Run:
    # The compiler keeps at most eight programs for one piece of code; a copy gives every network its own.
    # It makes weights constants, which layers of mkldnn and products of integers want, only where the tracer
    # knows of it too: as an option of this one program, freezing would do nothing.
    from torch._inductor import config

    function = run.__func__
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    compiled: Run = torch.compile(MethodType(own, run.__self__), fullgraph=True, dynamic=False)
    with config.patch(freezing=True):
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
