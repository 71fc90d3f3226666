"""`dualrs-lab verify | grade`: whether tables say what their votes say, and whether answers are right.

Tables are verified by the readers of this package; `data/verify_table.py` asks the same without it and shares
none of this code; both give the same answers.
"""

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualrs_lab.afar.address import by_address
from dualrs_lab.cli.inputs import want_file
from dualrs_lab.cli.parser import Command, Parser, a_new_file, a_number, a_path
from dualrs_lab.files import replace_text
from dualrs_lab.settings import Range

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GRADE", "VERIFY", "read_labels"]


UNVERIFIED = 3  # the exit code where nothing is wrong, but there are no votes to compute from


LIMITS = Range(whole=True, least=1, most=1_000_000)


_SYSTEMS = ("cascade", "combine", "dual")


def _options(parser: Parser) -> None:
    parser.add_argument("tables", nargs="+", type=a_path, metavar="TABLE", help="ours, or a published log")
    parser.add_argument(
        "--labels", type=a_path, metavar="FILE", help="of the images: idx and label, or one label a line"
    )


def _verify(options: Namespace) -> int:
    for path in options.tables:
        want_file(options.name, "table", path)
    labels = None
    if options.labels is not None:
        want_file(options.name, "file of labels", options.labels)
        labels = read_labels(options.labels)
    ends = {_one(path, labels) for path in options.tables}
    return 1 if 1 in ends else max(ends)


def _one(path: Path, labels: Mapping[int, int] | None) -> int:
    try:
        code, said = _judged(path, labels)
    except ValueError as error:
        code, said = 1, f"WRONG: {error}"
    print(by_address(f"{path}: {said}"))
    return code


def _judged(path: Path, labels: Mapping[int, int] | None) -> tuple[int, str]:
    from dualrs_lab.evidence.table import read_table
    from dualrs_lab.store import read_record, unchanged, unedited

    record = read_record(path)
    if not unedited(path):
        raise ValueError("the json beside it was changed after it was written: its own sha256 is another")
    if "sha256" in record and record["sha256"] is None:
        raise ValueError("the table is not finished, as the json beside it says")
    header = unchanged("verify", path).partition(b"\n")[0].decode("utf-8", "replace").split("\t")
    if header[:2] == ["idx", "label"] and "radius" not in header:
        rows = path.read_bytes().count(b"\n") - 1
        return UNVERIFIED, f"cannot be verified: {rows} rows of answers under attack, no certificates"
    table = read_table(path)
    _check(table, record, labels)
    if not _vote_columns(table):
        return UNVERIFIED, f"cannot be verified: {len(table)} rows without votes, as published logs are"
    return 0, f"certified: {_sentence(table, record)}"


def _check(table: "pd.DataFrame", record: Mapping[str, Any], labels: Mapping[int, int] | None) -> None:
    """ValueError for what `read_table` leaves to whoever puts tables together."""
    from dualrs_lab.evidence.joins import agree

    agree("verify", {"the table": table})
    idx = table["idx"].tolist()
    if not idx or idx != sorted(idx):
        raise ValueError("wanted rows with ascending idx")
    if labels is not None:
        for image, label in zip(idx, table["label"].tolist(), strict=True):
            if labels.get(image) != label:
                told = labels.get(image, "nothing of it")
                raise ValueError(f"idx {image}: label {label}, and the file of labels says {told}")
    if {"votes", "bound", "drawn"} <= {*table}:
        picked = table[(table["bound"] == "clopper-pearson") & (table["drawn"] > table["n"])]
        if len(picked):
            raise ValueError(
                f"idx {picked['idx'].iloc[0]}: {picked['n'].iloc[0]} votes were picked from "
                f"{picked['drawn'].iloc[0]} draws: only the bound by betting allows it"
            )
    if record.get("rows", len(idx)) != len(idx):
        raise ValueError(f"{len(idx)} rows, and the json beside them says {record['rows']}")
    skip, most = record.get("skip", 0), record.get("max_images", -1)
    wanted = [*range(0, idx[-1] + 1, skip)][: most if most > 0 else None] if skip > 0 else []
    if lost := sorted({*wanted} - {*idx}):
        raise ValueError(f"the row of idx {lost[0]} is missing: the json says every {skip}. image")
    for what, said, known in _twice_told(table, record.get("identity") or {}):
        if said != known:
            raise ValueError(f"{what} is {said} in the rows, and {known} in the json beside them")


def _twice_told(table: "pd.DataFrame", identity: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    # what rows and record both say, and how
    method = _only(table, "method")
    known = {name: value for name, value in identity.get("cascade", {}).items() if value} | dict(identity)
    if "votes" not in table and method not in _SYSTEMS:
        return
    said: dict[str, Any] = {"method": method}
    said |= {name: _only(table, name) for name in ("alpha", "seed", "combiner", "form") if name in table}
    if method == "smooth-sigma":
        said |= {name: _only(table, name) for name in ("base", "rate", "centre", "k")}
    else:
        said |= {"sigmas": _sigmas(table)} if method in _SYSTEMS else {"sigma": _only(table, "sigma")}
    said |= {name: float(_only(table, name)) for name in ("weight",) if name in table}
    for name in ("thresholds", "shares"):
        said |= {name: [float(word) for word in str(_only(table, name)).split()]} if name in table else {}
    said |= {"answers": int(_only(table, "answers"))} if "answers" in table else {}
    said |= {"confidences": least} if any(least := _confidences(table)) else {}
    yield from ((name, value, known[name]) for name, value in said.items() if name in known)
    yield from _rules_told(table, known, method)
    if "split" in known:
        parts = ("lower", "upper", "experts")
        texts = str(_only(table, "levels")).split(";")
        levels = {
            name: [float(word) for word in text.split()] for name, text in zip(parts, texts, strict=True)
        }
        yield "split", levels, {name: known["split"].get(name) for name in parts}
    if "estimator" in known:
        noise = [float(word) for word in str(_only(table, "estimator_sigmas")).split()]
        yield "estimator", _only(table, "estimator"), str(known["estimator"]["rule"]).lower()
        yield "estimator_sigmas", noise, _noise_of(known["estimator"])


def _rules_told(
    table: "pd.DataFrame", known: Mapping[str, Any], method: str
) -> Iterator[tuple[str, object, object]]:
    # the rule, which is left out of records where it is Cohen's, and what follows of how draws were stopped
    from dualrs_lab.evidence.recompute import rules_behind

    if "rule" in known or (method in ("rs", "dual") and "n0" in known):
        yield "rule", rules_behind(table), known.get("rule", "cohen")
    stop = (known.get("stop") or {}).get("rule", "AllDraws")
    if method in ("rs", "smooth-sigma") and "n" in known:
        beyond = [n for n in table["n"].tolist() if n > known["n"] or (stop == "AllDraws" and n < known["n"])]
        yield "n", *((beyond[0], known["n"]) if beyond else (0, 0))
    if stop == "AtRadii":  # the votes said when to stop, for which only this bound holds
        yield "bound", _only(table, "bound") if "bound" in table else "clopper-pearson", "betting"


def _noise_of(estimator: Mapping[str, Any]) -> list[float]:
    return list(estimator.get("sigmas") or [estimator["sigma"]])


def _sentence(table: "pd.DataFrame", record: Mapping[str, Any]) -> str:
    from dualrs_lab.evidence.recompute import rules_behind
    from dualrs_lab.evidence.votes import read_column

    known, method = record.get("identity") or {}, _only(table, "method")
    networks = [known["model"]] if "model" in known else known.get("experts", record.get("networks", []))
    who = "+".join(networks) or "(not named)"
    who += f" routed by {'+'.join(known['estimators'])}" if known.get("estimators") else ""
    who += _silence(known.get("sure"))
    who += f" in a mix of weight {float(_only(table, 'weight')):g}" if method == "mix" else ""
    paired = int(_only(table, "paired")) if "paired" in table else 0
    who += f" in strict float32, by votes of a quick copy and {paired} pairs" if paired else ""
    totals = {
        int(total)
        for name in _vote_columns(table)
        for total in read_column(name, table[name]).totals()
        if total
    }
    n = " to ".join(str(total) for total in dict.fromkeys([min(totals), max(totals)]))
    sure = int((table["radius"] > 0).sum())
    return (
        f"{method}, network {who}, images {known.get('images', '(not named)')}, "
        f"{known.get('noise', 'noise (not named)')} of sigma {_levels(table, method)}, n {n}, alpha "
        f"{float(_only(table, 'alpha')):g} for each image, rule {rules_behind(table)}: {len(table)} rows, "
        f"{sure} with a radius"
    )


def _silence(sure: Any) -> str:
    # below which confidence a network votes for no class; experts of a cascade tell it by their names
    least = sure.get("confidence") if isinstance(sure, Mapping) else 0
    return f" silent below {least:g}" if least else ""


def _levels(table: "pd.DataFrame", method: str) -> str:
    if method == "smooth-sigma":
        base, rate, centre = (_only(table, name) for name in ("base", "rate", "centre"))
        return f"{base!r} exp({rate!r} (d - {centre!r}))"
    return " ".join(_expert_names(table)) or f"{_sigmas(table)[0]:g}"


def _sigmas(table: "pd.DataFrame") -> list[float]:
    from dualrs_lab.evidence.votes import read_expert

    return [read_expert(name)[0] for name in _expert_names(table)] or [float(_only(table, "sigma"))]


def _confidences(table: "pd.DataFrame") -> list[float]:
    from dualrs_lab.evidence.votes import read_expert

    return [read_expert(name)[1] for name in _expert_names(table)]


def _expert_names(table: "pd.DataFrame") -> list[str]:
    return [name.removeprefix("votes_") for name in _vote_columns(table) if name != "votes"]


def _vote_columns(table: "pd.DataFrame") -> list[str]:
    return [name for name in map(str, table) if name == "votes" or name.startswith("votes_")]


def _only(table: "pd.DataFrame", name: str) -> Any:
    # the one value of all rows: a table is made in one way, fixed before its votes
    values = table[name].unique().tolist()
    if len(values) != 1:
        raise ValueError(f"rows differ in {name}: {sorted(map(str, values))}")
    return values[0]


def read_labels(path: Path) -> dict[int, int]:
    """Labels by idx: of lines that begin with idx and label, as tables do, or of one label a line, in order.

    A first line without numbers is a header. ValueError that names the line that holds no label.
    """
    found: dict[int, int] = {}
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    for number, line in enumerate(lines):
        words = re.split(r"[\t ,]+", line.strip())
        if not re.fullmatch(r"-?[0-9]+", words[0]):
            if number:
                raise ValueError(f"--labels {path}: {line!r}: wanted idx and label, or one label a line")
            continue
        idx = int(words[0]) if len(words) > 1 else len(found)
        try:
            found[idx] = int(words[min(1, len(words) - 1)])
        except ValueError:
            raise ValueError(f"--labels {path}: {line!r}: wanted a label in whole numbers") from None
    return found


VERIFY = Command(
    name="verify",
    help="whether tables say what their votes say, and what they certify",
    description="Computes every radius again from the votes in its row, compares tables with the json beside "
    "them, and says in one line what is certified. Ends with 1 if anything does not fit, else with 3 if a "
    "table holds no votes, else with 0. data/verify_table.py does the same without this package.",
    options=_options,
    run=_verify,
    example="dualrs-lab verify data/cifar10_jpeg/*.tsv --labels labels.txt",
)


def _grade_options(parser: Parser) -> None:
    limit = a_number(LIMITS)
    parser.add_argument("folder", type=a_path, metavar="DIR", help="a folder of notebooks, in folders or not")
    parser.add_argument("--out", type=a_new_file, metavar="FILE", help="a new file.csv for the table")
    parser.add_argument("--seconds", type=limit, default=300, metavar="N", help="for each (default 300)")
    parser.add_argument("--memory", type=limit, default=4000, metavar="MB", help="for each (default 4000)")


def _grade(options: Namespace) -> int:
    from dualrs_lab.exercises import as_rows, grade
    from dualrs_lab.headless.workbench import find_notebooks

    if not options.folder.is_dir():
        raise FileNotFoundError(f"grade: wanted a folder of notebooks, got {options.folder}")
    if options.out is not None and options.out.exists():
        raise ValueError(f"grade: {options.out} is there; name another file for the table")
    limits = {"seconds": options.seconds, "memory": options.memory * 1_000_000}
    grades = []
    for one in grade(options.folder, notebooks=find_notebooks(), **limits):
        print(one, flush=True)
        grades.append(one)
    if options.out is not None:
        replace_text(options.out, as_rows(grades).to_csv(index=False))
        print(f"{by_address(options.out)}: {len(grades)} rows")
    return 0


GRADE = Command(
    name="grade",
    help="run a folder of submissions to the lessons, and say which exercises are right",
    description="Each notebook runs by itself, within limits, and whatever it does costs its own row only. "
    "That is a fence and not a prison: grade strangers in a container.",
    options=_grade_options,
    run=_grade,
    example="dualrs-lab grade submissions --out grades.csv",
)
