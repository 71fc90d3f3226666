"""What one certified image costs: every draw, or only as many as the answer needs."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from benchmarks.baselines import art_reason
from benchmarks.measure import Row, free_memory, interleave, ratio
from benchmarks.subjects import Subject
from dualrs_lab.evidence import Certificate, certified_accuracy, frame
from dualrs_lab.smoothing import AllDraws, AtRadii, FrozenVoter, InputSpecific, Stopping

__all__ = ["per_image"]

Found = Iterator[Row | str]
PART = "per_image"


def per_image(
    subject: Subject,
    voter: FrozenVoter,
    *,
    n: int,
    draws: int,
    rounds: int,
    compare: int,
    full: int,
    radii: Sequence[float],
) -> Found:
    """Seconds per image at n, draws used, certified accuracy and radius lost, rule by rule.

    A round is a share of the images: the rules that stop early get all of it, the rule with every draw gets
    `compare` / `rounds` images, and the textbook gets one image with `draws` draws, whose time per draw is
    scaled to n. On `full` images the baselines run in full.
    """
    shares = [range(first, len(subject.x), rounds) for first in range(rounds)]
    compared = [share[: -(-compare // rounds)] for share in shares]
    rules: dict[str, tuple[Stopping, int]] = {
        "all draws": (AllDraws(), n),
        "at radii": (AtRadii(radii=tuple(radii)), n),
        "at radii, n/2": (AtRadii(radii=tuple(radii)), n // 2),
        "input-specific": (InputSpecific(), n),
    }
    images = {name: compared if name == "all draws" else shares for name in rules}
    made: dict[str, list[Certificate]] = {name: [] for name in rules}
    textbook = subject.textbook(draws)

    def ours(name: str) -> Callable[[int], object]:
        return lambda turn: made[name].extend(
            subject.certify(voter, rules[name][1], positions=images[name][turn], stop=rules[name][0])
        )

    arms: dict[str, Callable[[int], object]] = {
        "textbook": lambda turn: textbook.certify(subject.image(shares[turn][0]))
    }
    textbook.certify(subject.image())
    subject.certify(voter, draws, positions=[0])
    seconds = interleave(arms | {name: ours(name) for name in rules}, rounds, warm=False)
    scale = (subject.n0 + n) / (subject.n0 + draws)
    scaled = [scale * s for s in seconds["textbook"]]
    yield Row(PART, "textbook", "time per image (per draw x n)", "s", scaled)
    for name in rules:
        each = [s / len(share) for s, share in zip(seconds[name], images[name], strict=True)]
        yield Row(PART, name, "time per image", "s", each)
        factor = ratio(scaled, each)
        yield Row(PART, name, "textbook (per draw x n) / this", "times", factor)
        used = [float(c.n0 + c.drawn) for c in made[name]]
        yield Row(PART, name, "draws per image", "", used)
        mean = [float(np.mean(used))]
        yield Row(PART, name, "mean draws per image", "", mean)
    yield from _answers(made, radii)
    yield from _in_full(subject, made["all draws"], n=n, images=full)


def _answers(made: Mapping[str, Sequence[Certificate]], radii: Sequence[float]) -> Found:
    reference = {c.idx: c for c in made["all draws"]}
    for name, certificates in made.items():
        same = [c for c in certificates if c.idx in reference]
        for label, group in {"the compared": same, "all": certificates}.items():
            if label == "all" and len(group) == len(same):
                continue
            for r, share in zip(radii, certified_accuracy(frame(group), radii), strict=True):
                quantity = f"certified accuracy, {label} {len(group)} images"
                yield Row(PART, name, quantity, "%", [100 * float(share)], f"r = {r:g}", r)
        lost = [reference[c.idx].radius - c.radius for c in same]
        mean = [float(np.mean(lost))]
        yield Row(PART, name, "mean radius lost", "pixel range", mean)
        pairs = [(_reaches(reference[c.idx], r), _reaches(c, r)) for c in same for r in radii]
        for quantity, wanted in (("claims lost", (True, False)), ("claims won", (False, True))):
            of = f"of {sum(a for a, _ in pairs)}"
            yield Row(PART, name, quantity, of, [float(pairs.count(wanted))])


def _reaches(certificate: Certificate, radius: float) -> bool:
    return certificate.correct and certificate.radius >= radius


def _in_full(subject: Subject, reference: Sequence[Certificate], *, n: int, images: int) -> Found:
    textbook = subject.textbook(n)
    certify: dict[str, Callable[[int], tuple[int, float]]] = {
        "textbook": lambda position: textbook.certify(subject.image(position))
    }
    if reason := art_reason(n, subject.shape, free_memory()):
        yield f"ART is left out at n = {n:,}: {reason}."
    else:
        art = subject.art()
        certify["ART"] = lambda position: art.certify(subject.image(position), n=n, batch=subject.batch)
    for name, one in certify.items() if images else ():
        taken, differences = [], []
        for certificate in reference[:images]:
            start = time.perf_counter()
            found, radius = one(certificate.idx)
            taken.append(time.perf_counter() - start)
            differences.append(abs(radius - certificate.radius))
            if found != certificate.predict:
                yield f"{name} answers {found} for image {certificate.idx}, we {certificate.predict}."
        yield Row(
            part=PART, arm=name, quantity=f"time per image, in full on {len(taken)}", unit="s", values=taken
        )
        values = [max(differences)]
        quantity = "largest difference of a radius from all draws"
        yield Row(PART, name, quantity, "pixel range", values)
