"""A committed notebook is normal, stamped, and every fault that a reader would meet is found."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dualrs_lab import __version__
from dualrs_lab.headless import (
    as_source,
    check_notebook,
    normalise_notebook,
    notebook_parameters,
    overwrite_lines,
    read_notebook,
    source_hash,
    stamp,
)

PICTURE = {
    "output_type": "display_data",
    "metadata": {},
    "data": {"image/png": "iVBORw==", "text/plain": "<Figure>"},
}


def code(
    source: str, *outputs: dict[str, Any], count: int | None = 1, tags: tuple[str, ...] = ()
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"tags": list(tags)} if tags else {}
    return {"cell_type": "code", "id": f"c{count}", "metadata": metadata, "execution_count": count,
            "outputs": list(outputs), "source": source}  # fmt: skip


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def notebook(*cells: dict[str, Any]) -> dict[str, Any]:
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def executed() -> dict[str, Any]:
    return notebook(
        {"cell_type": "markdown", "id": "m", "metadata": {}, "source": ["# Title\n", "claim"]},
        code("n: int = 3", count=1, tags=("parameters",)),
        code("plot(n)", copy.deepcopy(PICTURE), count=2),
    )


def save(tmp_path: Path, nb: dict[str, Any]) -> Path:
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(nb), encoding="utf-8")
    return path


def test_reads_its_parameters() -> None:
    assert notebook_parameters(executed(), "nb")["n"].default == 3
    assert notebook_parameters(notebook(code("1")), "nb") == {}
    two = notebook(code("n: int = 3", tags=("parameters",)), code("m: int = 3", tags=("parameters",)))
    with pytest.raises(ValueError, match="nb has 2 cells tagged parameters"):
        notebook_parameters(two, "nb")


def test_refuses_files_that_are_no_notebooks(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not found"):
        read_notebook(tmp_path / "none.ipynb")
    with pytest.raises(ValueError, match="nbformat 4"):
        read_notebook(save(tmp_path, {"nbformat": 3, "worksheets": []}))
    (tmp_path / "a.ipynb").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_notebook(tmp_path / "a.ipynb")


def test_source_hash_sees_what_a_person_wrote_and_nothing_else() -> None:
    nb = executed()
    same = copy.deepcopy(nb)
    same["cells"][0]["source"] = "# Title\nclaim"
    same["cells"][2] |= {"outputs": [], "execution_count": None, "id": "other"}
    same["cells"].insert(2, code("n = 5", tags=("injected-parameters",)))
    same["metadata"]["kernelspec"] = {"name": "x"}
    assert source_hash(same) == source_hash(nb)
    for number in range(3):
        other = copy.deepcopy(nb)
        other["cells"][number]["source"] = "changed"
        assert source_hash(other) != source_hash(nb)


def test_normal_form_drops_all_that_differs_between_runs() -> None:
    def run(moment: str) -> dict[str, Any]:
        nb = executed()
        nb["metadata"] = {
            "papermill": {"start_time": moment},
            "widgets": {moment: 1},
            "language_info": {"version": moment},
        }
        nb["cells"].insert(2, code("n = 5", tags=("injected-parameters",)) | {"id": moment})
        nb["cells"][1]["metadata"] |= {"papermill": {"duration": moment}, "execution": {"iopub": moment}}
        nb["cells"][0]["metadata"] = {"papermill": {}, "tags": []}
        view = {"application/vnd.jupyter.widget-view+json": {"model_id": moment}}
        nb["cells"][3]["outputs"][0]["data"] |= view
        nb["cells"][3]["outputs"].append(
            {"output_type": "display_data", "metadata": {}, "data": view | {"text/plain": "0%"}}
        )
        return nb

    first, second = normalise_notebook(run("one")), normalise_notebook(run("two"))
    assert first == second
    assert "one" not in json.dumps(first)
    assert first["cells"][1]["metadata"] == {"tags": ["parameters"]}
    assert first["cells"][3]["outputs"] == [PICTURE]
    assert [cell["id"] for cell in first["cells"]] == ["m", "c1", "injected-parameters", "c2"]


def test_normalising_leaves_its_argument_alone() -> None:
    nb = executed()
    nb["metadata"]["widgets"] = {}
    normalise_notebook(nb)
    assert "widgets" in nb["metadata"]


def test_printed_text_is_joined_as_a_terminal_shows_it() -> None:
    bar = [stream("\r 10%", "stderr"), stream("\r 50%", "stderr"), stream("\r100%\n", "stderr")]
    nb = normalise_notebook(notebook(code("x", stream("a\n"), stream("b\n"), *bar, stream("c"))))
    texts = [(output["name"], output["text"]) for output in nb["cells"][0]["outputs"]]
    assert texts == [("stdout", ["a\n", "b\n"]), ("stderr", ["100%\n"]), ("stdout", ["c"])]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a\nb\n", "a\nb\n"),
        ("1%\r2%\rdone\n", "done\n"),
        ("a\r\nb", "a\nb"),
        ("x\r", "x"),
        ("\rab\rcd", "cd"),
    ],
)
def test_overwritten_lines(text: str, left: str) -> None:
    assert overwrite_lines(text) == left


def test_a_source_has_no_trace_of_its_run() -> None:
    nb = executed()
    nb["cells"].insert(2, code("n = 5", count=2, tags=("injected-parameters",)))
    nb["cells"][3]["execution_count"] = 3
    nb["cells"][3]["outputs"].append(
        {"output_type": "execute_result", "metadata": {}, "execution_count": 3, "data": {"text/plain": "1"}}
    )
    source = as_source(nb)
    assert [cell.get("execution_count") for cell in source["cells"]] == [None, 1, 2]
    assert source["cells"][2]["outputs"][1]["execution_count"] == 2
    assert source["metadata"]["dualrs_lab"] == {
        "source_hash": source_hash(nb),
        "package_version": __version__,
    }


def test_a_good_notebook_has_no_faults(tmp_path: Path) -> None:
    assert check_notebook(save(tmp_path, as_source(executed()))) == []


def damaged(change: Any) -> dict[str, Any]:
    nb = stamp(executed())
    change(nb)
    return nb


def shows(*outputs: dict[str, Any]) -> Any:
    return lambda nb: nb["cells"][2]["outputs"].extend(outputs)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda nb: nb["cells"][2].update(source="plot(n + 1)"), "stale"),
        (lambda nb: nb["metadata"].pop("dualrs_lab"), "stale"),
        (lambda nb: nb["cells"][2].update(execution_count=None), "did not all run"),
        (lambda nb: nb["cells"][2].update(execution_count=5), "in order"),
        (lambda nb: nb["metadata"].update(widgets={}), "metadata.widgets"),
        (lambda nb: nb["cells"].append(code("", tags=("injected-parameters",))), "papermill added"),
        (lambda nb: nb["cells"][2].update(outputs=[]), "no picture"),
        (shows({"output_type": "error", "ename": "E"}), "code cell 2 shows an error"),
        (shows(stream("x" * 200_000)), "an output of code cell 2 takes 200 kB"),
        (shows(*[stream("x" * 190_000)] * 6), "the file takes 11"),
        (shows(stream("saved to /home/me/x.txt")), "one machine: '/home/m'"),
        (shows(stream("lib/site-packages/a.py:3: Warning")), "site-packages/"),
    ],
)
def test_every_fault_is_found(tmp_path: Path, change: Any, fault: str) -> None:
    faults = check_notebook(save(tmp_path, damaged(change)))
    assert any(fault in one for one in faults), faults


def test_a_web_address_is_no_machine_path(tmp_path: Path) -> None:
    nb = executed()
    nb["cells"][0]["source"] = "see https://host/home/page and ../runs/files and 1/work"
    assert check_notebook(save(tmp_path, stamp(nb))) == []


def with_tables(*tables: str, address: str = "0x7faf72e46790") -> dict[str, object]:
    shown = [{"text/html": html, "text/plain": f"<Styler at {address}>"} for html in tables]
    outputs = [{"output_type": "display_data", "metadata": {}, "data": data} for data in shown]
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": "t", "execution_count": 1}
    return {"cells": [cell | {"outputs": outputs}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def styled(uuid: str, colour: str) -> str:
    return f'<style>#T_{uuid}_row0_col0 {{color: {colour}}}</style><table id="T_{uuid}"></table>'


def test_addresses_and_random_table_ids_do_not_make_two_runs_differ() -> None:
    first = normalise_notebook(with_tables(styled("9defd", "red"), styled("00abc", "blue")))
    again = with_tables(styled("01abc", "red"), styled("3ef00", "blue"), address="0x7f2e7fb2cf90")
    assert first == normalise_notebook(again) == normalise_notebook(first)


def test_styles_of_one_table_do_not_reach_into_another() -> None:
    nb = normalise_notebook(with_tables(styled("9defd", "red"), styled("00abc", "blue")))
    found = [output["data"]["text/html"] for output in nb["cells"][0]["outputs"]]
    names = [re.findall(r"T_[0-9a-f]{5}", html) for html in found]
    assert [len(each) for each in names] == [2, 2]  # the style and its table
    assert [len(set(each)) for each in names] == [1, 1]
    assert names[0][0] != names[1][0]


def test_equal_tables_and_tables_of_one_output_have_names_of_their_own() -> None:
    red, blue = styled("9defd", "red"), styled("00abc", "blue")
    nb = normalise_notebook(with_tables(red, red, blue + red.replace("9defd", "abcde")))
    names = re.findall(r"id=\W+(T_[0-9a-f]{5})", json.dumps(nb))
    assert len(names) == len(set(names)) == 4
    assert normalise_notebook(nb) == nb
