"""How far a combiner of smoothed experts keeps its answer: one theorem for routers, cascades and mixes.

Expert i with noise sigma_i knows, of every class c, z_ic = sigma_i Phi^-1(p_ic), a length: it is 1-Lipschitz
in the input (Salman et al. 2019). A *combiner* compares two classes y and c by a number M_yc, any function of
all these lengths that is 1-Lipschitz in the sup norm, with M_yc + M_cy <= 0. It answers y where

    h_y = min over c other than y of M_yc

is above 0, and abstains where no h_y is.

**Theorem.** At most one h_y is above 0, and within the radius R = h_y(x) the answer stays y. *Proof.* Of two
classes y and c, h_y + h_c <= M_yc + M_cy <= 0. Each M_yc is 1-Lipschitz in the input, as a 1-Lipschitz
function in the sup norm of 1-Lipschitz functions, and so is their minimum h_y; it is above 0 wherever the
input has moved by less than h_y(x). QED.

**Lattices.** With own = z_iy, rival = -z_ic and half, the mean of both, for each expert, let G(v) = max_a
min_j (v_j + W_aj): maxima, minima and shifts are 1-Lipschitz in the sup norm. Turned round, the pair (c, y)
has the coordinates -half, -rival and -own in the places of half, own and rival. So

    M_yc = 1/2 (G(v) - G(v turned round and negated))

has M_yc + M_cy = 0, whatever W is. Every function that rises in its coordinates and is 1-Lipschitz in the sup
norm is a limit of such G. Cases: G = half_i is expert i alone, whose R is its radius by two bounds; G = max_i
(own_i - t_i) lets answer whoever is surest, F_c = max_i (z_ic - t_i) and R = 1/2 (F_y - max_c F_c); any
scores F_c that are 1-Lipschitz so give a combiner. A smoothed router's sigma_e Phi^-1(F_k), or any other
1-Lipschitz number that is the same for all classes, may stand among the coordinates and is not turned round.

**From votes.** Let y be fixed beforehand, by draws that are not counted, and let c* be the class whose M_yc*
is the least by the exact probabilities. From the lower bound of p_iy and the upper bound of p_ic, which is at
most 1 - the lower one, each M_yc comes out too large only where a bound fails; and R, the least over c,
exceeds the exact radius only if M_yc* does. So no union over classes is due, only one over the bounds of y
and c*: 2 K at most. G(v) exceeds its exact value only if some coordinate does; the second part only if one
does in the single term a* that attains the exact maximum. So what counts is all bounds in the coordinates of
G, and those in the turned coordinates of one term, whichever has most: `Combiner.spends`. For whoever is
surest, K + 1. An expert that is not asked has the bounds 0 and 1, which never fail.

Shapes: leading axes of images (or none), then experts (K,), then classes (C,). Radii are l2 in the unit of
the sigmas.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from dualrs_lab.combine.lattice import Combiner
from dualrs_lab.evidence.radii import EXACT, Bounds
from dualrs_lab.evidence.votes import own_and_rival

__all__ = [
    "class_margins",
    "combined_margin",
    "combined_radius",
    "lengths",
    "pair_coordinates",
    "reach_of_each",
    "surest_class",
]


Floats = NDArray[np.float64]


Ints = NDArray[np.int64]


FAR = 1e6
"""A length beyond all radii, where a bound is 0 or 1."""


def lengths(p: ArrayLike, sigmas: Sequence[float]) -> Floats:
    """sigma_i Phi^-1(p_ic) (…, K, C) of probabilities, within `FAR` of 0."""
    sigma = np.asarray(sigmas, dtype=np.float64)[:, None]
    return np.clip(sigma * special.ndtri(np.asarray(p, dtype=np.float64)), -FAR, FAR)


def combined_margin(own: ArrayLike, rival: ArrayLike, combiner: Combiner) -> Floats:
    """M_yc (…,) from lengths (…, K) of y, or lower bounds of them, and of c, or upper bounds."""
    forth, back = pair_coordinates(own, rival)
    return np.asarray((_largest(forth, combiner) - _largest(back, combiner)) / 2)


def pair_coordinates(own: ArrayLike, rival: ArrayLike) -> tuple[Floats, Floats]:
    """Coordinates (…, 3 K + 1) of a pair from lengths (…, K) of its classes, and of it turned round."""
    a, b = np.broadcast_arrays(np.asarray(own, dtype=np.float64), -np.asarray(rival, dtype=np.float64))
    half, zero = (a + b) / 2, np.zeros((*a.shape[:-1], 1))
    return np.concatenate([half, a, b, zero], axis=-1), np.concatenate([-half, -b, -a, zero], axis=-1)


def surest_class(votes: ArrayLike, combiner: Combiner) -> Ints:
    """The class (…,) whose h is the largest by the shares of votes (…, K, C): a guess, without a test.

    It does not depend on how many classes without votes are counted; the lowest of several wins.
    """
    counts = np.asarray(votes, dtype=np.float64)
    trials = counts.sum(axis=-1, keepdims=True)
    share = (counts + 0.5) / (trials + 1)
    return np.asarray(class_margins(lengths(share, combiner.sigmas), combiner).argmax(axis=-1))


def class_margins(z: ArrayLike, combiner: Combiner) -> Floats:
    """h_y (…, C) of every class y from lengths (…, K, C): at most one is above 0, and that one answers."""
    known = np.asarray(z, dtype=np.float64)
    every = [_least_margin(known[..., y], known, np.asarray(y), combiner) for y in range(known.shape[-1])]
    return np.stack(every, axis=-1)


def combined_radius(
    votes: ArrayLike, y: ArrayLike, *, combiner: Combiner, alpha: float, bounds: Bounds = EXACT
) -> Floats:
    """R (…,) for class y (…,) from votes (…, K, C), at level alpha; not above 0 where nothing is certified.

    y must come from other draws than these. An expert without votes was not asked. Raises ValueError where
    shapes do not fit the combiner.
    """
    counts, kind = np.asarray(votes), np.asarray(y)
    count = len(combiner.sigmas)
    if counts.ndim < 2 or counts.shape[-2] != count or kind.shape != counts.shape[:-2]:
        raise ValueError(
            f"combined_radius: wanted votes (…, {count}, C) and one y an image, got {counts.shape} and "
            f"{kind.shape}."
        )
    low, high = _bounded(counts, kind, alpha / combiner.spends, bounds)
    own, others = lengths(low[..., None], combiner.sigmas)[..., 0], lengths(high, combiner.sigmas)
    return _least_margin(own, others, kind, combiner)


def reach_of_each(
    votes: ArrayLike, y: ArrayLike, *, combiner: Combiner, alpha: float, bounds: Bounds = EXACT
) -> Floats:
    """How far each expert (…, K) by itself keeps y, by the same bounds; below 0: it says another class."""
    counts, kind = np.asarray(votes), np.asarray(y)
    low, high = _bounded(counts, kind, alpha / combiner.spends, bounds)
    at = np.broadcast_to(kind[..., None, None], (*low.shape, 1))
    np.put_along_axis(high, at, 0.0, axis=-1)
    own, rival = (lengths(p[..., None], combiner.sigmas)[..., 0] for p in (low, high.max(axis=-1)))
    return np.asarray((own - rival) / 2)


def _bounded(counts: Ints, y: Ints, level: float, bounds: Bounds) -> tuple[Floats, Floats]:
    # of y from below (…, K), and of every class from above (…, K, C)
    if counts.shape[-1] == 1:  # a class that nobody named is a rival, too
        counts = np.concatenate([counts, np.zeros_like(counts)], axis=-1)
    trials = counts.sum(axis=-1)
    asked, n = trials > 0, np.maximum(trials, 1)
    own, _ = own_and_rival(counts, np.broadcast_to(y[..., None], trials.shape))
    low = np.where(asked, bounds[0](own, n, level), 0.0)
    high = np.where(asked[..., None], bounds[1](counts, n[..., None], level), 1.0)
    return low, np.minimum(high, 1 - low[..., None])


def _least_margin(own: Floats, others: Floats, y: Ints, combiner: Combiner) -> Floats:
    # h_y (…,) from lengths (…, K) of y and (…, K, C) of all classes
    each = combined_margin(own[..., None, :], np.moveaxis(others, -1, -2), combiner)  # (…, C)
    is_y = np.arange(each.shape[-1]) == y[..., None]
    return np.asarray(np.where(is_y, np.inf, each).min(axis=-1))


def _largest(v: Floats, combiner: Combiner) -> Floats:
    # term by term, so that nothing of size A is held
    terms = [(v[..., row < np.inf] + row[row < np.inf]).min(axis=-1) for row in combiner.array]
    return np.asarray(np.maximum.reduce(terms))
