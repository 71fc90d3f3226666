"""Training that keeps a GPU busy: data on the device, a step captured as one graph.

One step crops and mirrors a batch, takes a loss of it, and ends in the running mean of the weights. What
changes from step to step or from network to network (rate, noise, strength, budgets, the batch's numbers)
lies in small tensors, so that one captured graph trains all networks of a stage, one after the other.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from dualrs_lab.data import Images
from dualrs_lab.models import Classifier
from dualrs_lab.runtime import make_generator, pick_dtype
from dualrs_lab.training import Consistency

__all__ = ["Consistent", "Recipe", "Trainer", "crop", "rate", "rounded", "stopwatch"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train; nothing here depends on the noise."""

    batch: int = 512  # images a step
    lr: float = 0.2  # the peak; SGD with Nesterov momentum
    momentum: float = 0.9
    weight_decay: float = 5e-4  # on kernels and matrices
    warmup: float = 0.05  # share of the steps on which the rate rises; then it falls to 0 as a cosine
    ramp: float = 0.1  # share of the steps on which what makes training hard rises to its full strength
    clip: float = 5.0  # norm of a gradient: far above the usual, a guard against leaps
    average: float = 0.04  # share of the steps that the running mean of the weights remembers
    crop: int = 4  # pixels of shift to each side, with reflected borders
    flip: bool = True
    statistics: int = 40  # batches on which BatchNorm is measured anew for the mean weights


def stopwatch(device: torch.device) -> Callable[[], float]:
    """Seconds that pass; on a CPU those of this process, since what else runs there should take none."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def rate(done: float, recipe: Recipe) -> float:
    """The learning rate after a share `done` of the steps."""
    if done < recipe.warmup:
        return recipe.lr * done / recipe.warmup
    return recipe.lr / 2 * (1 + math.cos(math.pi * (done - recipe.warmup) / (1 - recipe.warmup)))


def crop(pixels: Tensor, index: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Images `index` (B,) of pixels (N, H, W, C), shifted and mirrored at random: float (B, C, H, W)."""
    count, (_, height, width, _), device = len(index), pixels.shape, pixels.device
    shift = torch.randint(-recipe.crop, recipe.crop + 1, (2, count, 1), generator=generator, device=device)
    rows = _reflected(torch.arange(height, device=device) + shift[0], height)
    columns = _reflected(torch.arange(width, device=device) + shift[1], width)
    if recipe.flip:
        mirror = torch.rand((count, 1), generator=generator, device=device) < 0.5
        columns = torch.where(mirror, columns.flip(1), columns)
    x = pixels[index.view(-1, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1)]
    return x.permute(0, 3, 1, 2).float() / 255


def _reflected(place: Tensor, size: int) -> Tensor:
    place = place.abs()
    return torch.where(place < size, place, 2 * (size - 1) - place)


def rounded(model: Classifier) -> Classifier:
    """A copy with weights that half precision holds: what is judged is what is kept."""
    return copy.deepcopy(model).half().float()


class Trainer:
    """Trains copies of `model`, on the device where it lives, with the images that lie there as well.

    A kind of training says which `KNOBS` it has, what its `loss` is, and which images it has `seen`.
    """

    KNOBS: tuple[str, ...] = ()

    def __init__(self, model: Classifier, images: Images, recipe: Recipe, say: Callable[[str], None]) -> None:
        self.recipe, self.say = recipe, say
        self.device = next(model.parameters()).device
        self.model = copy.deepcopy(model).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.pixels = cast(Tensor, images.pixels).to(self.device).permute(0, 2, 3, 1).contiguous()
        self.labels = images.labels.to(self.device)
        self.generator = torch.Generator(self.device)
        self.weights = list(self.model.parameters())
        self.decay = [recipe.weight_decay * (weight.ndim > 1) for weight in self.weights]
        self.velocity = [torch.zeros_like(weight) for weight in self.weights]
        self.mean = [weight.detach().clone() for weight in self.weights]
        self.index = torch.zeros(recipe.batch, dtype=torch.int64, device=self.device)
        number = {"dtype": torch.float32, "device": self.device}
        self.lr, self.ramp, self.share, self.total = torch.zeros((4,), **number).unbind()  # type: ignore[call-overload]
        self.knobs = dict(zip(self.KNOBS, torch.zeros((len(self.KNOBS),), **number).unbind(), strict=True))  # type: ignore[call-overload]
        self.bfloat16 = pick_dtype(self.device) == torch.bfloat16
        self.clock = stopwatch(self.device)
        self._go: Callable[[], Any] = self.step

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """What images (B, C, H, W) in [0, 1] with labels (B,) cost, at the present knobs and ramp."""
        raise NotImplementedError

    def seen(self, x: Tensor, y: Tensor) -> Tensor:
        """What of such images the network is trained on: BatchNorm is measured on it in the end."""
        return x

    def quick(self) -> torch.autocast:
        """The precision of training."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16, cache_enabled=False)

    def step(self) -> None:
        """One step on the images at `index`, at the present rate, knobs and ramp."""
        x = crop(self.pixels, self.index, self.recipe, self.generator)
        with self.quick():
            loss = self.loss(x, self.labels[self.index])
        gradients = torch.autograd.grad(loss, self.weights)
        with torch.no_grad():
            self.total.add_(loss)
            self.update(gradients)

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor]) -> None:
        """Clip, decay, Nesterov step, running mean: w -= lr (g + m v), with v = m v + g."""
        each: Any = torch  # foreach functions are untyped
        size = torch.linalg.vector_norm(torch.stack(each._foreach_norm(gradients)))
        kept = each._foreach_mul(gradients, (self.recipe.clip / (size + 1e-6)).clamp(max=1.0))
        each._foreach_add_(kept, each._foreach_mul(self.weights, self.decay))
        each._foreach_mul_(self.velocity, self.recipe.momentum)
        each._foreach_add_(self.velocity, kept)
        each._foreach_add_(kept, self.velocity, alpha=self.recipe.momentum)
        each._foreach_sub_(self.weights, each._foreach_mul(kept, self.lr))
        ahead = each._foreach_sub(self.weights, self.mean)
        each._foreach_add_(self.mean, each._foreach_mul(ahead, self.share))

    def start(self, model: Classifier, *, seed: int, **knobs: float) -> None:
        """Begin anew from the weights of `model`, with these knobs."""
        with torch.no_grad():
            for mine, given in zip(self._tensors(self.model), self._tensors(model), strict=True):
                mine.copy_(given)
            for velocity, mean, weight in zip(self.velocity, self.mean, self.weights, strict=True):
                velocity.zero_()
                mean.copy_(weight)
        for name in self.KNOBS:
            self.knobs[name].fill_(knobs[name])
        self.total.zero_()
        self.generator.manual_seed(seed)

    def capture(self) -> bool:
        """Make the step one CUDA graph; False, and why is said, where that fails: steps stay as they were."""
        if self.device.type != "cuda":
            self.say("no CUDA device: the training step is not captured")
            return False
        try:
            replay = self._captured()
            self._go = replay if self._draws_anew(replay) else self.step
            return self._go is replay
        except Exception as error:  # drivers raise what they like
            self.generator = torch.Generator(self.device)  # the old one may believe that it is in a graph
            torch.cuda.synchronize(self.device)
            self.say(f"the training step runs without a CUDA graph: {type(error).__name__}: {error}")
            return False

    def _captured(self) -> Callable[[], Any]:
        side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph):
            self.step()
        return graph.replay

    def _draws_anew(self, replay: Callable[[], Any]) -> bool:
        # at rate 0 two steps on the same images differ by what is drawn alone
        losses = []
        for knob in (self.ramp, *self.knobs.values()):
            knob.fill_(1.0)
        for _ in range(2):
            self.total.zero_()
            replay()
            losses.append(self.total.item())
        if anew := math.isfinite(losses[0]) and losses[0] != losses[1]:
            return anew
        self.say(f"the training step runs without its CUDA graph: it repeats itself, losses {losses}")
        self.generator = torch.Generator(self.device)
        return False

    def pace(self, steps: int) -> float:
        """Seconds of a step by its `clock`, measured on so many; training must `start` anew after it."""
        for _ in range(-(-steps // 3)):
            self._go()
        self.total.item()
        begin = self.clock()
        for _ in range(steps):
            self._go()
        self.total.item()
        return (self.clock() - begin) / steps

    def train(self, *, steps: int, seed: int) -> list[dict[str, float]]:
        """So many steps over the whole schedule; returns a row with the mean loss now and then.

        Raises FloatingPointError soon after the loss is not finite.
        """
        recipe, history = self.recipe, list[dict[str, float]]()
        often = max(1, steps // 20)
        batches = self._batches(seed)
        begin = self.clock()
        for step in range(steps):
            self.index.copy_(next(batches))
            self.lr.fill_(rate((step + 1) / steps, recipe))
            self.ramp.fill_(min(1.0, (step + 1) / steps / max(recipe.ramp, 1e-9)))
            self.share.fill_(1 / min(step + 1, max(1.0, recipe.average * steps)))
            self._go()
            if (step + 1) % often == 0 or step + 1 == steps:
                loss = self.total.item() / (step + 1 - (int(history[-1]["step"]) if history else 0))
                self.total.zero_()
                seconds = self.clock() - begin
                history.append({"step": step + 1, "loss": loss, "seconds": round(seconds, 3)})
                if not math.isfinite(loss):
                    raise FloatingPointError(f"Trainer: the loss is {loss} at step {step + 1} of {steps}")
        return history

    def _batches(self, seed: int) -> Any:
        # every image once an epoch, in an order of its own; what is left over begins no batch
        size, epoch = self.recipe.batch, 0
        while True:
            order = torch.randperm(len(self.labels), generator=make_generator(seed, "order", epoch))
            yield from (part for part in order.to(self.device).split(size) if len(part) == size)
            epoch += 1

    def within(
        self, seconds: float, start: Classifier, *, steps: int, pace: int, seed: int, **knobs: float
    ) -> tuple[Classifier, dict[str, Any]]:
        """A network trained from `start` within so many seconds, rounded to half precision, and how.

        At most `steps` steps; the time of one is measured on `pace`. Where the loss is not finite, it is
        trained once more at a quarter of the rate; raises FloatingPointError if that does not help.
        """
        begin, whole = self.clock(), self.recipe
        for lr in (whole.lr, whole.lr / 4):
            self.recipe = replace(whole, lr=lr)
            step = self.pace(pace)
            self.start(start, seed=seed, **knobs)
            left = seconds - (self.clock() - begin)
            count = max(1, min(steps, int(0.97 * left / step)))
            try:
                history = self.train(steps=count, seed=seed)
            except FloatingPointError as error:
                self.say(f"{error}; once more at a quarter of the rate")
                continue
            finally:
                recipe, self.recipe = self.recipe, whole
            self.say(f"loss {' '.join(format(row['loss'], '.3f') for row in history[::4])}")
            return rounded(self.finish()), {
                "recipe": asdict(recipe),
                "steps": count,
                "epochs": count * recipe.batch / len(self.labels),
                "history": history,
                "seconds": self.clock() - begin,
            }
        raise FloatingPointError("the loss is not finite at a quarter of the rate either")

    @torch.no_grad()
    def finish(self) -> Classifier:
        """The network with the mean weights, BatchNorm measured on what it was trained on, without shifts."""
        model = copy.deepcopy(self.model)
        for weight, mean in zip(model.parameters(), self.mean, strict=True):
            weight.copy_(mean)
        self._measure(model)
        return model.eval()

    def _measure(self, model: Classifier) -> None:
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
        for number in range(min(self.recipe.statistics, len(self.labels) // self.recipe.batch)):
            every = max(1, len(self.labels) // self.recipe.batch)
            some = slice(number % every, None, every)
            x = self.pixels[some][: self.recipe.batch].permute(0, 3, 1, 2).float() / 255
            with self.quick():
                model.train()(self.seen(x, self.labels[some][: self.recipe.batch]))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    @staticmethod
    def _tensors(model: torch.nn.Module) -> list[Tensor]:
        return [*model.parameters(), *model.buffers()]


class Consistent(Trainer):
    """Under Gaussian noise of `sigma`, by consistency over two draws (Jeong & Shin 2020)."""

    KNOBS = ("sigma", "strength")

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self.consistency(self.model, x, y)

    def consistency(self, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
        """That of the logits of `model`, at the present knobs and ramp."""
        strength = self.knobs["strength"] * self.ramp
        objective = Consistency(sigma=cast(float, self.knobs["sigma"]), strength=cast(float, strength))
        return objective(cast(nn.Module, model), x, y, self.generator)

    def seen(self, x: Tensor, y: Tensor) -> Tensor:
        return x + self.knobs["sigma"] * torch.randn(x.shape, generator=self.generator, device=self.device)
