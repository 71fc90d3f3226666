#!/usr/bin/env python3
"""Checks tables of certificates without DualRS Lab: computes each radius again, from the votes in its row.

    python verify_table.py TABLE.tsv [TABLE.tsv ...] [--labels FILE]

Needs Python 3.10 or newer and SciPy, and shares no code with the package that wrote the tables. It is meant
to be read: first `check_table`, what is looked at in every table; then the bounds; then a function for each
method, which says by which formula a row follows from its votes. Radii are l2, images in [0, 1].

For each table one line says what is certified, or names the first row that does not fit, and how. It ends
with 1 if anything does not fit, else with 3 if a table holds no votes to compute from, else with 0.

It cannot see whether the votes were ever drawn: who makes up votes, and all that follows from them, passes.
To see that takes the network, the images and the seed, whose digests the json beside the table holds.
"""

import argparse
import hashlib
import json
import re
import sys
from functools import lru_cache
from math import asin, exp, expm1, fsum, inf, isfinite, lgamma, log, log1p, sqrt
from pathlib import Path

from scipy.special import betaincc, betainccinv, betaincinv, betaln, chndtr, chndtrix, ndtr, ndtri

LOG = ["idx", "label", "predict", "radius", "correct", "time"]  # the columns of the published logs


class Wrong(Exception):
    """What does not fit."""


class NoVotes(Exception):
    """Nothing to compute from."""


UNREADABLE = (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError)


def check_table(path, labels):
    """One line that says what the table at `path` certifies; Wrong or NoVotes says what is the matter."""
    data, record = path.read_bytes(), read_record(path)
    if not data.endswith(b"\n"):
        raise Wrong("the last line is unfinished")
    if "sha256" in record and record["sha256"] != hashlib.sha256(data).hexdigest():
        raise Wrong("the sha256 in the json beside it is that of another file, or the table was not finished")
    header, *lines = [line.split("\t") for line in data.decode("utf-8").split("\n")[:-1]]
    if any(len(line) != len(header) for line in lines) or len(set(header)) < len(header) or not lines:
        raise Wrong("no table: wanted rows with as many cells as the header has different names")
    rows = [dict(zip(header, line)) for line in lines]
    if header[:2] == LOG[:2] and "radius" not in header:
        raise NoVotes(f"{len(rows)} rows of answers under attack, no certificates")
    if header[:6] != LOG:
        raise Wrong(f"no table of certificates: wanted columns that start with {' '.join(LOG)}")
    idx = []
    in_each(rows, lambda row: check_claim(row, idx, labels))
    check_kept(record, idx)
    method, rule = alike(rows, "method", "published"), rule_of(rows)
    if not any(name == "votes" or name.startswith("votes_") for name in header):
        raise NoVotes(f"{len(rows)} rows without votes, as published logs are")
    systems = {"dual": dual, "cascade": cascade, "combine": combine}
    compute = (systems | {"mix": mix, "smooth-sigma": smooth_sigma}).get(method, plain)
    in_each(rows, lambda row: check_row(row, compute(row, rule)))
    check_record(record.get("identity", {}), rows, method, rule)
    return sentence(record, rows, method, rule)


def in_each(rows, check):
    """Names the line and the image of the first row that does not pass."""
    for number, row in enumerate(rows, start=2):
        try:
            check(row)
        except (Wrong, *UNREADABLE) as error:
            what = error if isinstance(error, Wrong) else f"unreadable: {type(error).__name__} {error}"
            raise Wrong(f"line {number} (idx {row['idx']}): {what}") from None


def read_record(path):
    """The json beside a table, where it is the table's; it may not have been edited since it was written."""
    try:
        record = json.loads(path.with_suffix(".json").read_text("utf-8"))
    except OSError:
        return {}
    except ValueError:
        raise Wrong("the json beside it is none") from None
    if not isinstance(record, dict) or record.get("record_of", ".tsv") != ".tsv":
        return {}
    rest = {name: value for name, value in record.items() if name != "record_sha256"}
    if "record_sha256" in record and record["record_sha256"] != sha256_of(rest):
        raise Wrong("the json beside it was changed after it was written: its own sha256 is another")
    return record


def sha256_of(record):
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode("utf-8")).hexdigest()


def check_claim(row, before, labels):
    """The six columns of the published logs do not contradict each other, and no image comes twice."""
    for name in ("idx", "label", "predict", "correct"):
        if not re.fullmatch(r"-?[0-9]+", row[name]):
            raise Wrong(f"{name} {row[name]!r} is no whole number")
    label, predict, radius = int(row["label"]), int(row["predict"]), float(row["radius"])
    if int(row["idx"]) < 0 or label < -1 or predict < -1 or not 0 <= radius < inf:
        raise Wrong("wanted idx >= 0, label and predict >= -1, and a finite radius >= 0")
    if predict == -1 and radius > 0:
        raise Wrong(f"it abstains with radius {radius}")
    if int(row["correct"]) != (predict == label != -1):
        raise Wrong(f"correct {row['correct']}, with label {label} and predict {predict}")
    idx = int(row["idx"])
    if before and idx <= before[-1]:
        raise Wrong("this idx comes twice" if idx in before else "idx does not ascend")
    if labels is not None and labels.get(idx) != label:
        raise Wrong(f"label {label}, and the file of labels says {labels.get(idx, 'nothing of it')}")
    before.append(idx)


def check_kept(record, idx):
    """All images are there that the json says were asked for: every skip-th, max_images at most."""
    if record.get("rows", len(idx)) != len(idx):
        raise Wrong(f"{len(idx)} rows, and the json says {record['rows']}")
    skip, most = record.get("skip"), record.get("max_images", -1)
    if isinstance(skip, int) and skip > 0:
        wanted = [*range(0, max(idx) + 1, skip)][: most if most > 0 else None]
        if lost := sorted({*wanted} - {*idx}):
            raise Wrong(f"the row of idx {lost[0]} is missing: the json says every {skip}. image")


def check_row(row, found):
    """What a row says is what its votes give: `found`, by column; and predict is that class, or -1."""
    guess, drawn = found.pop("guess"), found.pop("drawn")
    slack = 1e-4 * max(noise_levels(row)) if row.get("bound") == "betting" else 0  # the lab rounds these down
    for name, value in found.items():
        said = float(row[name])
        # Another SciPy may differ in the last digits. Below 0, where nothing is certified, p is next to 1.
        near = 1e-12 + (1e-9 if value > 0 else 1e-6) * abs(value)
        if said != value and not value - near - slack <= said <= value + near:
            raise Wrong(f"{name} {row[name]}, and its votes give {value}")
    if int(row["predict"]) != (guess if float(row["radius"]) > 0 else -1):
        raise Wrong(f"predict {row['predict']}, and its votes give {guess}")
    if "drawn" in row and int(row["drawn"]) < drawn:
        raise Wrong(f"{row['drawn']} draws, and {drawn} votes")
    if "votes" in row and row.get("bound") == "clopper-pearson" and int(row.get("drawn", drawn)) > drawn:
        raise Wrong(
            f"{drawn} votes were picked from {row['drawn']} draws: only the bound by betting allows it"
        )
    if not re.fullmatch(r"[0-9a-f]{16}", row.get("image", "0" * 16)):
        raise Wrong(f"image {row['image']!r}: wanted 16 hexadecimal digits")


def check_record(identity, rows, method, rule):
    """The json beside the table says the same of it as the rows do, as far as it says it."""
    first, sigmas = rows[0], noise_levels(rows[0])
    ruled = "rule" in identity or (method in ("rs", "dual") and "n0" in identity)  # Cohen's is not recorded
    said = {"method": method} | ({"rule": rule} if ruled else {})
    said |= {name: float(alike(rows, name)) for name in ("alpha", "seed", "paired") if name in first}
    if method in ("cascade", "combine", "dual"):
        said["sigmas"] = sigmas
    elif method == "smooth-sigma":
        said |= {name: float(alike(rows, name)) for name in ("base", "rate", "centre", "k")}
    else:
        said |= {"sigma": float(alike(rows, "sigma"))}
    said |= {name: alike(rows, name) for name in ("combiner", "form") if name in first}
    said |= {"weight": float(alike(rows, "weight"))} if "weight" in first else {}
    said |= {name: numbers(alike(rows, name)) for name in ("thresholds", "shares") if name in first}
    said |= {"answers": int(alike(rows, "answers"))} if "answers" in first else {}
    said |= {"confidences": confidences(first)} if any(confidences(first)) else {}
    if "levels" in first:
        split = zip(("lower", "upper", "experts"), alike(rows, "levels").split(";"))
        said["split"] = {name: numbers(text) for name, text in split}
        chosen = identity.get("estimator", {"rule": first["estimator"], "sigmas": None})
        noise = chosen.get("sigmas") or [chosen.get("sigma")]
        if chosen["rule"].lower() != alike(rows, "estimator"):
            raise Wrong(f"estimator is {first['estimator']} in the rows, and {chosen['rule']} in the json")
        if noise != [None] and noise != numbers(alike(rows, "estimator_sigmas")):
            raise Wrong(
                f"estimator_sigmas is {first['estimator_sigmas']} in the rows, and {noise} in the json"
            )
    identity = {name: value for name, value in identity.get("cascade", {}).items() if value} | identity
    for name, value in said.items():
        known = identity.get(name, "cohen" if name == "rule" else value)
        if name == "split":
            known = {part: known.get(part) for part in value}
        if known != value:
            raise Wrong(f"{name} is {value} in the rows, and {known} in the json beside them")
    stop = identity.get("stop", {}).get("rule", "AllDraws")

    def check_draws(row):
        n = int(row["n"]) if method in ("rs", "smooth-sigma") else 0
        most = identity.get("n", n) if n else 0
        if n > most or (n < most and stop == "AllDraws"):
            raise Wrong(f"n {n}, and the json says {most}")
        if stop == "AtRadii" and row.get("bound") != "betting":
            raise Wrong("its votes said when to stop, for which only the bound by betting holds")

    in_each(rows, check_draws)


def sentence(record, rows, method, rule):
    """What is certified, in one line."""
    identity = record.get("identity", {})
    networks = identity.get("experts", record.get("networks", []))
    networks = [identity["model"]] if "model" in identity else networks
    by = "+".join(identity.get("estimators", []))
    draws = sorted({sum(votes.values()) for row in rows for votes in each(row, "votes") if votes})
    levels = " ".join(expert_names(rows[0])) or f"{noise_levels(rows[0])[0]:g}"
    if method == "smooth-sigma":
        levels = "{base} exp({rate} (d - {centre}))".format(**rows[0])
    sure = sum(float(row["radius"]) > 0 for row in rows)
    who = "+".join(networks) or "(not named)"
    who += f" routed by {by}" if by else ""
    who += silence(identity.get("sure"))
    who += f" in a mix of weight {float(rows[0]['weight']):g}" if method == "mix" else ""
    paired = rows[0].get("paired", "0")
    who += f" in strict float32, by votes of a quick copy and {paired} pairs" if paired != "0" else ""
    n = " to ".join(str(n) for n in dict.fromkeys([draws[0], draws[-1]]))
    return (
        f"{method}, network {who}, images {identity.get('images', '(not named)')}, "
        f"{identity.get('noise', 'noise (not named)')} of sigma {levels}, n {n}, alpha "
        f"{float(rows[0]['alpha']):g} for each image, rule {rule}: {len(rows)} rows, {sure} with a radius"
    )


def silence(sure):
    """Below which largest softmax probability a network votes for no class; experts are named by it."""
    least = sure.get("confidence") if isinstance(sure, dict) else 0
    return f" silent below {least:g}" if least else ""


# ------------------------------------------------------------------ reading cells


def counts(text):
    """ "3:97 5:3" as {3: 97, 5: 3}: each class once, ascending, with a positive count."""
    if not re.fullmatch(r"([0-9]+:[1-9][0-9]*( (?=[0-9])|$))*", text):
        raise Wrong(f"{text!r} are no votes")
    pairs = [tuple(map(int, pair.split(":"))) for pair in text.split()]
    if [kind for kind, _ in pairs] != sorted({kind for kind, _ in pairs}):
        raise Wrong(f"{text!r}: wanted each class once, ascending")
    return dict(pairs)


def numbers(text):
    return [float(word) for word in text.split()]


def each(row, what):
    """The votes of a network, or of each expert of a system, in the order of the columns."""
    return [counts(text) for name, text in row.items() if name == what or name.startswith(f"{what}_")]


def noise_levels(row):
    """The noise of the network, or of each expert: from `sigma`, or the names `votes_0.25`, …"""
    found = [float(name.partition("@")[0]) for name in expert_names(row)]
    return found or [float(row["sigma"])]


def expert_names(row):
    """What the experts of a system are called: "0.5", or "0.5@0.6", silent below a confidence of 0.6."""
    return [name.removeprefix("votes_") for name in row if name.startswith("votes_")]


def confidences(row):
    """Below which largest softmax probability each expert of a system is silent; 0: never."""
    return [float(name.partition("@")[2] or 0) for name in expert_names(row)]


def alike(rows, name, otherwise=None):
    """The one value that all rows have; a table is made in one way, which is chosen before its votes."""
    values = {row.get(name, otherwise) for row in rows}
    if len(values) > 1 or None in values:
        raise Wrong(f"rows differ in {name}: {sorted(map(str, values))}")
    return values.pop()


def rule_of(rows):
    """How a radius follows from votes; the first tables do not say."""
    method = rows[0].get("method")
    if method == "mix" and "rule" not in rows[0] and "others" in rows[0]:
        return {"rest": "cohen", "votes": "each-class"}[alike(rows, "others")]
    return alike(rows, "rule", "own-votes" if method == "cascade" else "cohen")


def leader(votes):
    """The class with the most votes, the lowest of several."""
    return max(votes, key=lambda kind: (votes[kind], -kind))


def level_name(sigma):
    return repr(sigma).removesuffix(".0")


# ------------------------------------------------------------------ bounds on a probability


@lru_cache(None)
def below(k, n, alpha, bound="clopper-pearson"):
    """A probability p that got k of n votes is less than this in a share alpha of all cases, at most."""
    if not 0 < alpha < 1 or bound not in ("clopper-pearson", "betting"):
        raise Wrong(f"alpha {alpha}, bound {bound}: wanted alpha in (0, 1) and a bound that is known")
    if k == 0 or bound == "betting":
        return 0.0 if k == 0 else betting(k, n, alpha)
    return float(betaincinv(k, n - k + 1, alpha))  # Clopper and Pearson 1934


def above(k, n, alpha, bound="clopper-pearson"):
    """The bound from the other side."""
    if bound == "betting":
        return 1 - below(n - k, n, alpha, bound)
    return 1.0 if k == n else float(betainccinv(k + 1, n - k, alpha))


def betting(k, n, alpha):
    """The same where the votes said when to stop (Voráček 2024): the p0 against which a gambler wins 1/alpha.

    The wealth against p <= p0 is the mean of (q/p0)^k ((1-q)/(1-p0))^(n-k) over q > p0 by a Beta(1/2, 1/2).
    """

    def wealth(p):
        mean = betaln(k + 0.5, n - k + 0.5) + log(betaincc(k + 0.5, n - k + 0.5, p) or 1e-300)
        return mean - log(2 * asin(sqrt(1 - p))) - k * log(p) - (n - k) * log1p(-p)

    low, high = 0.0, k / n - 1e-16
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if wealth(middle) >= log(1 / alpha) else (low, middle)
    return low


def both(rule, votes, guess, alpha, unanimous, bound="clopper-pearson", classes=0):
    """Bounds of the class from below and of any other from above, from votes.

    Cohen's rule gives a rival all that the class leaves. By two bounds, each at half of alpha, no class has
    more than the upper bound of the largest rival, but where one of two bounds fails: that of the class, or
    that of its most probable rival, whose votes are not more than those of the largest.
    """
    n, own = sum(votes.values()), votes.get(guess, 0)
    rival = max((count for kind, count in votes.items() if kind != guess), default=0)
    if rule == "cohen" or (rule == "selected" and unanimous):
        low = below(own, n, alpha, bound)
        return low, 1 - low
    if rule not in ("two-bounds", "selected", "each-class"):
        raise Wrong(f"the rule {rule!r} is not known")
    share = (
        alpha / 2 / (classes - 1) if rule == "each-class" else alpha / 2
    )  # the first mixes: one for each class
    low, high = below(own, n, alpha / 2, bound), above(rival, n, share, bound)
    return low, high if rule == "each-class" else min(high, 1 - low)


# ------------------------------------------------------------------ one smoothed network


def plain(row, rule):
    """R = sigma/2 (Phi^-1(p_low) - Phi^-1(p_high)); Cohen, Rosenfeld and Kolter 2019, theorem 1."""
    found, low, high = one_network(row, rule)
    return found | {"radius": max(0.0, float(row["sigma"]) / 2 * (ndtri(low) - ndtri(high)))}


def one_network(row, rule):
    selection, votes = counts(row["selection"]), counts(row["votes"])
    if not selection or not votes or not 0 < float(row["sigma"]) < inf:
        raise Wrong("wanted votes of both kinds, and a sigma above 0")
    guess, n0, n = (
        leader(selection),
        sum(selection.values()),
        sum(votes.values()),
    )  # votes do not choose the class
    found = {"guess": guess, "drawn": n, "n0": n0, "n": n, "successes": votes.get(guess, 0)}
    bound, classes = row.get("bound", "clopper-pearson"), int(row.get("classes") or 0)
    if rule == "each-class" and classes <= max(1, *votes, *selection):
        raise Wrong(f"{classes} classes, fewer than got votes")
    told = rule, votes, guess, float(row["alpha"]), len(selection) == 1
    if row.get("paired", "0") != "0":
        pairs = [int(row[name]) for name in ("paired", "kept", "lost", "gained")]
        return found, *of_original(*told, bound, *pairs)
    return found, *both(*told, bound, classes)


def of_original(rule, votes, guess, alpha, unanimous, bound, paired, kept, lost, gained):
    """Bounds for a network from votes of its quick copy, and its own on the noise of `paired` of these draws.

    P[f = y] >= P[c = y] - P[c = y, f != y], P[f = r] <= P[c = r] + P[f = r, c != r]: half of alpha for the
    votes of the copy c, half for where the two differ, `lost` and `gained`. Where the class was chosen
    unanimously, f's own votes decide, `kept` of `paired`.
    """
    n, own, others = sum(votes.values()), votes.get(guess, 0), paired - kept
    possible = 0 <= kept <= paired <= n and 0 <= lost <= min(own, others) and 0 <= gained <= others
    if not possible or others - lost > n - own:
        raise Wrong(f"pairs {paired}, {kept}, {lost}, {gained} that {own} of {n} votes do not allow")
    if unanimous:
        low = below(kept, paired, alpha)
        return low, 1 - low
    low, high = both(rule, votes, guess, alpha / 2, unanimous, bound)
    level = alpha / 2 if rule == "cohen" else alpha / 4
    low = max(0.0, low - above(lost, paired, level))
    return low, 1 - low if rule == "cohen" else min(high + above(gained, paired, level), 1 - low)


def mix(row, rule):
    """(1 - a) g + a h, g any: h must keep the margin (1 - a)/a (Bai et al. 2024, lemma 2, theorems 4, 5)."""
    found, low, high = one_network(row, rule)
    a, sigma, form = float(row["weight"]), float(row["sigma"]), row["form"]
    known = form in ("exact", "smoothing", "lipschitz") or (form == "closed" and rule == "cohen")
    if not known or not 0 <= a <= 1 or row.get("paired", "0") != "0":
        raise Wrong(f"form {form!r}, weight {a}, rule {rule!r}: no such mix")
    if a <= 0.5:
        radius = 0.0
    elif form == "lipschitz":  # a smoothed probability changes by 1 / (sigma sqrt(2 pi)) per unit, at most
        radius = (a * (low - high) + a - 1) / (2 * a) * sigma * sqrt(4 * asin(1))
    elif form == "smoothing":
        radius = sigma / 2 * (ndtri(a * low) - ndtri(a * high + 1 - a))
    elif form == "closed":
        radius = sigma * (ndtri(low) - ndtri(1 / (2 * a)))
    else:  # the r at which Phi(z - r/sigma) - Phi(z' + r/sigma) has come down to the margin
        near, far = 0.0, max(0.0, (ndtri(low) - ndtri(high)) / 2)
        for _ in range(100):
            r = (near + far) / 2
            kept = ndtr(r - ndtri(low)) + ndtr(r + ndtri(high)) <= 1 - (1 - a) / a
            near, far = (r, far) if kept else (near, r)
        radius = sigma * near
    return found | {"radius": max(0.0, float(radius))}


def smooth_sigma(row, rule):
    """sigma(x) = base exp(rate (d(x) - centre)), d 1-Lipschitz: within R, log sigma moves by rate R at most.

    A set of probability p under N(0, I) has f(p) at least under N(R / sigma, e^2h I), with equality for a
    ball or what is outside one (Neyman and Pearson). f falls in R, so that the class y is the answer up to R
    if w(h) = f(p_low) + f(1 - p_high) - 1 > 0 for all |h| <= rate R. The largest R for which both ends say
    so, on a grid, is drawn in by 2^-10 of itself (or 2^-9, …) until all between is settled, too.
    """
    found, low, high = one_network(row, rule)
    base, rate, centre, distance = (float(row[name]) for name in ("base", "rate", "centre", "distance"))
    sigma, dims = float(row["sigma"]), int(row["dims"])
    if not (0 < base < inf and 0 <= rate < inf and 0 <= distance < inf and isfinite(centre) and dims > 0):
        raise Wrong(
            "wanted base above 0, rate, distance and dims that are no less, and numbers that are finite"
        )
    most = max(0.0, float(sigma / 2 * (ndtri(low) - ndtri(high))))
    found |= {"sigma": base * exp(rate * (distance - centre)), "radius": most}
    if rate == 0 or most == 0:
        return found

    def w(h, radius):
        return least(low, radius / sigma, h, dims) + least(1 - high, radius / sigma, h, dims) - 1

    steps = 0
    for bit in reversed(range(24)):
        radius = most * (steps + 2**bit) / 2**24
        steps += all(w(sign * rate * radius, radius) > 0 for sign in (-1, 1)) << bit
    for back in range(10, 0, -1):
        radius = most * (steps - (steps >> back) - 1) / 2**24
        if radius > 0 and settled(w, radius, rate, 2 * slope(dims)):
            return found | {"radius": radius}
    return found | {"radius": 0.0}


def settled(w, radius, rate, steep):
    """w > 0 for all changes that there can be: it is Lipschitz, so that a value settles those near it."""
    parts = [(-rate * radius, rate * radius, 0)]
    while parts:
        start, end, depth = parts.pop()
        middle = (start + end) / 2
        reach = w(middle, radius) / steep
        if reach <= 0 or depth > 60:
            return False
        if reach < (end - start) / 2:
            parts += [(start, middle - reach, depth + 1), (middle + reach, end, depth + 1)]
    return True


def slope(dims):
    """How fast a set's probability under N(x, e^2h I) changes in h, at most: E max(X - N, 0)."""
    half = dims / 2
    return 2 * exp(half * log(half) - half - lgamma(half))


def least(p, away, h, dims):
    """f(p) of `smooth_sigma`; where both levels nearly agree, that of equal ones less what h can change."""
    if p in (0.0, 1.0) or abs(h) > 30:
        return p if p in (0.0, 1.0) else 0.0
    first = (away / expm1(2 * h)) ** 2 if h else inf
    if first > 1e8:
        return max(0.0, float(ndtr(ndtri(p) - away)) - slope(dims) * abs(h) - 1e-9 * (h != 0))
    inside = chndtrix(p if h > 0 else 1 - p, dims, first) * exp(-2 * h)
    value = float(chndtr(inside, dims, first * exp(2 * h)))
    value = value if h > 0 else 1 - value
    return max(0.0, value - 1e-9) if isfinite(value) else 0.0


# ------------------------------------------------------------------ systems of several networks


def dual(row, rule):
    """min_j max(r_j, R_j): nearer than r_j expert j is not chosen, and nearer than R_j it says the class.

    `published`, never larger, is min(R_e, R_top) of Sun, Mao and Vechev 2026, theorem 4.1. Phi^-1 of a
    probability under noise s changes by 1/s per unit, at most: so r_j follows from bounds of the router.
    """
    sigmas, kind, alpha = noise_levels(row), row["estimator"], float(row["alpha"])
    lower, upper, levels = (numbers(part) for part in row["levels"].split(";"))
    noise, K = numbers(row["estimator_sigmas"]), len(sigmas)
    looks, estimates = (
        [counts(part) for part in row[name].split(";")] for name in ("looks", "estimator_votes")
    )
    cuts, kinds = (K if kind == "plurality" else K - 1), (2 if kind == "cuts" else K)
    streams = K - 1 if kind == "cuts" else 1
    if (
        kind not in ("median", "cuts", "plurality")
        or not len(looks) == len(estimates) == len(noise) == streams
    ):
        raise Wrong(f"estimator {kind!r}: wanted {streams} streams of votes")
    if len(levels) != K or not len(lower) == len(upper) == cuts:
        raise Wrong("levels that do not belong to these experts")
    if not all(0 < x < 1 for x in lower + upper + levels) or not all(0 < s < inf for s in noise + sigmas):
        raise Wrong("wanted levels in (0, 1), and noise above 0")
    if not all(stream and max(stream) < kinds for stream in looks + estimates):
        raise Wrong(f"wanted votes of every stream, for {kinds} choices")
    nearest = split_of(alpha, lower, upper, levels)
    if kind == "plurality":
        top, votes = leader(looks[0]), estimates[0]
        n, s = sum(votes.values()), noise[0]
        low = below(votes.get(top, 0), n, lower[top])
        entry = [0.0] * K
        for j in set(range(K)) - {top}:
            high = min(above(votes.get(j, 0), n, upper[j]), 1 - low)
            entry[j] = max(0.0, s / 2 * (ndtri(low) - ndtri(high))) if low > 0 else 0.0
    else:  # cut k asks: at most expert k? The first yes decides
        asked = [yes_of(looks, kind, k) for k in range(K - 1)]
        top = next((k for k, (yes, n) in enumerate(asked) if 2 * yes >= n), K - 1)
        says_no, says_yes = [], []
        for k, (yes, n) in enumerate(yes_of(estimates, kind, k) for k in range(K - 1)):
            s = noise[k] if kind == "cuts" else noise[0]
            says_no.append(-s * ndtri(above(yes, n, upper[k])))
            says_yes.append(s * ndtri(below(yes, n, lower[k])))
        before = [says_yes[max(0, j - 1) if nearest else 0 : j] for j in range(K)]
        entry = [max(0.0, *before[j], *says_no[j : j + 1]) if K > 1 else 0.0 for j in range(K)]
    selection, votes = counts(row["selection"]), each(row, "votes")
    if not selection:
        raise Wrong("no votes that guess the class")
    guess, experts = leader(selection), []
    for j, of_expert in enumerate(votes):
        experts.append(0.0)  # not asked: claims nothing
        if of_expert:
            low, high = both(rule, of_expert, guess, levels[j], len(selection) == 1, row["bound"])
            experts[j] = max(0.0, sigmas[j] / 2 * (ndtri(low) - ndtri(high)))
    constancy = min((entry[j] for j in range(K) if j != top), default=inf)
    found = {"radius": min(map(max, entry, experts)), "published": min(constancy, experts[top])}
    found |= {"constancy": constancy, "sigma": sigmas[top], "guess": guess}
    found |= {"drawn": sum(sum(one.values()) for one in [*looks, *estimates, selection, *votes])}
    for name, r, R in zip(map(level_name, sigmas), entry, experts):
        found |= {f"entry_{name}": r, f"radius_{name}": R}
    return found


def yes_of(streams, kind, k):
    votes = streams[k] if kind == "cuts" else streams[0]
    last = 0 if kind == "cuts" else k
    return sum(count for choice, count in votes.items() if choice <= last), sum(votes.values())


def split_of(alpha, lower, upper, levels):
    """The levels of the bounds that one route rests on add up to alpha at most; a route is an expert's.

    True where that holds only if, of the cuts before an expert's own, the nearest alone is looked at.
    """
    for nearest in (False, True):
        if len(lower) == len(levels):  # plurality; with one expert there is nothing to choose
            others = [max(lower[:j] + lower[j + 1 :], default=0) + upper[j] for j in range(len(levels))]
            spent = [level + (other if len(levels) > 1 else 0) for level, other in zip(levels, others)]
        else:
            first = [max(0, j - 1) if nearest else 0 for j in range(len(levels))]
            spent = [levels[j] + sum(lower[first[j] : j]) + sum(upper[j : j + 1]) for j in range(len(levels))]
        if max(spent) <= alpha * (1 + 1e-12):
            return nearest
    raise Wrong(f"the levels add up to {max(spent)}, more than alpha {alpha}")


def cascade(row, rule):
    """The first expert that is sure enough answers: accepts_i, errs_i: how far it says the class, no other.

    R = min(max_i accepts_i, min_i max(errs_i, accepts_j for j before i)), experts in the order of asking.
    With a column `answers`, votes for numbers from there on are for no class: they are draws, no more.
    """
    sigmas, limits = noise_levels(row), numbers(row["thresholds"])
    selection, votes = each(row, "selection"), each(row, "votes")
    if len(limits) != len(sigmas) or rule not in ("two-bounds", "own-votes"):
        raise Wrong(f"{len(limits)} thresholds for {len(sigmas)} experts, rule {rule!r}")
    if not all(map(isfinite, limits)) or not all(0 < sigma < inf for sigma in sigmas):
        raise Wrong("wanted finite thresholds, and noise above 0")
    bounds, shares = [1 if limit >= 0 else 2 for limit in limits], numbers(row.get("shares", ""))
    if shares and not (len(shares) == len(sigmas) and min(shares) > 0 and fsum(shares) <= 1):
        raise Wrong(f"the shares of alpha, {shares}: wanted one for each of {len(sigmas)} experts, at most 1")
    alpha = float(row["alpha"])
    levels = [alpha * share / each for share, each in zip(shares, bounds)]
    levels = levels or [alpha / sum(bounds)] * len(bounds)
    classes = int(row.get("answers", 2**31))
    if classes < 1:
        raise Wrong(f"answers {classes}: wanted 1 at least")

    def spoken(one):  # the votes that are for a class
        return {kind: count for kind, count in one.items() if kind < classes}

    expert, y = -1, -1
    for i, one in reversed([*enumerate(selection)]):
        share = (max(spoken(one).values(), default=0) + 0.5) / (sum(one.values()) + 1)  # without a test
        if spoken(one) and sigmas[i] * ndtri(share) >= limits[i]:
            expert, y = i, leader(spoken(one))
    found, so_far, least = {}, -inf, inf
    for name, sigma, limit, level, of_expert in zip(expert_names(row), sigmas, limits, levels, votes):
        accepts, errs = -inf, (limit - inf)
        if of_expert:
            n, own = sum(of_expert.values()), of_expert.get(max(y, 0), 0)
            others = [count for kind, count in spoken(of_expert).items() if kind != max(y, 0)]
            low, high = below(own, n, level), above(max(others, default=0), n, level)
            high = min(high, 1 - low) if rule == "two-bounds" and limit < 0 else high
            mine, theirs = sigma * ndtri(low), sigma * ndtri(high)
            half = mine / 2 - theirs / 2
            accepts = min(mine - limit, half)
            errs = limit - theirs if limit >= 0 else max(limit - theirs, half)
        least, so_far = min(least, max(errs, so_far)), max(so_far, accepts)
        found |= {f"accepts_{name}": accepts, f"errs_{name}": errs}
    radius = max(0.0, min(so_far, least)) if y >= 0 else 0.0
    drawn = sum(sum(one.values()) for one in [*selection, *votes])
    return found | {"radius": radius, "sigma": sigmas[expert] if y >= 0 else 0.0, "guess": y, "drawn": drawn}


def combine(row, rule):
    """M_yc = (G(v) - G(v turned round))/2, G the largest of terms, each the smallest of shifted lengths v.

    An expert's lengths are sigma Phi^-1(p_y), -sigma Phi^-1(p_c) and the half of both. They change by 1 per
    unit at most, as M does. R is the least M_yc over the other classes c. `combiner` holds terms and shifts.
    """
    sigmas, terms = noise_levels(row), []
    if rule != "two-bounds" or not all(0 < sigma < inf for sigma in sigmas):
        raise Wrong(f"rule {rule!r}, sigmas {sigmas}: wanted two-bounds, and noise above 0")
    for term in row["combiner"].split("|"):
        terms.append([])
        for entry in term.split():
            kind, name, shift = re.fullmatch(r"(half|own|rival|zero)([0-9.e+-]*):(\S+)", entry).groups()
            terms[-1].append((kind, sigmas.index(float(name)) if name else None, float(shift)))
        if len({(kind, i) for kind, i, _ in terms[-1]}) != len(terms[-1]) or not terms[-1]:
            raise Wrong("a term of the combiner is empty, or names a length twice")
        if not all(isfinite(shift) for _, _, shift in terms[-1]):
            raise Wrong("a shift of the combiner is no number")
    level = float(row["alpha"]) / spends(terms)
    selection, votes = each(row, "selection"), each(row, "votes")
    kinds = sorted({0}.union(*selection, *votes))
    kinds.append(kinds[-1] + 1)  # a class that nobody named is a rival, too

    def length(i, p):
        return max(-1e6, min(1e6, float(sigmas[i] * ndtri(p))))

    def margin(own, rival):  # lengths of each expert for both classes
        def largest(a, b):
            half = [(x + y) / 2 for x, y in zip(a, b)]
            value = {"own": a, "rival": b, "half": half, "zero": dict.fromkeys([None], 0.0)}
            return max(min(value[kind][i] + shift for kind, i, shift in term) for term in terms)

        return (largest(own, [-z for z in rival]) - largest(rival, [-z for z in own])) / 2

    def shares(c):  # a guess, without a test
        return [length(i, (one.get(c, 0) + 0.5) / (sum(one.values()) + 1)) for i, one in enumerate(selection)]

    guessed = {c: shares(c) for c in kinds}
    y = max(kinds[:-1], key=lambda y: (min(margin(guessed[y], guessed[c]) for c in kinds if c != y), -y))
    low, high = [], []
    for one in votes:
        n = sum(one.values())
        low.append(below(one.get(y, 0), n, level) if n else 0.0)
        high.append(
            {c: min(above(one.get(c, 0), n, level) if n else 1.0, 1 - low[-1]) for c in kinds if c != y}
        )
    own = [length(i, p) for i, p in enumerate(low)]
    rivals = {c: [length(i, high[i][c]) for i in range(len(sigmas))] for c in kinds if c != y}
    reach = [(own[i] - max(one[i] for one in rivals.values())) / 2 for i in range(len(sigmas))]
    found = {f"reach_{level_name(sigma)}": value for sigma, value in zip(sigmas, reach)}
    found |= {"radius": max(0.0, min(margin(own, one) for one in rivals.values())), "guess": y}
    drawn = sum(sum(one.values()) for one in [*selection, *votes])
    return found | {"sigma": sigmas[max(range(len(reach)), key=lambda i: (reach[i], -i))], "drawn": drawn}


def spends(terms):
    """How many bounds can fail together: those of all terms, and of the largest one turned round."""

    def bounds(term, alone):
        sides = {(i, "low") for kind, i, _ in term if kind != "zero"}
        return sides | {(i, "high") for kind, i, _ in term if kind not in ("zero", alone)}

    every = set().union(*(bounds(term, "own") for term in terms))
    return max(1, *(len(every | bounds(term, "rival")) for term in terms))


# ------------------------------------------------------------------ the command line


def read_labels(path):
    """By idx: of lines that begin with idx and label, as in tables, or of one label a line, in order."""
    lines = [
        re.split(r"[\t ,]+", line.strip()) for line in path.read_text("utf-8").splitlines() if line.strip()
    ]
    lines = lines if re.fullmatch(r"-?[0-9]+", lines[0][0]) else lines[1:]
    return {int(line[0] if line[1:] else i): int(line[min(1, len(line) - 1)]) for i, line in enumerate(lines)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE.tsv")
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="of the images: idx and label, or one label a line"
    )
    options = parser.parse_args()
    labels, ends = read_labels(options.labels) if options.labels else None, set()
    for path in options.tables:
        try:
            print(f"{path}: certified: {check_table(path, labels)}")
            ends.add(0)
        except NoVotes as said:
            print(f"{path}: cannot be verified: {said}")
            ends.add(3)
        except (Wrong, OSError, *UNREADABLE) as error:
            print(f"{path}: WRONG: {error}")
            ends.add(1)
    return 1 if 1 in ends else max(ends)


if __name__ == "__main__":
    sys.exit(main())
