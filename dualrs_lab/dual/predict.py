"""The prediction of a dual system at one level: two tests, one for the choice and one for the class."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dualrs_lab.dual.ask import by_expert, check_systems, check_voters, count_all, noise_of_each
from dualrs_lab.dual.choice import Cuts, Estimator, Plurality
from dualrs_lab.dual.spec import DualSpec
from dualrs_lab.evidence.binomial import top_two_pvalue, two_sided_pvalue
from dualrs_lab.evidence.claim import ABSTAIN
from dualrs_lab.smoothing.engine import Voter, count_votes

__all__ = ["predict_dual"]


Ints = NDArray[np.int64]


def predict_dual(estimators: Sequence[Voter], experts: Sequence[Voter], x: Tensor, *, spec: DualSpec) -> Ints:
    """Classes (N,) of inputs (N, ...), ABSTAIN where a choice is too close to call.

    (Sun, Mao and Vechev 2026.) Half of alpha tests the expert that `n_estimator` draws choose, the other half
    Cohen's PREDICT of this expert, with `n` draws. Returns a class other than that of the ideal system with
    probability at most alpha, input by input. Voters and errors are as for `certify_dual`.
    """
    check_systems("predict_dual", estimators, experts, spec)
    check_voters("predict_dual", estimators, experts, spec)
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
