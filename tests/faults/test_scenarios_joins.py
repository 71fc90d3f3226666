"""Tables that do not belong together are never joined: each scenario once ended in a false certificate.

Every caller that puts tables side by side asks `evidence.agree`, and every caller that reads votes beside
counts asks `evidence.counted_votes`: what is refused here is refused by all of them.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dualrs_lab.__main__ import main
from dualrs_lab.cascade import Cascade, from_tables
from dualrs_lab.data import Images
from dualrs_lab.dual import DualSpec, Median, certify_dual_table, compare, judge, regret_table
from dualrs_lab.evidence import (
    Certificate,
    agree,
    agreement,
    aligned,
    at_sigma,
    average_radius,
    certified_accuracy,
    counted_votes,
    decide,
    each_once,
    frame,
    holds_all_draws,
    holds_fixed_draws,
    join_votes,
    origin,
    read_table,
    shared_origin,
    summarise,
    write_table,
)
from dualrs_lab.files import replace_json
from dualrs_lab.mixing import MixCertificate, check_mixed, mixed, probability_bounds
from dualrs_lab.smoothing import GridNoise, RecordedVotes, Spec, certify_table
from dualrs_lab.store import read_record

SIGMAS = (0.25, 0.5)
LABELS = (0, 1, 2, 0, 1, 2)
IDENTITY = {"images": "c2f7e8f587f0a357", "noise": "GridNoise", "stop": {"rule": "AllDraws"}}


def table(sigma: float = 0.25, *, alpha: float = 0.001, seed: int = 0, n: int = 1000) -> pd.DataFrame:
    """Six images of three classes, each sure of its label."""
    rng = np.random.default_rng(int(100 * sigma))
    votes = [rng.multinomial(n, np.roll([0.9, 0.07, 0.03], label)) for label in LABELS]
    return frame(
        decide(
            np.roll([90, 5, 5], label), votes[i], idx=i, label=label, sigma=sigma, alpha=alpha, seed=seed,
            seconds=0.0,
        )
        for i, label in enumerate(LABELS)
    )  # fmt: skip


def keep(path: Path, rows: pd.DataFrame, **identity: object) -> Path:
    """The table as `certify` leaves it, with its record."""
    write_table(path, rows)
    own = {name: rows[name].iloc[0].item() for name in ("sigma", "alpha", "seed", "n0", "n")}
    replace_json(path.with_suffix(".json"), {"identity": IDENTITY | own | identity})
    return path


def dual(alpha: float = 0.001) -> pd.DataFrame:
    rule = Median(0.5)
    looks, counted = np.array([[90, 10]]), np.array([[900, 100]])
    return frame(
        judge(
            looks, counted, np.roll([90, 5, 5], label), np.tile(np.roll([900, 70, 30], label), (2, 1)), idx=i,
            label=label, estimator=rule, sigmas=SIGMAS, split=rule.split(2, alpha), seed=0, seconds=0.0,
            bound="clopper-pearson", drawn=10_000,
        )
        for i, label in enumerate(LABELS)
    )  # fmt: skip


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


# Who joins tables, given two of them.

Joiner = Callable[[pd.DataFrame, pd.DataFrame], object]
CASCADE = Cascade((0.5, 0.25))
JOINERS: dict[str, Joiner] = {
    "cascade": lambda a, b: from_tables({0.25: a, 0.5: b}, cascade=CASCADE),
    "panel": lambda a, b: join_votes({0.25: a, 0.5: b}, SIGMAS),
    "compare": lambda a, b: compare({0.25: a, 0.5: b}),
    "compare with others": lambda a, b: compare({0.25: a}, others={"other": b}),
    "regret": lambda a, b: regret_table(dual(), {0.25: a, 0.5: b}),
    "summary": lambda a, b: summarise({"a": a, "b": b}, [0.0]),
    "agreement": lambda a, b: agreement(a, b),
    "mix": lambda a, b: check_mixed(mixed(a, 0.9), b.assign(sigma=0.25)),
    "aligned": lambda a, b: aligned("aligned", {"a": a, "b": b}),
}
OF_ONE_LEVEL = [name for name in JOINERS if name != "agreement"]  # which may compare levels


def known(rows: pd.DataFrame, **identity: object) -> pd.DataFrame:
    """As `read_table` reads it beside its record."""
    rows = rows.copy()
    rows.attrs = {"identity": identity}
    return rows


@pytest.mark.parametrize("joiner", JOINERS)
def test_tables_that_belong_together_are_joined(joiner: str) -> None:
    a, b = (known(table(sigma), images="one", noise="GridNoise", sigma=sigma) for sigma in SIGMAS)
    if joiner == "mix":
        b = known(mixed(a, 1.0), images="one")
    JOINERS[joiner](a, b)


@pytest.mark.parametrize("joiner", JOINERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(label=[*LABELS[:4], 2, 2]), "differ in the label of idx 4: "),
        (lambda t: t.assign(image=[*"abcd", "x", "f"]), "differ in the image of idx 4: "),
        (lambda t: known(t, images="two"), "differ in images: "),
        (lambda t: known(t, images="one", noise="GaussianNoise"), "differ in noise: "),
        (lambda t: known(t, images="one", classes=["x", "y", "z"]), "differ in classes: "),
        (lambda t: pd.concat([t, t[:1]]), "an idx comes twice"),
        (lambda t: known(t, seed=3), r"and the record beside it differ in seed: \[0\] and 3"),
    ],
    ids=["labels", "digests", "data sets", "noise", "classes", "twice", "its own record"],
)
def test_no_caller_joins_tables_of_different_pictures(
    joiner: str, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    """Scenarios 6 and 11, for whoever puts tables side by side."""
    a = known(table().assign(image=[*"abcdef"]), images="one", noise="GridNoise", classes=[*"abc"])
    with pytest.raises(ValueError, match=message):
        JOINERS[joiner](a, change(table(0.5)))


@pytest.mark.parametrize("joiner", OF_ONE_LEVEL)
def test_no_caller_joins_tables_of_different_levels(joiner: str) -> None:
    with pytest.raises(ValueError, match=r"differ in alpha: \[0\.0.*\] and \[0\.0"):
        JOINERS[joiner](table(), table(0.5, alpha=0.01))


def test_a_dual_table_is_compared_at_its_own_level_only() -> None:
    for join in (compare, lambda singles, system: regret_table(system, singles)):
        with pytest.raises(ValueError, match=r"dual and σ = 0.25 differ in alpha: \[0\.01\] and \[0\.001\]"):
            join({sigma: table(sigma) for sigma in SIGMAS}, dual(alpha=0.01))
    with pytest.raises(ValueError, match="lack idx 5 of the dual table"):
        regret_table(dual(), {0.25: table()[:5], 0.5: table(0.5)})


def test_the_same_digests_are_the_same_images_whatever_they_were_chosen_from() -> None:
    """A run on a selection of a data set has another fingerprint, and may be joined with one on all of it."""
    a, b = (known(table(s).assign(image=[*"abcdef"]), images=str(s)) for s in SIGMAS)
    assert [*aligned("call", {"a": a[:4], "b": b})["b"]["idx"]] == [0, 1, 2, 3]
    some = b.assign(image=[*"abcde", None])  # rows from before there were digests
    agree("call", {"a": a[:5], "b": some})
    with pytest.raises(ValueError, match=r"differ in images: 0\.25 and 0\.5"):
        agree("call", {"a": a, "b": some})
    with pytest.raises(ValueError, match="differ in images"):  # no image in common says nothing
        agree("call", {"a": a[:3], "b": b[3:]})


def test_one_sentence_names_both_tables_and_what_differs(tmp_path: Path) -> None:
    a, b = (read_table(keep(tmp_path / f"t{100 * s:g}.tsv", table(s), images=f"of {s}")) for s in SIGMAS)
    with pytest.raises(ValueError, match="differ") as error:
        from_tables({0.25: a, 0.5: b}, cascade=CASCADE)
    assert str(error.value) == (
        "join_votes: σ = 0.5 (t50.tsv) and σ = 0.25 (t25.tsv) differ in images: of 0.5 and of 0.25; wanted "
        "tables of the same images, classes, noise and level"
    )


def test_what_a_table_was_made_from_comes_along(tmp_path: Path) -> None:
    rows = read_table(keep(tmp_path / "t.tsv", table()))
    assert origin(rows)["images"] == IDENTITY["images"]
    assert origin(rows[rows["idx"] > 2].sort_values("idx").reset_index(drop=True)) == origin(rows)
    assert shared_origin(rows) == {"images": IDENTITY["images"], "noise": "GridNoise"}
    joined = from_tables({0.25: rows.assign(image=[*"abcdef"]), 0.5: table(0.5)}, cascade=CASCADE)
    assert origin(joined) == shared_origin(rows)
    assert [*joined["image"]] == [*"abcdef"]
    assert origin(table()) == {}


# The command line.


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return [keep(tmp_path / f"{name}.tsv", table(s)).name for name, s in zip("ab", SIGMAS, strict=True)]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"images": "other"}, "differ in images"), ({"noise": "GaussianNoise"}, "differ in noise")],
)
def test_the_command_line_joins_no_tables_of_different_records(
    files: list[str], capsys: pytest.CaptureFixture[str], change: dict, message: str
) -> None:
    assert main(["cascade", *files, "--out", "c.tsv"]) == 0
    made = read_record("c.tsv")["identity"]
    assert (made["images"], made["noise"]) == (IDENTITY["images"], "GridNoise")
    assert main(["summary", *files, "c.tsv"]) == 0
    capsys.readouterr()
    keep(Path("b.tsv"), table(0.5), **change)
    for words in (["cascade", *files, "--out", "d.tsv"], ["summary", *files], ["summary", "b.tsv", "c.tsv"]):
        said = complaint(capsys, *words)
        assert message in said
        assert "b" in said
    assert not Path("d.tsv").exists()


def test_the_command_line_compares_tables_of_one_level(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cascade", *files, "--alpha", "0.05", "--out", "c.tsv"]) == 0
    said = capsys.readouterr().out
    assert "its experts, of another level, are not beside it" in said
    assert "σ" not in said.splitlines()[-1]
    assert "differ in alpha" in complaint(capsys, "summary", files[0], "c.tsv")


def test_a_published_log_is_no_expert(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("log.tsv").write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t0\t0\t0.5\t1\t0.1\n")
    assert "log.tsv holds no votes" in complaint(capsys, "cascade", *files, "log.tsv", "--out", "c.tsv")


# Noise.


def test_a_table_of_one_noise_level_is_not_taken_for_another() -> None:
    """Scenario 7: σ = 0.25 as σ = 1 certified four times as far as is true."""
    small, large = table(0.25), table(0.5)
    for join in (
        lambda: from_tables({1.0: small}, cascade=Cascade((1.0,))),
        lambda: join_votes({1.0: small, 0.5: large}, (1.0, 0.5)),
        lambda: compare({1.0: small, 0.5: large}),
        lambda: compare(
            {1.0: small.assign(bound="betting", radius=0.0), 0.5: large}
        ),  # joined by no other rule
    ):
        with pytest.raises(ValueError, match=r"σ = 1 is of sigma \[0\.25\]; wanted a table made at 1, whose"):
            join()
    for rows in (small.drop(columns="sigma"), small.assign(sigma=[0.25, 0.5] * 3)):
        with pytest.raises(ValueError, match=r"wanted a table made at 0\.25"):
            at_sigma("call", "it", rows, 0.25)


def test_rows_of_another_noise_than_their_record_says_are_refused(tmp_path: Path) -> None:
    rows = read_table(keep(tmp_path / "t.tsv", table(0.5), sigma=0.25))
    message = r"σ = 0\.5 \(t\.tsv\) and the record beside it differ in sigma: \[0\.5\] and 0\.25"
    with pytest.raises(ValueError, match=message):
        from_tables({0.5: rows}, cascade=Cascade((0.5,)))
    with pytest.raises(ValueError, match="differ in sigma"):
        mixed(rows, 0.9)


# Votes.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(successes=t["successes"] + 40), r"got successes, n, n0 .* whose votes say"),
        (lambda t: t.assign(n=2000, drawn=2000), r"got successes, n, n0 .* whose votes say"),
        (lambda t: t.assign(n0=90), r"got successes, n, n0 .* whose votes say"),
        (lambda t: t.assign(votes="0:900 0:900"), "wanted each class once"),
        (lambda t: t.assign(votes="1:50 0:950"), "wanted each class once, ascending"),
        (lambda t: t.assign(votes="0:-50 1:1050"), "with a positive count"),
        (lambda t: t.assign(votes=""), "wanted each class once"),
        (lambda t: t.assign(selection=""), "wanted each class once"),
    ],
)
def test_counts_that_the_votes_beside_them_refute_are_refused(
    change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    """Scenario 10, for the mix and the cascade: both read votes at one place."""
    changed = change(table())
    for read in (
        lambda: mixed(changed, 0.8),
        lambda: mixed(changed, 0.8, rule="cohen"),
        lambda: probability_bounds(changed),
        lambda: from_tables({0.25: changed}, cascade=Cascade((0.25,))),
        lambda: counted_votes("call", changed),
    ):
        with pytest.raises(ValueError, match=message):
            read()


def test_votes_that_agree_with_their_counts_are_read() -> None:
    selection, votes = counted_votes("call", table())
    assert selection[1] == ((0, 5), (1, 90), (2, 5))
    assert sum(count for _, count in votes[1]) == 1000
    counted_votes("call", table().drop(columns=["successes", "n", "n0"]))


def test_an_image_that_comes_twice_does_not_count_twice() -> None:
    """Scenario 11: once more of the best image raises the accuracy of any table."""
    rows = table()
    twice = pd.concat([rows, rows[rows["radius"] == rows["radius"].max()]])
    for count in (
        lambda: certified_accuracy(twice, [0.5]),
        lambda: average_radius(twice),
        lambda: summarise({"one": twice}, [0.5]),
        lambda: mixed(twice, 0.9),
        lambda: each_once("call", twice),
        lambda: from_tables({0.25: twice, 0.5: pd.concat([table(0.5)] * 2)}, cascade=CASCADE),
    ):
        with pytest.raises(
            ValueError, match=r"an idx comes twice in .* first; wanted one row for each image"
        ):
            count()
    nameless = rows.drop(columns="idx")  # nothing says which images these are
    assert summarise({"one": nameless, "other": rows}, [0.5])["acr"].tolist() == [average_radius(rows)] * 2


def test_only_all_draws_are_all_draws() -> None:
    """A pilot that chose a number for each image is no fixed number, though each image got all of its own."""
    rows = table()
    assert holds_all_draws(rows)
    pilot = pd.concat([rows[:3], table(n=500)[3:]])
    assert (pilot["drawn"] == pilot["n"]).all()
    for other in (
        pilot,  # nobody says who chose the numbers
        known(rows, stop={"rule": "AtRadii"}),
        rows.assign(drawn=1100),
        rows.assign(bound="betting"),
        rows.drop(columns="votes"),
    ):
        assert not holds_all_draws(other)
        with pytest.raises(ValueError, match=r"votes of σ = 0\.25 stopped early, or are not there"):
            from_tables({0.25: other}, cascade=Cascade((0.25,)))
    chosen = known(pilot, stop={"rule": "InputSpecific", "pilot": 1000, "loss": 0.05})
    assert not holds_all_draws(chosen)
    assert holds_fixed_draws(chosen)
    assert len(from_tables({0.25: chosen}, cascade=Cascade((0.25,)))) == len(chosen)
    for other in (chosen.assign(drawn=1100), chosen.assign(bound="betting"), chosen.drop(columns="votes")):
        assert not holds_fixed_draws(other)
    assert "cascade, routed" not in compare({0.25: pilot, 0.5: table(0.5)})  # the other bounds allow it
    assert holds_all_draws(known(rows, seed=0))  # from before there were rules
    assert holds_all_draws(rows.drop(columns=["bound", "drawn"]))


# The mix.


def test_rows_of_a_mix_by_votes_recompute_from_themselves(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ("exact", "smoothing", "lipschitz"):
        words = ["--weight", "0.8", "--form", form, "--out", f"{form}.tsv"]
        assert main(["mix", files[0], *words]) == 0
        found = read_table(f"{form}.tsv")
        claims = [MixCertificate.from_row(row) for row in found.to_dict("records")]
        assert [claim.recomputed() for claim in claims] == found["radius"].tolist()
        assert {claim.rule for claim in claims} == {"two-bounds"}
        assert read_record(f"{form}.tsv")["identity"]["images"] == IDENTITY["images"]
    capsys.readouterr()


def test_what_a_mix_certifies_beyond_the_table_of_h() -> None:
    """By the rest nothing; by the rival an image where h has no majority, yet never beyond h by that rule."""
    votes = np.array([900, *[100] * 11])
    given = {"idx": 0, "label": 0, "sigma": 0.5, "alpha": 0.001, "seed": 0, "seconds": 0.0}
    h = frame([decide(votes // 10, 10 * votes, rule="cohen", **given)])
    assert h["radius"].item() == 0
    by_rest, by_votes = mixed(h, 0.9, rule="cohen"), mixed(h, 0.9)
    assert by_rest["radius"].item() == 0
    assert by_votes["radius"].item() > 0
    with pytest.raises(ValueError, match="certified further than by h itself"):
        check_mixed(by_votes, h)
    whole = mixed(h, 1.0)
    check_mixed(by_votes, whole)
    check_mixed(by_votes, frame([decide(votes // 10, 10 * votes, **given)]))
    assert by_votes["radius"].item() < whole["radius"].item()


# Votes that a dual system reads instead of drawing them.


class Brightness(nn.Module):
    """0, 1 or 2 by the mean brightness."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0.0], [1.0], [2.0]]).expand(3, 4) / 4)
            self.layer.bias.copy_(torch.tensor([0.0, -0.33, -1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1))


def test_recorded_votes_are_those_of_these_images(tmp_path: Path) -> None:
    pixels = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 1, 2, 2) * 45
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    images = Images(pixels=pixels.clone(), labels=labels, classes=tuple("abc"), name="grey", split="test")
    network, given = Brightness().eval(), {"seed": 0, "n0": 20, "n": 100}
    paths = [tmp_path / f"{sigma}.tsv" for sigma in SIGMAS]
    for path, sigma in zip(paths, SIGMAS, strict=True):
        certify_table(network, images, path, spec=Spec(noise=GridNoise(sigma), **given), progress=False)
    spec = DualSpec(estimator=Median(0.25), sigmas=SIGMAS, n_estimator=100, **given)

    def system(name: str) -> pd.DataFrame:
        networks = [[network.__class__().eval()], [network] * 2]
        networks[0][0].layer = nn.Linear(4, 2)  # a router
        out = tmp_path / name
        return certify_dual_table(*networks, images, out, spec=spec, recorded=paths, progress=False)

    assert len(system("fine.tsv")) == 6
    rows = read_table(paths[1])
    record = {what: value for what, value in read_record(paths[1]).items() if what != "sha256"}
    relabelled = rows.assign(label=[0, 0, 1, 1, 2, 0])
    first = Certificate.from_row(rows.to_dict("records")[0])
    votes = " ".join(f"{kind}:{count}" for kind, count in [*first.votes[:-1], (7, first.votes[-1][1])])
    for changed, message in (
        (
            relabelled.assign(correct=relabelled["predict"] == relabelled["label"]),
            "differ in the label of idx 5",
        ),
        (pd.concat([rows, rows[:1]]), "comes twice|each image once"),
        (rows.assign(sigma=0.25, radius=rows["radius"] / 2), "and the record beside it differ in sigma"),
        (rows.assign(votes=[votes, *rows["votes"][1:]]), "votes for class 7|the table was changed"),
        (rows.assign(n0=19), "the table was changed"),
        (rows.assign(n=99, drawn=99), "the table was changed"),
    ):
        write_table(paths[1], changed)
        replace_json(paths[1].with_suffix(".json"), record)  # as if of a time without digests of tables
        with pytest.raises(ValueError, match=message):
            system("t.tsv")
    write_table(paths[1], pd.concat([rows, rows[:1]]))
    with pytest.raises(ValueError, match=r"comes twice|each image once"):
        RecordedVotes("call", paths[1], range(6), 3)
    assert not (tmp_path / "t.tsv").exists()
