"""A table is believed only after it was checked: what it may hold, and radii that follow from its votes."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dualrs_lab.cascade import Cascade, CascadeCertificate
from dualrs_lab.dual import Cuts, DualCertificate, Median, Plurality, judge
from dualrs_lab.evidence import (
    LOG_COLUMNS,
    Certificate,
    append_rows,
    check_rows,
    decide,
    frame,
    once_each,
    read_column,
    read_table,
    summarise,
    typed,
    write_table,
)
from dualrs_lab.mixing import mixed
from dualrs_lab.peers import SmoothSigma, SmoothSigmaCertificate
from dualrs_lab.store import seal, write_record

SIX = "\t".join(LOG_COLUMNS)
ROOT = Path(__file__).parent.parent.parent


def plain(
    count: int, seed: int = 0, bound: str = "clopper-pearson", rule: str = "two-bounds"
) -> list[Certificate]:
    """Certificates of random votes, some of which abstain."""
    chance = np.random.default_rng(seed)
    return [
        decide(
            chance.multinomial(50, p := chance.dirichlet([0.3] * 4)), chance.multinomial(500, p),
            idx=i, label=i % 4, sigma=0.25, alpha=0.01, seed=1, seconds=0.1, bound=bound, drawn=600,
            rule=rule,
        )
        for i in range(count)
    ]  # fmt: skip


def dual(
    count: int, seed: int = 0, estimator=None, bound: str = "clopper-pearson", rule: str = "two-bounds"
) -> list[DualCertificate]:
    chance, estimator = np.random.default_rng(seed), estimator or Cuts((0.25, 0.5))
    streams, kinds = len(estimator.sigmas), estimator.classes(3)
    found = []
    for i in range(count):
        p, q = chance.dirichlet([0.2] * 4), [chance.dirichlet([0.2] * kinds) for _ in range(streams)]
        votes = chance.multinomial(400, p, size=3) * chance.integers(0, 2, size=(3, 1))
        parts = [np.stack([chance.multinomial(n, each) for each in q]) for n in (60, 300)]
        found.append(
            judge(
                *parts, chance.multinomial(50, p), votes, idx=i, label=i % 4, estimator=estimator,
                sigmas=(0.12, 0.25, 0.5), split=estimator.split(3, 0.01, rule), seed=1, seconds=0.1,
                bound=bound, drawn=5000, rule=rule,
            )
        )  # fmt: skip
    return found


def cascade(count: int, seed: int = 0, limits: tuple[float, ...] = (0.1, -0.05, 0.0)) -> list:
    chance, rule = np.random.default_rng(seed), Cascade((0.5, 0.25, 0.12), limits)
    found = []
    for i in range(count):
        p = chance.dirichlet([0.2] * 4)
        asked = chance.integers(0, 2, size=(3, 1))
        votes = [chance.multinomial(n, p, size=3) * asked for n in (60, 400)]
        said = {"idx": i, "label": i % 4, "alpha": 0.01, "seed": 1, "seconds": 0.1}
        found.append(CascadeCertificate.from_votes(*votes, rule, **said))
    return found


def mix(count: int, **how) -> pd.DataFrame:
    return mixed(frame(plain(count)), **{"weight": 0.8} | how)


def slowly(count: int) -> list[SmoothSigmaCertificate]:
    """Under a level of its own for each image."""
    smooth, distances = SmoothSigma(base=0.5, rate=0.05, centre=3.0), np.linspace(1, 5, count)
    levels = [float(smooth.at(distance)) for distance in distances]
    own = [
        Certificate.from_row(one.to_row() | {"sigma": level, "radius": 0.0, "predict": -1})
        for one, level in zip(plain(count), levels, strict=True)
    ]
    return [
        SmoothSigmaCertificate.under(one, smooth, float(distance), 64)
        for one, distance in zip(own, distances, strict=True)
    ]


METHODS: dict[str, Callable[[int], object]] = {
    "rs": plain,
    "smooth-sigma": slowly,
    "rs, betting": lambda n: plain(n, bound="betting"),
    "dual, cuts": dual,
    "dual, median": lambda n: dual(n, estimator=Median(0.25)),
    "dual, plurality": lambda n: dual(n, estimator=Plurality(0.25)),
    "dual, betting": lambda n: dual(n, bound="betting"),
    "cascade": cascade,
    "cascade, majority": lambda n: cascade(n, limits=()),
    "rs, cohen": lambda n: plain(n, rule="cohen"),
    "rs, selected": lambda n: plain(n, rule="selected"),
    "dual, cohen": lambda n: dual(n, rule="cohen"),
    "mix, closed": lambda n: mix(n, form="closed", rule="cohen"),
    "mix, exact": lambda n: mix(n, form="exact"),
    "mix, selected": lambda n: mix(n, form="exact", rule="selected"),
    "mix, smoothing": lambda n: mix(n, form="smoothing"),
    "mix, lipschitz": lambda n: mix(n, form="lipschitz", weight=0.95),
}


def written(path: Path, table: object) -> pd.DataFrame:
    """Written as it is, and read without a check."""
    if isinstance(table, list):
        columns = [*dict.fromkeys(name for row in table for name in row.to_row())]
        append_rows(path, table, columns=columns)
    else:
        write_table(path, table)
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def edited(path: Path, texts: pd.DataFrame, idx: int, **cells: object) -> Path:
    changed = texts.copy()
    for name, cell in cells.items():
        changed.loc[idx, name] = str(cell)
    changed.to_csv(path, sep="\t", index=False, lineterminator="\n", quoting=3)
    return path


@pytest.mark.parametrize("method", METHODS)
def test_a_true_table_of_every_method_is_read_and_an_edited_radius_refused(
    tmp_path: Path, method: str
) -> None:
    path = tmp_path / "t.tsv"
    texts = written(path, METHODS[method](40))
    table = read_table(path)
    at = int(np.argmax(table["radius"]))  # also of the right class
    assert 0 < table["radius"][at] < np.inf
    edits = [
        {"radius": f(table["radius"][at])} for f in (lambda r: 2 * r, lambda r: r + 1e-6, lambda r: r / 2)
    ]
    edits.append({"radius": 0.0, "predict": -1, "correct": 0})
    other = (table["predict"][at] + 1) % 4
    edits.append({"predict": other, "correct": int(other == table["label"][at])})
    if "published" in table:
        edits += [{name: table[name][at] + 0.01} for name in ("published", "constancy", "radius_0.25")]
    if "successes" in table:
        edits += [{"n": 501}, {"n0": 49}, {"successes": table["successes"][at] + 1}]
        edits += [{"n": 501, "votes": "0:501"}] if table["n"][at] != table["successes"][at] else []
    for edit in edits:
        edited(path, texts, at, **edit)
        with pytest.raises(ValueError, match=rf"^read_table\({path}\): image {at} \(line {at + 2}\)"):
            read_table(path)


@pytest.mark.parametrize("method", ["rs", "dual, cuts", "cascade", "mix, exact", "smooth-sigma"])
def test_rows_together_say_what_each_says_alone(method: str) -> None:
    """The vectorised radii against those of the certificates one by one: two paths, one number."""
    from dualrs_lab.evidence.recompute import HOMES, _home

    assert set(HOMES) == {"rs", "dual", "cascade", "combine", "mix", "smooth-sigma"}
    made = METHODS[method](60)
    table = frame(made) if isinstance(made, list) else made
    found = _home(method.split(",")[0], table)(table)
    if isinstance(made, list):
        assert np.allclose(found["radius"], [claim.recomputed() for claim in made], rtol=1e-12)
        assert found["predict"].tolist() == [claim.predict for claim in made]
    assert np.allclose(found["radius"], table["radius"], rtol=1e-12)


def test_methods_share_a_file_and_each_is_checked(tmp_path: Path) -> None:
    claims = [*plain(5), *[c for c in dual(12) if c.idx >= 5]]
    path = tmp_path / "t.tsv"
    table = frame(claims)
    write_table(path, table)
    assert read_table(path)["method"].tolist() == ["rs"] * 5 + ["dual"] * 7
    at = int(table["radius"][5:].to_numpy().argmax()) + 5
    table.loc[at, "radius"] *= 1.01
    write_table(path, table)
    with pytest.raises(ValueError, match=rf"image {at} \(line {at + 2}\) has radius"):
        read_table(path)


def test_a_method_by_another_name_is_checked_by_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    write_table(path, frame(plain(9)).assign(method="mine"))
    assert set(read_table(path)["method"]) == {"mine"}
    table = frame(plain(9)).assign(method="mine")
    table.loc[table["radius"] > 0, "radius"] += 0.1
    write_table(path, table)
    with pytest.raises(ValueError, match="and its votes give"):
        read_table(path)


@pytest.mark.parametrize("method", ["rs", "dual", "cascade"])
def test_votes_that_are_gone_are_missed(tmp_path: Path, method: str) -> None:
    made = METHODS[method if method == "rs" else {"dual": "dual, cuts"}.get(method, method)](3)
    table = frame(made).drop(columns=["selection"], errors="ignore")
    table = table[[name for name in table if not name.startswith("votes")]]
    write_table(tmp_path / "t.tsv", table)
    with pytest.raises(ValueError, match=r"read_table\("):
        read_table(tmp_path / "t.tsv")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("0 1 1 nan 1 2", "wanted something in radius, got radius nan"),
        ("0 1 1 inf 1 2", "wanted a finite radius >= 0"),
        ("0 1 1 -0.1 1 2", "wanted a finite radius >= 0"),
        ("0 1 -1 0.5 0 2", "wanted radius 0 where predict is -1"),
        ("0 1 2 0.5 1 2", "wanted correct 1 where predict is label, else 0, got correct 1"),
        ("0 1 1 0.5 0 2", "wanted correct 1 where predict is label, else 0, got correct 0"),
        ("0 -1 -1 0.0 1 2", "wanted correct 1 where predict is label, else 0, got correct 1"),
        ("0 1 1 0.5 2 2", "wanted correct 1 where"),
        ("0 1 -2 0.5 0 2", "wanted predict >= -1"),
        ("0 -2 1 0.5 0 2", "wanted label >= -1"),
        ("-1 1 1 0.5 1 2", "wanted idx >= 0"),
        ("7 1 1 0.5 1 2", r"image 7 \(line 3\): wanted each image once"),
        ("0 1 1 0.5 1 -2", "wanted time >= 0"),
        ("0 1 1 0.5 1 inf", "wanted time >= 0"),
        ("0 1 1 1_0.25 1 2", "column radius: could not convert string to float: '1_0.25'"),
        ("0 1 1 ١.٥ 1 2", "column radius: could not convert"),
        ("0 1 1 0x1p-2 1 2", "column radius: could not convert"),
        ("0_1 1 1 0.25 1 2", "column idx: not a whole number in plain digits: '0_1'"),
        ("+0 1 1 0.25 1 2", "column idx: not a whole number"),
        ("0 1.0 1 0.25 1 2", "column label: not a whole number"),
        ("99999999999999999999 1 1 0.25 1 2", "column idx: "),
        ("0 1 1 0.25 True 2", "column correct: not a whole number"),
        ("0 1 1  1 2", "wanted something in radius"),
    ],
)
def test_a_row_that_cannot_be_is_refused(tmp_path: Path, row: str, said: str) -> None:
    path = tmp_path / "log.tsv"
    path.write_text(f"{SIX}\n7\t1\t1\t0.25\t1\t2\n" + row.replace(" ", "\t") + "\n")
    with pytest.raises(ValueError, match=said):
        read_table(path)
    path.write_text(f"{SIX}\n7\t1\t1\t0.25\t1\t2\n8\t 7\t1\t0.25\t0\t2\n")
    with pytest.raises(ValueError, match="not a whole number in plain digits: ' 7'"):
        read_table(path)


def test_published_logs_are_read_and_say_that_they_are_published(tmp_path: Path) -> None:
    for path in sorted((ROOT / "data" / "published_logs").glob("*.tsv")):
        table = read_table(path)
        assert len(table) == 500
        assert set(table["method"]) == {"published"}
    write_table(tmp_path / "again.tsv", table)
    pd.testing.assert_frame_equal(read_table(tmp_path / "again.tsv"), table)
    log = mixed(table, 0.8, sigma=1.0, rule="cohen")  # no votes, no more than the log itself
    write_table(tmp_path / "mix.tsv", log)
    assert read_table(tmp_path / "mix.tsv")["radius"].tolist() == log["radius"].tolist()


@pytest.mark.parametrize("cell", ["3:5 1:2", "1:2 1:3", "1:0", "1:-2", "1: 2", "1:2 ", "a:b", "1:2_0", "1"])
def test_votes_that_are_none_are_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(ValueError, match=r"line 3: votes '.*'"):
        read_column("votes", ["1:2 3:4", cell])
    path = tmp_path / "t.tsv"
    edited(path, written(path, plain(3)), 1, votes=cell)
    with pytest.raises(ValueError, match=r"read_table\(.*\): line 3: votes"):
        read_table(path)


def test_votes_of_a_column_by_hand() -> None:
    found = read_column("votes", ["0:3 2:5 7:5", "", pd.NA, "4:1"])
    assert found.totals().tolist() == [13, 0, 0, 1]
    assert found.leaders().tolist() == [2, -1, -1, 4]
    assert found.largest().tolist() == [7, -1, -1, 4]
    assert found.of(np.array([7, 0, 0, 3])).tolist() == [5, 0, 0, 0]
    assert found.most_besides(np.array([7, 0, 0, 4])).tolist() == [5, 0, 0, 0]
    assert found.counts_of(np.array([0, 2, 4, 7]))[0].tolist() == [3, 5, 0, 5]


def test_equal_rows_are_computed_once() -> None:
    seen = []
    found = once_each(lambda a, b: (seen.append(len(a)), a + b)[1], [1, 2, 1, 1], [3.0, 4.0, 3.0, 5.0])
    assert (found.tolist(), seen) == ([4.0, 6.0, 4.0, 6.0], [3])


def test_cells_are_exact() -> None:
    numbers = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 2.0**-40, 0.30000000000000004]
    table = typed({"x": list(map(repr, numbers)), "y": ["-inf", "", "inf", "1", "2.", ".5"]}, {})
    assert table["x"].tolist() == numbers
    assert table["y"].tolist()[0] == -np.inf
    check_rows("call", pd.DataFrame(columns=LOG_COLUMNS))


def test_a_file_that_was_changed_after_it_was_finished_is_refused(tmp_path: Path) -> None:
    """Also where the rows still agree with their votes: they are not those that were sampled."""
    path = tmp_path / "t.tsv"
    append_rows(path, plain(6))
    write_record("call", path, {"identity": {}})
    seal("call", path)
    before = path.read_bytes()
    assert len(read_table(path)) == 6
    for changed in (before.replace(b"\t0.1\t", b"\t0.2\t", 1), b"\n".join(before.split(b"\n")[:-2]) + b"\n"):
        path.write_bytes(changed)
        wanted = hashlib.sha256(before).hexdigest()
        with pytest.raises(
            ValueError,
            match=rf"is not the file that was finished: sha256 .*t\.json says {wanted}; restore it",
        ):
            read_table(path)
    path.write_bytes(before)
    assert summarise({"t": read_table(path)}, [0.1]).loc["t", "images"] == 6


@pytest.mark.parametrize("method", ["rs", "dual, cuts", "cascade", "mix, exact"])
def test_ten_thousand_rows_are_checked_in_no_time(tmp_path: Path, method: str) -> None:
    """Votes that all differ; what the check of the radii takes, in seconds of this processor."""
    from dualrs_lab.evidence import check_evidence

    some = METHODS[method](500)
    table = frame(some) if isinstance(some, list) else some
    table = pd.concat([table] * 20, ignore_index=True)
    start = time.process_time()
    check_evidence("call", table)
    assert time.process_time() - start < 3
