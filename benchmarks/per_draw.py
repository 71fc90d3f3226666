"""What one draw costs: step by step from the textbook to the fast path, against the machine's ceiling."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor

from benchmarks.baselines import art_reason
from benchmarks.measure import (
    Row,
    copy_bandwidth,
    free_memory,
    interleave,
    matmul_peak,
    ratio,
    synchronize,
    traffic,
)
from benchmarks.subjects import Subject
from dualrs_lab.runtime import make_generator
from dualrs_lab.smoothing import (
    BLOCK,
    FastPath,
    FrozenVoter,
    NoiseBlocks,
    disagreement,
    evaluation_copy,
    flops,
    int8_reason,
)

__all__ = ["Steps", "disagree", "ladder", "per_draw", "prepare", "split"]

Steps = dict[str, tuple[FastPath, torch.dtype]]
Found = Iterator[Row | str]  # rows, and remarks for the reader


def ladder(device: torch.device, dtype: torch.dtype, *, compiled: bool = True) -> Steps:
    """From the network as it is to the whole fast path, one step after another."""
    fast, steps = FastPath.plain(), {}
    steps["float32, as it is"] = fast, torch.float32
    fast = replace(fast, channels_last=True)
    steps["+ channels last"] = fast, torch.float32
    fast = replace(fast, fold=True)
    steps["+ BatchNorm folded"] = fast, torch.float32
    if dtype != torch.float32:
        steps[f"+ {str(dtype).removeprefix('torch.')}"] = fast, dtype
    if compiled:
        fast = replace(fast, compile=True)
        steps["+ compiled"] = fast, dtype
    if device.type == "cuda":
        steps["+ CUDA graph"] = replace(fast, cuda_graph=True), dtype
    if compiled and not int8_reason(device):
        steps["+ int8"] = replace(fast, int8=True), dtype
    return steps


def prepare(
    subject: Subject, steps: Steps, purpose: str, *, every: bool = True
) -> tuple[dict[str, FrozenVoter], list[Row | str]]:
    """The frozen copy of each step, or of the last that works here, and what freezing took.

    A step that fails on this machine is left out, and a remark says so.
    """
    voters: dict[str, FrozenVoter] = {}
    found: list[Row | str] = []
    for name in steps if every else reversed(steps):
        fast, dtype = steps[name]
        start = time.perf_counter()
        voter = subject.voter(fast, dtype)
        seconds = time.perf_counter() - start
        if failed := [step for step, wanted in asdict(fast).items() if wanted and not voter.steps.get(step)]:
            found.append(f"{name!r} is left out: {', '.join(failed)} failed on this machine.")
            continue
        voters[name] = voter
        found.append(Row("preparation", name, f"{subject.name}, {purpose}", "s", [seconds]))
        if not every:
            break
    return voters, found


def per_draw(
    subject: Subject,
    voters: Mapping[str, FrozenVoter],
    *,
    n: int,
    rounds: int,
    part: str = "per_draw",
    batches: Sequence[int] = (),
    art: bool = True,
    seconds: float = 1.0,
) -> Found:
    """Time per draw of whole certificates with n0 + n draws: baselines on one image, the engine on all.

    The engine draws its noise once for all images of a call; the textbook draws it for every image. It also
    runs with each of `batches` noisy images a pass. `seconds` are for each of the machine's peaks.
    """
    books = {"textbook": subject} | {f"textbook, passes of {b:,}": replace(subject, batch=b) for b in batches}

    def book(it: Subject) -> Callable[[int], object]:
        textbook = it.textbook(n)
        return lambda _: textbook.certify(subject.image())

    arms = {name: book(it) for name, it in books.items()}
    reason = art_reason(n, subject.shape, free_memory()) if art else ""
    if reason:
        yield f"ART is left out: {reason}."
    elif art:
        toolbox = subject.art()
        arms["ART"] = lambda _: toolbox.certify(subject.image(), n=n, batch=subject.batch)

    def ours(voter: FrozenVoter) -> Callable[[int], object]:
        return lambda _: subject.certify(voter, n)

    arms |= {name: ours(voter) for name, voter in voters.items()}
    taken = interleave(arms, rounds)
    draws = {name: (subject.n0 + n) * (len(subject.x) if name in voters else 1) for name in arms}
    costs = {name: [s / draws[name] for s in taken[name]] for name in arms}
    for name, each in costs.items():
        yield Row(part, name, "time per draw", "µs", [1e6 * s for s in each])
        factor = ratio(costs["textbook"], each)
        yield Row(part, name, "textbook / this", "times", factor)
    floats = [name for name in costs if not (name in voters and voters[name].steps.get("int8"))]
    precision = {name: voters[name].dtype if name in voters else torch.float32 for name in floats}
    yield from _ceilings(subject, part, costs, precision, seconds)


def _ceilings(
    subject: Subject,
    part: str,
    costs: dict[str, list[float]],
    precision: dict[str, torch.dtype],
    seconds: float,
) -> Found:
    device, network = subject.device, subject.network
    work = flops(network, subject.shape)
    yield Row("machine", "network", "operations per draw", "MFLOP", [work / 1e6])
    bandwidth = copy_bandwidth(device, seconds)
    yield Row("machine", "machine", "copy, read and write", "GB/s", [bandwidth / 1e9])
    for dtype in sorted(set(precision.values()), key=str):
        name, peak = str(dtype).removeprefix("torch."), matmul_peak(device, dtype, seconds)
        yield Row("machine", "machine", f"matmul {name}", "GFLOP/s", [peak / 1e9])
        moved = traffic(network, subject.shape, dtype.itemsize)
        for arm in (arm for arm, used in precision.items() if used == dtype):
            share = [100 * work / (cost * peak) for cost in costs[arm]]
            yield Row(part, arm, "of the matmul peak", "%", share)
            if device.type == "cuda":  # on a CPU, the maps of a small network stay in the caches
                share = [100 * moved / (cost * bandwidth) for cost in costs[arm]]
                yield Row(part, arm, "of the copy bandwidth", "%", share)


def disagree(subject: Subject, voters: Mapping[str, FrozenVoter], *, draws: int) -> Found:
    """Share of votes that differ from the plain float32 network's under the same noise, step by step."""
    for name, voter in voters.items():
        blocks = NoiseBlocks(
            voter.noise, subject.shape, seed=subject.seed, stream="disagreement", device=subject.device
        )
        different, compared = 0.0, 0
        for first in range(0, len(subject.x), voter.units):
            found = disagreement(subject.network, voter, subject.x[first : first + voter.units], blocks)
            different += found["share"] * found["draws"]
            compared += int(found["draws"])
            if compared >= draws:
                break
        share = 100 * different / compared
        quantity = f"of {compared:,} votes"
        yield Row("disagreement", name, quantity, "%", [share])


def split(subject: Subject, voter: FrozenVoter, *, draws: int, rounds: int) -> Found:
    """Where the time goes: noise, addition, network and count separately, and the engine's whole pass."""
    pieces = {("textbook", piece): work for piece, work in _textbook_pieces(subject).items()}
    pieces |= {("fast path", piece): work for piece, work in _engine_pieces(subject, voter).items()}
    times = {key: max(1, draws // each) for key, (_, each) in pieces.items()}

    def arm(key: tuple[str, str]) -> Callable[[int], object]:
        def run(_: int) -> None:
            for _ in range(times[key]):
                pieces[key][0]()
            synchronize(subject.device)

        return run

    with torch.inference_mode():
        seconds = interleave({"\t".join(key): arm(key) for key in pieces}, rounds)
    for key, (_, each) in pieces.items():
        cost = [1e6 * s / (each * times[key]) for s in seconds["\t".join(key)]]
        yield Row("split", key[0], key[1], "µs", cost)


Pieces = dict[str, tuple[Callable[[], object], int]]  # name -> work, and the number of draws that it serves


@torch.inference_mode()
def _textbook_pieces(subject: Subject) -> Pieces:
    image, size = subject.image(), subject.batch
    shape = (size, *subject.shape)
    generator = make_generator(subject.seed, "split", device=subject.device)

    def draw() -> Tensor:
        return subject.sigma * torch.randn(shape, generator=generator, device=subject.device)

    noise = draw()
    noisy = image + noise
    logits = subject.network(noisy)
    counts = [0] * subject.classes

    def count() -> None:
        for vote in logits.argmax(1).tolist():
            counts[vote] += 1

    work: dict[str, Callable[[], object]] = {
        "noise": draw,
        "add": lambda: image + noise,
        "network": lambda: subject.network(noisy),
        "count": count,
    }
    return {piece: (run, size) for piece, run in work.items()}


@torch.inference_mode()
def _engine_pieces(subject: Subject, voter: FrozenVoter) -> Pieces:
    device, units, dtype = subject.device, voter.units, voter.dtype
    network = evaluation_copy(subject.network, subject.shape, device=device, dtype=dtype)
    x = subject.repeated(units).x
    blocks = NoiseBlocks(voter.noise, subject.shape, seed=subject.seed, stream="split", device=device)
    noise = blocks.stack(range(units))

    def add() -> Tensor:
        noisy = voter.noise.add(x.unsqueeze(1), noise, dtype).flatten(0, 1)
        return noisy.contiguous(memory_format=torch.channels_last)

    noisy = add()
    logits = network(noisy)
    ones = torch.ones((units, BLOCK), dtype=torch.int64, device=device)

    def count() -> object:
        top, votes = logits.max(1)
        votes = torch.where(top.isnan(), subject.classes, votes).view(units, BLOCK)
        return torch.zeros((units, subject.classes + 1), dtype=torch.int64, device=device).scatter_add_(
            1, votes, ones
        )

    generator = make_generator(subject.seed, "split", device=device)
    work: dict[str, Callable[[], object]] = {
        "noise": lambda: voter.noise.draw((units * BLOCK, *subject.shape), generator),
        "add": add,
        "network": lambda: network(noisy),
        "count": count,
        "add to count, as sampled": lambda: voter(x, noise),
    }
    return {piece: (run, units * BLOCK) for piece, run in work.items()}
