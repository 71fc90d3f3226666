"""Each method as an oracle sees it: what the ideal system answers, and what the package certifies.

`answer` is written from the definition of the method. `exact` hands exact probabilities to the package in
place of bounds, `voted` votes that are drawn from them; with a `fault`, as a wrong procedure would.
"""

from dataclasses import dataclass
from unittest import mock

import numpy as np
import pandas as pd

from dualrs_lab.cascade import Cascade, first_to_accept, steps
from dualrs_lab.combine import Combiner, combined_radius, surest_class
from dualrs_lab.combine.radii import _largest
from dualrs_lab.dual import Cuts, Estimator, Plurality, cuts_entry, median_entry, plurality_entry, routes
from dualrs_lab.evidence import (
    BOUNDS,
    lower_bound,
    margin_radius,
    rs_radius,
    ruled_radius,
    upper_bound,
    votes_text,
)
from dualrs_lab.mixing import (
    mix_radius_closed,
    mix_radius_exact,
    mix_radius_lipschitz,
    mix_radius_smoothing,
    mixed,
)
from dualrs_lab.smoothing import AllDraws, AtRadii, Stopping, Watch
from tests.oracles.exact import Cells, draws, probit

Claimed = tuple[np.ndarray, np.ndarray]  # classes (N,), radii (N,)
SURE = 1e-9  # probabilities nearer to 0 or 1 are beyond what sums of Phi are exact for


def low(successes: np.ndarray, trials: np.ndarray, level: object) -> np.ndarray:
    """An exact probability in place of a lower bound."""
    del level
    return np.minimum(np.asarray(successes) / trials, 1 - SURE)


def high(successes: np.ndarray, trials: np.ndarray, level: object) -> np.ndarray:
    """An exact probability in place of an upper bound."""
    del level
    return np.maximum(np.asarray(successes) / trials, SURE)


EXACT, FIXED = (low, high), (lower_bound, upper_bound)


def _at(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, where[:, None], axis=1)[:, 0]


def _ahead(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities (N,) of the two most probable classes."""
    return tuple(np.sort(p, axis=1)[:, [-1, -2]].T)


def _of_another(votes: np.ndarray, y: np.ndarray, fault: str) -> np.ndarray:
    """Votes (N,) of the largest class other than y; with a fault, of one that is fixed beforehand."""
    if fault == "the last other class for a rival":
        return _at(votes, (y - 1) % votes.shape[1])
    return np.where(np.arange(votes.shape[1]) == y[:, None], 0, votes).max(axis=1)


@dataclass(frozen=True)
class Plain:
    """One smoothed classifier."""

    cells: Cells
    sigma: float
    stop: Stopping = AllDraws()  # noqa: RUF009
    n: int = 400
    rule: str = "cohen"

    def answer(self, points: np.ndarray) -> np.ndarray:
        return self.cells.probabilities(points, self.sigma).argmax(axis=-1)

    def exact(self, x: np.ndarray) -> Claimed:
        p = self.cells.probabilities(x[:, None], self.sigma)[:, 0]
        first, second = _ahead(p)
        if self.rule == "cohen":
            return p.argmax(axis=1), rs_radius(np.minimum(first, 1 - SURE), self.sigma)
        return p.argmax(axis=1), margin_radius(
            np.minimum(first, 1 - SURE), np.maximum(second, SURE), self.sigma
        )

    def voted(self, rng: np.random.Generator, x: np.ndarray, alpha: float, *, fault: str = "") -> Claimed:
        p = self.cells.probabilities(x[:, None], self.sigma)[:, 0]
        selection = draws(rng, p, self.stop.selection(50))
        told = {"n": self.n, "alpha": alpha, "sigma": self.sigma, "rule": self.rule}
        watch = self.stop.watch(selection, **told)
        votes = self._watched(rng, p, watch) if isinstance(self.stop, AtRadii) else draws(rng, p, watch.draws)
        y = (votes if fault == "guessed on counted draws" else selection).argmax(axis=1)
        bounds = FIXED if fault.startswith("a bound for one look") else BOUNDS[self.stop.bound]
        doubled = ("twice the level", "a bound for one look, at twice the level")
        level = alpha * (2 if fault in doubled else 4 if fault == "four times the level" else 1)
        alike = selection.max(axis=1) == selection.sum(axis=1)
        k, n, rival = _at(votes, y), votes.sum(axis=1), _of_another(votes, y, fault)
        return y, ruled_radius(self.rule, k, rival, n, level, self.sigma, bounds=bounds, unanimous=alike)

    def _watched(self, rng: np.random.Generator, p: np.ndarray, watch: Watch) -> np.ndarray:
        counts, evidence = np.zeros((2, *p.shape), dtype=np.int64)
        active = np.arange(len(p))
        while len(active):
            counts[active] += draws(rng, p[active], 100)
            done = watch.done(active, counts[active])
            for i in active[done]:
                evidence[i] = watch.evidence(i, counts[i])
            active = active[~done]
        return evidence


@dataclass(frozen=True)
class Dual:
    """An estimator, each of its streams a classifier, and smoothed experts."""

    streams: tuple[Cells, ...]
    rule: Estimator
    experts: tuple[Cells, ...]
    sigmas: tuple[float, ...]
    published: bool = False
    ruled: str = "cohen"  # how the experts' radii follow

    def _looks(self, points: np.ndarray) -> np.ndarray:  # (N, P, S, kinds)
        found = [c.probabilities(points, s) for c, s in zip(self.streams, self.rule.sigmas, strict=True)]
        return np.stack(found, axis=2)

    def _choice(self, p: np.ndarray) -> np.ndarray:
        # (…,) from probabilities (…, S, kinds), by the definitions
        if isinstance(self.rule, Plurality):
            return p[..., 0, :].argmax(axis=-1)
        yes = p[..., 0] if isinstance(self.rule, Cuts) else p[..., 0, :].cumsum(axis=-1)[..., :-1]
        always = np.ones((*yes.shape[:-1], 1), dtype=bool)
        return np.concatenate([yes >= 0.5, always], axis=-1).argmax(axis=-1)

    def _shares(self, points: np.ndarray) -> np.ndarray:  # (N, P, K, C)
        pairs = zip(self.experts, self.sigmas, strict=True)
        return np.stack([cells.probabilities(points, sigma) for cells, sigma in pairs], axis=2)

    def answer(self, points: np.ndarray) -> np.ndarray:
        said = self._shares(points).argmax(axis=-1)
        chosen = self._choice(self._looks(points))
        return np.take_along_axis(said, chosen[..., None], axis=-1)[..., 0]

    def _certified(self, entry: np.ndarray, votes: np.ndarray, top: np.ndarray, y: np.ndarray, split, **how):
        classes = np.repeat(y[:, None], len(self.sigmas), axis=1)
        told = {"sigmas": self.sigmas, "split": split, "rule": self.ruled, **how}
        found = routes(entry, votes, top=top, classes=classes, **told)
        return y, (found.published if self.published else found.routed)

    def exact(self, x: np.ndarray) -> Claimed:
        looks, shares = self._looks(x[:, None])[:, 0], self._shares(x[:, None])[:, 0]
        split, bounds = self.rule.split(len(self.sigmas), 0.05, self.ruled), EXACT
        top = self._choice(looks)
        if isinstance(self.rule, Plurality):
            entry = plurality_entry(looks[:, 0], top, sigma=self.rule.sigma, split=split, bounds=bounds)
        elif isinstance(self.rule, Cuts):
            entry = cuts_entry(looks, sigma=self.rule.sigmas, split=split, bounds=bounds)
        else:
            entry = median_entry(looks[:, 0], sigma=self.rule.sigma, split=split, bounds=bounds)
        y = _at(shares.argmax(axis=-1), top)
        return self._certified(entry, shares, top, y, split, bounds=EXACT)

    def voted(self, rng: np.random.Generator, x: np.ndarray, alpha: float, *, fault: str = "") -> Claimed:
        looks, shares = self._looks(x[:, None])[:, 0], self._shares(x[:, None])[:, 0]
        guess, counted = (np.stack([draws(rng, p, n) for p in looks.swapaxes(0, 1)], 1) for n in (50, 400))
        selection, votes = (np.stack([draws(rng, p, n) for p in shares.swapaxes(0, 1)], 1) for n in (50, 400))
        split = self.rule.split(len(self.sigmas), alpha, self.ruled)
        if fault == "all of alpha for each bound":
            both = {"experts": 1 if self.ruled == "cohen" else 2}
            names = ("lower", "upper", "experts")
            split = _Unchecked(**{k: (both.get(k, 1) * alpha,) * len(getattr(split, k)) for k in names})
        top = self.rule.top(guess)
        y = _at(selection.argmax(axis=-1), top)
        entry = self.rule.entry(counted, top, split)
        if fault == "the others are not certified":
            entry = np.where(np.arange(len(self.sigmas)) == top[:, None], entry, np.inf)
        alike = _at(selection.max(axis=-1), top) == 50
        return self._certified(entry, votes, top, y, split, unanimous=alike)


@dataclass(frozen=True)
class _Unchecked:
    """Levels that `Split` would refuse."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    experts: tuple[float, ...]
    nearest: bool = False


@dataclass(frozen=True)
class Asked:
    """A cascade of smoothed experts, asked in this order."""

    experts: tuple[Cells, ...]
    cascade: Cascade
    n: int = 400
    rule: str = "two-bounds"

    def _shares(self, points: np.ndarray) -> np.ndarray:  # (N, P, K, C)
        pairs = zip(self.experts, self.cascade.sigmas, strict=True)
        return np.stack([cells.probabilities(points, sigma) for cells, sigma in pairs], axis=2)

    def answer(self, points: np.ndarray) -> np.ndarray:
        p = self._shares(points)
        sure = np.clip(p.max(axis=-1), SURE, 1 - SURE)
        accepts = np.asarray(self.cascade.sigmas) * probit(sure) >= np.asarray(self.cascade.limits)
        said = np.take_along_axis(p.argmax(axis=-1), accepts.argmax(axis=-1)[..., None], axis=-1)[..., 0]
        return np.where(accepts.any(axis=-1), said, -1)

    def exact(self, x: np.ndarray) -> Claimed:
        y, shares = self.answer(x[:, None])[:, 0], self._shares(x[:, None])[:, 0]
        with mock.patch.multiple("dualrs_lab.cascade.radii", lower_bound=low, upper_bound=high):
            found = steps(shares, np.maximum(y, 0), cascade=self.cascade, alpha=0.05, rule=self.rule)
        return y, np.where(y >= 0, np.maximum(found.radius, 0), 0)

    def voted(self, rng: np.random.Generator, x: np.ndarray, alpha: float, *, fault: str = "") -> Claimed:
        shares = self._shares(x[:, None])[:, 0].swapaxes(0, 1)
        selection, votes = (np.stack([draws(rng, p, n) for p in shares], axis=1) for n in (50, self.n))
        _, y = first_to_accept(selection, self.cascade)
        if fault == "all of alpha for each bound":
            alpha = alpha * alpha / self.cascade.levels(alpha)[0]
        else:  # experts that are not asked, whatever the guess, cost nothing
            votes[(selection.argmax(axis=-1) % 3 == 2) & (np.arange(len(shares)) > 0)] = 0
        found = steps(votes, np.maximum(y, 0), cascade=self.cascade, alpha=alpha, rule=self.rule)
        return y, np.where(y >= 0, np.maximum(found.radius, 0), 0)


@dataclass(frozen=True)
class Combined:
    """A combiner of smoothed experts. With `stretch` other than 1, the halves of the first are that long."""

    experts: tuple[Cells, ...]
    combiner: Combiner
    n: int = 400
    stretch: float = 1.0

    def _shares(self, points: np.ndarray) -> np.ndarray:  # (N, P, K, C)
        pairs = zip(self.experts, self.combiner.sigmas, strict=True)
        return np.stack([cells.probabilities(points, sigma) for cells, sigma in pairs], axis=2)

    def _preferred(self, z: np.ndarray, one: int, other: int) -> np.ndarray:
        # G of a pair of classes, from lengths (…, K, C), term by term and coordinate by coordinate
        experts, found = len(self.combiner.sigmas), np.full(z.shape[:-2], -np.inf)
        for term in self.combiner.shifts:
            least = np.full(found.shape, np.inf)
            for j in (j for j, shift in enumerate(term) if shift < np.inf):
                kind, mine, theirs = j // experts, z[..., j % experts, one], z[..., j % experts, other]
                half = 0.5 * (mine - theirs) * (self.stretch if j == 0 else 1)
                value = (half, mine, -theirs, np.zeros_like(mine))[kind]
                least = np.minimum(least, value + term[j])
            found = np.maximum(found, least)
        return found

    def margins(self, shares: np.ndarray) -> np.ndarray:
        """h (…, C) of each class from probabilities (…, K, C), by the definition."""
        z = np.asarray(self.combiner.sigmas)[:, None] * probit(np.clip(shares, SURE, 1 - SURE))
        kinds = range(shares.shape[-1])
        g = {(one, other): self._preferred(z, one, other) for one in kinds for other in kinds if one != other}
        least = [
            np.min([0.5 * (g[one, other] - g[other, one]) for other in kinds if other != one], axis=0)
            for one in kinds
        ]
        return np.stack(least, axis=-1)

    def answer(self, points: np.ndarray) -> np.ndarray:
        h = self.margins(self._shares(points))
        return np.where(h.max(axis=-1) > 0, h.argmax(axis=-1), -1)

    def _stretched(self, v: np.ndarray, combiner: Combiner) -> np.ndarray:
        long = np.ones(v.shape[-1])
        long[0] = self.stretch
        return _largest(v * long, combiner)

    def exact(self, x: np.ndarray) -> Claimed:
        y, shares = self.answer(x[:, None])[:, 0], self._shares(x[:, None])[:, 0]
        with mock.patch("dualrs_lab.combine.radii._largest", self._stretched):
            radius = combined_radius(
                shares, np.maximum(y, 0), combiner=self.combiner, alpha=0.05, bounds=(low, high)
            )
        return y, np.where(y >= 0, np.maximum(radius, 0), 0)

    def voted(self, rng: np.random.Generator, x: np.ndarray, alpha: float, *, fault: str = "") -> Claimed:
        shares = self._shares(x[:, None])[:, 0].swapaxes(0, 1)
        selection, votes = (np.stack([draws(rng, p, n) for p in shares], axis=1) for n in (50, self.n))
        y, bounds = surest_class(selection, self.combiner), (lower_bound, upper_bound)
        if fault == "all of alpha for each bound":
            alpha = alpha * self.combiner.spends
        elif fault == "the share of the rival":
            bounds = (lower_bound, high)
        elif not fault:  # experts that are not asked, whatever the guess, cost nothing
            votes[(selection.argmax(axis=-1) % 3 == 2) & (np.arange(len(shares)) > 0)] = 0
        return y, np.maximum(combined_radius(votes, y, combiner=self.combiner, alpha=alpha, bounds=bounds), 0)


@dataclass(frozen=True)
class Mix:
    """The mix of weight a of a smoothed h, and of whatever network g: what any g can undo is undone."""

    cells: Cells
    sigma: float
    weight: float
    form: str
    rule: str = "cohen"
    n: int = 2000

    def answer(self, points: np.ndarray) -> np.ndarray:
        p = np.sort(h := self.cells.probabilities(points, self.sigma), axis=-1)
        worst = (
            self.weight * p[..., -1] - (1 - self.weight) - self.weight * p[..., -2]
        )  # g is sure of the second
        return np.where(worst > 0, h.argmax(axis=-1), -1)

    def exact(self, x: np.ndarray) -> Claimed:
        p = self.cells.probabilities(x[:, None], self.sigma)[:, 0]
        first, second = np.sort(p, axis=1)[:, -1], np.sort(p, axis=1)[:, -2]
        lower = np.minimum(first, 1 - SURE)
        upper = np.maximum(1 - first if self.rule == "cohen" else second, SURE)
        if self.form == "closed":
            return p.argmax(axis=1), mix_radius_closed(lower, self.weight, self.sigma)
        if self.form == "lipschitz":
            slope = 1 / (self.sigma * np.sqrt(2 * np.pi))
            return p.argmax(axis=1), mix_radius_lipschitz(lower, upper, self.weight, slope)
        form = mix_radius_exact if self.form == "exact" else mix_radius_smoothing
        return p.argmax(axis=1), form(lower, upper, self.weight, self.sigma)

    def voted(self, rng: np.random.Generator, x: np.ndarray, alpha: float, *, fault: str = "") -> Claimed:
        p = self.cells.probabilities(x[:, None], self.sigma)[:, 0]
        level = alpha * {"twice the level": 2, "four times the level": 4}.get(fault, 1)
        table = self._table(draws(rng, p, 50), draws(rng, p, self.n), level)
        found = mixed(table, self.weight, form=self.form, rule=self.rule)
        return found["predict"].to_numpy(), found["radius"].to_numpy()

    def _table(self, selection: np.ndarray, votes: np.ndarray, alpha: float) -> pd.DataFrame:
        text = [[votes_text(tuple((c, int(k)) for c, k in enumerate(row) if k)) for row in some]
                for some in (selection, votes)]  # fmt: skip
        told = {"idx": np.arange(len(votes)), "label": 0, "predict": -1, "radius": 0.0, "correct": 0}
        told |= {"time": 0.0, "sigma": self.sigma, "n0": 50, "n": self.n, "alpha": alpha}
        told |= {"successes": _at(votes, selection.argmax(axis=1)), "selection": text[0], "votes": text[1]}
        return pd.DataFrame(told)


Method = Plain | Dual | Asked | Combined | Mix
