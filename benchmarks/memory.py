"""Peak memory against n, each measured in a process of its own, `python -m benchmarks.memory ARM N …`.

The network is tiny, so memory is that of the sampling, and a hundred thousand draws take seconds.
"""

import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from benchmarks.baselines import art_reason
from benchmarks.measure import Row, free_memory
from benchmarks.subjects import Subject, noise_pixels
from dualrs_lab.smoothing import FastPath

__all__ = ["memory", "most_taken"]

ROOT = Path(__file__).resolve().parent.parent
ARMS = ("ours", "textbook", "ART")


def memory(device: torch.device, *, draws: Sequence[int], pixels: int) -> Iterator[Row | str]:
    """Peak megabytes of certifying with each n of `draws`, and whether they grow."""
    for arm in ARMS:
        if arm == "ART" and (reason := art_reason(max(draws), (3, pixels, pixels), free_memory())):
            yield f"ART is left out: {reason}."
            continue
        peaks = [_peak(arm, n, device, pixels) / 1e6 for n in draws]
        for n, peak in zip(draws, peaks, strict=True):
            yield Row("memory", arm, "peak memory", "MB", [peak], f"n = {n:g}", n)
        grown = peaks[-1] - peaks[0]
        verdict = "independent of n" if grown < 0.05 * peaks[0] else "grows with n"
        yield f"memory, {arm}: {verdict} ({grown:+.0f} MB from n = {draws[0]:,} to {draws[-1]:,})."


def _peak(arm: str, n: int, device: torch.device, pixels: int) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", arm, str(n), str(device), str(pixels)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"memory: {arm} at n = {n} failed with {done.returncode}: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def _probe(arm: str, n: int, device: torch.device, pixels: int) -> int:
    """Certify four images (the baselines one), and return the most bytes that were in use."""
    body = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    x = noise_pixels((4, 3, pixels, pixels), seed=0).to(device)
    subject = Subject(
        name="tiny", network=body.to(device).eval(), x=x, labels=[-1] * 4, classes=10, sigma=0.5
    )  # fmt: skip
    if arm == "ours":
        subject.certify(subject.voter(FastPath(compile=False), torch.float32), n)
    elif arm == "textbook":
        subject.textbook(n).certify(subject.image())
    else:
        subject.art().certify(subject.image(), n=n, batch=subject.batch)
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else most_taken()


def most_taken() -> int:
    """The most bytes of memory that this process has had."""
    # Not getrusage on Linux: for a new process it starts from the parent's peak.
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return taken if sys.platform == "darwin" else 1024 * taken


if __name__ == "__main__":
    arm, n, device, pixels = sys.argv[1:]
    print(_probe(arm, int(n), torch.device(device), int(pixels)))
