"""Predict with and certify one smoothed classifier (Cohen, Rosenfeld & Kolter 2019, section 3.2).

g(x) = argmax_y P[f(x + sigma Z) = y]. PREDICT returns g(x) or abstains; CERTIFY returns g(x) with an l2
radius within which g does not change, in [0, 1] pixel units. Each statement about an image fails with
probability at most alpha. f is whatever votes, such as a quick copy of a network; or the network itself, by
votes of its copy (`Spec.certify`).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dualrs_lab.data.images import Group, Images
from dualrs_lab.evidence.binomial import top_two_pvalue
from dualrs_lab.evidence.certificate import COLUMNS, PAIRED, Certificate, decide
from dualrs_lab.evidence.claim import ABSTAIN
from dualrs_lab.models.suited import suited
from dualrs_lab.models.sure import grading, kinds_of
from dualrs_lab.shards import Shard
from dualrs_lab.smoothing.engine import Unit, Voter, as_voter, count_votes, sample, tally_of
from dualrs_lab.smoothing.frozen import FrozenVoter
from dualrs_lab.smoothing.job import Job, Sampled
from dualrs_lab.smoothing.noise import BLOCK, NoiseBlocks
from dualrs_lab.smoothing.original import PairedVotes, StrictVoter, is_original
from dualrs_lab.smoothing.spec import Spec, as_allowed, identify
from dualrs_lab.smoothing.stopping import AllDraws

__all__ = ["certify", "certify_running", "certify_table", "certify_waves", "predict"]


Model = Callable[[Tensor], Tensor]


_WAVE = 64  # images whose class is selected at a time, or more where a pass holds many


def predict(
    model: Model, x: Tensor, *, classes: int, spec: Spec, original: nn.Module | None = None
) -> NDArray[np.int64]:
    """Cohen's PREDICT for inputs (N, ...): classes (N,), ABSTAIN where the two leading counts are too close.

    Returns a class other than g(x) with probability at most alpha, image by image. `model` and errors are as
    for `count_votes`. Where `spec` certifies the `original`, g is its smoothed classifier, and the answer is
    the class that `certify` gives a radius: the two leading counts of a copy say nothing of the original.
    """
    if spec.certify == "original":
        certified = certify(model, x, classes=classes, spec=spec, original=original)
        return np.array([one.predict for one in certified], dtype=np.int64)
    _want_original("predict", spec, original)
    blocks = NoiseBlocks(spec.noise, tuple(x.shape[1:]), seed=spec.seed, stream="prediction", device=x.device)
    votes = count_votes(model, x, blocks, n=spec.n, classes=classes, batch=spec.batch, dtype=spec.dtype)
    return np.where(top_two_pvalue(votes) <= spec.alpha, votes.argmax(axis=1), ABSTAIN)


def certify(
    model: Model | Voter,
    x: Tensor,
    *,
    classes: int,
    spec: Spec,
    labels: Sequence[int] | None = None,
    idx: Sequence[int] | None = None,
    original: nn.Module | None = None,
) -> list[Certificate]:
    """Cohen's CERTIFY for inputs (N, ...), one certificate each, with its votes.

    `model` is as for `count_votes`, `labels` default to unknown (-1), `idx` to positions. The same seed and
    settings give the same certificate whether an input comes alone or among others, on one device. Where
    `spec` certifies the original, `model` is a copy of `original`, which is asked in float32 on the paired
    draws. Raises as `count_votes` does, and ValueError where only one of the two says so.
    """
    labels = [-1] * len(x) if labels is None else labels
    idx = range(len(x)) if idx is None else idx
    if not len(x) == len(labels) == len(idx):
        raise ValueError(
            f"certify: got {len(x)} inputs, {len(labels)} labels, {len(idx)} indices; wanted as many of each"
        )
    _want_original("certify", spec, original)
    shape = tuple(x.shape[1:])
    voter = as_voter(model, spec.noise, shape, x.device, classes=classes, batch=spec.batch, dtype=spec.dtype)
    waves = [(x, labels, range(len(x)))] if len(x) else []
    beside = None if original is None else _strict(original, voter, x.device)
    certified = [c for group in certify_waves(voter, waves, shape, spec, x.device, beside) for c in group]
    return [replace(c, idx=int(idx[c.idx])) for c in sorted(certified, key=lambda c: c.idx)]


@torch.inference_mode()
def certify_running(
    model: Model | Voter,
    x: Tensor,
    *,
    classes: int,
    spec: Spec,
    label: int = -1,
    idx: int = 0,
) -> Iterator[Certificate]:
    """What `certify` would say of the input `x` (1, ...) after each pass; the last, with `n` draws, it says.

    What comes before it is a view: its bounds are exact for the draws counted so far, but whoever looks often
    and stops where it pleases has no guarantee. Each has the votes so far and their number `n`. Raises as
    `certify` does, and ValueError for more than one input, and for a `spec` that stops early or certifies an
    original.
    """
    if len(x) != 1 or spec.stop != AllDraws() or spec.certify != "copy":
        raise ValueError(
            f"certify_running: got {len(x)} inputs, {spec.stop} and certify={spec.certify!r}; wanted one "
            "input, AllDraws() and 'copy'"
        )
    shape = tuple(x.shape[1:])
    voter = as_voter(model, spec.noise, shape, x.device, classes=classes, batch=spec.batch, dtype=spec.dtype)
    selection, blocks = (
        NoiseBlocks(spec.noise, shape, seed=spec.seed, stream=stream, device=x.device)
        for stream in ("selection", "estimation")
    )
    selected = count_votes(voter, x, selection, n=spec.n0, classes=classes)[0]
    counts = np.zeros(classes, dtype=np.int64)
    numbers = range(-(-spec.n // BLOCK))
    for first in numbers[:: voter.units]:
        units = [
            Unit(0, number, min(BLOCK, spec.n - number * BLOCK))
            for number in numbers[first : first + voter.units]
        ]
        tally = tally_of(voter, x, blocks, units, None).cpu().numpy().sum(axis=0)
        if tally[-1]:
            raise FloatingPointError("certify_running: the model gave NaN logits; its votes mean nothing")
        counts += tally[:-1]
        yield decide(
            selected, counts, idx=idx, label=label, sigma=spec.noise.sigma, alpha=spec.alpha, seed=spec.seed,
            seconds=0.0, rule=spec.rule,
        )  # fmt: skip


def certify_table(
    model: nn.Module,
    images: Images,
    path: Path | str,
    *,
    spec: Spec,
    skip: int = 1,
    max_images: int = -1,
    replace: bool = False,
    progress: bool = True,
    info: dict[str, Any] | None = None,
    shard: Shard | None = None,
) -> pd.DataFrame:
    """Certify every `skip`-th image (at most `max_images`, -1 for all) into the table at `path`; return it.

    The network is frozen by `spec.fast` (see `FastPath`) on the device it lives on; one that runs
    `models.as_is` is asked in float32, without steps. Rows are flushed as
    images are done, and sorted at the end: after a kill, the same call loses nothing and repeats nothing. The
    json beside `path` says how the table was made: what the rows depend on, which network they are for, how
    often the frozen network votes differently from the float32 original (see `MOST_OTHERWISE`), and `info`.
    With `spec.certify` "original", `model` in strict float32 is what is certified, by votes of the frozen
    network and `spec.pairs` of its own; without pairs where it is sampled itself, see `is_original`. A table
    with other settings, or of a network that answers otherwise, raises ValueError or, with `replace`, is kept
    under another name with a warning. Classes and shape are compared as by `models.suited`, and networks are
    vetted as by `models.check_conduct`. Votes of a network that is `models.Graded` are told apart by how sure
    they are, and `evidence.at_confidence` counts them. With `shard` that part of the images goes into a table
    of its own beside `path`, see `dualrs_lab.shards`.
    """
    model, device = suited("certify_table", model, images), next(model.parameters()).device
    spec = as_allowed(spec, [model])
    pairs = 0 if is_original(spec.dtype, spec.fast, device) else spec.pairs
    if spec.paired is not None and not pairs:
        raise ValueError(
            f"certify_table: got paired {spec.paired}, and what is sampled is the original itself; leave it "
            "out, as its own votes certify it"
        )

    if pairs and grading(model):
        raise ValueError(
            "certify_table: got certify='original' and a network whose votes are told apart by how sure they "
            "are; wanted certify='copy', as pairs are about one guess alone"
        )

    def rows(voters: list[FrozenVoter], waves: Iterable[Group]) -> Iterator[list[Certificate]]:
        beside = _strict(model, voters[0], device) if pairs else None
        return certify_waves(voters[0], waves, images.shape, spec, device, beside, len(images.classes))

    job = Job(
        call="certify_table",
        spec=spec,
        identity=identify(model, images, spec) | ({"paired": pairs} if spec.certify == "original" else {}),
        networks=[Sampled(model, spec.noise, kinds_of(model, len(images.classes)))],
        like=model,
        rows=rows,
        wave=_WAVE,
        passes=8,
        told=lambda each: each[0],
        columns=(*COLUMNS, *(PAIRED if pairs else ())),
        certifies=spec.certify,
    )
    return job.run(
        images,
        path,
        skip=skip,
        max_images=max_images,
        replace=replace,
        progress=progress,
        info=info,
        shard=shard,
    )


def _want_original(call: str, spec: Spec, original: nn.Module | None) -> None:
    if (spec.certify == "original") != (original is not None):
        raise ValueError(
            f"{call}: got certify={spec.certify!r} and {'no' if original is None else 'an'} original; wanted "
            "the network that `model` is a copy of as `original` where that is meant, else none"
        )


def _strict(original: nn.Module, copy: Voter, device: torch.device) -> StrictVoter:
    return StrictVoter(original, copy.noise, classes=copy.classes, units=copy.units, device=device)


def certify_waves(
    voter: Voter,
    waves: Iterable[Group],
    shape: tuple[int, ...],
    spec: Spec,
    device: torch.device,
    original: StrictVoter | None = None,
    answers: int | None = None,
) -> Iterator[list[Certificate]]:
    """CERTIFY for `waves` of inputs of `shape` on `device`: certificates of images, as they are done.

    Selects the class on some draws, and bounds its probability on others. `answers` are the classes where
    votes are told apart by how sure they are.
    """
    selection, estimation = (
        NoiseBlocks(spec.noise, shape, seed=spec.seed, stream=stream, device=device)
        for stream in ("selection", "estimation")
    )
    n0 = spec.stop.selection(spec.n0)
    for x, labels, idx in waves:
        start = time.perf_counter()
        selected = count_votes(voter, x, selection, n=n0, classes=voter.classes)
        each = (time.perf_counter() - start) / len(x)
        beside = None
        if original is not None:
            original.vet(x, estimation[0])
            beside = PairedVotes(original, selected.argmax(axis=1), spec.pairs, device)
        watch = spec.stop.watch(
            selected,
            n=spec.n,
            alpha=spec.alpha,
            sigma=spec.noise.sigma,
            rule=spec.rule,
            pairs=beside,
            answers=answers,
        )
        for finished in sample(voter, x, estimation, draws=watch.draws, done=watch.done, seen=beside):
            yield [
                decide(
                    selected[i],
                    watch.evidence(i, counts),
                    idx=idx[i],
                    label=labels[i],
                    sigma=spec.noise.sigma,
                    alpha=spec.alpha,
                    seed=spec.seed,
                    seconds=each + seconds,
                    bound=spec.stop.bound,
                    drawn=int(counts.sum()),
                    rule=spec.rule,
                    pairs=None if beside is None else beside.of(i),
                )
                for i, counts, seconds in finished
            ]
