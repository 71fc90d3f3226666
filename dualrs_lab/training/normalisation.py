"""What a network keeps that no gradient teaches: statistics of BatchNorm, and means of weights.

Over a batch that several processes share, BatchNorm has mean and variance of all of it, gradients included.
On CUDA that is torch's SyncBatchNorm, which there is not for a CPU; there it is a sum over processes that
gradients pass through.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["RunningMean", "WholeBatchNorm", "put_mean", "statistics_anew", "whole_batch_statistics"]


class _Total(torch.autograd.Function):
    """The sum over all processes; so each of them has a share in what the others lose by it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return _total(slope)


def _total(values: Tensor) -> Tensor:
    total: Tensor = _Total.apply(values)
    return total


class WholeBatchNorm(_BatchNorm):
    """A BatchNorm that in training normalises x (B, C, …) by the batches of all processes together."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x, axes = input.float(), [0, *range(2, input.ndim)]
        shape = [1, -1] + [1] * (input.ndim - 2)
        sums = _total(torch.cat([x.sum(axes), x.new_tensor([x.numel() / x.shape[1]])]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        variance = _total(centred.square().sum(axes)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        scaled = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            scaled = scaled * self.weight.view(shape) + self.bias.view(shape)
        return scaled.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


@contextmanager
def whole_batch_statistics(model: nn.Module) -> Iterator[None]:
    """Within, every BatchNorm of `model` is one over all processes; parameters and buffers stay the same.

    Raises ValueError for a BatchNorm of another kind than torch's, which cannot be told how.
    """
    plain = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    changed: list[tuple[nn.Module, type[nn.Module]]] = []
    for name, part in model.named_modules():
        if isinstance(part, _BatchNorm) and not isinstance(part, nn.SyncBatchNorm | WholeBatchNorm):
            if type(part) not in plain:
                raise ValueError(
                    f"train: {name} is a {type(part).__name__}; in several processes BatchNorm1d, 2d and 3d "
                    "of torch normalise by the whole batch; train it in one process"
                )
            changed.append((part, type(part)))
    try:
        for part, _ in changed:
            part.__class__ = nn.SyncBatchNorm if _on_cuda(part) else WholeBatchNorm
            if type(part) is nn.SyncBatchNorm:
                part.process_group = None  # all of it that a BatchNorm lacks
        yield
    finally:
        for part, kind in changed:
            part.__dict__.pop("process_group", None)
            part.__class__ = kind


def _on_cuda(part: nn.Module) -> bool:
    return any(tensor.is_cuda for tensor in (*part.parameters(), *part.buffers()))


@contextmanager
def statistics_anew(model: nn.Module) -> Iterator[bool]:
    """Training mode, in which each BatchNorm has the plain mean over the batches that it meets within.

    Gives whether there is one that has statistics. Those of before stay until the first batch: attacks in
    evaluation mode need some. What keeps itself in evaluation mode, or meets no batch, keeps its own.
    """
    model.train()
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.training]
    counted = [(norm, count) for norm in norms if (count := norm.num_batches_tracked) is not None]
    before = [(norm.momentum, int(count)) for norm, count in counted]
    for norm, count in counted:
        norm.momentum = None
        count.zero_()
    try:
        yield bool(counted)
    finally:
        for (norm, count), (momentum, known) in zip(counted, before, strict=True):
            norm.momentum = momentum
            if not count:
                count.fill_(known)


class RunningMean:
    """The mean of a network's weights over its last steps, which it remembers for a `share` of all `steps`.

    At first it is the plain mean (Polyak and Juditsky 1992), then an exponential one: in step t it goes
    1 / min(t, share · steps) of the way to the weights, and so forgets half within .69 · share of the
    training. As a share it means the same for any batch and number of epochs; Karras et al. (2022) count
    their half-life in images for that. BatchNorm's statistics are to be measured (Izmailov et al. 2018).
    Raises ValueError where that is the mean of one step.
    """

    # torch's AveragedModel is a network beside the one that callers hold, and waits for the device in each
    # step; its update_bn also resets the BatchNorm of frozen parts, and shows images without noise or attack

    def __init__(self, model: nn.Module, *, share: float, steps: int) -> None:
        self.memory = share * steps
        if not self.memory > 1:
            raise ValueError(
                f"train: the average over a share {share:g} of {steps} steps is that of one step; wanted a "
                "larger share, or more epochs"
            )
        self.weights = [weight.detach().clone() for weight in model.parameters()]

    def add(self, model: nn.Module, step: int) -> None:
        """The weights after step 1, 2, …"""
        weights = [weight.detach() for weight in model.parameters()]
        go = get_ema_multi_avg_fn(1 - 1 / min(step, self.memory))  # type: ignore[no-untyped-call]
        go(self.weights, weights, step)

    @torch.no_grad()
    def put(self, model: nn.Module) -> None:
        """Give `model` the mean for its weights."""
        for weight, mean in zip(model.parameters(), self.weights, strict=True):
            weight.copy_(mean)

    @contextmanager
    def within(self, model: nn.Module) -> Iterator[None]:
        """Within, `model` has the mean for its weights; afterwards all its tensors are what they were."""
        own = [*model.parameters(), *model.buffers()]
        before = [tensor.detach().clone() for tensor in own]
        self.put(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, was in zip(own, before, strict=True):
                    tensor.copy_(was)


@torch.no_grad()
def put_mean(model: nn.Module, networks: Sequence[nn.Module], shares: Sequence[float]) -> None:
    """Give `model` the mean of the weights of `networks`, in these shares: a soup (Wortsman et al. 2022).

    Its buffers stay. Raises ValueError where they have other weights, by name or shape, than `model`.
    """
    want = {name: weight.shape for name, weight in model.named_parameters()}
    for network in networks:
        got = {name: weight.shape for name, weight in network.named_parameters()}
        if odd := [name for name in {**want, **got} if want.get(name) != got.get(name)]:
            raise ValueError(
                f"put_mean: {odd[0]} is {got.get(odd[0], 'missing')}, wanted {want.get(odd[0], 'none')}: "
                "weights are averaged of networks of one architecture"
            )
    for weight, *each in zip(model.parameters(), *(n.parameters() for n in networks), strict=True):
        weight.copy_(sum(share * part.to(weight) for share, part in zip(shares, each, strict=True)))
