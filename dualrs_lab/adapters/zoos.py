"""Networks by their name in torchvision, timm and transformers, with the statistics of their training.

Without a file of weights, the published ones are fetched as tensors; nothing is unpickled. With one, nothing
is fetched.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from dualrs_lab.adapters.network import Found, Numbers, same_numbers, want_package
from dualrs_lab.adapters.weights import fill_in, nothing_unpickled, read_weights

__all__ = ["ZOOS"]


class Answers(nn.Module):
    """A network of transformers, as images to logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.network(pixel_values=x, return_dict=False)[0])


def torchvision_network(name: str, weights: str | Path | None, classes: int | None) -> Found:
    """`torchvision.models` by name; `weights` is a file, or the name of published ones (default: the "
    "best)."""
    from torchvision import models

    try:
        build, published = models.get_model_builder(name), models.get_model_weights(name)
    except (KeyError, ValueError):
        raise ValueError(
            f"load_network: torchvision:{name}: there is no such network; torchvision.models.list_models() "
            "names them"
        ) from None
    chosen = published.__members__.get(str(weights)) if weights is not None else published.DEFAULT
    if chosen is None:
        state = read_weights(cast(Path | str, weights)).state
        return torchvision_filled(name, state, classes)
    with _fetching(f"torchvision:{name}", "torchvision"):
        state = dict(chosen.get_state_dict(progress=False, check_hash=True, weights_only=True))
    names = chosen.meta["categories"]
    body = fill_in(build(weights=None, num_classes=len(names)), state, f"torchvision:{name}")
    how = chosen.transforms()
    (side,) = how.crop_size if len(how.crop_size) == 1 else how.crop_size[:1]
    return Found(
        body=body,
        kind="torchvision",
        mean=how.mean,
        std=how.std,
        size=(side, side),
        outputs=len(names),
        channels=first_channels(body),
        names=names,
        info={"weights": str(chosen)},
    )


def torchvision_filled(name: str, state: Mapping[str, Tensor], classes: int | None = None) -> Found:
    """A network of torchvision with own weights, as many classes as its last layer has."""
    from torchvision import models

    with torch.device("meta"):
        last = [*models.get_model_builder(name)(weights=None).state_dict()][-1]
    outputs = len(state[last]) if last in state else classes
    if outputs is None:
        raise ValueError(
            f"load_network: torchvision:{name}: the weights have no {last}, so they are of another network"
            f"{hint_of(state)}"
        )
    body = models.get_model_builder(name)(weights=None, num_classes=outputs)
    try:
        fill_in(body, state, f"torchvision:{name}")
    except ValueError as error:
        raise ValueError(f"{error}{hint_of(state)}") from None
    return Found(body=body, kind="torchvision", outputs=outputs, channels=first_channels(body))


def timm_network(name: str, weights: str | Path | None, classes: int | None) -> Found:
    """A network of timm by name, published or with the weights of a file."""
    timm = want_package("load_network", "timm", "timm")
    if not timm.is_model(name.partition(".")[0]) and "/" not in name:
        raise ValueError(
            f"load_network: timm:{name}: there is no such network; timm.list_models() names them"
        )
    how: dict[str, Any] = {}
    if weights is None:
        with _fetching(f"timm:{name}", "timm"), nothing_unpickled(f"timm:{name}"):
            body = timm.create_model(name, pretrained=True).eval()
        how = timm.data.resolve_model_data_config(body)
        if classes is not None and classes != body.num_classes:
            classes = None  # `adapt` says that it has others
    else:
        state = read_weights(weights).state
        classes = last_outputs(timm.create_model(name, pretrained=False), state) or classes
        more = {} if classes is None else {"num_classes": classes}
        body = fill_in(timm.create_model(name, pretrained=False, **more), state, f"timm:{name}")
    settings = body.pretrained_cfg
    hint = (
        ""
        if how
        else f"timm's own weights of it take mean {settings.get('mean')} and std {settings.get('std')}"
    )
    sides = how.get("input_size") or (
        settings.get("input_size") if settings.get("fixed_input_size") else None
    )
    return Found(
        body=body,
        kind="timm",
        mean=how.get("mean"),
        std=how.get("std"),
        size=(sides[1], sides[2]) if sides else None,
        outputs=int(body.num_classes),
        channels=int(getattr(body, "in_chans", 0) or first_channels(body) or 3),
        hint=hint,
        info={"timm": str(timm.__version__), **({"weights": str(settings.get("tag", ""))} if how else {})},
    )


def hf_network(name: str, weights: str | Path | None, classes: int | None) -> Found:
    """An image classifier of transformers, from its hub or a folder that `save_pretrained` made.

    Mean, std and size are those of its image processor. Only safetensors are read, and no code of the hub is
    run.
    """
    transformers = want_package("load_network", "transformers", "hf")
    auto, own = (
        transformers.AutoModelForImageClassification,
        {"local_files_only": True} if Path(name).is_dir() else {},
    )
    with _fetching(f"hf:{name}", "transformers"), nothing_unpickled(f"hf:{name}"):
        if weights is None:
            body = _whole(auto, name, own)
        else:
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False, **own)
            body = auto.from_config(config)
            fill_in(body, read_weights(weights).state, f"hf:{name}")
        try:
            how = transformers.AutoImageProcessor.from_pretrained(
                name, trust_remote_code=False, **own
            ).to_dict()
        except (OSError, ValueError):  # there is none
            how = {}
    mean, std = processed(how)
    named = [str(label) for _, label in sorted(body.config.id2label.items())]
    generic = all(label == f"LABEL_{place}" for place, label in enumerate(named))
    return Found(
        body=Answers(body),
        kind="transformers",
        mean=mean,
        std=std,
        size=_side(how, body.config),
        outputs=int(body.config.num_labels),
        channels=int(getattr(body.config, "num_channels", None) or 3),
        names=None if generic else named,
        hint="" if how else "There is no preprocessor_config.json beside it, which would say",
        info={"transformers": str(transformers.__version__), "architecture": type(body).__name__},
    )


def _whole(auto: Any, name: str, own: Mapping[str, Any]) -> Any:
    # the library gives random weights to layers that have none, such as the head of a backbone
    body, told = auto.from_pretrained(
        name, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **own
    )
    if lacking := sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]])):
        raise ValueError(
            f"load_network: hf:{name}: its file has no weights for {', '.join(lacking[:3])}"
            f"{' and others' if lacking[3:] else ''}; wanted a whole image classifier, not one that is still "
            "to be trained"
        )
    return body.eval()


def processed(how: Mapping[str, Any]) -> tuple[Numbers | None, Numbers | None]:
    """Mean and std of images in [0, 1], as an image processor's settings give them; None where it has "
    "none."""
    if not how or how.get("rescale_offset"):
        return None, None
    factor = 255 * float(how.get("rescale_factor", 1 / 255)) if how.get("do_rescale", True) else 255.0
    if not how.get("do_normalize", True):
        return 0.0, 1 / factor
    if how.get("image_mean") is None or how.get("image_std") is None:
        return None, None
    return same_numbers(how["image_mean"], 1 / factor), same_numbers(how["image_std"], 1 / factor)


def _side(how: Mapping[str, Any], config: Any) -> tuple[int, int] | None:
    for size in (how.get("crop_size") if how.get("do_center_crop") else None, how.get("size")):
        if isinstance(size, Mapping) and {"height", "width"} <= {*size}:
            return int(size["height"]), int(size["width"])
        if isinstance(size, Mapping) and "shortest_edge" in size:
            return int(size["shortest_edge"]), int(size["shortest_edge"])
    size = getattr(config, "image_size", None)
    sides = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, list | tuple) else ()
    return (int(sides[0]), int(sides[1])) if len(sides) == 2 else None


def guess(state: Mapping[str, Tensor]) -> str:
    """The ResNet of torchvision whose names of weights these are, or ""."""
    blocks: list[int] = []
    for stage in range(1, 5):
        numbers = {name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")}
        blocks.append(len(numbers))
    deep = "layer1.0.conv3.weight" in state
    stem = state.get("conv1.weight")
    if stem is None or stem.shape[2:] != (7, 7) or "fc.weight" not in state:
        return ""
    known: dict[tuple[Any, ...], str] = {
        (False, 2, 2, 2, 2): "resnet18",
        (False, 3, 4, 6, 3): "resnet34",
        (True, 3, 4, 6, 3): "resnet50",
        (True, 3, 4, 23, 3): "resnet101",
        (True, 3, 8, 36, 3): "resnet152",
    }
    return known.get((deep, *blocks), "")


def hint_of(state: Mapping[str, Tensor]) -> str:
    """What the names of weights tell of their network, for an error."""
    name = guess(state)
    return f"; by their names they are those of torchvision:{name}" if name else ""


def first_channels(body: nn.Module) -> int | None:
    """Channels of the images, by the first convolution."""
    return next((int(part.in_channels) for part in body.modules() if isinstance(part, nn.Conv2d)), None)


def last_outputs(body: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """How many classes the weights tell, by the last ones of the network."""
    last = [*body.state_dict()][-1]
    return len(state[last]) if last in state and state[last].ndim else None


class _fetching:
    # errors of hubs, of many types, as one that says what to do without the net

    def __init__(self, source: str, library: str) -> None:
        self.source, self.library = source, library

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not str(error).startswith(("load_network", "read_weights")):
            told = " ".join(str(error).split())[:300]
            raise ValueError(
                f"load_network: {self.source}: {self.library} could not give it ({told}). Without the net, "
                "name a file of its weights (weights=FILE, --weights FILE), with mean and std"
            ) from error


Zoo = Callable[[str, str | Path | None, int | None], Found]


ZOOS: Mapping[str, Zoo] = {"torchvision": torchvision_network, "timm": timm_network, "hf": hf_network}
