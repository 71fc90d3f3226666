"""A notebook as a file: its source hash, its normal form without volatile parts, its stamp, its faults.

Works on plain JSON, so that the runner's parent process needs no Jupyter package.
"""

import itertools
import json
import re
from pathlib import Path
from typing import Any

from dualrs_lab import __version__
from dualrs_lab.files import digest
from dualrs_lab.headless.parameters import Parameter, read_parameters
from dualrs_lab.headless.reading import parse_json, read_text

__all__ = [
    "as_source",
    "check_notebook",
    "normalise_notebook",
    "notebook_parameters",
    "overwrite_lines",
    "read_notebook",
    "source_hash",
    "stamp",
]


INJECTED = "injected-parameters"  # papermill's tag for the cell that it adds


ERROR_NOTE = "papermill-error-cell-tag"  # and for its two notes about an error


WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


TABLES = ("kernelspec", "language_info", "dualrs_lab")  # in a notebook's metadata


VOLATILE_NOTEBOOK = ("widgets", "papermill")


VOLATILE_CELL = ("papermill", "execution", "ExecuteTime", "collapsed")


OUTPUT_LIMIT, FILE_LIMIT = 200_000, 1_000_000


READ_LIMIT = 1_000_000_000  # bytes; a run's own outputs are bounded far below, see `worker`


TABLE_ID = re.compile(r"\bT_[0-9a-f]{5}(?=_|\b)")  # as pandas gives to a styled table


MACHINE_PATH = re.compile(
    r"(?<![\w.:/-])/(?:home|root|Users|tmp|work|mnt|var|private|opt|srv)/[\w.]|[A-Z]:\\\\?Users|site-packages/"
)


Notebook = dict[str, Any]


def read_notebook(path: str | Path) -> Notebook:
    """The notebook's JSON, with what other tools leave out of it filled in: metadata, outputs, counts.

    Raises FileNotFoundError for a file that is missing, ValueError for one that is not nbformat 4 or has a
    cell that is none; it says which.
    """
    path = Path(path)
    try:
        nb = parse_json(read_text(path, largest=READ_LIMIT), "it")
        if not isinstance(nb, dict) or nb.get("nbformat") != 4 or not isinstance(nb.get("cells"), list):
            raise ValueError("it is not in nbformat 4")
        if type(nb.setdefault("nbformat_minor", 4)) is not int:
            raise ValueError("its nbformat_minor is no number")
        metadata = nb.setdefault("metadata", {})
        if not isinstance(metadata, dict) or not all(
            isinstance(metadata.get(key, {}), dict) for key in TABLES
        ):
            raise ValueError("its metadata is no table of tables")
        for number, cell in enumerate(nb["cells"], 1):
            if fault := _complete(cell):
                raise ValueError(f"cell {number}: {fault}")
    except FileNotFoundError:
        raise FileNotFoundError(f"notebook {path} not found") from None
    except ValueError as error:
        raise ValueError(f"notebook {path}: {error}; open and save it in JupyterLab") from None
    return nb


def _complete(cell: Any) -> str:
    """Fill in what a cell lacks; what is wrong with it, or nothing."""
    if not isinstance(cell, dict) or cell.get("cell_type") not in ("code", "markdown", "raw"):
        return "want one with cell_type code, markdown or raw"
    if not _is_text(cell.get("source")):
        return "its source is no text"
    cell.setdefault("metadata", {})
    if not isinstance(cell["metadata"], dict):
        return "its metadata is no table"
    if not _is_words(cell["metadata"].get("tags", [])):
        return "its tags are no list of words"
    if cell["cell_type"] == "code":
        cell.setdefault("execution_count", None)
        if not isinstance(cell.setdefault("outputs", []), list) or not all(map(_is_output, cell["outputs"])):
            return "its outputs are not in nbformat 4"
    return ""


def _is_text(value: object) -> bool:
    return isinstance(value, str) or _is_words(value)


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_output(output: object) -> bool:
    if not isinstance(output, dict):
        return False
    if output.get("output_type") == "stream":
        return isinstance(output.get("name"), str) and _is_text(output.get("text"))
    data = output.get("data", {})
    return (
        isinstance(output.get("output_type"), str)
        and isinstance(data, dict)
        and all(_is_text(value) for mime, value in data.items() if mime.startswith("text/"))
    )


def notebook_parameters(nb: Notebook, name: str) -> dict[str, Parameter]:
    """The typed parameters of notebook `name`: those of its one cell tagged `parameters`, or none."""
    tagged = [cell for cell in nb["cells"] if "parameters" in _tags(cell) and cell["cell_type"] == "code"]
    if len(tagged) > 1:
        raise ValueError(f"notebook {name} has {len(tagged)} cells tagged parameters; keep one")
    return read_parameters(_text(tagged[0]["source"]), name) if tagged else {}


def source_hash(nb: Notebook) -> str:
    """A hash of the code and markdown that a person wrote; no outputs, ids, metadata."""
    own = [cell for cell in nb["cells"] if not _added(cell) and cell["cell_type"] in ("code", "markdown")]
    return digest(*(f"{cell['cell_type']}\n{_text(cell['source'])}" for cell in own))


def normalise_notebook(nb: Notebook) -> Notebook:
    """A copy in which two runs of the same cells are equal: no timings, widget state or random ids.

    Adjacent stream outputs are joined; of a line that a progress bar overwrote, the last state is kept. Ids
    of a person's cells stay; papermill's added cells get fixed ones.
    """
    nb = json.loads(json.dumps(nb))
    for key in VOLATILE_NOTEBOOK:
        nb["metadata"].pop(key, None)
    nb["metadata"]["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nb["metadata"].get("language_info", {}).pop("version", None)
    notes, tables = 0, set[str]()
    for cell in nb["cells"]:
        for key in VOLATILE_CELL:
            cell["metadata"].pop(key, None)
        if not cell["metadata"].get("tags", True):
            del cell["metadata"]["tags"]  # papermill leaves an empty list
        if _added(cell) and "id" in cell:
            notes += 1
            cell["id"] = INJECTED if INJECTED in _tags(cell) else f"error-note-{notes}"
        if cell["cell_type"] == "code":
            cell["outputs"] = _tidy_outputs(cell["outputs"], tables)
    return nb


def as_source(nb: Notebook) -> Notebook:
    """An executed notebook as a source to commit: papermill's cells gone, counts 1, 2, 3, …, stamped."""
    nb = normalise_notebook(nb)
    nb["cells"] = [cell for cell in nb["cells"] if not _added(cell)]
    ran = [cell for cell in nb["cells"] if cell.get("execution_count") is not None]
    for count, cell in enumerate(ran, start=1):
        cell["execution_count"] = count
        for output in cell["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = count
    return stamp(nb)


def stamp(nb: Notebook) -> Notebook:
    """A copy that says what its outputs come from: metadata.dualrs_lab = {source_hash, package_version}."""
    metadata = {
        **nb["metadata"],
        "dualrs_lab": {"source_hash": source_hash(nb), "package_version": __version__},
    }
    return {**nb, "metadata": metadata}


def check_notebook(path: str | Path, *, picture: bool = True) -> list[str]:
    """What is wrong with a committed notebook, one sentence each; empty for one that may be published.

    Looks for a stale or missing stamp, cells that did not run or ran out of order, error outputs, widget
    state, machine paths, outputs of 200 kB, a file of 1 MB, papermill's cells, no image/png (if `picture`).
    """
    nb = read_notebook(path)
    code = [cell for cell in nb["cells"] if cell["cell_type"] == "code" and _text(cell["source"]).strip()]
    outputs = [(number, output) for number, cell in enumerate(code, 1) for output in cell["outputs"]]
    faults = []
    if nb["metadata"].get("dualrs_lab", {}).get("source_hash") != source_hash(nb):
        faults.append("its outputs are not of this source (stamp missing or stale): run it with --update")
    if [cell.get("execution_count") for cell in code] != list(range(1, len(code) + 1)):
        faults.append("its cells did not all run, once each and in order")
    if "widgets" in nb["metadata"]:
        faults.append("metadata.widgets is present, which git hosts refuse")
    faults += [
        f"code cell {number} shows an error" for number, output in outputs if output["output_type"] == "error"
    ]
    for number, output in outputs:
        if (size := len(json.dumps(output))) >= OUTPUT_LIMIT:
            faults.append(f"an output of code cell {number} takes {size // 1000} kB; the limit is 200 kB")
    if (size := Path(path).stat().st_size) >= FILE_LIMIT:
        faults.append(f"the file takes {size // 1000} kB; the limit is 1 MB")
    if any(_added(cell) for cell in nb["cells"]):
        faults.append("it holds a cell that papermill added")
    readable = "\n".join([_text(cell["source"]) for cell in nb["cells"]] + [_readable(o) for _, o in outputs])
    faults += [
        f"it names a path of one machine: {hit!r}" for hit in sorted(set(MACHINE_PATH.findall(readable)))
    ]
    if picture and not any("image/png" in output.get("data", {}) for _, output in outputs):
        faults.append("it shows no picture (image/png)")
    return faults


def overwrite_lines(text: str) -> str:
    """Text as a terminal leaves it, without what a carriage return overwrote."""
    if "\r" not in text:
        return text
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def _tidy_outputs(outputs: list[Any], tables: set[str]) -> list[Any]:
    tidy: list[Any] = []
    for output in outputs:
        if output["output_type"] == "stream" and tidy and tidy[-1].get("name") == output["name"]:
            tidy[-1]["text"] = _text(tidy[-1]["text"]) + _text(output["text"])
            continue
        view = output.get("data", {}).pop(WIDGET_VIEW, None)
        if view is None or set(output["data"]) - {"text/plain"}:
            tidy.append(output)  # else a control without a picture, whose text is its state at the start
    for output in tidy:
        if output["output_type"] == "stream":
            output["text"] = overwrite_lines(_text(output["text"])).splitlines(keepends=True)
        for mime, value in output.get("data", {}).items():
            if mime in ("text/plain", "text/html"):
                text = _without_chance(_text(value), tables)
                output["data"][mime] = text if isinstance(value, str) else text.splitlines(keepends=True)
    return tidy


def _without_chance(text: str, tables: set[str]) -> str:
    """Without what differs from run to run: memory addresses, and the random ids of styled pandas tables.

    A table is known by what it holds instead, and by no other's id of the notebook (`tables`), so that the
    styles of one do not reach into another.
    """
    text = re.sub(r" at 0x[0-9a-f]+>", ">", text)
    bare = TABLE_ID.sub("T_", text)
    names = {old: _table_id(bare, tables) for old in dict.fromkeys(TABLE_ID.findall(text))}
    return TABLE_ID.sub(lambda found: names[found[0]], text)


def _table_id(bare: str, tables: set[str]) -> str:
    name = next(n for k in itertools.count() if (n := f"T_{digest(bare, str(k))[:5]}") not in tables)
    tables.add(name)
    return name


def _readable(output: Any) -> str:
    texts = [_text(value) for mime, value in output.get("data", {}).items() if mime.startswith("text/")]
    return "\n".join([*texts, _text(output.get("text", ""))])


def _added(cell: Any) -> bool:
    return bool({INJECTED, ERROR_NOTE} & set(_tags(cell)))


def _tags(cell: Any) -> list[str]:
    tags: list[str] = cell["metadata"].get("tags", [])
    return tags


def _text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)
