"""`python -m benchmarks.pixel_cost`: what class activation maps cost, alone and within adversarial training.

Compares masks of a batch with a loop over its images, and a training step of PART with one of plain
adversarial training, each pair round by round on the same batch of random pixels. Writes pixel_cost.json
(every value), .csv and .md into `--out`.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.measure import Row, frame, interleave, ratio, synchronize
from benchmarks.report import table
from dualrs_lab.attacks import PGD
from dualrs_lab.files import replace_json, replace_text
from dualrs_lab.models import Classifier, make_model
from dualrs_lab.pixels import Pixels, TopFraction, Uniform, class_maps
from dualrs_lab.runtime import describe, make_generator, pick_device, pick_dtype
from dualrs_lab.training import Adversarial, Mart, Trades

__all__ = ["main"]

PART, EPS = "pixel cost", 8 / 255
LAST = {"fast": "body.layer3", "fast_narrow": "body.layer3", "resnet18": "body.layer4"}


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure, print and write."""
    args = _options(argv)
    device = pick_device(args.device)
    shape = {"classes": 10, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
    model = make_model(args.model, **shape, seed=0)  # type: ignore[arg-type]
    model = model.to(device, memory_format=torch.channels_last)  # as in training
    generator = make_generator(args.seed, "batch", device=device)
    x = torch.rand((args.batch, 3, 32, 32), generator=generator, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(10, (args.batch,), generator=generator, device=device)
    rows = [*_maps(model, x, args), *_steps(model, x, y, args)]
    print(table(rows, PART))
    record = {"model": args.model, "batch": args.batch, "rounds": args.rounds, "steps": args.steps}
    record |= {"provenance": describe(device), "rows": [asdict(row) for row in rows]}
    replace_json(args.out / "pixel_cost.json", record)
    replace_text(args.out / "pixel_cost.csv", frame(rows).to_csv(index=False, lineterminator="\n"))
    replace_text(args.out / "pixel_cost.md", table(rows, PART) + "\n")
    return rows


def _maps(model: Classifier, x: torch.Tensor, args: argparse.Namespace) -> list[Row]:
    """Seconds for the masks of a batch; how many times faster than the loop of the published code."""
    model.eval()
    layer, mask = LAST[args.model], TopFraction(fraction=0.3)

    def one_by_one(number: int) -> None:
        for image in x.split(1):
            mask(class_maps(model, image, layer=layer), (32, 32))

    def autocast(number: int) -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=_fast(x.device)):
            mask(class_maps(model, x), (32, 32))

    loop = "masks, loop as in the published code"  # which offers no other layout or precision
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    images = x.contiguous().split(1)
    arms: dict[str, Callable[[int], object]] = {
        loop: lambda number: [_published(plain, image, layer) for image in images],
        "masks, the same loop, channels last": lambda number: [
            _published(model, image, layer) for image in x.split(1)
        ],
        "masks, ours in a loop": one_by_one,
        "masks, batch with a backward pass": lambda number: mask(class_maps(model, x, layer=layer), (32, 32)),
        "masks, batch in closed form": lambda number: mask(class_maps(model, x), (32, 32)),
        "masks, the same as in training (autocast)": autocast,
    }
    seconds = interleave({name: _waited(arm, x.device) for name, arm in arms.items()}, args.rounds)
    base = seconds[loop]
    rows = []
    for name, taken in seconds.items():
        rows.append(Row(PART, name, "time per batch", "s", taken))
        rows.append(Row(PART, name, "times faster than the loop", "", ratio(base, taken)))
    return rows


def _published(model: Classifier, image: torch.Tensor, layer: str) -> torch.Tensor:
    """As in the public code of PART: a hook, a whole backward pass, Pillow and a colour map."""
    held: list[torch.Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, output: held.append(output))
    logits = model(image)
    held[0].retain_grad()
    logits[0, logits[0].argmax()].backward()
    handle.remove()
    assert held[0].grad is not None
    weights = held[0].grad.mean((2, 3), keepdim=True)
    heat = F.relu((weights * held[0]).sum(1))[0].detach()
    heat = (heat - heat.min()) / (heat.max() - heat.min() + 1e-8)
    wide = Image.fromarray(heat.cpu().numpy()).resize((32, 32), Image.Resampling.BICUBIC)
    colours = (255 * matplotlib.colormaps["jet"](np.asarray(wide) ** 2)[..., :3]).astype(np.uint8)
    values = torch.from_numpy(colours).to(image.device).permute(2, 0, 1).float()
    return (values - values.mean()) / values.std() > 1


def _steps(model: Classifier, x: torch.Tensor, y: torch.Tensor, args: argparse.Namespace) -> list[Row]:
    """Seconds for a training step (attack, forward, backward), and how much more the pixels cost."""
    rows = []
    part = Pixels(mask=TopFraction(fraction=0.3))
    for steps in args.steps:
        attack = PGD(steps=steps, step=1.25 * EPS / steps, best=False, blind=1.0)
        pairs = {
            host: (kind(budget=Uniform(), attack=attack), kind(budget=part, attack=attack))
            for host, kind in {"AT": Adversarial, "TRADES": Trades, "MART": Mart}.items()
        }
        for host, objectives in pairs.items():
            names = [f"{host}, {steps} attack steps", f"{host} with pixels, {steps} attack steps"]
            arms = {
                name: _waited(lambda number, objective=objective: _step(model, x, y, objective), x.device)
                for name, objective in zip(names, objectives, strict=True)
            }
            seconds = interleave(arms, args.rounds)
            rows += [Row(PART, name, "time per batch", "s", taken) for name, taken in seconds.items()]
            more = [100 * (factor - 1) for factor in ratio(seconds[names[1]], seconds[names[0]])]
            rows.append(Row(PART, names[1], "more than without", "%", more))
    return rows


def _step(
    model: Classifier,
    x: torch.Tensor,
    y: torch.Tensor,
    objective: Callable[..., torch.Tensor],
) -> None:
    model.train()
    model.zero_grad(set_to_none=True)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=_fast(x.device)):
        loss = objective(model, x, y, make_generator(0, "step", device=x.device))
    loss.backward()  # type: ignore[no-untyped-call]


def _fast(device: torch.device) -> bool:
    return pick_dtype(device) == torch.bfloat16


def _waited(arm: Callable[[int], object], device: torch.device) -> Callable[[int], None]:
    def run(number: int) -> None:
        arm(number)
        synchronize(device)

    return run


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pixel_cost", description=(__doc__ or "").split("\n\n")[0]
    )
    add = parser.add_argument
    add("--model", default="fast_narrow", choices=list(LAST))
    add("--batch", type=int, default=128)
    add("--rounds", type=int, default=7)
    add("--steps", type=lambda text: [int(s) for s in text.split(",")], default=[10, 2], help="of the attack")
    add("--seed", type=int, default=0)
    add("--device", default="auto", help="auto, cpu, cuda:0, …")
    add("--out", type=Path, default=Path("runs/pixel_cost"), help="folder for the results (%(default)s)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
