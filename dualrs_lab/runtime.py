"""Where and how to compute: device, working precision, seeded generators by folding, provenance."""

import zlib

import numpy as np
import torch

from dualrs_lab.files import provenance
from dualrs_lab.settings import Range

__all__ = ["describe", "fold_seed", "make_generator", "pick_device", "pick_dtype"]


_SEEDS = Range(whole=True, least=0)


def pick_device(name: str = "auto") -> torch.device:
    """ "auto" is CUDA where there is one, then Apple's MPS, then the CPU; anything else is taken as named.

    Raises ValueError for a device that is unknown, not present, or gives no numbers back ("meta").
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        one = torch.ones(1, device=name)
        float(one + one)
    except Exception as error:  # each kind of device that is not there has its own
        raise ValueError(
            f"pick_device: got {name!r}, which is not available here; use 'auto', 'cpu' or 'cuda:0'"
        ) from error
    return one.device


def pick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster than float32, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float32
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return torch.float32


def fold_seed(seed: int, *path: int | str) -> int:
    """A 63-bit seed for a question: the same for the same (seed, path), unrelated for different paths.

    How many of the bits count is for the generator to say, see `make_generator`.

    Text enters through crc32, since `hash()` differs between processes; so do the lengths of path and text.
    """
    if seed not in _SEEDS:
        raise ValueError(f"fold_seed: got seed {seed!r}; wanted {_SEEDS}")
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else int(part) for part in path]
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=words)
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def make_generator(seed: int, *path: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for one question, see `fold_seed`.

    CUDA generators take the whole seed. Those of the CPU keep its lower 32 bits: of N questions, two have the
    same stream with a chance of at most N^2 / 2^33, which is one in a million for a hundred. So `NoiseBlocks`
    sees to it that no two blocks of one stream are the same draws.
    """
    return torch.Generator(device=device).manual_seed(fold_seed(seed, *path))


def describe(device: torch.device) -> dict[str, object]:
    """Provenance of a computation on `device`: versions and commit, device name, threads, instructions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    told = {"device": str(device), "device_name": name, "threads": torch.get_num_threads()}
    return {**provenance(), **told, "instructions": _instructions()}


def _instructions() -> str:
    """With what this processor multiplies, as far as it matters for speed: "AVX512 VNNI BF16 AMX"."""
    more = {
        "VNNI": torch.cpu._is_vnni_supported(),
        "BF16": torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        "AMX": torch.cpu._is_amx_tile_supported(),
    }
    return " ".join(
        [torch.backends.cpu.get_cpu_capability(), *(name for name, there in more.items() if there)]
    )
