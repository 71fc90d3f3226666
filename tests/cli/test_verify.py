"""Tables are verified twice, by the package and by one file without it; forged ones are named by both."""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dualrs_lab.__main__ import main
from dualrs_lab.cascade import Cascade, CascadeCertificate
from dualrs_lab.combine import CombinedCertificate, Combiner
from dualrs_lab.dual import Cuts, Estimator, Median, Plurality, judge
from dualrs_lab.evidence import (
    Certificate,
    Claim,
    claimed,
    decide,
    frame,
    keep_table,
    leader,
    lower_bound,
    margin_radius,
    read_table,
    read_votes,
    rs_radius,
    upper_bound,
    write_table,
)
from dualrs_lab.mixing import class_bounds, mix_radius_exact, mixed
from dualrs_lab.peers import SmoothSigma, SmoothSigmaCertificate
from dualrs_lab.store import read_record, write_record

ROOT = Path(__file__).parents[2]
DATA, SCRIPT = ROOT / "data", ROOT / "data" / "verify_table.py"
TABLES = sorted(DATA.rglob("*.tsv"))
SIGMAS = (0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_table", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Verify = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def verify(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verify:
    """The exit code and the lines that both give; they have to agree, in words where a table is fine."""

    def ask(*paths: Path, labels: Path | None = None) -> tuple[int, list[str]]:
        words = [*map(str, paths), *(["--labels", str(labels)] if labels else [])]
        monkeypatch.setattr(sys, "argv", ["verify_table.py", *words])
        alone = script.main(), capsys.readouterr().out.splitlines()
        ours = main(["verify", *words]), capsys.readouterr().out.splitlines()
        assert alone[0] == ours[0], (alone, ours)
        for one, two in zip(alone[1], ours[1], strict=True):
            assert one == two or ("WRONG" in one and "WRONG" in two), (one, two)
        return ours[0], [f"{one}\n{two}" for one, two in zip(alone[1], ours[1], strict=True)]

    return ask


def test_both_say_the_same_of_every_table_that_is_shipped(verify: Verify) -> None:
    code, lines = verify(*TABLES)
    assert code == 3  # nothing is wrong, and published logs and attacks have no votes
    certified = [line for line in lines if ": certified: " in line]
    voted = [path for path in TABLES if "votes" in path.read_text().partition("\n")[0]]
    assert len(certified) == len(voted) >= 18
    assert sum("rows without votes, as published logs are" in line for line in lines) == 4
    attacked = [path for path in TABLES if "radius" not in path.read_text().partition("\n")[0]]
    assert sum("answers under attack" in line for line in lines) == len(attacked)
    (wide,) = [line for line in certified if "wide_start_sigma0.5_seed0_smoothed0.5" in line]
    assert wide.splitlines()[1].endswith(
        "rs, network 77209cecff1798c3, images c2f7e8f587f0a357, GridNoise of sigma 0.5, n 10000, alpha 0.001 "
        "for each image, rule cohen: 1000 rows, 925 with a radius"
    )


def test_the_file_needs_nothing_but_the_standard_library_and_scipy() -> None:
    code = f"""
import runpy, sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("dualrs_lab", "pandas", "torch", "matplotlib"):
            raise ModuleNotFoundError(f"no {{name}} here")
sys.meta_path.insert(0, Nothing())
sys.argv = ["verify_table.py", *sys.argv[1:]]
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""
    table = DATA / "cifar10_systems" / "dual.tsv"
    command = [sys.executable, "-c", code, str(table)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "certified: dual, network" in done.stdout


# Tables of every kind, of made votes.


def chances(rng: np.random.Generator, classes: int = 5) -> np.ndarray:
    return np.asarray(rng.dirichlet(np.full(classes, 0.15)))


def one_network(bound: str, rule: str, n: Callable[[int], int], images: int = 60) -> list[Claim]:
    rng = np.random.default_rng(1)
    return [
        decide(
            rng.multinomial(50, p), rng.multinomial(n(idx), p), idx=idx, label=int(p.argmax()), sigma=0.5,
            alpha=0.001, seed=0, seconds=0.1, bound=bound, rule=rule,
            drawn=5000 if bound == "betting" else None,
        )
        for idx in range(images)
        for p in [chances(rng)]
    ]  # fmt: skip


def of_dual(estimator: Estimator, bound: str = "clopper-pearson", rule: str = "two-bounds") -> list[Claim]:
    rng, kinds = np.random.default_rng(2), estimator.classes(3)
    split, made = estimator.split(3, 0.001, rule), []
    for idx in range(60):
        route = rng.dirichlet(np.full(kinds, 0.3), len(estimator.sigmas))
        p = np.stack([chances(rng)] * 3) * 0.9 + rng.dirichlet(np.full(5, 0.1), 3) * 0.1
        votes = rng.multinomial(1000, p)
        votes[rng.random(3) > 0.8] = 0  # not asked
        made.append(
            judge(
                rng.multinomial(50, route), rng.multinomial(1000, route), rng.multinomial(50, p[1]), votes,
                idx=idx, label=int(p[0].argmax()), estimator=estimator, sigmas=SIGMAS, split=split, seed=0,
                seconds=0.1, bound=bound, drawn=10_000, rule=rule,
            )
        )  # fmt: skip
    return made


def of_system(certify: Callable[..., Claim], asked: float = 0.85) -> list[Claim]:
    rng = np.random.default_rng(3)
    made = []
    for idx in range(60):
        p = np.stack([chances(rng)] * 3) * 0.8 + rng.dirichlet(np.full(5, 0.2), 3) * 0.2
        votes = rng.multinomial(2000, p)
        votes[rng.random(3) > asked] = 0
        known = {"idx": idx, "label": int(p[0].argmax()), "alpha": 0.001, "seed": 0, "seconds": 0.1}
        made.append(certify(rng.multinomial(50, p), votes, **known))
    return made


def cascades(
    limits: tuple[float, ...], rule: str, shares: tuple[float, ...] = (), answers: int | None = None
) -> list[Claim]:
    how = {"cascade": Cascade((1.0, 0.5, 0.25), limits, shares, answers), "rule": rule}
    return of_system(lambda *votes, **known: CascadeCertificate.from_votes(*votes, **how, **known))


def cascades_again(limits: tuple[float, ...], confidences: tuple[float, ...]) -> list[Claim]:
    """One noise level twice, by two confidences."""
    how = {"cascade": Cascade((0.5, 1.0, 0.5), limits, answers=4, confidences=confidences)}
    return of_system(lambda *votes, **known: CascadeCertificate.from_votes(*votes, **how, **known))


def under_smooth_sigma(rate: float) -> list[Claim]:
    smooth, rng = SmoothSigma(base=0.5, rate=rate, centre=3.0), np.random.default_rng(4)
    made: list[Claim] = []
    for one in one_network("clopper-pearson", "two-bounds", lambda _: 1000):
        assert isinstance(one, Certificate)
        distance = float(rng.uniform(1, 5))
        plain = Certificate.from_row(
            one.to_row() | {"sigma": float(smooth.at(distance)), "radius": 0.0, "predict": -1}
        )
        made.append(SmoothSigmaCertificate.under(plain, smooth, distance, 64))
    return made


def combined(combiner: Combiner) -> list[Claim]:
    return of_system(lambda *votes, **k: CombinedCertificate.from_votes(*votes, combiner, **k))


COMBINERS = (
    Combiner.surest((1.0, 0.5, 0.25), (0.1, 0.0, 0.05)),
    Combiner.single((1.0, 0.5, 0.25), 1),
    Combiner.of_text((1.0, 0.5, 0.25), "half1:0.1 own0.5:-0.2 | rival0.25:0 zero:0.1 | half0.5:0 rival1:1"),
)
KINDS: dict[str, Callable[[], list[Claim]]] = {
    **{f"plain, {rule}": lambda rule=rule: one_network("clopper-pearson", rule, lambda _: 1000)
       for rule in ("cohen", "two-bounds", "selected")},
    **{f"at radii, {rule}": lambda rule=rule: one_network("betting", rule, lambda idx: 100 + 70 * idx)
       for rule in ("cohen", "two-bounds", "selected")},
    "input-specific": lambda: one_network("clopper-pearson", "two-bounds", lambda idx: 200 * (1 + idx % 7)),
    "dual, cuts": lambda: of_dual(Cuts((0.4, 0.9))),
    "dual, cuts by Cohen's rule": lambda: of_dual(Cuts((0.4, 0.9)), rule="cohen"),
    "dual, median": lambda: of_dual(Median(0.5), rule="selected"),
    "dual, plurality at radii": lambda: of_dual(Plurality(0.5), bound="betting"),
    "cascade": lambda: cascades((0.3, 0.1, 0.0), "two-bounds"),
    "cascade, below a majority": lambda: cascades((0.2, -0.1, -0.3), "two-bounds"),
    "cascade, most for one": lambda: cascades((0.2, 0.0, -0.3), "two-bounds", (1 / 16, 7 / 8, 1 / 16)),
    "cascade, silent on some draws": lambda: cascades((0.1, 0.0, 0.0), "two-bounds", (), 4),
    "cascade, silent on most draws": lambda: cascades((0.1, -0.1, -0.3), "two-bounds", (0.5, 0.3, 0.2), 2),
    "cascade, asked again": lambda: cascades_again((0.3, 0.1, 0.0), (0.6, 0.0, 0.3)),
    "cascade, as the first tables": lambda: cascades((0.2, -0.1, -0.3), "own-votes"),
    "smooth sigma": lambda: under_smooth_sigma(0.1),
    "smooth sigma that is the same": lambda: under_smooth_sigma(0.0),
    **{f"combiner {i}": lambda one=one: combined(one) for i, one in enumerate(COMBINERS)},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_tables_of_every_kind_are_certified(kind: str, tmp_path: Path, verify: Verify) -> None:
    path, claims = tmp_path / "t.tsv", KINDS[kind]()
    keep_table("test", path, frame(claims), {"identity": {}})
    code, (said,) = verify(path)
    assert code == 0, said
    assert 5 < sum(claim.radius > 0 for claim in claims) < 60
    assert f"{sum(claim.radius > 0 for claim in claims)} with a radius" in said


@pytest.mark.parametrize(
    ("name", "cell"),
    [("radius", "9"), ("sigma", "0.5"), ("distance", "0.1"), ("rate", "0.2"), ("dims", "999999")],
)
def test_a_smooth_sigma_that_was_changed_is_found(
    name: str, cell: str, tmp_path: Path, verify: Verify
) -> None:
    path, claims = tmp_path / "t.tsv", under_smooth_sigma(0.1)
    keep_table("test", path, frame([claim for claim in claims if claim.radius > 0]), {"identity": {}})
    rows = cells(path)
    forge(path, [{**row, name: cell} if name in ("rate", "dims") or row is rows[2] else row for row in rows])
    code, (said,) = verify(path)
    assert code == 1, said


@pytest.mark.parametrize("form", ["exact", "smoothing", "lipschitz", "closed"])
@pytest.mark.parametrize("weight", [0.5, 0.62, 0.9])
def test_mixes_of_every_form_are_certified(form: str, weight: float, tmp_path: Path, verify: Verify) -> None:
    path = tmp_path / "m.tsv"
    for kind in ("plain, two-bounds", "at radii, two-bounds"):
        table = frame(KINDS[kind]())
        rule = "cohen" if form == "closed" else "two-bounds"
        keep_table("test", path, mixed(table, weight, form=form, rule=rule), {"identity": {}})
        code, (said,) = verify(path)
        assert code == 0, said
        assert (", 0 with a radius" in said) == (weight == 0.5)
        for one in (path, path.with_suffix(".json")):
            one.unlink()


def test_mixes_as_the_first_tables_were_made_are_certified(tmp_path: Path, verify: Verify) -> None:
    """By a bound for each of the other classes, which is told by the column `others`."""
    table = frame(KINDS["plain, two-bounds"]())
    first = mixed(table, 0.8).drop(columns="rule").assign(others="votes", classes=5)
    votes = [dict(read_votes(cell)) for cell in table["votes"]]
    guess = [leader(read_votes(cell)) for cell in table["selection"]]
    rival = [
        max((n for kind, n in row.items() if kind != y), default=0)
        for row, y in zip(votes, guess, strict=True)
    ]
    low, high = class_bounds("each-class", table["successes"], rival, table["n"], table["alpha"], classes=5)
    claims = claimed(first, guess, mix_radius_exact(low, high, 0.8, table["sigma"]))
    made = first.assign(**{name: claims[name] for name in ("radius", "predict", "correct")})
    write_table(tmp_path / "m.tsv", made)
    code, (said,) = verify(tmp_path / "m.tsv")
    assert code == 0, said
    assert said.count("rule each-class") == 2
    write_table(tmp_path / "m.tsv", made.assign(classes=3))  # some got votes that this excludes
    assert verify(tmp_path / "m.tsv")[0] == 1


@pytest.mark.parametrize("rule", ["cohen", "two-bounds", "selected"])
def test_a_network_is_certified_by_votes_of_its_copy(
    rule: str, tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the file alone: bounds of the copy and of where both differ, here from the bounds of the package."""
    table, path = frame(KINDS[f"plain, {rule}"]()), tmp_path / "t.tsv"
    pairs = {"paired": 500, "kept": 400, "lost": 3, "gained": 2}
    rows = []
    for row in table.to_dict("records"):
        votes, selection = dict(read_votes(row["votes"])), read_votes(row["selection"])
        guess = leader(selection)
        own, rival = votes.get(guess, 0), max((n for kind, n in votes.items() if kind != guess), default=0)
        if not 500 < own < 890:  # what 97 draws of others than the class, of which 3 were lost, allow
            continue
        level = 0.0005 if rule == "cohen" else 0.00025
        low = lower_bound(own, 1000, level) - upper_bound(3, 500, level)
        high = upper_bound(rival, 1000, level) + upper_bound(2, 500, level)
        if len(selection) == 1:
            low = lower_bound(400, 500, 0.001)
        alone = rule == "cohen" or len(selection) == 1
        radius = rs_radius(low, 0.5) if alone else margin_radius(low, min(high, 1 - low), 0.5)
        predict = guess if radius > 0 else -1
        rows.append(
            row | pairs | {"radius": radius, "predict": predict, "correct": int(predict == row["label"])}
        )
    assert len(rows) > 5
    write_table(path, pd.DataFrame(rows))
    monkeypatch.setattr(sys, "argv", ["verify_table.py", str(path)])
    assert script.main() == 0
    forged = cells(path)
    for name, cell in (("lost", "0"), ("gained", "600"), ("kept", "600"), ("paired", "1001")):
        forge(path, [forged[0] | {name: cell}, *forged[1:]])
        assert script.main() == 1


def test_what_the_commands_make_names_networks_levels_and_itself(
    tmp_path: Path, verify: Verify, capsys: pytest.CaptureFixture[str]
) -> None:
    experts = [str(path) for path in sorted((DATA / "cifar10_jpeg").glob("*_n10000.tsv"))]
    combiner = str(DATA / "cifar10_systems" / "combiner_even.json")
    made = [tmp_path / f"{name}.tsv" for name in ("cascade", "combine", "mix")]
    assert main(["cascade", *experts, "--out", str(made[0])]) == 0
    assert main(["combine", *experts, "--combiner", combiner, "--out", str(made[1])]) == 0
    assert main(["mix", experts[1], "--weight", "0.8", "--out", str(made[2])]) == 0
    capsys.readouterr()
    code, lines = verify(*made)
    assert code == 0
    networks = "2816588e666f6c05+bb7de9703e8f2f65+e44f0dd5fb604575"
    assert all(f"network {networks}, images c2f7e8f587f0a357" in line for line in lines[:2])
    assert "network bb7de9703e8f2f65 in a mix of weight 0.8" in lines[2]
    levels = [read_record(path)["levels"] for path in made]
    assert levels[0] == {"each bound": pytest.approx(0.001 / 3)}
    assert levels[2] == {"class": 0.0005, "rival": 0.0005}
    assert [read_record(path)["rows"] for path in made] == [500] * 3


# Forgeries.

Rows = list[dict[str, str]]


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A table of one network and its json, as they are shipped, with labels beside them."""
    name = "cifar10_jpeg_fast_narrow_sigma0.5_seed0_smoothed0.5_n10000"
    for ending in (".tsv", ".json"):
        shutil.copy(DATA / "cifar10_jpeg" / f"{name}{ending}", tmp_path / f"t{ending}")
    shutil.copy(DATA / "cifar10_systems" / "dual.tsv", tmp_path / "labels.tsv")
    return tmp_path / "t.tsv"


def cells(path: Path) -> Rows:
    header, *lines = [line.split("\t") for line in path.read_text().splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


def forge(path: Path, rows: Rows, *, sealed: bool = True) -> None:
    """Write the rows, and with `sealed` whatever digests would give it away at once."""
    text = "\n".join("\t".join(cells) for cells in [list(rows[0]), *(list(row.values()) for row in rows)])
    path.write_text(text + "\n")
    if sealed:
        record = read_record(path) | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        write_record("test", path, record | ({"rows": len(rows)} if "rows" in record else {}))


def raised(rows: Rows) -> None:
    rows[3]["radius"] = repr(float(rows[3]["radius"]) + 1e-6)


def counted(rows: Rows) -> None:
    """One vote more for the class; n and successes as they should be, and the radius as it was."""
    (kind, votes), *rest = [pair.split(":") for pair in rows[3]["votes"].split()]
    assert kind == rows[3]["predict"]
    rows[3]["votes"] = " ".join([f"{kind}:{int(votes) + 1}", *map(":".join, rest)])
    rows[3] |= {"n": "10001", "successes": str(int(rows[3]["successes"]) + 1)}


def swapped(rows: Rows) -> None:
    """Twice the noise, with radii that fit to it."""
    for row in rows:
        row |= {"sigma": "1.0", "radius": repr(2 * float(row["radius"]))}


def each(**cell: str) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        for row in rows:
            row.update(cell)

    return change


def one(at: int, **cell: str) -> Callable[[Rows], None]:
    return lambda rows: rows[at].update(cell)


FORGED: dict[str, tuple[Callable[[Rows], Any], str]] = {
    "a radius upward": (raised, "radius"),
    "a vote": (counted, "n"),
    "a vote in place of another": (one(3, votes="0:9999 1:1"), "successes"),
    "a label": (one(0, label="1", correct="0"), "label"),
    "correct": (one(0, correct="0"), "correct"),
    "alpha, of one row": (one(3, alpha="0.01"), "radius"),
    "alpha, of all": (each(alpha="0.01"), "radius"),
    "a row twice": (lambda rows: rows.insert(4, dict(rows[3])), "60"),
    "a row less": (lambda rows: rows.pop(3), "idx 60 is missing"),
    "the order": (lambda rows: rows.append(rows.pop(3)), "idx"),
    "sigma, with the radii": (swapped, "sigma"),
    "the seed": (each(seed="1"), "seed"),
    "selection": (one(0, selection="3:100"), "successes"),
    "the class": (one(0, predict="4", correct="0"), "predict"),
    "abstaining with a radius": (one(0, predict="-1", correct="0"), "radius"),
    "not a number": (one(3, radius="nan"), "radius"),
    "an idx": (one(3, idx="61"), "idx 61"),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_row_is_named_even_where_the_digest_was_forged_too(
    what: str, shipped: Path, verify: Verify
) -> None:
    labels = shipped.with_name("labels.tsv")
    assert verify(shipped, labels=labels)[0] == 0
    forging, named = FORGED[what]
    rows = cells(shipped)
    forging(rows)
    forge(shipped, rows)
    code, (said,) = verify(shipped, labels=labels)
    assert code == 1
    assert all(named in line for line in said.splitlines()), said


def test_without_the_digest_a_forged_table_is_not_even_read(shipped: Path, verify: Verify) -> None:
    rows = cells(shipped)
    forge(shipped, rows[:-1], sealed=False)  # the last row: nothing but the digest tells
    code, (said,) = verify(shipped)
    assert code == 1
    assert said.count("sha256") >= 2
    forge(shipped, rows, sealed=False)
    assert verify(shipped)[0] == 0


CHANGED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "alpha": (lambda record: record["identity"].update(alpha=0.0001), "alpha"),
    "sigma": (lambda record: record["identity"].update(sigma=0.25), "sigma"),
    "rule": (lambda record: record["identity"].update(rule="two-bounds"), "rule"),
    "n": (lambda record: record["identity"].update(n=100_000), "n"),
    "seed": (lambda record: record["identity"].update(seed=7), "seed"),
    "method": (lambda record: record["identity"].update(method="dual"), "method"),
    "stop": (lambda record: record["identity"].update(stop={"rule": "AtRadii"}), "bound"),
    "rows": (lambda record: record.update(rows=499), "rows"),
    "skip": (lambda record: record.update(skip=10), "missing"),
    "unfinished": (lambda record: record.update(sha256=None), "finished"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_json_that_contradicts_its_rows_is_named(what: str, shipped: Path, verify: Verify) -> None:
    change, named = CHANGED[what]
    record = read_record(shipped)
    change(record)
    write_record("test", shipped, record)
    code, (said,) = verify(shipped)
    assert code == 1
    assert all(named in line for line in said.splitlines()), said


def test_a_json_that_was_edited_is_named_by_its_own_digest(shipped: Path, verify: Verify) -> None:
    """Of what the rows do not say, such as the network."""
    beside = shipped.with_suffix(".json")
    edited = beside.read_text().replace("bb7de9703e8f2f65", "0123456789abcdef")
    beside.write_text(edited)
    assert verify(shipped)[0] == 0  # the shipped one is older than these digests: nothing tells
    write_record("test", shipped, read_record(shipped))
    assert verify(shipped)[0] == 0
    beside.write_text(beside.read_text().replace("0123456789abcdef", "bb7de9703e8f2f65"))
    code, (said,) = verify(shipped)
    assert code == 1
    assert said.count("was changed after it was written") == 2


def systems() -> Iterator[tuple[str, str, Callable[[Rows], Any], str]]:
    yield "dual, cuts", "more than alpha allows", each(levels=";".join(["0.001 0.001"] * 2 + ["0.001"])), ""
    yield "dual, cuts", "an entry radius", one(0, **{"entry_0.5": "9.0"}), "entry_0.5"
    yield "dual, cuts", "the published radius", one(0, published="9.0"), "published"
    yield "dual, cuts", "the estimator's noise", each(estimator_sigmas="4.0 9.0"), ""
    yield "cascade", "a threshold", each(thresholds="0.0 0.0 0.0"), ""
    yield "cascade, most for one", "shares beyond alpha", each(shares="0.9 0.9 0.9"), ""
    yield "cascade, most for one", "other shares", each(shares="0.875 0.0625 0.0625"), ""
    yield "cascade", "a distance", one(0, errs_1="9.0"), "errs_1"
    yield "combiner 0", "the combiner", each(combiner="own1:5.0 | own0.5:5.0 | own0.25:5.0"), ""
    yield "combiner 2", "a radius", one(0, radius="9.0"), "radius"


@pytest.mark.parametrize(("kind", "what", "forging", "named"), [*systems()], ids=lambda cell: str(cell)[:30])
def test_forged_systems_are_named(
    kind: str, what: str, forging: Callable[[Rows], Any], named: str, tmp_path: Path, verify: Verify
) -> None:
    path = tmp_path / "t.tsv"
    claims = sorted(KINDS[kind](), key=lambda claim: -claim.radius)  # one with a radius comes first
    table = frame(claims).assign(idx=range(len(claims)))
    keep_table("test", path, table, {"identity": {}})
    assert verify(path)[0] == 0
    rows = cells(path)
    forging(rows)
    forge(path, rows)
    code, (said,) = verify(path)
    assert code == 1, what
    assert all("WRONG" in line and named in line for line in said.splitlines()), said


def test_what_is_left_of_alpha_is_not_spent_twice(tmp_path: Path, verify: Verify) -> None:
    """Levels that add up to more than alpha are refused, though each radius follows from them."""
    path, text = tmp_path / "t.tsv", ";".join(["0.001 0.001", "0.001 0.001", "0.001 0.001 0.001"])
    keep_table("test", path, frame(of_dual(Cuts((0.4, 0.9)))), {"identity": {}})
    rows = cells(path)
    each(levels=text)(rows)
    forge(path, rows)
    code, (said,) = verify(path)
    assert code == 1
    assert all("more than alpha" in line for line in said.splitlines()), said


def test_consistent_forgery_of_votes_passes(shipped: Path, verify: Verify) -> None:
    """As the documents say: nothing but the network and its images could tell."""
    rows = cells(shipped)
    row = next(row for row in rows if row["predict"] == "-1")
    selected, counts = np.zeros(10, dtype=int), np.zeros(10, dtype=int)
    selected[int(row["label"])], counts[int(row["label"])] = 100, 10_000
    known = {"idx": int(row["idx"]), "label": int(row["label"]), "sigma": 0.5, "alpha": 0.001, "seed": 0}
    made = decide(selected, counts, seconds=1.0, rule="cohen", **known)
    row.update({name: str(cell) for name, cell in made.to_row().items() if name in row})
    row["radius"] = repr(made.radius)
    forge(shipped, rows)
    assert verify(shipped)[0] == 0


def test_labels_in_any_of_their_forms(shipped: Path, verify: Verify) -> None:
    table = read_table(shipped)
    one_a_line = shipped.with_name("all.txt")
    every = dict(zip(table["idx"], table["label"], strict=True))
    one_a_line.write_text("".join(f"{every.get(idx, 0)}\n" for idx in range(10_000)))
    assert verify(shipped, labels=one_a_line)[0] == 0
    some = shipped.with_name("some.csv")
    some.write_text("idx,label\n" + "".join(f"{idx},{label}\n" for idx, label in [*every.items()][:-1]))
    code, (said,) = verify(shipped, labels=some)
    assert code == 1
    assert said.count("nothing of it") == 2


def test_bad_input_is_one_line(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = shipped.with_name("bad.txt")
    bad.write_text("1\nx\n")
    assert main(["verify", str(shipped), "--labels", str(bad)]) == 2
    assert "--labels" in capsys.readouterr().err
    assert main(["verify", str(shipped.with_name("no.tsv"))]) == 2
    assert "no.tsv not found" in capsys.readouterr().err


def test_a_json_that_is_none_is_told_by_the_file(
    shipped: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for text in ("[", json.dumps({"identity": 3}), json.dumps({"identity": {"stop": 3, "n": "x"}})):
        shipped.with_suffix(".json").write_text(text)
        monkeypatch.setattr(sys, "argv", ["verify_table.py", str(shipped)])
        assert script.main() == 1
        assert "WRONG" in capsys.readouterr().out


def test_votes_that_were_picked_from_more_need_the_bound_that_allows_it(
    tmp_path: Path, verify: Verify
) -> None:
    path = tmp_path / "t.tsv"
    keep_table("test", path, frame(KINDS["plain, cohen"]()), {"identity": {}})
    rows = cells(path)
    each(drawn="1001")(rows)
    forge(path, rows)
    code, (said,) = verify(path)
    assert code == 1
    assert said.count("only the bound by betting allows it") == 2


@pytest.mark.parametrize("kind", KINDS)
def test_whichever_cell_is_changed_both_judge_alike(kind: str, tmp_path: Path, verify: Verify) -> None:
    """Other digits in cells at random: what one calls wrong, the other does, too."""
    rng, path = np.random.default_rng(5), tmp_path / "t.tsv"
    keep_table("test", path, frame(KINDS[kind]()), {"identity": {}})
    whole, caught, tries = cells(path), 0, 25
    names = [name for name in whole[0] if name not in ("time", "label", "correct", "seed", "drawn")]
    for _ in range(tries):
        rows = [dict(row) for row in whole[:12]]
        row, name = rows[int(rng.integers(12))], names[int(rng.integers(len(names)))]
        digits = [at for at, one in enumerate(row[name]) if one.isdigit()]
        if not digits:
            continue
        at = int(rng.choice(digits[:4]))  # more than bounds by betting are rounded down
        row[name] = (
            row[name][:at] + str((int(row[name][at]) + int(rng.integers(1, 10))) % 10) + row[name][at + 1 :]
        )
        forge(path, rows)
        caught += verify(path)[0] == 1
    assert caught > tries // 2


@pytest.mark.parametrize("answers", ["5", "3", "0", "x"])
def test_another_number_of_answers_is_named_by_rows_and_by_the_json(
    answers: str, tmp_path: Path, verify: Verify
) -> None:
    """Votes for class 4 are silent: as an answer they are a rival, and without class 3 nobody else is."""
    path, claims = tmp_path / "t.tsv", cascades((0.1, 0.0, -0.3), "two-bounds", (), 4)
    keep_table("test", path, frame(claims), {"identity": {"answers": 4}})
    assert verify(path)[0] == 0
    forge(path, [row | {"answers": answers} for row in cells(path)])
    assert verify(path)[0] == 1
    write_record("test", path, read_record(path) | {"identity": {}})
    assert verify(path)[0] == 1  # radii do not follow either
    forge(path, [row | {"answers": "4"} for row in cells(path)])
    write_record("test", path, read_record(path) | {"identity": {"answers": 3}})
    code, (said,) = verify(path)
    assert (code, said.count("answers is 4 in the rows, and 3 in the json")) == (1, 2)


def test_a_silent_draw_that_is_taken_away_is_named(tmp_path: Path, verify: Verify) -> None:
    """Without its silent draws a vote weighs more; so does a claim that was made by them."""
    path, claims = tmp_path / "t.tsv", cascades((0.1, 0.0, 0.0), "two-bounds", (), 4)
    keep_table("test", path, frame(claims), {"identity": {}})
    rows = cells(path)
    at = next(i for i, row in enumerate(rows) if " 4:" in row["votes_1"] and float(row["radius"]) > 0)
    rows[at]["votes_1"] = rows[at]["votes_1"].partition(" 4:")[0]
    forge(path, rows)
    code, (said,) = verify(path)
    assert code == 1
    assert f"idx {at}" in said or f"image {at}" in said
