"""Networks that come as programs of operations: ONNX, TorchScript, and what torch.export saves."""

import warnings
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dualrs_lab.adapters.network import Found, want_package
from dualrs_lab.adapters.outside import Outside
from dualrs_lab.adapters.weights import members, nothing_unpickled, want_weights_file
from dualrs_lab.files import digest

__all__ = ["Graph"]


class Graph(nn.Module):
    """A program of torch, in evaluation mode for good; it runs in float32 as it was saved, with gradients."""

    def __init__(self, program: nn.Module, kind: str) -> None:
        super().__init__()
        self.as_is = kind
        for weight in program.parameters():  # copies of a script would have weights that are no leaves
            weight.requires_grad_(False)
        self.program = program
        for part in program.modules():
            part.training = False
        self.training = False

    def train(self, mode: bool = True) -> Self:
        """Nothing: an exported program has no other mode, and says so in an error."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        try:
            answers = self.program(x.contiguous())
        except (RuntimeError, AssertionError) as error:
            told = " ".join(str(error).split())[-300:]
            raise ValueError(
                f"{self.as_is}: it takes no images {tuple(x.shape)} ({told}); export it for any number of "
                "images (dynamic_shapes={'x': {0: torch.export.Dim('batch')}}), or give it images of its "
                "shape"
            ) from error
        return cast(Tensor, answers[0] if isinstance(answers, tuple) and len(answers) == 1 else answers)


def is_exported(path: Path) -> bool:
    """Whether the file is an archive of torch.export."""
    names = members(path)
    return any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names)


def is_script(path: Path) -> bool:
    """Whether the file is an archive of TorchScript."""
    names = members(path)
    return not is_exported(path) and any("/code/" in name for name in names)


def exported(path: Path) -> Found:
    """What torch.export saved, by a loader that may unpickle nothing."""
    want_weights_file(path)
    if not is_exported(path):
        raise ValueError(f"load_network: {path} is no archive that torch.export saved")
    with nothing_unpickled(path.name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about versions and sample inputs
        try:
            program = torch.export.load(path).module()
        except Exception as error:  # of many types, for what is damaged or of another version
            raise ValueError(f"load_network: {path} cannot be read by torch.export here: {error}") from error
    return Found(body=Graph(program, f"the exported program {path.name}"), kind="torch.export")


def scripted(path: Path) -> Found:
    """A network in TorchScript."""
    want_weights_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and files of it are there
        try:
            program = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            told = " ".join(str(error).split())[:300]
            raise ValueError(f"load_network: {path} cannot be read as TorchScript: {told}") from None
        program.eval()
    return Found(body=Graph(program, f"the TorchScript program {path.name}"), kind="TorchScript")


def onnx_graph(path: Path, device: torch.device) -> Found:
    """A graph of ONNX through onnxruntime, on the CPU, or on CUDA where it and `device` are of that kind."""
    want_weights_file(path)
    runtime = want_package("load_network", "onnxruntime", "onnx")
    ask = _Session(runtime, path, device)
    channels = ask.shape[1] if len(ask.shape) == 4 and isinstance(ask.shape[1], int) else None
    size = tuple(side for side in ask.shape[2:] if isinstance(side, int))
    kind = f"the ONNX graph {path.name}"
    outputs = ask.outputs
    return Found(
        body=Outside(ask, kind=kind, identity=digest(path), classes=outputs, batch=ask.batch, arrays=True),
        kind="ONNX",
        size=(size[0], size[1]) if len(size) == 2 else None,
        channels=channels,
        outputs=outputs,
        known_by="a digest of its file, and its answers to fixed images",
        info={"onnxruntime": str(runtime.__version__)},
    )


class _Session:
    # asks a graph for whole batches of the size that it was made for, if it is for one

    def __init__(self, runtime: Any, path: Path, device: torch.device) -> None:
        cuda = device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        providers = [*(["CUDAExecutionProvider"] if cuda else []), "CPUExecutionProvider"]
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime has types of its own
            raise ValueError(
                f"load_network: {path} cannot be read as a graph of ONNX: "
                f"{' '.join(str(error).split())[:300]}"
            ) from None
        inputs = self.session.get_inputs()
        kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
        if len(inputs) != 1 or inputs[0].type not in kinds:
            told = ", ".join(f"{one.name} {one.type}" for one in inputs)
            raise ValueError(f"load_network: {path} takes {told}; wanted one input of floats, the images")
        self.name, self.shape, self.dtype = inputs[0].name, [*inputs[0].shape], kinds[inputs[0].type]
        self.path = path
        whole = self.shape[0] if self.shape and isinstance(self.shape[0], int) else 0
        self.whole, self.batch = whole, whole or 1000
        self.output = self._logits_of(self.session.get_outputs())

    def _logits_of(self, outputs: list[Any]) -> Any:
        # classifiers of other libraries give labels first and probabilities after them
        floats = [
            one for one in outputs if one.type in ("tensor(float)", "tensor(double)", "tensor(float16)")
        ]
        return next((one for one in floats if len(one.shape) == 2), outputs[0])

    @property
    def outputs(self) -> int | None:
        shape = self.output.shape
        return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None

    def __call__(self, images: NDArray[np.float32]) -> Any:
        lacking = self.whole - len(images) if self.whole else 0
        padded = np.concatenate([images, np.repeat(images[-1:], lacking, axis=0)]) if lacking > 0 else images
        try:
            (answers,) = self.session.run([self.output.name], {self.name: padded.astype(self.dtype)})
        except Exception as error:  # onnxruntime has types of its own
            raise ValueError(
                f"the ONNX graph {self.path.name} takes images {tuple(self.shape)}, got {images.shape}: "
                f"{' '.join(str(error).split())[:300]}"
            ) from None
        return answers[: len(images)]
