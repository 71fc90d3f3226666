"""The settings of sampling that need no torch, so that the command line can show them at once."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dualrs_lab.settings import ALPHA, COUNT, LEVEL, SEED, OneOf, check_settings, required, setting

if TYPE_CHECKING:
    import torch

__all__ = ["Draws", "FastPath", "Meant"]


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How much is sampled.

    Raises ValueError, with the name of the class, for numbers that make no sense.
    """

    seed: int = required("of everything drawn", SEED)
    n0: int = setting(100, "draws to guess, an expert or a class", COUNT)
    n: int = setting(
        10_000, "separate draws that count as evidence; at most so many with early stopping", COUNT
    )
    alpha: float = setting(ALPHA, "failure probability of each certificate", LEVEL)
    batch: int | None = setting(
        None, "noisy images per pass: speed and memory, not votes (default: as suits the device)", COUNT
    )

    draws: ClassVar[tuple[str, ...]] = ("n0", "n")  # the fields that are numbers of draws

    def __post_init__(self) -> None:
        check_settings(self)
        for name in self.draws:
            if getattr(self, name) not in COUNT:
                raise ValueError(f"{type(self).__name__}: got {name} {getattr(self, name)!r}; wanted {COUNT}")


@dataclass(frozen=True, kw_only=True)
class Meant:
    """Which network certificates are for: the copy that is sampled, or its original in strict float32."""

    certify: str = setting(
        "copy", "the network that certificates are for, by votes of its copy", OneOf(("copy", "original"))
    )
    paired: int | None = setting(
        None, "of the n draws, for the original: it votes on so many as well (default: a quarter)", COUNT
    )


@dataclass(frozen=True, kw_only=True)
class FastPath:
    """The steps from a network to the copy that is sampled; its precision is `Spec.dtype`.

    None leaves the choice open: `compile` where the work of a table pays for it, `cuda_graph` on a GPU,
    `int8` where a compiled pass in 16-bit floats on a CPU was measured to be slower. A compiled program holds
    the weights as constants.
    """

    fold: bool = setting(True, "BatchNorm into the convolutions before it")
    channels_last: bool = setting(True, "memory layout of images and weights")
    compile: bool | None = setting(None, "noise, network and votes as one program (default: where it pays)")
    cuda_graph: bool | None = setting(None, "a pass launched as one graph (default: on a GPU)")
    int8: bool | None = setting(
        None, "products in 8-bit integers, in a compiled program on a CPU (default: where it was quicker)"
    )

    def __post_init__(self) -> None:
        if self.int8 and self.compile is False:
            raise ValueError("FastPath: got int8 without compile; wanted both, as it is a compiled program")

    @classmethod
    def plain(cls) -> "FastPath":
        """No step at all: the network as it is."""
        return cls(fold=False, channels_last=False, compile=False, cuda_graph=False, int8=False)

    def steps(self, dtype: "torch.dtype") -> dict[str, Any]:
        """The steps and the precision, for the record; int8, which is younger than tables, if it is one."""
        steps = {"dtype": str(dtype).removeprefix("torch."), **asdict(self)}
        return steps if self.int8 else {name: steps[name] for name in steps if name != "int8"}
