"""The original beside its copy: what it votes on the same noise, in strict float32, and tables of it.

The network is trained on digits in a second, and its copy is in bfloat16.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn

from dualrs_lab.__main__ import main
from dualrs_lab.cascade import Cascade, CascadeSpec, from_tables
from dualrs_lab.combine import CombineSpec
from dualrs_lab.data import Images, load_images, to_float
from dualrs_lab.dual import DualSpec
from dualrs_lab.evidence import BOUNDS, PAIRED, PairedCounts, for_copy, read_table, ruled_radius
from dualrs_lab.models import make_model
from dualrs_lab.smoothing import (
    BLOCK,
    AllDraws,
    AtRadii,
    FastPath,
    FrozenVoter,
    GridNoise,
    InputSpecific,
    NoiseBlocks,
    PairedVotes,
    RecordedVotes,
    Spec,
    StrictVoter,
    Unit,
    Voter,
    certify,
    certify_table,
    check_disagreement,
    freeze,
    is_original,
    original,
    predict,
    strict_float32,
)

ROOT = Path(__file__).parents[2]
CPU, NOISE, SHAPE = torch.device("cpu"), GridNoise(0.5), (1, 8, 8)
SPEC = {"noise": NOISE, "seed": 3, "n0": 30, "n": 420, "alpha": 0.01, "batch": 100}
QUICK = {"dtype": torch.bfloat16, "fast": FastPath(compile=False)}
ORIGINAL = Spec(**SPEC, **QUICK, certify="original", paired=350)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Trained a little, so that it is often near a boundary under this noise."""
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.5], seed=0)
    train, chance = load_images("digits", "train"), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        rows = torch.randint(len(train), (128,), generator=chance)
        x, y = train.batch(rows)
        noisy = to_float(x) + 0.25 * torch.randn(x.shape, generator=chance)
        loss = nn.functional.cross_entropy(model(noisy), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def images() -> Images:
    return load_images("digits", "test").select(range(40))


def table(model: nn.Module, images: Images, path: Path, spec: Spec = ORIGINAL, **how: object) -> pd.DataFrame:
    return certify_table(model, images, path, spec=spec, progress=False, **how).drop(columns="time")


@pytest.fixture(scope="module")
def made(network: nn.Module, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "t.tsv"
    table(network, images, path)
    return path


def copy_of(network: nn.Module, batch: int = 100) -> FrozenVoter:
    return freeze(
        network, NOISE, SHAPE, classes=10, device=CPU, dtype=torch.bfloat16, fast=QUICK["fast"], batch=batch
    )


def test_pairs_are_those_counted_by_hand(network: nn.Module, images: Images, made: Path) -> None:
    found, copy = read_table(made), copy_of(network)
    blocks = NoiseBlocks(NOISE, SHAPE, seed=3, stream="estimation")
    theirs, own = np.zeros((40, 350), dtype=int), np.zeros((40, 350), dtype=int)
    for i in range(40):
        for number in range(4):
            here = slice(number * BLOCK, min(350, (number + 1) * BLOCK))
            draws = blocks[number]
            votes = copy(images.pixels[i : i + 1], draws[None])[0]
            noisy = (images.pixels[i].to(torch.int32) + draws).float() / 255
            theirs[i, here] = votes[: here.stop - here.start]
            own[i, here] = network(noisy).argmax(1)[: here.stop - here.start]
    assert 0.001 < (theirs != own).mean() < 0.05  # there is something to count
    for i, row in enumerate(found.to_dict("records")):
        counts = dict(tuple(map(int, pair.split(":"))) for pair in row["selection"].split())
        y = max(counts, key=lambda kind: counts[kind])
        new = [int(((own[i] == r) & (theirs[i] != r)).sum()) for r in range(10) if r != y]
        lost = int(((theirs[i] == y) & (own[i] != y)).sum())
        wanted = (350, int((own[i] == y).sum()), lost, max(new))
        assert tuple(row[name] for name in PAIRED) == wanted, i
    assert found["lost"].sum() > 0 < found["gained"].sum()


def test_radii_of_the_original_are_at_most_those_of_its_copy(
    network: nn.Module, images: Images, made: Path, tmp_path: Path
) -> None:
    original = read_table(made)
    copy = table(network, images, tmp_path / "copy.tsv", Spec(**SPEC, **QUICK))
    assert (original["radius"] <= copy["radius"]).all()
    assert (original["radius"] < copy["radius"]).sum() > 20 < (original["radius"] > 0).sum()
    pd.testing.assert_frame_equal(for_copy(original).drop(columns="time"), copy)  # the same votes


def test_the_json_says_what_is_certified(
    network: nn.Module, images: Images, made: Path, tmp_path: Path
) -> None:
    record = json.loads(made.with_suffix(".json").read_text())
    assert (record["certifies"], record["identity"]["certify"], record["identity"]["paired"]) == (
        "original",
        "original",
        350,
    )
    table(network, images, tmp_path / "t.tsv", Spec(**SPEC, **QUICK), max_images=1)
    record = json.loads((tmp_path / "t.json").read_text())
    assert record["certifies"] == "copy"
    assert not {"certify", "paired"} & {*record["identity"]}


def test_a_table_goes_on_only_for_the_same_network_and_pairs(
    network: nn.Module, images: Images, made: Path, tmp_path: Path
) -> None:
    path = tmp_path / "t.tsv"
    table(network, images, path, max_images=7)
    for spec, differs in (
        (Spec(**SPEC, **QUICK), r"\(certify, paired\)"),
        (Spec(**SPEC, **QUICK, certify="original"), r"\(paired\)"),
    ):
        with pytest.raises(ValueError, match=f"made with other settings {differs}"):
            table(network, images, path, spec)
    pd.testing.assert_frame_equal(table(network, images, path), read_table(made).drop(columns="time"))
    copies = tmp_path / "copies.tsv"
    table(network, images, copies, Spec(**SPEC, **QUICK), max_images=2)
    with pytest.raises(ValueError, match=r"made with other settings \(certify, paired\)"):
        table(network, images, copies)


@pytest.mark.parametrize("batch", [100, 300])
def test_an_image_has_the_same_pairs_alone_and_among_others(
    network: nn.Module, images: Images, made: Path, batch: int
) -> None:
    wanted = read_table(made)[list(PAIRED)].head(5)
    together = certify(
        copy_of(network, batch), images.pixels[:5], classes=10, spec=ORIGINAL, original=network
    )
    alone = [
        certify(
            copy_of(network, batch), images.pixels[i : i + 1], classes=10, spec=ORIGINAL, original=network
        )[0]
        for i in range(5)
    ]
    for found in (together, alone):
        assert [list(c.pairs or ()) for c in found] == wanted.to_numpy().tolist()


def products() -> str:
    """How float32 matrices are multiplied on a CPU: "ieee" is strict; older versions of torch say it so."""
    kinds = getattr(torch.backends.mkldnn, "matmul", None)
    known = {"highest": "ieee", "high": "tf32", "medium": "bf16"}
    return kinds.fp32_precision if kinds else known[torch.get_float32_matmul_precision()]


class Told(nn.Module):
    """A linear network that remembers how float32 was multiplied when it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.seen: list[tuple[bool, str]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((torch.is_autocast_enabled("cpu"), products()))
        return self.layer(x.flatten(1))


def test_the_original_is_asked_in_strict_float32_whatever_is_set() -> None:
    before = torch.get_float32_matmul_precision()
    voter = StrictVoter(Told(), NOISE, classes=10, units=2, device=CPU)
    x, noise = torch.zeros((1, *SHAPE), dtype=torch.uint8), NOISE.draw((1, BLOCK, *SHAPE), torch.Generator())
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            votes = voter(x, noise)
            loose = Voter(voter.model, NOISE, classes=10, units=2)
            loose(x, noise)
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"
        with pytest.raises(ZeroDivisionError), strict_float32(CPU):
            1 / 0  # noqa: B018
        assert products() == "bf16"
    finally:
        torch.set_float32_matmul_precision(before)
    assert votes.shape == (1, BLOCK)
    assert voter.model.seen == [(False, "ieee"), (True, "bf16")]


def test_older_versions_of_torch_are_told_in_their_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(original, "_operation", lambda name: None)
    before, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high")
        with strict_float32(CPU):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
        gpu = original._precisions(torch.device("cuda"))
        assert gpu == {"products": "high", "convolutions": "tf32" if tf32 else "ieee"}
        original._set_precisions(dict.fromkeys(gpu, "ieee"))
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = tf32


def test_which_copy_is_the_original_itself() -> None:
    plain, floats = FastPath.plain(), torch.float32
    assert is_original(floats, plain, CPU)
    assert is_original(floats, FastPath(fold=False, channels_last=False, compile=False), CPU)
    for other in (
        FastPath(),
        FastPath(fold=False, channels_last=False),  # whether to compile is open
        FastPath(fold=True, channels_last=False, compile=False),
        FastPath(fold=False, channels_last=True, compile=False),
    ):
        assert not is_original(floats, other, CPU)
    assert not is_original(torch.bfloat16, plain, CPU)
    assert not is_original(torch.float64, plain, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_original(floats, plain, CPU)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert not is_original(floats, plain, CPU)
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_original_itself_needs_no_pairs_and_a_folded_one_does(
    network: nn.Module, images: Images, tmp_path: Path
) -> None:
    few = images.select(range(6))
    own = Spec(**SPEC, fast=FastPath.plain(), certify="original")
    found = table(network, few, tmp_path / "own.tsv", own)
    copy = table(network, few, tmp_path / "copy.tsv", Spec(**SPEC, fast=FastPath.plain()))
    pd.testing.assert_frame_equal(found, copy)
    record = json.loads((tmp_path / "own.json").read_text())
    assert (record["certifies"], record["identity"]["paired"]) == ("original", 0)
    system = from_tables({0.5: read_table(tmp_path / "own.tsv")}, cascade=Cascade((0.5,)), alpha=0.01)
    assert (system["radius"] > 0).any()  # of originals, by their own votes
    folded = table(
        network, few, tmp_path / "folded.tsv", Spec(**SPEC, fast=QUICK["fast"], certify="original")
    )
    assert set(folded["paired"]) == {105}
    with pytest.raises(ValueError, match="got paired 50, and what is sampled is the original itself"):
        table(network, few, tmp_path / "no.tsv", Spec(**SPEC, fast=own.fast, certify="original", paired=50))


def test_no_votes_of_the_original_are_counted_beyond_its_pairs() -> None:
    """Nor those of a block that is not wanted whole; classes are told apart by the votes of both."""
    voter = StrictVoter(Told(), NOISE, classes=10, units=2, device=CPU)
    x = torch.zeros((3, *SHAPE), dtype=torch.uint8)
    noise = torch.stack([NOISE.draw((BLOCK, *SHAPE), torch.Generator().manual_seed(i)) for i in range(3)])
    own = torch.cat([voter(x[i : i + 1], noise[i : i + 1]) for i in range(3)])
    copy = own.roll(1, dims=1)
    y = int(own[0].mode().values)
    pairs = PairedVotes(voter, np.array([y, y]), 130, CPU)
    units = [Unit(0, 0, 100), Unit(1, 1, 100), Unit(0, 2, 100)]
    pairs(units, x, noise, copy)
    for position, row, most in ((0, 0, 100), (1, 1, 30)):
        mine, theirs = own[row, :most], copy[row, :most]
        new = [int(((mine == r) & (theirs != r)).sum()) for r in range(10) if r != y]
        lost = int(((theirs == y) & (mine != y)).sum())
        assert tuple(pairs.of(position)) == (130, int((mine == y).sum()), lost, max(new))


class SometimesNan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.layer(x.flatten(1))
        return torch.where(x.flatten(1).mean(1, keepdim=True) > 0.12, torch.nan, logits)


def test_an_original_with_nan_logits_is_refused() -> None:
    x = torch.zeros((1, *SHAPE), dtype=torch.uint8)
    spec = Spec(**SPEC, certify="original")
    with pytest.raises(FloatingPointError, match="the original gave NaN logits"):
        certify(Told().eval(), x, classes=10, spec=spec, original=SometimesNan())


def test_where_the_original_is_not_built_it_is_refused_by_name(
    network: nn.Module, images: Images, made: Path
) -> None:
    for given, message in (
        ({"paired": 421}, "got paired 421 of n 420 draws"),
        ({"paired": 0}, "got paired 0; wanted a whole number >= 1"),
        ({"certify": "both"}, "got certify 'both'; wanted one of copy, original"),
        ({"certify": "copy", "paired": 9}, "got paired 9 with certify='copy'; wanted certify='original'"),
    ):
        with pytest.raises(ValueError, match=message):
            Spec(**SPEC, **{"certify": "original", **given})
    for system in (CascadeSpec, DualSpec, CombineSpec):
        with pytest.raises(TypeError, match="unexpected keyword argument 'certify'"):
            system(seed=0, certify="original")
    x = images.pixels[:1]
    with pytest.raises(ValueError, match="certify: got certify='original' and no original"):
        predict(network, x, classes=10, spec=ORIGINAL)
    with pytest.raises(ValueError, match="predict: got certify='copy' and an original"):
        predict(network, x, classes=10, spec=Spec(**SPEC), original=network)
    with pytest.raises(ValueError, match="certify: got certify='original' and no original"):
        certify(network, x, classes=10, spec=ORIGINAL)
    with pytest.raises(ValueError, match="certify: got certify='copy' and an original"):
        certify(network, x, classes=10, spec=Spec(**SPEC), original=network)
    with pytest.raises(ValueError, match="certifies the original, by votes of its copy and pairs"):
        RecordedVotes("certify_dual_table", made, [0], 10)


def test_the_default_is_a_quarter_of_the_draws() -> None:
    assert Spec(**SPEC).pairs == 0
    assert Spec(**SPEC, certify="original").pairs == 105
    long = SPEC | {"n": 100_000}
    for stop, pairs in ((AllDraws(), 25_000), (AtRadii(), 1000), (InputSpecific(), 1000)):
        assert Spec(**long, certify="original", stop=stop).pairs == pairs
    assert Spec(**SPEC | {"n": 3}, certify="original").pairs == 1
    told = Spec(**SPEC, certify="original").identity()
    assert told == Spec(**SPEC).identity() | {"certify": "original", "paired": 105}


def test_differences_that_radii_account_for_are_not_warned_of() -> None:
    check_disagreement("a call", {"draws": 100, "share": 0.03}, torch.bfloat16, certify="original")
    with pytest.warns(UserWarning, match="certificates are for the frozen one"):
        check_disagreement("a call", {"draws": 100, "share": 0.03}, torch.bfloat16)
    with pytest.raises(ValueError, match="it is another classifier"):
        check_disagreement("a call", {"draws": 100, "share": 0.06}, torch.bfloat16, certify="original")


# Images that stop early.


@pytest.mark.parametrize("stop", [AtRadii(radii=[0.1, 0.3]), InputSpecific(pilot=100, loss=0.3)])
def test_an_original_stops_early_but_not_before_its_pairs(
    stop: AtRadii | InputSpecific, network: nn.Module, images: Images, tmp_path: Path
) -> None:
    how = SPEC | {"n": 2000}
    spec = Spec(**how, **QUICK, certify="original", paired=150, stop=stop)
    found = table(network, images, tmp_path / "t.tsv", spec, max_images=20)
    assert found["drawn"].min() >= 150
    assert found["drawn"].mean() < 1500
    assert set(found["paired"]) == {150}
    assert set(found["bound"]) == {stop.bound}
    assert (found["n"] >= 150).all()
    assert (found["radius"] > 0).sum() > 5
    several = found["selection"].str.contains(" ")  # after others, the original's own votes decide
    assert (found["radius"] <= for_copy(found)["radius"])[several].all()
    assert main(["verify", str(tmp_path / "t.tsv")]) == 0
    alone = ROOT / "data" / "verify_table.py"
    done = subprocess.run([sys.executable, alone, tmp_path / "t.tsv"], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    table(network, images, tmp_path / "begun.tsv", spec, max_images=7)
    pd.testing.assert_frame_equal(table(network, images, tmp_path / "begun.tsv", spec, max_images=20), found)


def test_the_radii_that_images_stop_at_are_those_of_the_original(network: nn.Module, images: Images) -> None:
    """By radii of the copy they would stop just short of them."""
    stop = AtRadii(radii=[0.2])
    spec = Spec(**SPEC | {"n": 4000}, **QUICK, certify="original", paired=200, stop=stop)
    found = certify(copy_of(network), images.pixels[:20], classes=10, spec=spec, original=network)
    early = [one.radius for one in found if one.drawn < 4000 and len(one.selection) > 1]
    assert sum(radius >= 0.2 for radius in early) > 2 * sum(0 < radius < 0.2 for radius in early)


class Seen(NamedTuple):
    """Pairs of simulated images, as `PairedVotes` gives them."""

    paired: int
    counts: list[PairedCounts]

    def of(self, position: int) -> PairedCounts:
        return self.counts[position]


RUNS, LEVEL, PAIRS, MOST = 1000, 0.1, 200, 2000
LAWS = {  # of copy and original
    "a tie that the copy does not see": np.array([[0.5, 0.2, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 0.0]]),
    "a rival that the copy does not know": np.array([[0.52, 0.0, 0.1], [0.0, 0.05, 0.25], [0.0, 0.0, 0.08]]),
    "rare differences": np.array([[0.5, 0.015, 0.0], [0.0, 0.485, 0.0], [0.0, 0.0, 0.0]]),
}


def false_ones(law: np.ndarray, rule: str, *, seen: bool = True) -> float:
    """The share of simulated images, stopped by an `AtRadii`, that claim more than the original's radius."""
    chance, kinds, runs = np.random.default_rng(0), len(law), np.arange(RUNS)
    blocks = chance.multinomial(BLOCK, law.ravel(), (MOST // BLOCK, RUNS)).reshape(-1, RUNS, kinds, kinds)
    selection = chance.multinomial(20, law.sum(1), RUNS)
    y = selection.argmax(1)
    first = blocks[: PAIRS // BLOCK].sum(0)
    new = first.sum(1) - np.diagonal(first, axis1=1, axis2=2)
    gained = np.where(np.arange(kinds) == y[:, None], 0, new).max(1)
    lost = first[runs, y].sum(1) - first[runs, y, y]
    kept = first[runs, :, y].sum(1)
    pairs = [PairedCounts(PAIRS, *map(int, of)) for of in zip(kept, lost, gained, strict=True)]
    if not seen:  # the fault: differences are not looked at
        pairs = [PairedCounts(PAIRS, one.kept, 0, 0) for one in pairs]
    watch = AtRadii(radii=[0.1, 0.2, 0.4]).watch(
        selection, n=MOST, alpha=LEVEL, sigma=1.0, rule=rule, pairs=Seen(PAIRS, pairs)
    )
    counts, going = np.zeros((RUNS, kinds), dtype=np.int64), runs
    for block in blocks:
        counts[going] += block[going].sum(2)
        going = going[~watch.done(going, counts[going])]
    evidence = np.stack([watch.evidence(i, counts[i]) for i in runs])
    rival = np.where(np.arange(kinds) == y[:, None], 0, evidence).max(1)
    together = PairedCounts(*(np.array(column) for column in zip(*pairs, strict=True)))
    alike = selection.max(1) == 20
    radius = ruled_radius(
        rule, evidence[runs, y], rival, evidence.sum(1), LEVEL, 1.0,
        bounds=BOUNDS["betting"], unanimous=alike, pairs=together,
    )  # fmt: skip
    p = law.sum(0)
    others = np.where(np.arange(kinds) == y[:, None], 0.0, p).max(1)
    exact = (special.ndtri(p[y]) - special.ndtri(others)) / 2
    return float(((radius > 0) & (radius > exact + 1e-12)).mean())


@pytest.mark.parametrize("name", LAWS)
def test_at_most_alpha_of_1_000_that_stopped_early_are_false(name: str) -> None:
    too_many = stats.binom.isf(1e-3 / 6, RUNS, LEVEL) / RUNS
    for rule in ("two-bounds", "cohen"):
        assert false_ones(LAWS[name], rule) <= too_many, rule


def test_to_ignore_differences_breaks_the_level_of_what_stops_early() -> None:
    assert false_ones(LAWS["a tie that the copy does not see"], "two-bounds", seen=False) > 0.5


def test_what_is_predicted_for_an_original_is_what_is_certified(network: nn.Module, images: Images) -> None:
    x, copy = images.pixels[:12], copy_of(network)
    found = predict(copy, x, classes=10, spec=ORIGINAL, original=network)
    certified = certify(copy, x, classes=10, spec=ORIGINAL, original=network)
    assert found.tolist() == [one.predict for one in certified]
    assert found.dtype == np.int64
    assert len({*found.tolist()}) > 2
    assert predict(copy, x[:0], classes=10, spec=ORIGINAL, original=network).shape == (0,)


def test_what_the_copy_answers_and_the_original_does_not_is_not_predicted() -> None:
    """A copy that always says 0 of an original that always says 1: the copy's votes are unanimous."""

    class Says(nn.Module):
        def __init__(self, label: int) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.eye(3)[label])

        def forward(self, x: Tensor) -> Tensor:
            return self.logits.expand(len(x), 3)

    x, spec = torch.zeros((1, *SHAPE), dtype=torch.uint8), Spec(**SPEC, certify="original")
    assert predict(Says(0), x, classes=3, spec=spec, original=Says(1)).tolist() == [-1]
    assert predict(Says(0), x, classes=3, spec=spec, original=Says(0)).tolist() == [0]
    assert predict(Says(0), x, classes=3, spec=Spec(**SPEC)).tolist() == [0]
