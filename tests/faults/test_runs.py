"""A folder of runs with something bad in it: named and counted, and everything else goes on."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dualrs_lab.__main__ import main
from dualrs_lab.charts import export_page
from dualrs_lab.headless import (
    Report,
    alone,
    find_runs,
    is_done,
    log_tail,
    outputs,
    read_notebook,
    read_records,
    read_status,
    record,
    report,
    status,
    write_report,
)
from dualrs_lab.headless.log import Log
from dualrs_lab.headless.reading import parse_json, printable, read_tail, read_text
from tests.faults.pretend import plan, pretend, run, write_notebook

DEEP = "[" * 100_000
NOTEBOOK, PROFILES = "notebooks/20_good.ipynb", "notebooks/profiles.toml"
EVIL = "<img src=x onerror=f()>"


def text(content: str | bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def entry(**changes: object) -> Callable[[Path], None]:
    """The good record, with entries that are wrong or, if None, missing."""

    def write(path: Path) -> None:
        status = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in status.items() if value is not None}))

    return write


def loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "inside").write_text("precious")


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


DAMAGE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "00_empty": ("status.json", text(""), "is not JSON"),
    "01_cut": ("status.json", text('{"run": "01_cut", "st'), "is not JSON"),
    "02_null": ("status.json", text("null"), "no record of a run"),
    "03_other": ("status.json", text('{"version": 3}'), "no record of a run: run is missing"),
    "04_key": ("status.json", entry(runner=None), "runner is missing"),
    "05_kind": ("status.json", entry(parameters=[1]), "parameters is a list"),
    "06_state": ("status.json", entry(state="fine"), "no run ends as 'fine'"),
    "07_whose": ("status.json", entry(run="../20_good"), "the record of another run"),
    "08_surrogate": ("status.json", entry(message="\ud800"), "surrogates not allowed"),
    "09_deep": ("status.json", text(DEEP), "is not JSON"),
    "10_nested": ("status.json", entry(given={"a": json.loads("[" * 200 + "]" * 200)}), "within each other"),
    "11_seconds": ("status.json", entry(seconds=float("inf")), "its cells or seconds"),
    "12_pid": ("status.json", entry(runner={"pid": 2**70, "born": "", "host": ""}), "who ran it"),
    "13_bytes": ("status.json", text(b'{"run": "\xff"}'), "is not UTF-8"),
    "14_folder": ("status.json", folder, "no regular file"),
    "15_fifo": ("status.json", fifo, "no regular file"),
    "16_loop": ("status.json", loop, "cannot be read"),
    "30_line": ("records.jsonl", text('{"a": 1}\nTraceback\n{"b": 2}\n'), "line 2 of records.jsonl"),
    "31_list": ("records.jsonl", text("[1, 2]\n"), "line 1 of records.jsonl holds no values"),
    "32_surrogate": ("records.jsonl", text('{"a": "\\ud800"}\n'), "surrogates not allowed"),
    "33_deep": ("records.jsonl", text(DEEP + "\n"), "line 1 of records.jsonl"),
    "34_bytes": ("records.jsonl", text(b"\xff\n"), "is not UTF-8"),
    "35_folder": ("records.jsonl", folder, "no regular file"),
    "36_fifo": ("records.jsonl", fifo, "no regular file"),
    "37_zeros": ("records.jsonl", text(b"\0" * 100 + b"\n"), "line 1 of records.jsonl"),
    "38_digits": ("records.jsonl", text('{"a": 1' + "0" * 5000 + "}\n"), "line 1 of records.jsonl"),
}
GOOD = ("20_good", "21_good")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pretend(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def broken(lab: Path) -> Path:
    """A folder of runs that all ended well; then each file of DAMAGE was damaged."""
    for name in (*DAMAGE, *GOOD):
        source = f"open(home + '/records.jsonl', 'w').write('{{\"of\": \"{name}\"}}\\n')"
        write_notebook(lab / "notebooks" / f"{name}.ipynb", "n: int = 3", source)
    for one in plan(lab):
        ended = status.begin_run(one, profile="quick", provenance={}) | {
            "state": "ok",
            "finished": status.now(),
        }
        status.write_status(one, ended)
        shutil.copy(one.notebook, one.folder)
        (one.folder / "records.jsonl").write_text(f'{{"of": "{one.name}"}}\n')
    for name, (file, damage, _) in DAMAGE.items():
        damage(lab / "runs" / name / file)
    return lab


def content(path: Path) -> object:
    """What there is at a path, of whatever kind."""
    if path.is_symlink():
        return os.readlink(path)
    mode = path.stat().st_mode
    return path.read_bytes() if stat.S_ISREG(mode) else stat.S_IFMT(mode)


def test_damaged_runs_are_named_and_counted_and_made_again(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = broken / "runs"
    found = {one.folder.name: one for one in find_runs(runs)}
    assert {name for name, one in found.items() if one.status["state"] == "damaged"} == {*DAMAGE}
    for name, (_, _, words) in DAMAGE.items():
        assert words in found[name].status["message"], name
    assert found["30_line"].records == {"a": 1, "b": 2}  # what can be read is not lost

    assert main(["status"]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(DAMAGE) + len(GOOD) + 1
    assert all(line.isprintable() for line in shown)
    assert shown[-1].startswith(f"{len(DAMAGE)} of {len(DAMAGE) + len(GOOD)} damaged")

    write_report(runs)
    page = (runs / "index.html").read_text()
    assert f"2 of {len(DAMAGE) + 2} runs ended well" in page
    assert f"{len(DAMAGE)} cannot be read" in page
    assert "20_good,,ok," in (runs / "results.csv").read_text()

    before = {name: content(runs / name / file) for name, (file, _, _) in DAMAGE.items()}
    statuses, said = run(plan(broken))
    assert {status["state"] for status in statuses.values()} == {"ok"}
    assert [name for name in statuses if statuses[name].get("earlier")] == [*GOOD]
    for name, (file, _, words) in DAMAGE.items():
        assert f"{name}: {file}" in said or words in said
        stem, _, suffix = file.partition(".")
        if name != "16_loop":  # a link to nothing holds nothing
            assert content(runs / name / f"{stem}_old1.{suffix}") == before[name], name
        assert (runs / name / f"{name}_old1.ipynb").is_file()  # of the same run, under the same number
        assert read_records(runs / name) == {"of": name}
    assert {one.status["state"] for one in find_runs(runs)} == {"ok"}


def test_what_cannot_be_kept_aside_is_left_and_the_rest_goes_on(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*paths: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(status, "set_aside", refuse)
    write_notebook(broken / "notebooks" / "40_new.ipynb", "n: int = 3", "1")
    statuses, said = run(plan(broken))
    assert {statuses[name]["state"] for name in DAMAGE} == {"damaged"}
    assert statuses["40_new"]["state"] == "ok"
    assert "it cannot be made again: [Errno 13] Permission denied" in said


def test_a_folder_that_may_not_be_read_is_a_damaged_run(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GOOD:
        write_notebook(lab / "notebooks" / f"{name}.ipynb", "", "1")
    run(plan(lab))
    real = os.open

    def refuse(path: object, *rest: int, **more: int) -> int:
        if "20_good" in str(path):
            raise PermissionError(13, "Permission denied")
        return real(path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refuse)
    found = {one.folder.name: one.status for one in find_runs(lab / "runs")}
    assert [found[name]["state"] for name in GOOD] == ["damaged", "ok"]
    assert "Permission denied" in found["20_good"]["message"]


def test_files_of_the_notebooks_are_no_run(lab: Path) -> None:
    (lab / "runs" / "files").mkdir(parents=True)
    (lab / "runs" / "files" / "status.json").write_text("{}")
    (lab / "runs" / "update" / "20_train").mkdir(parents=True)  # another --out within
    assert find_runs(lab / "runs") == []
    write_notebook(lab / "notebooks" / "files.ipynb", "", "1")
    with pytest.raises(ValueError, match=r"files\.ipynb: rename it"):
        plan(lab)


ROGUES = {
    "empties": ("open(home + '/status.json', 'w')", "ok", ""),
    "garbles": ("open(home + '/records.jsonl', 'w').write('no\\n')", "damaged", "line 1 of records.jsonl"),
    "removes": ("import shutil; shutil.rmtree(home)", "ok", ""),
    "replaces": (
        "import os; os.remove(home + '/status.json'); os.mkdir(home + '/status.json')", "ok", "",
    ),
    "flattens": ("import shutil; shutil.rmtree(home); open(home, 'w')", "error", "FileExistsError"),
    "lies": (r"""print('{"outcome": {"state": "ok"'); print('[1]\n\xff')""", "ok", ""),
    "mumbles": ("raise ValueError('\\ud800 \\x1b[2J \\u202e')", "error", "ValueError"),
    "prints": ("import sys; print('\\x1b[2J', file=sys.stderr); raise ValueError", "error", "ValueError"),
}  # fmt: skip


def test_a_notebook_harms_neither_the_runner_nor_its_neighbours(lab: Path) -> None:
    for name, (source, _, _) in ROGUES.items():
        write_notebook(lab / "notebooks" / f"{name}.ipynb", "", source)
    for name in GOOD:
        write_notebook(lab / "notebooks" / f"{name}.ipynb", "", "1")
    statuses, said = run(plan(lab))
    for name, (_, state, words) in ROGUES.items():
        if name != "flattens":  # its stand-in cannot even keep the notebook
            assert statuses[name]["state"] == state, name
            assert words in statuses[name]["message"]
    assert {statuses[name]["state"] for name in GOOD} == {"ok"}
    assert {name: read_status(lab / "runs" / name)["state"] for name in statuses} == {
        name: status["state"] for name, status in statuses.items()
    }
    assert all(line.isprintable() for line in said.splitlines())
    again, _ = run(plan(lab))  # and none of it stands in the way of the next run
    assert {again[name]["state"] for name in GOOD} == {"ok"}


def test_what_a_file_holds_is_checked_once_for_all() -> None:
    assert parse_json('{"a": [1, "σ"]}', "it") == {"a": [1, "σ"]}
    for bad in (DEEP, "[" * 101 + "]" * 101, '"\\ud800"', '{"\\udfff": 1}', "1" * 5000, "", "{'a': 1}"):
        with pytest.raises(ValueError, match=r"it is not JSON that can be kept"):
            parse_json(bad, "it")
    assert parse_json("[" * 99 + "]" * 99, "it")
    assert printable("a\x1b[2J\n\u202eσ\udcff") == "a\\x1b[2J\\n\\u202eσ\\udcff"


def test_files_without_end_are_not_read_to_the_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no regular file"):
        read_text(Path("/dev/zero"))
    (tmp_path / "big").write_text("x" * 101)
    with pytest.raises(ValueError, match=r"big takes more than 0\.0001 MB"):
        read_text(tmp_path / "big", largest=100)
    assert read_tail(tmp_path / "big", 3) == "xxx"
    assert read_tail(tmp_path / "none", 3) == read_tail(tmp_path, 3) == ""
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "big" / "inside")


def test_half_a_line_of_a_full_disk_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "records.jsonl"
    monkeypatch.setenv("DUALRS_RECORD", str(path))
    record(a=1)
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, limits[1]))
    try:
        with pytest.raises(OSError, match=r"no room for \d+ bytes"):
            record(b="lost")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    record(c=3)
    assert read_records(tmp_path) == {"a": 1, "c": 3}
    assert status.records_fault(tmp_path) == ""


def test_a_record_that_no_reader_could_take_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUALRS_RECORD", str(tmp_path / "records.jsonl"))
    for value in ("\ud800", ["\udcff"], {"\ud800": 1}):
        with pytest.raises(ValueError, match="half a surrogate pair"):
            record(a=value)
    monkeypatch.setattr("dualrs_lab.headless.runner.RECORDS_LIMIT", 100)
    record(a="x" * 50)
    with pytest.raises(ValueError, match=r"recorded more than 0\.0001 MB"):
        record(b="x" * 50)
    assert read_records(tmp_path) == {"a": "x" * 50}


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[tuple[str, str]] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {(tag, name) for name, _ in attrs}


def test_hostile_names_stay_text(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = EVIL.replace("/", "")
    source = (
        f"import json; open(home + '/records.jsonl', 'w').write(json.dumps({{{evil!r}: {EVIL!r}}}) + '\\n')"
    )
    write_notebook(lab / "notebooks" / f"{evil}.ipynb", f"name: str = {EVIL!r}", source)
    run(plan(lab))
    files = lab / "runs" / "files"
    files.mkdir(exist_ok=True)
    for name in (EVIL.encode(), b"\xff\xfe.tsv", b"a\nb.tsv", b"\x1b[2J.csv"):
        Path(os.fsdecode(os.fsencode(files) + b"/" + name)).write_text("x")
    odd = Path(os.fsdecode(os.fsencode(lab / "runs") + b"/\xff\x1b[2J"))
    odd.mkdir()
    (odd / "status.json").write_text("{}")
    write_report(lab / "runs")
    page = (lab / "runs" / "index.html").read_text(encoding="utf-8")
    assert not [tag for tag, name in Tags(page).found if tag == "img" or name.startswith("on")]
    assert page.count("&lt;img") >= 5
    assert main(["status"]) == 1
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\nb", "\udcff"])
def test_a_notebook_whose_name_is_no_text_is_refused(lab: Path, name: str) -> None:
    write_notebook(lab / "notebooks" / f"{name}.ipynb", "", "1")
    with pytest.raises(ValueError, match="its name is no text to print") as refused:
        plan(lab)
    assert str(refused.value).isprintable()


def test_the_page_of_a_hostile_notebook_shows_it_as_text(tmp_path: Path) -> None:
    source = tmp_path / f"{EVIL}.ipynb"
    write_notebook(source, f"name: str = {EVIL!r}", "1")
    nb = read_notebook(source)
    nb["metadata"]["title"] = EVIL
    nb["cells"][0]["metadata"]["tags"] += [EVIL, f'"{EVIL}']
    nb["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": EVIL}]
    source.write_text(json.dumps(nb))
    export_page(source, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("&lt;img") >= 4
    assert not [tag for tag, name in Tags(page).found if tag == "img" or name.startswith("on")]


def test_files_that_come_and_go_under_the_report(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = lab / "runs" / "files"
    files.mkdir(parents=True)
    for name in ("a.tsv", "gone.tsv", "z.tsv"):
        (files / name).write_text("x")
    (files / "dangling").symlink_to("nowhere")
    (files / "circle").symlink_to("circle")
    os.mkfifo(files / "fifo")
    real = os.stat

    def moved(path: str, **more: bool) -> os.stat_result:
        if str(path).endswith("gone.tsv"):
            raise FileNotFoundError(path)
        return real(path, **more)

    monkeypatch.setattr(report.os, "stat", moved)
    write_report(lab / "runs")
    assert [path.name for path in outputs(lab / "runs")] == ["a.tsv", "z.tsv"]
    shutil.rmtree(files)
    assert outputs(lab / "runs") == []


def test_what_has_not_changed_is_not_read_again(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        write_notebook(lab / "notebooks" / f"{number}.ipynb", "", "1")
    run(plan(lab))
    read: list[Path] = []
    real = report.read_files

    def counted(folder: Path) -> status.Found:
        read.append(folder)
        return real(folder)

    monkeypatch.setattr(report, "read_files", counted)
    pages = Report(lab / "runs")
    pages.write()
    assert len(read) == 6
    (lab / "runs" / "3" / "records.jsonl").write_text('{"a": 1}\n')
    pages.write()
    assert [path.name for path in read[6:]] == ["3"]
    assert "3,,ok,{},a,1" in (lab / "runs" / "results.csv").read_text()
    shutil.rmtree(lab / "runs" / "2")
    pages.write()
    assert "5 of 5 runs ended well" in (lab / "runs" / "index.html").read_text()
    assert not pages.due()


def test_a_sweep_is_not_spent_on_its_report(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        write_notebook(lab / "notebooks" / f"{number}.ipynb", "", "1")
    written: list[float] = []
    real = Report.write

    def counted(self: Report) -> None:
        written.append(1.0)
        real(self)

    monkeypatch.setattr(Report, "write", counted)
    monkeypatch.setattr(report, "PAUSE", 1e6)
    run(plan(lab))
    assert len(written) == 2  # at the start and at the end, whatever happens between
    assert "30 of 30 runs ended well" in (lab / "runs" / "index.html").read_text()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"HEAD": 1000, "TAIL": 1000, "ROOM": 4000}.items():
        monkeypatch.setattr(f"dualrs_lab.headless.log.{name}", size)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("end", ["\n", ""])
def test_a_log_keeps_its_first_and_last_words(tmp_path: Path, end: str) -> None:
    log = Log(tmp_path / "log.txt")
    words = b"".join(f"line {number}{end}".encode() for number in range(20_000))
    for start in range(0, len(words), 999):
        os.write(log.pipe, words[start : start + 999])
    log.close_pipe()
    log.close()
    kept = (tmp_path / "log.txt").read_bytes()
    assert len(kept) <= 4000
    head, _, tail = kept.partition(b"\n[dualrs-lab left out ")
    number, _, tail = tail.partition(b" bytes here]\n")
    assert words.startswith(head)
    assert words.endswith(tail)
    assert len(head) + int(number) + len(tail) == len(words)
    assert min(len(head), len(tail)) > 980 - 20 * len(end)
    assert b"line 19999" in kept
    assert log_tail(tmp_path, 1).endswith("line 19999")


@pytest.mark.usefixtures("small")
def test_a_log_on_a_full_disk_does_not_hold_the_notebook_up(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.txt")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file.fileno())
    os.close(full)
    for _ in range(100):
        os.write(log.pipe, b"x" * 10_000)  # more than the pipe holds
    log.close_pipe()
    log.close()
    assert log._cut == 1_000_000


def test_nobody_is_waited_for_who_holds_the_log(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.txt")
    os.write(log.pipe, b"last words\n")
    log.close()  # with our end of the pipe still open
    os.close(log.pipe)
    assert (tmp_path / "log.txt").read_text() == "last words\n"


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("s.toml", "seeds = 2.5", "seeds = 2.5: want a count such as 3, or a list"),
        ("s.toml", "seeds = true", "seeds = True: want a count"),
        ("s.toml", "seeds = 0", "seeds = 0: want a count"),
        ("s.toml", "seeds = -3", "seeds = -3: want a count"),
        ("s.toml", 'seeds = "12"', "seeds = '12': want a count"),
        ("s.toml", "seeds = [1.5]", "want a count such as 3, or a list"),
        ("s.toml", "seeds = 1000000000000", "has 1000000000000 points; want at most 100000"),
        ("s.json", '{"grid": {"n": ["\\ud800"]}}', "s.json cannot be read as json"),
        ("s.json", DEEP, "s.json cannot be read as json"),
        ("s.toml", "a = " + DEEP, "s.toml cannot be read as toml"),
        ("s.toml", "\udcff", "s.toml cannot be read as toml: s.toml is not UTF-8"),
        (PROFILES, '["20_goud"]\nneeds = []', "no notebook '20_goud'; did you mean '20_good'?"),
        (PROFILES, '["20_good".papper]\nn = 1', "unknown entry 'papper'; did you mean 'paper'?"),
        (PROFILES, '["20_good".paper]\nm = 1', "no parameter 'm' in the notebook"),
        (PROFILES, '"20_good" = 3', "want a table of needs, inputs, seconds and profiles, got 3"),
        (PROFILES, '["20_good"]\nseconds = 0', "20_good: seconds wants a positive number, got 0"),
        (PROFILES, '["20_good"]\ntrains = 1', "20_good: trains wants true or false, got 1"),
        (PROFILES, '["20_good"]\nseconds = "long"', "20_good: seconds wants a positive number, got 'long'"),
        (PROFILES, '["20_good"]\npaper = 3', "paper wants name = value, got 3"),
        (PROFILES, '["20_good"]\ninputs = ["/etc/*"]', "input '/etc/*': "),
        (NOTEBOOK, "", "20_good.ipynb: it is not JSON"),
        (NOTEBOOK, DEEP, "20_good.ipynb: it is not JSON"),
        (NOTEBOOK, '{"nbformat": 4, "cells": [3]}', "cell 1: want one with cell_type"),
        (
            NOTEBOOK, '{"nbformat": 4, "cells": [{"cell_type": "code"}]}',
            "cell 1: its source is no text",
        ),
        (
            NOTEBOOK,
            '{"nbformat": 4, "cells": [{"cell_type": "code", "source": "", "metadata": {"tags": 1}}]}',
            "cell 1: its tags are no list of words",
        ),
        (
            NOTEBOOK,
            '{"nbformat": 4, "cells": [{"cell_type": "code", "source": "", "outputs": [{"data": {}}]}]}',
            "cell 1: its outputs are not in nbformat 4",
        ),
        (NOTEBOOK, '{"nbformat": 4, "cells": [], "metadata": 3}', "its metadata is no table"),
    ],
)  # fmt: skip
def test_files_that_people_write_are_refused_in_one_line(
    lab: Path, capsys: pytest.CaptureFixture[str], file: str, text: str, complaint: str
) -> None:
    write_notebook(lab / "notebooks" / "20_good.ipynb", "n: int = 3\nseed: int = 0\nname: str = ''", "1")
    (lab / file).write_text(text, encoding="utf-8", errors="surrogateescape")
    sweep = ["--sweep", file] if file.startswith("s.") else []
    assert main(["run", *sweep]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert complaint in errors
    assert not (lab / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--shard", ""], "--shard: ''"),
        (["--shard", "/"], "--shard: '/'"),
        (["--jobs", "1000000000"], "--jobs: 1000000000: want a whole number >= 1 and <= 1,000"),
        (["--out", "a_file"], "--out a_file: it is a file"),
        (["--junit", "notebooks"], "--junit notebooks: it is a folder"),
        (["-p", "name=\udcff"], "parameter name of 20_good: '\\udcff' is not of type str"),
        (["x" * 300], "no notebook 'xxx"),
        (["x" * 300 + ".ipynb"], ".ipynb not found"),
        (["\udcff"], "no notebook"),
    ],
)
def test_arguments_are_refused_in_one_line(
    lab: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    write_notebook(lab / "notebooks" / "20_good.ipynb", "name: str = ''", "1")
    (lab / "a_file").write_text("precious")
    assert main(["run", *arguments]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert complaint in errors
    assert sorted(path.name for path in lab.iterdir()) == ["a_file", "notebooks"]


def test_cells_without_metadata_are_completed(lab: Path) -> None:
    write_notebook(lab / "notebooks" / "20_good.ipynb", "n: int = 3", "1")
    nb = read_notebook(lab / "notebooks" / "20_good.ipynb")
    assert nb["metadata"] == nb["cells"][1]["metadata"] == {}
    assert nb["cells"][1]["outputs"] == []
    assert nb["cells"][1]["execution_count"] is None


def test_a_runner_waits_for_another_that_writes_and_says_so_if_it_hangs(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_notebook(lab / "notebooks" / "20_good.ipynb", "", "1")
    monkeypatch.setattr(status, "PATIENCE", 0.05)
    runs = plan(lab)
    with alone(lab / "runs"), pytest.raises(ValueError, match=r"another runner holds .*runs for 0\.05 s"):
        run(runs)
    assert not is_done(runs[0])
    assert run(runs)[0]["20_good"]["state"] == "ok"


def test_a_full_disk_is_told_and_no_run_is_called_good(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GOOD:
        write_notebook(lab / "notebooks" / f"{name}.ipynb", "", "1")
    real = status.replace_json

    def full(path: Path, value: dict[str, object]) -> None:
        if value.get("state") == "ok" and value["run"] == "20_good":
            raise OSError(28, "No space left on device")
        real(path, value)

    monkeypatch.setattr(status, "replace_json", full)
    statuses, said = run(plan(lab))
    assert [statuses[name]["state"] for name in GOOD] == ["damaged", "ok"]
    assert "its record could not be written: [Errno 28] No space left on device; it had ended as ok" in said
    assert read_status(lab / "runs" / "20_good")["state"] == "running"  # we live: interrupted once we do not
    assert not is_done(plan(lab)[0])


def test_a_report_that_cannot_be_written_ends_no_run(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GOOD:
        write_notebook(lab / "notebooks" / f"{name}.ipynb", "", "1")

    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "replace_text", full)
    with pytest.raises(
        ValueError, match=r"all runs have ended .* the report could not be written: .*No space"
    ):
        run(plan(lab))
    assert [one.status["state"] for one in find_runs(lab / "runs")] == ["ok", "ok"]


def test_where_nothing_can_be_recorded_nothing_starts(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_notebook(lab / "notebooks" / "20_good.ipynb", "", "open(home + '/../../started', 'w')")

    def full(path: Path, value: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(status, "replace_json", full)
    with pytest.raises(ValueError, match=r"runs cannot be recorded in .*Read-only file system"):
        run(plan(lab))
    assert not (lab / "started").exists()
