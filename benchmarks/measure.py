"""Measuring: rounds in which every arm has its turn, and what the machine could do at best."""

import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

__all__ = [
    "Row",
    "copy_bandwidth",
    "frame",
    "free_memory",
    "interleave",
    "matmul_peak",
    "ratio",
    "synchronize",
    "traffic",
]


@dataclass(frozen=True)
class Row:
    """One quantity of one arm, with a value per round; what was counted once has one value."""

    part: str
    arm: str
    quantity: str
    unit: str
    values: Sequence[float]
    setting: str = ""  # what varies within an arm: "n = 1000", "r = 0.5"
    at: float | None = None  # the same as a number


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """A tidy table: medians and quartiles of each row."""
    records = []
    for row in rows:
        low, median, high = np.quantile(row.values, [0.25, 0.5, 0.75]).tolist()
        record = {name: getattr(row, name) for name in ("part", "arm", "setting", "at", "quantity", "unit")}
        records.append(record | {"median": median, "q1": low, "q3": high, "values": len(row.values)})
    return pd.DataFrame(records)


def interleave(
    arms: Mapping[str, Callable[[int], object]], rounds: int, *, warm: bool = True
) -> dict[str, list[float]]:
    """Seconds of every arm in every round; an arm gets the number of the round and returns when it is done.

    Arms alternate, and each round starts with a different arm from the one before, so a machine that slows
    down or speeds up does so for all of them. With `warm`, one call of each comes first and is not counted.
    """
    names, seconds = list(arms), {name: list[float]() for name in arms}
    for name in names if warm else []:
        arms[name](0)
    for number in range(rounds):
        turn = number % len(names)
        gc.collect()
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            arms[name](number)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """Floating-point operations per second of large square matrix products, at best."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as cuDNN's convolutions use it by default
    try:
        return 2 * side**3 / min(_repeat(lambda: a @ b, device, seconds))
    finally:
        torch.set_float32_matmul_precision(before)


def copy_bandwidth(device: torch.device, seconds: float = 1.0) -> float:
    """Bytes per second, read and written, of copies that are larger than the caches, at best."""
    size = 2**30 if device.type == "cuda" else 2**28
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / min(_repeat(lambda: target.copy_(source), device, seconds))


def _repeat(work: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    # seconds of one call, in about ten samples of several calls each; each sample waits for the device once
    def once(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            work()
        synchronize(device)
        return (time.perf_counter() - start) / calls

    once(2)
    calls = max(1, round(seconds / 10 / once(1)))
    return [once(calls) for _ in range(max(3, min(10, round(seconds / (calls * once(1))))))]


def traffic(network: nn.Module, shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes that one input moves if every convolution and linear layer reads its input and writes its output.

    The least that a layer-by-layer program moves through memory: everything between the layers counts as
    fused, weights as shared by a large batch.
    """
    moved = 0

    def add(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal moved
        moved += inputs[0].numel() + output.numel()

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        with torch.no_grad():
            network(torch.zeros((1, *shape), device=next(network.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return moved * itemsize


def free_memory() -> int:
    """Bytes of memory that a new program could take now."""
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []:
        if line.startswith("MemAvailable"):
            return 1024 * int(line.split()[1])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Round by round, so that both were measured within the same minute."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
