"""How cost grows: with draws, images, pixels and noise levels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from benchmarks.measure import Row, interleave
from benchmarks.subjects import Subject
from dualrs_lab.smoothing import FastPath, FrozenVoter

__all__ = ["growth"]

Arm = tuple[str, str, float]  # which arm, what varies, its value


def growth(
    subject: Subject,
    voter: FrozenVoter,
    fast: FastPath,
    *,
    n: int,
    rounds: int,
    draws: Sequence[int],
    images: Sequence[int],
    sizes: Sequence[int],
    sigmas: Sequence[int],
) -> Iterator[Row]:
    """Seconds per image against each of the four, the others fixed (n draws, the images of the subject).

    Sizes are those of random pixels through the same network; `sigmas` are numbers of noise levels at which
    every image is certified. The textbook is a loop over images and levels, so these are not measured.
    """
    arms: dict[Arm, tuple[Callable[[int], object], int]] = {}

    def ours(key: Arm, subjects: Sequence[Subject], voters: Sequence[FrozenVoter], n: int) -> None:
        def run(_: int) -> None:
            for one, its in zip(subjects, voters, strict=True):
                one.certify(its, n)

        arms[key] = run, len(subjects[0].x)

    def theirs(key: Arm, one: Subject, n: int) -> None:
        textbook = one.textbook(n)
        arms[key] = lambda _: textbook.certify(one.image()), 1

    for k in draws:
        ours(("ours", "draws", k), [subject], [voter], k)
        theirs(("textbook", "draws", k), subject, k)
    for k in images:
        ours(("ours", "images", k), [subject.repeated(k)], [voter], n)
    for k in sizes:
        other = subject.of_size(k, len(subject.x))
        frozen = voter if other.shape == subject.shape else other.voter(fast, voter.dtype)
        ours(("ours", "pixels a side", k), [other], [frozen], n)
        theirs(("textbook", "pixels a side", k), other, n)
    most = [replace(subject, sigma=subject.sigma * (1 + i / 10)) for i in range(max(sigmas, default=0))]
    for k in sigmas:
        ours(("ours", "noise levels", k), most[:k], [voter] * k, n)
    seconds = interleave({"\t".join(map(str, key)): run for key, (run, _) in arms.items()}, rounds)
    for key, (_, count) in arms.items():
        arm, axis, value = key
        each = [s / count for s in seconds["\t".join(map(str, key))]]
        yield Row("growth", arm, f"time per image against {axis}", "s", each, f"{axis} = {value:g}", value)
