"""`python -m benchmarks.training`: what a training step costs, against loops as published and lever by lever.

A Gaussian step and adversarial steps (attack, forward, backward) on random pixels, against float32 in NCHW.
Arms take turns within a round, and ratios are taken round by round. Levers that `train` does not use show
what they would add: an attack on weights that want no gradient, on a folded copy in 16 bits, and on one that
is compiled. They leave out what making the copy costs each step. Writes training.json (every value), .csv
and .md into `--out`.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import profile

from benchmarks.measure import Row, frame, interleave, ratio, synchronize
from benchmarks.report import table
from dualrs_lab.attacks import PGD, pgd
from dualrs_lab.files import replace_json, replace_text
from dualrs_lab.models import make_model
from dualrs_lab.runtime import describe, make_generator, pick_device, pick_dtype
from dualrs_lab.smoothing import evaluation_copy
from dualrs_lab.training import Adversarial, Gaussian, Objective

__all__ = ["main"]

PART, EPS, SIGMA, BOOK, TRAINED = "training", 8 / 255, 0.5, "as published", "as train does"


@dataclass(frozen=True)
class Batch:
    """Random images x (B, 3, 32, 32) in [0, 1] with labels, and the network that learns them."""

    model: nn.Module
    x: Tensor
    y: Tensor

    def step(self, objective: Objective, dtype: torch.dtype) -> None:
        """Loss and gradients as `train` takes them, autocast to `dtype`; the optimiser's step is left out."""
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        low = dtype != torch.float32
        with torch.autocast(self.x.device.type, dtype if low else torch.bfloat16, enabled=low):
            generator = make_generator(0, "step", device=self.x.device)
            loss = objective(self.model, self.x, self.y, generator)
        loss.backward()  # type: ignore[no-untyped-call]

    def published(self, steps: int) -> None:
        """The loop of Madry et al. and its descendants; with no attack steps, that of Cohen et al."""
        model, x, y = self.model, self.x, self.y
        point = self._attacked(steps) if steps else x + SIGMA * torch.randn_like(x)
        model.train()
        model.zero_grad()
        F.cross_entropy(model(point), y).backward()  # type: ignore[no-untyped-call]

    def _attacked(self, steps: int) -> Tensor:
        self.model.eval()
        point = self.x + torch.empty_like(self.x).uniform_(-EPS, EPS)
        for _ in range(steps):
            point.requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(self.model(point), self.y), [point])
            moved = point.detach() + 1.25 * EPS / steps * slope.sign()
            point = torch.min(torch.max(moved, self.x - EPS), self.x + EPS).clamp(0, 1)
        return point


@dataclass(frozen=True)
class AttackedElsewhere:
    """Adversarial training whose attack asks another network than the one that learns."""

    asked: nn.Module
    attack: PGD
    float32: bool  # without autocast, as the other network casts by itself

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        low = torch.is_autocast_enabled(x.device.type) and not self.float32
        with torch.autocast(x.device.type, enabled=low):
            point = pgd(self.asked, x, y, EPS, attack=self.attack, generator=generator)
        return F.cross_entropy(model(point).float(), y)


class Casting(nn.Module):
    """A network in 16 bits for inputs in float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network.eval(), dtype
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x.to(self.dtype))
        return logits


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure, print and write."""
    args = _options(argv)
    device = pick_device(args.device)
    rows = []
    for steps in (0, *args.steps):
        arms = _arms(args, device, steps)
        seconds = interleave({name: _waited(arm, device) for name, arm in arms.items()}, args.rounds)
        for name, taken in seconds.items():
            kind = f"PGD-{steps}" if steps else f"Gaussian, σ = {SIGMA}"
            rows.append(Row(PART, f"{kind}: {name}", "time per batch", "s", taken))
            rows.append(Row(PART, f"{kind}: {name}", "as published / this", "", ratio(seconds[BOOK], taken)))
            if name == BOOK or name.endswith(TRAINED):
                shares = [_in_convolutions(arms[name], device) for _ in range(args.rounds)]
                rows.append(Row(PART, f"{kind}: {name}", "in convolutions", "%", shares))
    print(table(rows, PART))
    record = {"model": args.model, "batch": args.batch, "rounds": args.rounds, "steps": args.steps}
    record |= {"provenance": describe(device), "rows": [asdict(row) for row in rows]}
    replace_json(args.out / "training.json", record)
    replace_text(args.out / "training.csv", frame(rows).to_csv(index=False, lineterminator="\n"))
    replace_text(args.out / "training.md", table(rows, PART) + "\n")
    return rows


def _arms(args: argparse.Namespace, device: torch.device, steps: int) -> dict[str, Callable[[int], object]]:
    shape = {"classes": 10, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
    model = make_model(args.model, **shape, seed=0).to(device)  # type: ignore[arg-type]
    generator = make_generator(args.seed, "batch", device=device)
    x = torch.rand((args.batch, 3, 32, 32), generator=generator, device=device)
    y = torch.randint(10, (args.batch,), generator=generator, device=device)
    book = Batch(model, x, y)
    last = x.contiguous(memory_format=torch.channels_last)
    ours = Batch(copy.deepcopy(model).to(memory_format=torch.channels_last), last, y)
    attack = PGD(steps=max(1, steps), step=1.25 * EPS / max(1, steps), best=False, blind=1.0)
    objective = Adversarial(attack=attack) if steps else Gaussian(sigma=SIGMA)
    dtype = pick_dtype(device)
    arms: dict[str, Callable[[int], object]] = {
        BOOK: lambda _: book.published(steps),
        "ours, float32 in NCHW": lambda _: book.step(objective, torch.float32),
        "+ channels last": lambda _: ours.step(objective, torch.float32),
        f"+ {str(dtype).removeprefix('torch.')}, {TRAINED}": lambda _: ours.step(objective, dtype),
    }
    for name, other in _levers(args, ours.model, attack, device, dtype).items() if steps else ():
        arms[f"attack on {name}"] = lambda _, other=other: ours.step(other, dtype)  # type: ignore[misc]
    return arms


def _levers(
    args: argparse.Namespace, model: nn.Module, attack: PGD, device: torch.device, dtype: torch.dtype
) -> dict[str, AttackedElsewhere]:
    fixed = copy.deepcopy(model).eval().requires_grad_(False)
    folded = Casting(evaluation_copy(model, (3, 32, 32), device=device, dtype=dtype), dtype)
    found = {
        "weights without gradients": AttackedElsewhere(fixed, attack, float32=False),
        "a folded copy": AttackedElsewhere(folded, attack, float32=True),
    }
    if args.compile:
        program = Casting(torch.compile(copy.deepcopy(folded.network), dynamic=False), dtype)
        found["a folded copy, compiled"] = AttackedElsewhere(program, attack, float32=True)
    return found


def _in_convolutions(arm: Callable[[int], object], device: torch.device) -> float:
    # in percent of the time of all operations of torch
    clock = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    with profile() as seen:
        arm(0)
        synchronize(device)
    taken = {event.key: float(getattr(event, clock)) for event in seen.key_averages()}
    taken = {name: time for name, time in taken.items() if name.startswith("aten::")}  # kernels lie within
    return 100 * sum(time for name, time in taken.items() if "convolution" in name) / sum(taken.values())


def _waited(arm: Callable[[int], object], device: torch.device) -> Callable[[int], None]:
    def run(number: int) -> None:
        arm(number)
        synchronize(device)

    return run


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--model", default="fast_narrow", help="an untrained network (%(default)s)")
    add("--batch", type=int, default=128)
    add("--rounds", type=int, default=9)
    add("--steps", type=lambda text: [int(s) for s in text.split(",")], default=[2, 10], help="of the attack")
    add("--no-compile", dest="compile", action="store_false", help="leave the compiled attack out")
    add("--seed", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda:0, …")
    add("--out", type=Path, default=Path("runs/training"), help="folder for the results (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
