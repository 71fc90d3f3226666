"""Tables are those of earlier versions: digests of every kind, of their identities, and runs begun long ago.

The networks have whole-number weights and see whole numbers: their votes are the same on every machine, in
any order of summation. Tables of then had one rule, Cohen's, which is asked for here by name. Digests are of
all cells but the seconds, the digest of each image and the rule, which tables of then lack; floats count to
ten digits, as another SciPy may differ in the last ones.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from dualrs_lab.attacks import Threat, evaluate_table
from dualrs_lab.cascade import Cascade, CascadeSpec, certify_cascade_table, from_tables
from dualrs_lab.data import Images, pixel_digests
from dualrs_lab.dual import Cuts, DualSpec, Median, Plurality, Split, certify_dual_table
from dualrs_lab.evidence import (
    IMAGE,
    claimed,
    read_column,
    read_table,
    reclaimed,
    rules_behind,
    write_table,
)
from dualrs_lab.mixing import class_bounds, mix_radius_exact, mixed
from dualrs_lab.smoothing import AtRadii, FastPath, GridNoise, InputSpecific, Spec, certify_table, label_votes
from dualrs_lab.training import Consistency, TrainConfig, Warmup, settings, state_path

BEGUN = Path(__file__).parent / "data" / "begun"
SIGMAS = (0.12, 0.25, 0.5)
QUARTERS = torch.zeros(4, 4, 4)
for _k in range(4):
    QUARTERS[_k, 2 * (_k // 2) : 2 * (_k // 2) + 2, 2 * (_k % 2) : 2 * (_k % 2) + 2] = 1


class Whole(nn.Module):
    """Logits by whole numbers from pixels on the 1/255 grid; no two are ever equal."""

    def __init__(self, weights: Tensor, bias: list[int]) -> None:
        super().__init__()
        kinds = len(bias)
        self.layer = nn.Linear(16, kinds)
        with torch.no_grad():
            self.layer.weight.copy_(kinds * weights.flatten(1))
            self.layer.bias.copy_(kinds * torch.tensor(bias) + torch.arange(kinds))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer((255 * x).round().flatten(1))


class Linear(nn.Module):
    """The brightest quarter, with gradients; weights are powers of two."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", QUARTERS.flatten(1) / 2)
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.flatten(1) @ self.weight.T


def quarters(j: int) -> Whole:
    """The brightest quarter of an image; the j-th network is a little fond of class j."""
    return Whole(QUARTERS, [30 * (k == j) for k in range(4)])


def brightness() -> Whole:
    """0, 1 or 2 by the mean brightness."""
    s = torch.ones(4, 4)
    return Whole(torch.stack([0 * s, s, 2 * s]), [0, -16 * 110, -16 * 250])


def cut(limit: int) -> Whole:
    """Whether the mean brightness is at most `limit` (class 0)."""
    s = torch.ones(4, 4)
    return Whole(torch.stack([0 * s, s]), [0, -16 * limit])


@pytest.fixture(scope="module")
def images() -> Images:
    """Twelve images whose brightest quarter is clear, less clear, or the wrong one."""
    number, place = torch.arange(12), torch.arange(16).view(4, 4)
    labels = number % 4
    gap = (number * 17 % 70 - 8)[:, None, None]
    base = 70 + 11 * number[:, None, None] + place * 7 % 13
    pixels = (base + gap * QUARTERS[labels].long())[:, None].to(torch.uint8)
    return Images(pixels=pixels, labels=labels, classes=tuple("abcd"), name="quarters", split="test")


def text(cell: object) -> str:
    if pd.isna(cell):
        return ""
    return f"{cell:.10g}" if isinstance(cell, float) else str(cell)


def digest(value: pd.DataFrame | object) -> str:
    """Of a table without its seconds and the digests of its images, or of what json holds."""
    if isinstance(value, pd.DataFrame):
        later = ("time", IMAGE, "rule")
        kept = [name for name in value if name not in later and not name.endswith("_seconds")]
        rows = value[kept].astype(object).itertuples(index=False)
        lines = ["\t".join(kept), *("\t".join(map(text, row)) for row in rows)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


# Each case makes a table in a folder; what it has in common with its kin is said once.

GIVEN = {"seed": 5, "n0": 60, "n": 500, "alpha": 0.01}
RULED = {"rule": "cohen", **GIVEN}
CLOSED = {"form": "closed", "rule": "cohen"}
QUIET = {"progress": False}
CASCADE = Cascade((0.5, 0.25, 0.12), (0.1, -0.05, 0.0))
EXPERTS = [quarters(j) for j in range(3)]


def plain(images: Images, path: Path, *, sigma: float = 0.25, j: int = 0, **more) -> pd.DataFrame:
    told = {name: more.pop(name) for name in ("skip", "max_images") if name in more}
    spec = Spec(noise=GridNoise(sigma), **{**RULED, **more})
    return certify_table(EXPERTS[j], images, path, spec=spec, **QUIET, **told)


def dual(images: Images, path: Path, *, estimator=None, choosers=None, **more) -> pd.DataFrame:
    told = {name: more.pop(name) for name in ("skip", "max_images", "recorded") if name in more}
    given = {"estimator": estimator or Cuts((0.25, 0.5)), "sigmas": SIGMAS, "n_estimator": 400, **RULED}
    networks = choosers or [cut(100), cut(160)]
    return certify_dual_table(networks, EXPERTS, images, path, spec=DualSpec(**given | more), **QUIET, **told)


def cascade(images: Images, path: Path, **more) -> pd.DataFrame:
    told = {name: more.pop(name) for name in ("skip", "max_images") if name in more}
    spec = CascadeSpec(**{"cascade": CASCADE, "n_side": 200, "rule": "own-votes", **GIVEN} | more)
    return certify_cascade_table(EXPERTS, images, path, spec=spec, **QUIET, **told)


def attacked(images: Images, path: Path, **more) -> pd.DataFrame:
    threat = Threat(eps=0.06, seed=3, steps=4, targets=2, auto=(), batch=4)
    return evaluate_table(Linear().eval(), images, path, threat=threat, **QUIET, **more)


def recorded(images: Images, path: Path) -> pd.DataFrame:
    known = [path.with_name(f"single{j}.tsv") for j in range(3)]
    for j, (file, sigma) in enumerate(zip(known, SIGMAS, strict=True)):
        plain(images, file, sigma=sigma, j=j)
    return dual(images, path, recorded=known)


def split(images: Images, path: Path) -> pd.DataFrame:
    own = Split(alpha=0.01, lower=(1e-3,) * 2, upper=(2e-3,) * 2, experts=(5e-3,) * 3, guessed_apart=True)
    return dual(images, path, split=own, lazy=False)


def joined(images: Images, path: Path) -> pd.DataFrame:
    singles = {s: plain(images, path.with_name(f"single{s}.tsv"), sigma=s) for s in SIGMAS}
    return from_tables(singles, cascade=CASCADE, alpha=0.02, rule="own-votes")


def mix(images: Images, path: Path, *, weight: float = 0.8, log: bool = False, **how) -> pd.DataFrame:
    """Tables of then said whether `others` were bounded by the rest, where later ones have a rule."""
    table = plain(images, path).drop(columns=[IMAGE, "rule"])
    if log:
        return mixed(table.iloc[:, :6], weight, sigma=0.25, **CLOSED | how).assign(others="rest")
    return mixed(table, weight, **CLOSED | how).assign(others="rest")


def mix_by_class(images: Images, path: Path) -> pd.DataFrame:
    """A bound for each other class: what only tables of then have, and later ones are read by."""
    table = plain(images, path).drop(columns=[IMAGE, "rule"])
    votes, selection = (read_column(name, table[name]) for name in ("votes", "selection"))
    guess = selection.leaders()
    told = votes.of(guess), votes.most_besides(guess), table["n"], table["alpha"]
    radius = mix_radius_exact(*class_bounds("each-class", *told, classes=4), 0.8, table["sigma"])
    made = claimed(table, guess, radius)[["predict", "radius", "correct"]]
    how = {"method": "mix", "weight": 0.8, "form": "exact", "others": "votes"}
    write_table(path.with_name("first.tsv"), table.assign(**made, **how, classes=4))
    return read_table(path.with_name("first.tsv")).drop(columns="classes")


CASES: dict[str, Callable[[Images, Path], pd.DataFrame]] = {
    "plain": plain,
    "plain, some": lambda i, p: plain(i, p, skip=5, max_images=2),
    "plain, at radii": lambda i, p: plain(i, p, n=1500, stop=AtRadii(radii=(0.05, 0.2), futility=0.01)),
    "plain, by image": lambda i, p: plain(i, p, n=1500, stop=InputSpecific(pilot=100, loss=0.3)),
    "plain, no steps": lambda i, p: plain(i, p, fast=FastPath.plain(), batch=200),
    "dual, cuts": dual,
    "dual, some": lambda i, p: dual(i, p, skip=3, max_images=3),
    "dual, median": lambda i, p: dual(i, p, estimator=Median(0.25), choosers=[brightness()]),
    "dual, plurality": lambda i, p: dual(i, p, estimator=Plurality(0.25), choosers=[brightness()]),
    "dual, at radii": lambda i, p: dual(i, p, n=1500, stop=AtRadii(radii=(0.05, 0.2))),
    "dual, split": split,
    "dual, recorded": recorded,
    "cascade": cascade,
    "cascade, some": lambda i, p: cascade(i, p, skip=4, max_images=2),
    "cascade, joined": joined,
    "mix, closed": mix,
    "mix, exact": mix_by_class,
    "mix, smoothing": lambda i, p: mix(i, p, form="smoothing"),
    "mix, lipschitz": lambda i, p: mix(i, p, form="lipschitz", weight=0.95),
    "mix, log": lambda i, p: mix(i, p, log=True),
    "attacked": attacked,
    "attacked, some": lambda i, p: attacked(i, p, skip=2, max_images=3),
}
GOLDEN = {  # of the table, of its identity
    "plain": ("d0f33ddb85ca04e5", "9a8d816f2014ed3a"),
    "plain, some": ("59083182c9c8a2f9", "9a8d816f2014ed3a"),
    "plain, at radii": ("4a047c0db45645ff", "72648abd906396f0"),
    "plain, by image": ("f8ddc10f51822070", "cb9bbea3431930b9"),
    "plain, no steps": ("d0f33ddb85ca04e5", "3f903160e73f0544"),
    "dual, cuts": ("2e251bc867f33408", "15b0096ca7322484"),
    "dual, some": ("d73ba91a98a1d3cc", "15b0096ca7322484"),
    "dual, median": ("57ad863c122bdefc", "22efaeb1a022c419"),
    "dual, plurality": ("1beabe9d1d7eb41f", "be802a0bdc86e22a"),
    "dual, at radii": ("6b73320c9c180f25", "f3e4ff76eea9c738"),
    "dual, split": ("e9ee35212f8c0c4d", "14dc4beef5a81357"),
    "dual, recorded": ("2e251bc867f33408", "94064da1f10230a3"),
    "cascade": ("6f25894a69ecb7c2", "d50991dbbb3e5260"),
    "cascade, some": ("bfa0b550011b7d10", "d50991dbbb3e5260"),
    "cascade, joined": ("704f2b88a387d3a0", "74234e98afe7498f"),
    "mix, closed": ("7322f2808aa6fead", "9a8d816f2014ed3a"),
    "mix, exact": ("8bd5c00bed082a3f", "9a8d816f2014ed3a"),
    "mix, smoothing": ("660e5c4a68045a7d", "9a8d816f2014ed3a"),
    "mix, lipschitz": ("1bd3ff4f0e7ea17b", "9a8d816f2014ed3a"),
    "mix, log": ("ebb6b087333f91c1", "9a8d816f2014ed3a"),
    "attacked": ("a10cdcb4a52d5667", "a4294a68c077fd2b"),
    "attacked, some": ("7dc8ebe09e079085", "a4294a68c077fd2b"),
}


@pytest.mark.parametrize("name", CASES)
def test_tables_and_their_identities_are_what_they_were(images: Images, tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.tsv"
    table = CASES[name](images, path)
    made = path.with_suffix(".json")
    identity = json.loads(made.read_text())["identity"] if made.exists() else None
    assert (digest(table), digest(identity)) == GOLDEN[name]


@pytest.mark.parametrize("make", [plain, dual, cascade, attacked])
def test_a_new_table_says_last_of_which_pixels_a_row_is(
    images: Images, tmp_path: Path, make: Callable
) -> None:
    table = make(images, tmp_path / "t.tsv", skip=5)
    assert table.columns[-1] == IMAGE
    assert table[IMAGE].tolist() == pixel_digests(images.pixels[::5])


@pytest.mark.parametrize(
    ("make", "whole"), [(plain, "plain"), (dual, "dual, cuts"), (cascade, "cascade"), (attacked, "attacked")]
)
def test_a_run_that_was_begun_before_goes_on(
    images: Images, tmp_path: Path, make: Callable, whole: str
) -> None:
    """Rows that an earlier version left, the last one cut, stay as they are, and the others follow."""
    for suffix in (".tsv", ".json"):
        shutil.copy(BEGUN / f"{make.__name__}{suffix}", tmp_path)
    path = tmp_path / f"{make.__name__}.tsv"
    kept, _, _ = path.read_text().rpartition("\n")
    begun = json.loads(path.with_suffix(".json").read_text())
    table = make(images, path)
    assert digest(table) == GOLDEN[whole][0]
    assert IMAGE not in table
    assert path.read_text().startswith(kept)
    made = json.loads(path.with_suffix(".json").read_text())
    assert made["identity"] == begun["identity"]
    later = {"levels", "provenance", "record_of", "record_sha256", "rows", "sha256"}
    assert made.keys() - later == begun.keys() - later
    assert made["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert made.get("disagreement") == begun.get("disagreement")  # measured once


def test_votes_for_labels_are_what_they_were(images: Images, tmp_path: Path) -> None:
    path = tmp_path / "votes.safetensors"
    votes = label_votes(EXPERTS, images, path, sigmas=SIGMAS, n=100, seed=7)
    identity = json.loads(path.with_suffix(".json").read_text())["identity"]
    assert (digest(votes.tolist()), digest(identity)) == ("4393c1bf24a079b0", "c46346a850ae03e1")


def test_settings_of_a_training_are_what_they_were(images: Images) -> None:
    """A checkpoint, and a state that is left half way, are found again."""
    objective = Warmup(epochs=1, first=Consistency(sigma=0.25), then=Consistency(sigma=0.5, draws=3))
    made_by = json.loads(json.dumps(settings(TrainConfig(epochs=3, seed=2, lr=0.25), objective, images)))
    assert digest(made_by) == "781b4a8162d00416"
    assert state_path(Path("m.safetensors"), made_by).name == "m.4bfac7c4.state.pt"


SHIPPED = sorted((Path(__file__).parent.parent / "data").glob("*/*_smoothed*_n10000.tsv"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_tables_recompute_to_the_last_bit(path: Path) -> None:
    table = read_table(path)
    found = reclaimed(table, rules_behind(table))
    assert found["radius"].tolist() == table["radius"].tolist()
