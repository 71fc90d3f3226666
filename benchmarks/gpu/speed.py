"""`python -m benchmarks.gpu.speed --data folder:PATH`: what a draw and a certified image cost on a GPU.

Per draw from the textbook to the whole fast path, for the fast network and for ResNet-110, as a share of the
matrix product and of the copy measured in the same run; certificates at n = 100,000 in full and at radii;
where the time of a draw goes; ways of compiling. Everything is compared in interleaved rounds. Writes
speed.csv (medians and quartiles), speed.json (every value) and speed.md (tables), whole after every part.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.checks import steps
from benchmarks.gpu.stage import Clock, parser, parts, stage
from benchmarks.measure import Row, frame, interleave, synchronize
from benchmarks.per_draw import per_draw, prepare, split
from benchmarks.per_image import per_image
from benchmarks.report import table
from benchmarks.subjects import SHIPPED, Subject, digits, labelled_images, shipped, untrained
from dualrs_lab.files import replace_json, replace_text
from dualrs_lab.runtime import pick_device, pick_dtype
from dualrs_lab.smoothing import FastPath, evaluation_copy, images_together

__all__ = ["FULL", "TOY", "Size", "main"]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    pixels: int  # a side, of images that are random
    draws: int  # an image, where a draw is timed
    rounds: int
    deep: str  # the deep network, untrained: what a draw costs does not depend on its weights
    deep_draws: int
    deep_rounds: int
    n: int  # of a certificate
    images: int  # that are certified
    full: int  # of them by the textbook with all n draws
    batch: int | None  # noisy images a pass of the engine
    large: int  # noisy images a pass of the second textbook
    compiled: bool
    peak: float  # seconds for each of the machine's peaks
    modes: int  # noisy images a pass where ways of compiling are compared; 0 leaves them out
    seconds: tuple[float, float, float, float, float]  # that each part needs, at most


FULL = Size(
    pixels=32, draws=2000, rounds=5, deep="resnet110", deep_draws=300, deep_rounds=3, n=100_000,
    images=208, full=1, batch=None, large=2000, compiled=True, peak=1.0, modes=10_000,
    seconds=(15, 25, 20, 8, 40),
)  # fmt: skip
TOY = Size(
    pixels=16, draws=100, rounds=1, deep="digits_cnn", deep_draws=100, deep_rounds=1, n=500, images=4, full=0,
    batch=200, large=200, compiled=False, peak=0.01, modes=0, seconds=(2, 2, 2, 2, 2),
)  # fmt: skip


@dataclass
class Told:
    """What was found so far, printed as it comes and kept in files that are whole after every part."""

    out: Path
    rows: list[Row] = field(default_factory=list)
    text: list[str] = field(default_factory=list)  # remarks and tables

    def add(self, found: Iterable[Row | str]) -> None:
        rows: list[Row] = []
        try:
            for item in found:
                if isinstance(item, Row):
                    rows.append(item)
                else:
                    self._say(item)
        finally:
            self.rows += rows
            for part in dict.fromkeys(row.part for row in rows):
                self._say(table(rows, part))
            self._write()

    def _say(self, text: str) -> None:
        self.text.append(text)
        print(f"\n{text}\n", flush=True)

    def _write(self) -> None:
        replace_json(self.out / "speed.json", {"text": self.text, "rows": [asdict(row) for row in self.rows]})
        replace_text(self.out / "speed.md", "\n\n".join(self.text) + "\n")
        if self.rows:
            replace_text(self.out / "speed.csv", frame(self.rows).to_csv(index=False, lineterminator="\n"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; its exit code."""
    return stage("speed", _work, parser(__doc__ or "", minutes=2.0).parse_args(argv))


def _work(arguments: argparse.Namespace, clock: Clock, out: Path) -> None:
    device, size, told = pick_device(arguments.device), TOY if arguments.toy else FULL, Told(out)
    warnings.simplefilter("always")
    fast = _timed(arguments, device, size)
    works: dict[str, Callable[[], None]] = {
        "a draw, fast network": lambda: told.add(
            _draws(
                fast, size, "per_draw", size.draws, size.rounds, compiled=size.compiled and clock.enough(60)
            )
        ),
        "a draw, deep network": lambda: told.add(
            _draws(
                _deep(device, size),
                size,
                f"per_draw, {size.deep}",
                size.deep_draws,
                size.deep_rounds,
                compiled=False,
            )
        ),
        "certificates": lambda: told.add(_certificates(arguments, device, size)),
        "where a draw goes": lambda: told.add(_split(fast, size)),
        "ways of compiling": lambda: told.add(_modes(fast, size, clock)),
    }
    if not size.modes:
        del works["ways of compiling"]
    parts(
        clock, {name: (need, work) for (name, work), need in zip(works.items(), size.seconds, strict=False)}
    )


def _timed(arguments: argparse.Namespace, device: torch.device, size: Size) -> Subject:
    # as many images as fill a pass
    images = images_together((3, 32, 32), device, size.batch)
    settings: dict[str, Any] = {"images": images, "sigma": 0.5, "seed": 0, "engine_batch": size.batch}
    if arguments.data:
        return labelled_images(arguments.data, SHIPPED, device, **settings).repeated(images)
    return shipped(SHIPPED, device, **settings).of_size(size.pixels, images)


def _deep(device: torch.device, size: Size) -> Subject:
    images = images_together((3, 32, 32), device, size.batch)
    subject = untrained(size.deep, device, images=images, sigma=0.5, seed=0, engine_batch=size.batch)
    return subject.of_size(size.pixels, images)


def _draws(
    subject: Subject, size: Size, part: str, draws: int, rounds: int, *, compiled: bool
) -> Iterator[Row | str]:
    wanted = steps(subject.device, pick_dtype(subject.device), compiled=compiled)
    voters, found = prepare(subject, wanted, "to time draws")
    yield from found
    yield from per_draw(
        subject,
        voters,
        n=draws,
        rounds=rounds,
        part=part,
        batches=[size.large],
        art=False,
        seconds=size.peak,
    )


def _certificates(arguments: argparse.Namespace, device: torch.device, size: Size) -> Iterator[Row | str]:
    settings: dict[str, Any] = {"images": size.images, "seed": 0, "engine_batch": size.batch}
    if arguments.data:
        subject = labelled_images(arguments.data, SHIPPED, device, sigma=0.5, **settings)
    else:
        subject = digits(device, epochs=1 if arguments.toy else 12, sigma=0.25, **settings)
    graph = device.type == "cuda"
    voter = subject.voter(FastPath(compile=False, cuda_graph=graph), pick_dtype(device))
    radii = [subject.sigma * share for share in (0.5, 1.0, 1.5, 2.0)]
    yield f"images are certified with {subject.name}, copy {voter.steps}"
    yield from per_image(
        subject,
        voter,
        n=size.n,
        draws=min(size.n, 2000),
        rounds=2,
        compare=size.images,
        full=size.full,
        radii=radii,
    )


def _split(subject: Subject, size: Size) -> Iterator[Row | str]:
    graph = subject.device.type == "cuda"
    voter = subject.voter(FastPath(compile=False, cuda_graph=graph), pick_dtype(subject.device))
    yield from split(subject, voter, draws=size.draws, rounds=size.rounds)


# Ways of compiling.

MODES: dict[str, dict[str, bool] | None] = {
    "not compiled": None,
    "default": {},
    "freezing, as the fast path": {"freezing": True},
    "max-autotune-no-cudagraphs": {"max_autotune": True},
}
Forward = Callable[[Tensor], Tensor]


@torch.inference_mode()
def _modes(subject: Subject, size: Size, clock: Clock) -> Iterator[Row | str]:
    """Time per draw of the network alone, each way of compiling it launched as is and as one graph."""
    device, dtype = subject.device, pick_dtype(subject.device)
    network = evaluation_copy(subject.network, subject.shape, device=device, dtype=dtype)
    x = torch.rand((size.modes, *subject.shape), device=device).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    for name, options in MODES.items():
        if not clock.enough(20):
            yield f"compiling, {name}: left out for want of time"
            continue
        start = time.perf_counter()
        forward = _way(network, options)
        forward(x)
        synchronize(device)
        yield Row("compiling", name, "preparation", "s", [time.perf_counter() - start])
        arms = (
            {"launched": forward, "as a graph": _graph(forward, x)}
            if device.type == "cuda"
            else {"launched": forward}
        )
        taken = interleave({arm: partial(_repeat, run, x, device) for arm, run in arms.items()}, size.rounds)
        for arm, seconds in taken.items():
            each = [1e6 * s / (_CALLS * len(x)) for s in seconds]
            yield Row("compiling", name, f"time per draw, {arm}", "µs", each)


_CALLS = 10


def _repeat(run: Forward, x: Tensor, device: torch.device, _: int) -> None:
    for _ in range(_CALLS):
        run(x)
    synchronize(device)


def _way(network: nn.Module, options: dict[str, bool] | None) -> Forward:
    if options is None:
        return network
    torch._dynamo.reset()
    compiled: Forward = torch.compile(network, fullgraph=True, dynamic=False, options=dict(options))
    return compiled


def _graph(forward: Forward, x: Tensor) -> Forward:
    for _ in range(3):
        forward(x)
    torch.cuda.synchronize(x.device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = forward(x)

    def replay(_: Tensor) -> Tensor:
        graph.replay()
        return found

    return replay


if __name__ == "__main__":
    sys.exit(main())
