"""What is to run, in which order, with which parameters, and the key that says whether it is done already.

Reads notebooks, `profiles.toml` beside them and a sweep file; every mistake in them, or on the command line,
is a ValueError or FileNotFoundError here, before any kernel starts. Standard library only.
"""

import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from dualrs_lab import __version__
from dualrs_lab.afar.address import want_no_secret
from dualrs_lab.files import digest
from dualrs_lab.headless.notebook import notebook_parameters, read_notebook, source_hash
from dualrs_lab.headless.parameters import Parameter, Value, nearest
from dualrs_lab.headless.reading import encodable, printable
from dualrs_lab.headless.sweep import needs_of, point_name, profile_table, read_profiles, read_sweep
from dualrs_lab.settings import setting

__all__ = ["Request", "Run", "make_plan", "take_only", "take_shard"]


FILES = "files"  # the one folder beside those of the runs


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked for: `settings` are the `-p` texts, no `notebooks` means all of `folder`."""

    folder: Path
    out: Path
    notebooks: Sequence[str] = ()
    profile: str = setting("quick", "quick, paper or another of notebooks/profiles.toml")
    settings: Mapping[str, str] = field(default_factory=dict)
    sweep: Path | None = setting(None, "TOML or JSON with grid, zip, list or seeds")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One notebook at one sweep point. `given`: the values that differ from those in the notebook's cell."""

    name: str
    notebook: Path
    point: str
    parameters: Mapping[str, Value]
    given: Mapping[str, Value]
    needs: tuple[str, ...]
    key: str
    source: str
    asked: bool  # named by the person, not added because another run needs it
    folder: Path  # of this run's status, notebook, page, log and records
    files: Path | None  # where its `folder` parameter points
    seconds: float = 1.0  # about as long as profiles.toml says that its notebook takes
    without: tuple[str, ...] = ()  # needs that are left out, see `make_plan`


@dataclass(frozen=True, kw_only=True)
class _Entry:
    path: Path
    source: str
    parameters: Mapping[str, Parameter]
    needs: tuple[Path, ...]
    inputs: Mapping[str, str]  # what each file is called in the key, and its digest
    profile: Mapping[str, Value]
    asked: bool
    seconds: float
    trains: bool


def make_plan(request: Request) -> list[Run]:
    """Every run asked for and those that they need, each after its needs.

    Values: the cell's < profile < sweep point < `-p`. A notebook that takes none of the swept parameters and
    exchanges no files (no `folder`, no needs) runs once; others run at each point, in own folders. One that
    only trains networks of its own has nothing to do where `model` names one that is there: as a need it is
    left out, and asked for it is a ValueError.
    """
    entries = _collect(request)
    needed = {need.stem for entry in entries.values() for need in entry.needs}
    points = read_sweep(request.sweep) if request.sweep else [{}]
    _check_names(request.settings, entries, "-p")
    _check_names({name: None for point in points for name in point}, entries, f"sweep {request.sweep}")
    package = _package_digest()
    runs: dict[str, Run] = {}
    for point in points:
        for name, entry in entries.items():
            swept = {key: entry.parameters[key].check(point[key]) for key in point if key in entry.parameters}
            exchanges = "folder" in entry.parameters or entry.needs or name in needed
            label = point_name(point) if swept or exchanges else ""
            if _left_out(request, entry, name, swept):
                continue
            needs = [_run_name(need.stem, label) for need in entry.needs]
            run = _run(
                request, entry, name, label, swept, [runs[one] for one in needs if one in runs], package
            )
            runs.setdefault(run.name, replace(run, without=tuple(one for one in needs if one not in runs)))
    return list(runs.values())


def take_shard(runs: Sequence[Run], number: int, of: int) -> list[Run]:
    """Part `number` of `of` parts, from 1; runs that exchange files stay together."""
    if not 1 <= number <= of:
        raise ValueError(f"--shard {number}/{of}: want i/n with 1 <= i <= n")
    above: dict[str, str] = {run.name: run.name for run in runs}  # each leads to the first run of its group

    def first(name: str) -> str:
        while above[name] != name:
            above[name] = above[above[name]]
            name = above[name]
        return name

    for run in runs:  # needs come first, so each group is named after its first run
        for need in run.needs:
            above[first(run.name)] = first(need)
    order = {name: number for number, name in enumerate(dict.fromkeys(first(run.name) for run in runs))}
    return [run for run in runs if order[first(run.name)] % of == number - 1]


def _left_out(request: Request, entry: _Entry, name: str, swept: Mapping[str, Value]) -> bool:
    # names of networks to train are words, sources of those that are there are not: see `Experiment.given`
    model = str({**entry.profile, **swept, **request.settings}.get("model", "auto"))
    if not entry.trains or "model" not in entry.parameters or model.isidentifier():
        return False
    if entry.asked:
        raise ValueError(
            f"{name} trains networks of its own: model is a name of dualrs_lab.models there, got {model!r}; "
            "name the notebooks that are to take a network that is there, such as 30_tradeoff"
        )
    return True


def take_only(runs: Sequence[Run], name: str) -> list[Run]:
    """The run of that name and all that it needs, in their order; ValueError where the plan has none."""
    wanted = {name}
    if name not in (known := [run.name for run in runs]):
        raise ValueError(f"--only {name}: no such run in this plan; {nearest(name, known)}")
    for run in reversed(runs):  # needs come first
        if run.name in wanted:
            wanted |= {*run.needs}
    return [run for run in runs if run.name in wanted]


def _run_name(notebook: str, point: str) -> str:
    return f"{notebook}@{point}" if point else notebook


def _collect(request: Request) -> dict[str, _Entry]:
    """The notebooks asked for and what they need, needs first, by name."""
    asked = [_locate(name, request.folder) for name in request.notebooks]
    asked = asked or sorted(request.folder.glob("*.ipynb"))
    if not asked:
        raise FileNotFoundError(f"no notebooks in {request.folder}")
    profiles = {name for path in asked for name in read_profiles(path.parent)[0]}
    if request.profile not in profiles:
        raise ValueError(f"--profile {request.profile}: {nearest(request.profile, profiles)}")
    entries: dict[str, _Entry] = {}
    waiting = list(asked)
    while waiting:
        path = waiting.pop(0)
        if path.stem == FILES:
            raise ValueError(f"notebook {path}: rename it, {FILES}/ is where notebooks exchange theirs")
        if encodable(path.stem) != path.stem or any(unicodedata.category(one) == "Cc" for one in path.stem):
            raise ValueError(f"notebook {printable(str(path))}: rename it, its name is no text to print")
        if path.stem not in entries:
            entries[path.stem] = entry = _entry(path, request.profile, path in asked)
            waiting += entry.needs
        elif (known := entries[path.stem].path) != path:
            raise ValueError(f"two notebooks are called {path.stem}: {known} and {path}; run one at a time")
    return {name: entries[name] for name in _needs_first(entries)}


def _needs_first(entries: Mapping[str, _Entry]) -> Iterator[str]:
    """Their names in order; of several that could come next, the one that was asked for first."""
    needs = {name: [need.stem for need in entry.needs] for name, entry in entries.items()}
    sorter = TopologicalSorter(needs)
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise ValueError(f"profiles.toml: needs go in a circle: {circle}") from None
    ready: set[str] = set()
    while sorter.is_active():
        ready |= {*sorter.get_ready()}
        name = min(ready, key=list(entries).index)
        ready.remove(name)
        sorter.done(name)
        yield name


def _locate(name: str, folder: Path) -> Path:
    """The notebook of that name in `folder`, or at that path."""
    if name.endswith(".ipynb") or "/" in name or os.sep in name:
        path = Path(name)
        path = path if os.path.isfile(path) or not os.path.isfile(folder / name) else folder / name
        if not os.path.isfile(path):
            raise FileNotFoundError(f"notebook {name} not found")
        return path.resolve()
    path = folder / f"{name}.ipynb"
    if not os.path.isfile(path):  # unlike Path.is_file, no error for a name of any length
        known = [other.stem for other in folder.glob("*.ipynb")]
        raise FileNotFoundError(f"no notebook {name!r} in {folder}; {nearest(name, known)}")
    return path.resolve()


def _entry(path: Path, profile: str, asked: bool) -> _Entry:
    nb = read_notebook(path)
    parameters = notebook_parameters(nb, path.stem)
    profiles, table = profile_table(path)
    where = f"profiles.toml, {path.stem}"
    values = {name: value for name, value in table.get(profile, {}).items() if name != "needs"}
    for name in [name for one in profiles for name in table.get(one, {})]:
        if name not in {*parameters, "needs"}:
            raise ValueError(f"{where}: no parameter {name!r} in the notebook; {nearest(name, parameters)}")
    return _Entry(
        path=path,
        source=source_hash(nb),
        parameters=parameters,
        needs=tuple(_locate(need, path.parent) for need in needs_of(table, profile)),
        inputs=dict(_inputs(path, table.get("inputs", []))),
        profile={name: parameters[name].check(value) for name, value in values.items()},
        asked=asked,
        seconds=table.get("seconds", 1.0),
        trains=table.get("trains", False),
    )


def _check_names(names: Mapping[str, object], entries: Mapping[str, _Entry], origin: str) -> None:
    known = {name for entry in entries.values() for name in entry.parameters}
    for name in names:
        if name not in known:
            raise ValueError(
                f"{origin}: no notebook of this run has a parameter {name!r}; {nearest(name, known)}"
            )


def _run(
    request: Request,
    entry: _Entry,
    name: str,
    point: str,
    swept: Mapping[str, Value],
    needs: Sequence[Run],
    package: str,
) -> Run:
    known = entry.parameters
    set_here = {key: known[key].parse(text) for key, text in request.settings.items() if key in known}
    values = {**entry.profile, **swept, **set_here}
    keyed = {key: parameter.default for key, parameter in known.items() if key != "folder"} | values
    out = request.out.resolve()
    files = None
    if "folder" in known:
        files = out / FILES / point
        if "folder" in values:
            files = (entry.path.parent / str(values["folder"])).resolve()
        values["folder"] = Path(os.path.relpath(files, entry.path.parent)).as_posix()
    parameters = {key: values.get(key, parameter.default) for key, parameter in known.items()}
    words = [word for value in values.values() for word in (value if isinstance(value, list) else [value])]
    want_no_secret(f"run {name}", words, "the pages and records of the run")
    parts = {
        "source": entry.source,
        "parameters": keyed,
        "package": [__version__, package],
        "inputs": dict(entry.inputs),
        "needs": [need.key for need in needs],
        "point": point,
    }
    return Run(
        name=_run_name(name, point),
        notebook=entry.path,
        point=point,
        parameters=parameters,
        given={key: value for key, value in parameters.items() if value != known[key].default},
        needs=tuple(need.name for need in needs),
        key=digest(json.dumps(parts, sort_keys=True)),
        source=entry.source,
        asked=entry.asked,
        folder=out / _run_name(name, point),
        files=files,
        seconds=entry.seconds,
    )


def _inputs(notebook: Path, patterns: Sequence[str]) -> Iterator[tuple[str, str]]:
    for pattern in patterns:
        try:
            paths = [path for path in sorted(notebook.parent.glob(pattern)) if path.is_file()]
        except (ValueError, NotImplementedError) as error:
            raise ValueError(f"profiles.toml, {notebook.stem}: input {pattern!r}: {error}") from None
        if not paths:
            raise FileNotFoundError(f"profiles.toml, {notebook.stem}: input {pattern!r} matches no file")
        yield from ((f"{pattern}:{path.name}", digest(path)) for path in paths)


def _package_digest() -> str:
    """A result is done for the code that made it: editing the package makes every run new."""
    return digest(*sorted(Path(__file__).parents[1].rglob("*.py")))
