"""What a network has to do to be judged: answer each input by itself, always alike, and change nothing.

Certificates and attacks speak of a function of one input. A network in training mode, one that looks at its
whole batch, draws random numbers or changes itself is none, and what is said about it would not be true.
"""

import copy
import functools
import inspect
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["as_is", "check_conduct", "duplicate", "in_evaluation", "want_gradients"]


Network = Callable[[Tensor], Tensor]


Asked = TypeVar("Asked", bound=Network)


# How far logits of one input may lie apart in other company, as a share of their span: other batch sizes are
# summed in another order. TF32, the float32 of GPUs, has the mantissa of float16.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


# How torch and others say that a network is for other inputs, as RuntimeErrors.
_OF_SHAPES = re.compile(r"\b(sizes?|shapes?|channels?|dimensions?|dims?)\b", re.IGNORECASE)


def as_is(model: nn.Module) -> str:
    """What in a network can only be run as it is, "" if nothing: no copy in another precision, no fast path.

    Such parts (a black box, a graph of ONNX, an exported program) say so in an attribute of this name.
    """
    return next((kind for part in model.modules() if (kind := getattr(part, "as_is", ""))), "")


def want_gradients(call: str, model: nn.Module) -> None:
    """ValueError for a network with a part that answers without gradients: its attribute `no_gradients`."""
    for part in model.modules():
        if kind := getattr(part, "no_gradients", ""):
            raise ValueError(
                f"{call}: {kind} answers, and has no gradients, which the attacks follow; certify it "
                "instead, or attack a network in torch that stands for it"
            )


def asked(call: str, model: Network, x: Tensor) -> Tensor:
    """The answers to inputs x (N, ...); ValueError where the network is for others, or its code fails."""
    try:
        return model(x)
    except (RuntimeError, TypeError, LookupError, AttributeError, AssertionError) as error:
        if isinstance(error, RuntimeError) and not _OF_SHAPES.search(str(error)):
            raise
        told = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"[:300]
        raise ValueError(
            f"{call}: the network takes no inputs of {' x '.join(map(str, x.shape[1:]))} ({told}); give it "
            "images of the shape that it was made for, or let it resize them (size)"
        ) from error


def networks_behind(model: Network | None) -> list[nn.Module]:
    """The networks that a callable asks, as far as it shows them: itself, or what it closes over or holds.

    A black box shows what it asks in its attribute `ask`.
    """
    if isinstance(model, nn.Module):
        boxes = (part for part in model.modules() if getattr(part, "no_gradients", ""))
        return [model, *(one for box in boxes for one in networks_behind(getattr(box, "ask", None)))]
    return [network for part in _parts(model) for network in _within(part)]


def _within(part: object) -> list[nn.Module]:
    if isinstance(part, FunctionType | MethodType | functools.partial):
        return [one for one in _parts(part) if isinstance(one, nn.Module)]
    return [part] if isinstance(part, nn.Module) else []


def _parts(model: Any) -> list[Any]:
    if isinstance(model, functools.partial):
        return [model.func, *model.args, *model.keywords.values()]
    if isinstance(model, MethodType):
        return [model.__self__]
    if isinstance(model, FunctionType):
        try:
            seen = inspect.getclosurevars(model)
        except ValueError:  # a variable that is not there yet
            return []
        return [*seen.nonlocals.values(), *seen.globals.values()]
    return [*getattr(model, "__dict__", {}).values()]


def duplicate(model: nn.Module) -> nn.Module:
    """A deep copy in evaluation mode; also of networks whose weights are computed from others by a hook.

    (Old-style `weight_norm` and `spectral_norm`; torch itself copies only weights that nothing computed.)
    """
    held = (part for module in model.modules() for part in vars(module).values())
    computed = {id(part): part.detach().clone() for part in held if isinstance(part, Tensor) and part.grad_fn}
    return copy.deepcopy(model, computed).eval()


def in_evaluation(call: str, model: Asked) -> Asked:
    """`model` itself, or a copy in evaluation mode where some part of it is in training mode.

    The network that came is left as it is. A function around a network cannot be copied: one in training mode
    is a ValueError.
    """
    training = [one for one in networks_behind(model) if any(part.training for part in one.modules())]
    if not training:
        return model
    if within := [one for one in training if one is not model]:
        raise ValueError(
            f"{call}: got a function around a {type(within[0]).__name__} in training mode, whose answers "
            "depend on its batch and change it; call .eval() on the network first"
        )
    return cast(Asked, duplicate(cast(nn.Module, model)))


@torch.no_grad()
def check_conduct(call: str, model: Network, x: Tensor, *, classes: int | None = None) -> None:
    """Refuse a network whose answers to inputs x (N, ...) are not a function of each input alone.

    The same inputs are asked again, in another order, without strangers in the batch, and alone. Logits may
    lie apart by rounding. Raises ValueError that says what was seen where they lie further apart, where the
    network changes its buffers or draws from a global random generator (both are put back), or gives logits
    of another shape than (N, classes); FloatingPointError for NaN.
    """
    strangers = torch.cat([1 - x, torch.zeros_like(x[:1]), torch.ones_like(x[:1])])
    company = torch.cat([x, strangers])
    with _unchanged(call, model):
        first = asked(call, model, company)
        check_logits(call, first, len(company), classes)
        own = first[: len(x)]
        _refuse_nan(call, own)
        ways = {
            "are asked a second time": model(company)[: len(x)],
            "are asked in another order": model(company.flip(0)).flip(0)[: len(x)],
            "are asked without other inputs beside them": model(x),
        }
        alone = model(x[:1])
    for way, logits in ways.items():
        _want_same(call, model, own, logits, way)
    _want_same(call, model, own[:1], alone, "are asked one by one")


def check_logits(call: str, logits: Tensor, count: int, classes: int | None = None) -> None:
    """ValueError where logits are not a tensor (count, classes)."""
    if not isinstance(logits, Tensor):
        raise ValueError(f"{call}: the model gave a {type(logits).__name__}; wanted logits (N, classes)")
    if logits.ndim != 2 or len(logits) != count or classes not in (None, logits.shape[1]):
        raise ValueError(
            f"{call}: the model gave logits {tuple(logits.shape)} for {count} inputs; wanted "
            f"({count}, {'classes' if classes is None else classes})"
        )


def apart(first: Tensor, second: Tensor) -> tuple[float, float]:
    """How far logits lie apart at most, and how much is rounding; NaN equals NaN here, as infinity does."""
    one, two = first.cpu().double(), second.cpu().double()
    same = (one == two) | (one.isnan() & two.isnan())
    far = torch.where(same, 0.0, (one - two).abs()).nan_to_num(nan=torch.inf)
    finite = one[one.isfinite()]
    span, size = (float(finite.max() - finite.min()), float(finite.abs().max())) if len(finite) else (0, 0)
    share = _ROUNDING.get(first.dtype, 1e-1)
    if first.device.type != "cpu":
        share = max(share, _ROUNDING[torch.float16])
    return (float(far.max()) if far.numel() else 0.0), share * span + 1e-5 * size


def _refuse_nan(call: str, logits: Tensor) -> None:
    bad = int(logits.isnan().any(dim=1).sum())
    if bad:
        raise FloatingPointError(
            f"{call}: the model gave NaN logits for {bad} of {len(logits)} inputs; its votes would mean "
            "nothing"
        )


def _want_same(call: str, model: Network, own: Tensor, other: Tensor, way: str) -> None:
    far, rounding = apart(own, other) if own.shape == other.shape else (torch.inf, 0.0)
    if far > rounding:
        raise ValueError(
            f"{call}: the network's logits of the same inputs lie {far:.3g} apart (rounding: {rounding:.1g}) "
            f"when they {way}; a certificate is about one input by itself. {_likely(model)}"
        )


def _likely(model: Network) -> str:
    # what most often makes a network look at its batch
    norms = [
        name or "the network itself"
        for network in networks_behind(model)
        for name, part in network.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None
    ]
    if norms:
        return f"BatchNorm without running statistics: {', '.join(norms[:5])}; train it with them"
    return "Is there dropout, noise or a statistic of the batch in it that evaluation mode leaves on?"


@contextmanager
def _unchanged(call: str, model: Network) -> Iterator[None]:
    """Whatever changes within the context is put back, and is an error."""
    networks = networks_behind(model)
    held = [{name: (part, part.clone()) for name, part in one.named_buffers()} for one in networks]
    state = _random_state()
    changed: list[str] = []
    try:
        yield
    finally:
        for network, buffers in zip(networks, held, strict=True):
            now = dict(network.named_buffers())
            for name, (part, before) in buffers.items():
                if now.get(name) is not part or not _same_bits(part, before):
                    changed.append(name)
                    _put_back(network, name, part, before)
        drawn = [name for name, value in _random_state().items() if not _equal(value, state[name])]
        if drawn:
            _set_random_state(state)
    if changed:
        raise ValueError(
            f"{call}: the network changes its buffers when it answers ({', '.join(changed[:5])}), so what it "
            "answers depends on what it was asked before; they were put back. Wanted a network that "
            "evaluation mode holds still"
        )
    if drawn:
        raise ValueError(
            f"{call}: the network draws from the global random generator of {', '.join(drawn)} when it "
            "answers, so its answers are not a function of the input; its state was put back. Wanted a "
            "network without dropout or noise in evaluation mode"
        )


def _put_back(network: nn.Module, name: str, part: Tensor, before: Tensor) -> None:
    owner, _, own = name.rpartition(".")
    part.copy_(before)
    network.get_submodule(owner)._buffers[own] = part


def _same_bits(part: Tensor, before: Tensor) -> bool:
    same = part.shape == before.shape and (part == before) | (part != part) & (before != before)
    return bool(same) if isinstance(same, bool) else bool(same.all())


def _random_state() -> dict[str, Any]:
    state = {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "Python": random.getstate()}  # noqa: NPY002
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["torch on CUDA"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["Python"])
    if "torch on CUDA" in state:
        torch.cuda.set_rng_state(state["torch on CUDA"])


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, two)
    if isinstance(one, tuple):
        return len(one) == len(two) and all(map(_equal, one, two))
    return bool(np.array_equal(one, two)) if isinstance(one, np.ndarray) else bool(one == two)
