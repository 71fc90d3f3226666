"""Predictions of a dual system at one level, by its routes or, as published, by two tests.

**By routes.** Draws apart guess the expert that is chosen at x, and its class y. y is answered where every
route says so: for each expert j either its entry radius is above 0, so that it is not chosen at x, or its
votes show y ahead of all other classes. *Level.* Let j be the expert that the ideal estimator does choose at
x; y and j are fixed before the counted draws. If the system gives another class, expert j does, and y was
answered only if a bound of the cuts in this one route failed, or the test of expert j. So levels add up
within a route only, as for certificates (`dual.radii`), of which this is the one with a radius of "above 0";
experts that cannot be chosen are not asked.

The test of expert j takes the level of one bound: given how often y or c came, where c is the class that is
most probable beside y, the votes of y are binomial with a probability of 1/2 at most if y is not ahead. c is
fixed, and its count is not above the largest of another class; with this one in its place the p-value only
grows, so that there is no union over classes.

**By two tests** (Sun, Mao and Vechev 2026): half of alpha for the expert that is chosen, half for its class.
An image where two experts may be chosen gets no answer then, even if both agree.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dualrs_lab.dual.ask import by_expert, check_systems, check_voters, count_all, noise_of_each
from dualrs_lab.dual.choice import Cuts, Estimator, Plurality
from dualrs_lab.dual.spec import DualSpec
from dualrs_lab.evidence.binomial import ahead_pvalue, top_two_pvalue, two_sided_pvalue
from dualrs_lab.evidence.claim import ABSTAIN
from dualrs_lab.evidence.votes import own_and_rival
from dualrs_lab.smoothing.engine import Voter, count_votes

__all__ = ["predict_by_two_tests", "predict_dual"]


Ints = NDArray[np.int64]


def predict_dual(estimators: Sequence[Voter], experts: Sequence[Voter], x: Tensor, *, spec: DualSpec) -> Ints:
    """Classes (N,) of inputs (N, ...) by routes, ABSTAIN where one of them is too close to call.

    `n0` draws guess the expert, and as many its class; `n_estimator` others are the estimator's, and an
    expert that may be chosen gets `n`. Returns a class other than that of the ideal system with probability
    at most alpha, input by input, by the even split with one bound for an expert. Voters and errors are as
    for `certify_dual`.
    """
    check_systems("predict_dual", estimators, experts, spec)
    check_voters("predict_dual", estimators, experts, spec)
    if not len(x):
        return np.zeros(0, dtype=np.int64)

    blocks = partial(noise_of_each, spec, tuple(x.shape[1:]), x.device)
    cuts, count = list(enumerate(spec.estimator.sigmas)), len(spec.sigmas)
    guesses, looks = (
        [blocks(s, f"estimator-prediction-{kind}{k}") for k, s in cuts] for kind in ("selection-", "")
    )
    top = spec.estimator.top(count_all(estimators, x, guesses, spec.n0))
    guess = np.zeros(len(x), dtype=np.int64)
    for j, chosen in by_expert(top, np.ones(len(x), dtype=bool), count):
        draws = blocks(spec.sigmas[j], "prediction-selection")
        votes = count_votes(experts[j], x[chosen], draws, n=spec.n0, classes=experts[j].classes)
        guess[chosen] = votes.argmax(axis=1)

    split = spec.estimator.split(count, spec.alpha, "cohen")  # one bound an expert
    entry = spec.estimator.entry(count_all(estimators, x, looks, spec.n_estimator), top, split)
    may_be_chosen = (entry <= 0) | (np.arange(count) == top[:, None])
    sure = np.ones(len(x), dtype=bool)
    for turn in (np.arange(count) == top[:, None], np.arange(count) != top[:, None]):  # the likely one first
        for j in range(count):
            asked = np.flatnonzero(sure & may_be_chosen[:, j] & turn[:, j])
            if len(asked):
                draws = blocks(spec.sigmas[j], "prediction")
                votes = count_votes(experts[j], x[asked], draws, n=spec.n, classes=experts[j].classes)
                sure[asked] = ahead_pvalue(*own_and_rival(votes, guess[asked])) <= split.experts[j]
    return np.where(sure, guess, ABSTAIN)


def predict_by_two_tests(
    estimators: Sequence[Voter], experts: Sequence[Voter], x: Tensor, *, spec: DualSpec
) -> Ints:
    """Classes (N,) of inputs (N, ...), ABSTAIN where a choice is too close to call: the published way.

    Half of alpha tests the expert that `n_estimator` draws choose, the other half Cohen's PREDICT of this
    expert, with `n` draws. Level, voters and errors are as for `predict_dual`.
    """
    check_systems("predict_by_two_tests", estimators, experts, spec)
    check_voters("predict_by_two_tests", estimators, experts, spec)
    found = np.full(len(x), ABSTAIN, dtype=np.int64)
    if not len(x):
        return found

    blocks = partial(noise_of_each, spec, tuple(x.shape[1:]), x.device)
    looks = [blocks(s, f"estimator-prediction-{k}") for k, s in enumerate(spec.estimator.sigmas)]
    votes = count_all(estimators, x, looks, spec.n_estimator)
    settled = _choice_pvalue(spec.estimator, votes) <= spec.alpha / 2
    for j, chosen in by_expert(spec.estimator.top(votes), settled, len(spec.sigmas)):
        draws = blocks(spec.sigmas[j], "prediction")
        counts = count_votes(experts[j], x[chosen], draws, n=spec.n, classes=experts[j].classes)
        sure = top_two_pvalue(counts) <= spec.alpha / 2
        found[chosen] = np.where(sure, counts.argmax(axis=1), ABSTAIN)
    return found


def _choice_pvalue(estimator: Estimator, votes: Ints) -> NDArray[np.float64]:
    """(N,): how well votes (N, S, C) support the expert that they choose.

    The first cut that says yes decides, so a wrong choice needs a wrong answer of one of the cuts up to it:
    the largest of their p-values, times the number of all cuts (Bonferroni).
    """
    if isinstance(estimator, Plurality):
        return top_two_pvalue(votes[:, 0])
    yes = votes[..., 0] if isinstance(estimator, Cuts) else np.cumsum(votes[:, 0], axis=1)[:, :-1]
    pvalue = two_sided_pvalue(yes, votes.sum(axis=2))
    asked = np.arange(yes.shape[1]) <= estimator.top(votes)[:, None]
    return np.asarray(yes.shape[1] * np.where(asked, pvalue, 0.0).max(axis=1, initial=0.0))
