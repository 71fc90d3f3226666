"""The int8 step of the fast path: convolutions and matrix products of a frozen network in 8-bit integers.

By torchao's quantisation of exported programs for x86 CPUs. Activations become one of 256 numbers, within the
range that they had on noisy images, and so do the weights of each channel. What lies between the products
stays in float32. The copy is another base classifier than the one in bfloat16, as that is than the original;
NaN, which would be told of a network in floats, becomes some integer.
"""

import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch
from torch import Tensor, nn

__all__ = ["int8_reason", "quantised", "slower"]


_GAIN = 1.05  # how many times faster int8 has to be to be worth it


def int8_reason(device: torch.device) -> str:
    """Why the step cannot be taken on `device` here; "" where it can."""
    if device.type != "cpu":
        return f"int8 is for CPUs, not for {device.type}"
    if not (torch.cpu._is_vnni_supported() or torch.cpu._is_amx_tile_supported()):
        return "this CPU multiplies no int8: it has neither VNNI nor AMX"
    if importlib.util.find_spec("torchao") is None:
        return "torchao is not installed; pip install 'dualrs-lab[int8]'"
    return ""


def quantised(network: nn.Module, shown: Tensor) -> nn.Module:
    """A copy of a float32 `network` for B inputs at a time, with the ranges that `shown` (B, ...) gives it.

    It computes in float32 what int8 would give, until it is compiled with its weights as constants. Raises
    what torch raises for a network that cannot be exported.
    """
    with quiet(), torch.no_grad():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
            X86InductorQuantizer,
            get_default_x86_inductor_quantization_config,
        )

        quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
        watched = prepare_pt2e(torch.export.export(network, (shown,)).module(), quantizer)
        watched(shown)
        converted: nn.Module = convert_pt2e(watched)
    for part in converted.modules():  # an exported program has one mode, and knows no eval()
        part.training = False
    return converted


def slower(int8: Callable[[], object], other: Callable[[], object], *, seconds: float = 1.0) -> str:
    """Why `int8` is not worth it over `other`, both called in turn for about `seconds`; "" if it is."""
    taken: dict[Callable[[], object], list[float]] = {int8: [], other: []}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(taken[other]) < 5:
        for run in (int8, other):
            start = time.perf_counter()
            run()
            taken[run].append(time.perf_counter() - start)
    new, old = (1e3 * median(taken[run]) for run in (int8, other))
    return "" if old > _GAIN * new else f"a pass takes {new:.3g} ms in int8, and {old:.3g} ms without"


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the compiler and torchao warn of in their own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
