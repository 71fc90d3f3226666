"""The plan: precedence of values, order of needs, keys that change with everything a result depends on."""

import json
import tomllib
from pathlib import Path

import pytest

from dualrs_lab.headless import Request, Run, make_plan, take_shard
from dualrs_lab.headless import plan as plan_module

CELLS = {
    "10_lesson": "points: int = 5",
    "20_train": 'sigma: float = 0.25\nseed: int = 0\nfolder: str = "../runs/files"',
    "21_certify": 'n: int = 100\nsigma: float = 0.25\nfolder: str = "../runs/files"',
    "30_tradeoff": 'folder: str = "../runs/files"',
}
PROFILES = """
["21_certify"]
needs = ["20_train"]
["21_certify".paper]
n = 10000
["30_tradeoff"]
needs = ["20_train", "21_certify"]
"""


def write_notebook(path: Path, parameters: str, source: str = "1") -> None:
    def cell(text: str, tags: list[str]) -> dict[str, object]:
        cell = {"cell_type": "code", "id": f"c{len(text)}", "metadata": {"tags": tags}, "source": text}
        return cell | {"execution_count": None, "outputs": []}

    cells = [cell(parameters, ["parameters"]), cell(source, [])]
    nb = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(nb), encoding="utf-8")


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name, cell in CELLS.items():
        write_notebook(folder / f"{name}.ipynb", cell)
    (folder / "profiles.toml").write_text(PROFILES)
    return folder


def made(lab: Path, *notebooks: str, sweep: str = "", **more: object) -> dict[str, Run]:
    path = lab / "sweep.toml"
    path.write_text(sweep)
    request = Request(
        folder=lab,
        out=lab.parent / "runs",
        notebooks=notebooks,
        sweep=path if sweep else None,
        profile=str(more.get("profile", "quick")),
        settings=more.get("settings", {}),  # type: ignore[arg-type]
    )
    return {run.name: run for run in make_plan(request)}


def test_everything_in_order_of_needs(lab: Path) -> None:
    assert list(made(lab)) == ["10_lesson", "20_train", "21_certify", "30_tradeoff"]


def test_needs_are_added_and_known_as_added(lab: Path) -> None:
    runs = made(lab, "30_tradeoff")
    assert list(runs) == ["20_train", "21_certify", "30_tradeoff"]
    assert [run.asked for run in runs.values()] == [False, False, True]
    assert runs["30_tradeoff"].needs == ("20_train", "21_certify")


def test_of_two_that_could_come_next_the_first_asked_for_does(lab: Path) -> None:
    (lab / "profiles.toml").write_text('["10_lesson"]\nneeds = ["30_tradeoff"]')
    assert list(made(lab)) == ["20_train", "21_certify", "30_tradeoff", "10_lesson"]
    assert list(made(lab, "21_certify", "10_lesson", "20_train")) == [
        "21_certify", "20_train", "30_tradeoff", "10_lesson",
    ]  # fmt: skip


def test_a_need_may_be_given_as_a_path(lab: Path) -> None:
    (lab / "profiles.toml").write_text('["21_certify"]\nneeds = ["20_train.ipynb"]')
    assert made(lab, "21_certify")["21_certify"].needs == ("20_train",)


def test_a_circle_is_told_by_its_notebooks_alone(lab: Path) -> None:
    needs = {"10_lesson": "20_train", "20_train": "21_certify", "21_certify": "30_tradeoff"}
    needs["30_tradeoff"] = "20_train"
    text = "\n".join(f'["{name}"]\nneeds = ["{need}"]' for name, need in needs.items())
    (lab / "profiles.toml").write_text(text)
    with pytest.raises(ValueError, match="needs go in a circle: ") as found:
        made(lab, "10_lesson")
    first, *others, last = str(found.value).partition("circle: ")[2].split(" -> ")
    assert first == last
    assert {first, *others} == {"20_train", "21_certify", "30_tradeoff"}
    assert all(needs[one] == two for one, two in zip([first, *others], [*others, last], strict=True))


def test_a_path_is_as_good_as_a_name(lab: Path) -> None:
    assert made(lab, str(lab / "21_certify.ipynb")).keys() == made(lab, "21_certify").keys()
    assert made(lab, "21_certify.ipynb").keys() == made(lab, "21_certify").keys()


def test_values_by_precedence(lab: Path) -> None:
    def n(**more: object) -> object:
        runs = made(lab, "21_certify", **more)  # type: ignore[arg-type]
        return next(run for run in runs.values() if run.notebook.stem == "21_certify").parameters["n"]

    assert n() == 100
    assert n(profile="paper") == 10000
    assert n(profile="paper", sweep="grid.n = [7]") == 7
    assert n(profile="paper", sweep="grid.n = [7]", settings={"n": "3"}) == 3


def test_profiles_of_ones_own_are_described_in_the_file(lab: Path) -> None:
    own = '["21_certify".large]\nn = 7\n'
    (lab / "profiles.toml").write_text(PROFILES + own)
    with pytest.raises(ValueError, match="unknown entry 'large'"):  # a slip, as long as nothing describes it
        made(lab, "21_certify")
    (lab / "profiles.toml").write_text(f'[profiles]\nlarge = "a large data set"\n{PROFILES}{own}')
    assert made(lab, "21_certify", profile="large")["21_certify"].parameters["n"] == 7
    assert made(lab, "21_certify")["21_certify"].parameters["n"] == 100
    with pytest.raises(ValueError, match="--profile larg: did you mean 'large'"):
        made(lab, "21_certify", profile="larg")
    (lab / "profiles.toml").write_text("[profiles]\nlarge = 3\n")
    with pytest.raises(ValueError, match="profiles wants name = 'what it is for'"):
        made(lab, "21_certify")


def test_the_profiles_that_ship_make_a_plan_each(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "notebooks"
    described = tomllib.loads((folder / "profiles.toml").read_text())["profiles"]
    assert {"imagenet"} <= {*described}
    for profile in described:
        request = Request(folder=folder, out=tmp_path, notebooks=("22_dual",), profile=profile)
        runs = {run.notebook.stem: run.parameters for run in make_plan(request)}
        for shared in ("dataset", "model", "sigmas"):
            assert len({repr(given[shared]) for given in runs.values()}) == 1, shared


def test_a_profile_may_have_needs_of_its_own(lab: Path) -> None:
    described = '[profiles]\ncifar100 = "other networks"\n'
    own = '["21_certify".cifar100]\nneeds = []\nn = 7'
    (lab / "profiles.toml").write_text(f"{described}{PROFILES}{own}")
    assert made(lab, "21_certify").keys() == {"20_train", "21_certify"}
    alone = made(lab, "21_certify", profile="cifar100")
    assert alone.keys() == {"21_certify"}
    assert (alone["21_certify"].needs, alone["21_certify"].parameters["n"]) == ((), 7)
    assert made(lab, "21_certify", profile="paper").keys() == {"20_train", "21_certify"}


def test_a_setting_reaches_every_notebook_that_has_it(lab: Path) -> None:
    runs = made(lab, "21_certify", settings={"sigma": "1"})
    assert [run.parameters["sigma"] for run in runs.values()] == [1.0, 1.0]
    assert runs["20_train"].given == {"sigma": 1.0}


def test_the_folder_follows_out_and_point_but_not_the_key(lab: Path) -> None:
    run = made(lab, "20_train")["20_train"]
    assert run.parameters["folder"] == "../runs/files"
    assert run.given == {}
    assert run.files == lab.parent / "runs" / "files"
    elsewhere = Request(folder=lab, out=lab.parent / "other", notebooks=["20_train"])
    assert make_plan(elsewhere)[0].parameters["folder"] == "../other/files"
    assert make_plan(elsewhere)[0].key == run.key
    point = made(lab, "20_train", sweep="grid.sigma = [0.5]")["20_train@sigma=0.5"]
    assert point.parameters["folder"] == "../runs/files/sigma=0.5"


def test_key_changes_with_all_that_a_result_depends_on(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(**more: object) -> list[str]:
        return [run.key for run in made(lab, "21_certify", **more).values()]  # type: ignore[arg-type]

    train, certify = keys()
    assert keys() == [train, certify]
    assert keys(settings={"n": "7"})[0] == train
    assert keys(settings={"n": "7"})[1] != certify
    assert certify not in keys(
        settings={"seed": "1"}
    )  # of the producer only: the consumer is another run too
    write_notebook(lab / "20_train.ipynb", CELLS["20_train"], source="2")
    edited = keys()
    assert edited[0] != train
    assert edited[1] != certify
    monkeypatch.setattr(plan_module, "_package_digest", lambda: "edited")
    assert not set(keys()) & {train, certify, *edited}


def test_key_changes_with_declared_inputs(lab: Path) -> None:
    (lab / "profiles.toml").write_text('["10_lesson"]\ninputs = ["data*.csv"]')
    with pytest.raises(FileNotFoundError, match=r"input 'data\*.csv' matches no file"):
        made(lab, "10_lesson")
    keys = []
    for text in ("1", "2", "1"):
        (lab / "data1.csv").write_text(text)
        keys.append(made(lab, "10_lesson")["10_lesson"].key)
    assert keys[0] == keys[2] != keys[1]


def test_the_package_digest_reads_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "__file__", str(tmp_path / "plan.py"))
    (tmp_path / "a.py").write_text("1")
    before = plan_module._package_digest()
    (tmp_path / "a.py").write_text("2")
    edited = plan_module._package_digest()
    (tmp_path / "wing").mkdir()
    (tmp_path / "wing" / "b.py").write_text("1")
    assert len({before, edited, plan_module._package_digest()}) == 3


def test_sweep_runs_each_point_and_what_does_not_depend_on_it_once(lab: Path) -> None:
    runs = made(lab, sweep="grid.sigma = [0.25, 0.5]")
    assert [name for name in runs if name.startswith("10")] == ["10_lesson"]
    assert runs["30_tradeoff@sigma=0.5"].needs == ("20_train@sigma=0.5", "21_certify@sigma=0.5")
    assert len(runs) == 7
    assert len({run.key for run in runs.values()}) == 7


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (
            {"settings": {"simga": "1"}},
            "-p: no notebook of this run has a parameter 'simga'; did you mean 'sigma'",
        ),
        ({"settings": {"sigma": "x"}}, "parameter sigma of 20_train: 'x' is not of type float"),
        ({"sweep": "grid.sigmas = [1]"}, "has a parameter 'sigmas'; did you mean 'sigma'"),
        ({"sweep": "grid.sigma = ['a']"}, "parameter sigma of 20_train: 'a' is not"),
        ({"profile": "papre"}, "--profile papre: did you mean 'paper'"),
    ],
)
def test_bad_values_stop_the_plan(lab: Path, more: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        made(lab, "21_certify", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("profiles", "complaint"),
    [
        ('["20_train"]\nneed = []', "profiles.toml, 20_train: unknown entry 'need'; did you mean 'needs'"),
        ('["20_train".paper]\nsgima = 1', "no parameter 'sgima' in the notebook; did you mean 'sigma'"),
        ('["20_train".quick]\nsigma = "a"', "'a' is not of type float"),
        ('["20_train"]\nneeds = ["21_certfy"]', r"no notebook '21_certfy' in .*did you mean '21_certify'"),
        ('["20_train"]\nneeds = ["20_train"]', r"needs go in a circle: 20_train -> 20_train"),
        ('["20_train"]\nneeds = "21_certify"', "needs wants a list of names"),
        ('["20_train".paper]\nneeds = "21_certify"', "needs of paper wants a list of names"),
        ('["20_train".quick]\nneeds = ["21_certfy"]', r"no notebook '21_certfy' in .*did you mean"),
        ("[", "profiles.toml cannot be read as toml"),
    ],
)
def test_bad_profiles_stop_the_plan(lab: Path, profiles: str, complaint: str) -> None:
    (lab / "profiles.toml").write_text(profiles)
    with pytest.raises((ValueError, FileNotFoundError), match=complaint):
        made(lab, "20_train")


def test_unknown_notebooks_are_named(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no notebook '20_trian' in .*; did you mean '20_train'"):
        made(lab, "20_trian")
    with pytest.raises(FileNotFoundError, match=r"notebook other/a\.ipynb not found"):
        made(lab, "other/a.ipynb")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no notebooks in"):
        make_plan(Request(folder=tmp_path / "empty", out=tmp_path))


def test_two_notebooks_of_one_name_are_refused(lab: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    write_notebook(tmp_path / "other" / "10_lesson.ipynb", CELLS["10_lesson"])
    with pytest.raises(ValueError, match="two notebooks are called 10_lesson"):
        made(lab, "10_lesson", str(tmp_path / "other" / "10_lesson.ipynb"))


@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_shards_part_the_plan_and_keep_needs_together(lab: Path, of: int) -> None:
    plan = list(made(lab, sweep="grid.sigma = [0.1, 0.2, 0.3]").values())
    parts = [take_shard(plan, number, of) for number in range(1, of + 1)]
    assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in plan)
    for part in parts:
        names = {run.name for run in part}
        assert all(set(run.needs) <= names for run in part)
    assert sum(bool(part) for part in parts) == min(of, 4)


def test_impossible_shards_are_refused(lab: Path) -> None:
    with pytest.raises(ValueError, match="--shard 3/2"):
        take_shard([], 3, 2)


def test_point_names_are_folder_names(lab: Path) -> None:
    sweep = 'grid.name = ["a/b", "a:b", "' + "x" * 200 + '"]'
    write_notebook(lab / "40_text.ipynb", 'name: str = ""')
    names = [run.folder.name for run in made(lab, "40_text", sweep=sweep).values()]
    assert len(set(names)) == 3
    assert all(len(name) < 100 and "/" not in name and ":" not in name for name in names)


OWN = """
["30_tradeoff"]
needs = ["20_train", "23_own"]
["23_own"]
trains = true
"""
MODEL = 'model: str = "auto"\nfolder: str = "../runs/files"'


@pytest.fixture
def trained(lab: Path) -> Path:
    """A bench where 23_own trains networks of its own, and 30_tradeoff reads what it and others left."""
    for name in ("20_train", "23_own", "30_tradeoff"):
        write_notebook(lab / f"{name}.ipynb", MODEL)
    (lab / "profiles.toml").write_text(OWN)
    return lab


def test_for_a_network_that_is_there_nothing_else_is_trained(trained: Path) -> None:
    for source in ("torchvision:resnet18", "net.safetensors", "my_code:make", "http://127.0.0.1:8000/"):
        runs = made(trained, "30_tradeoff", settings={"model": source})
        assert {*runs} == {"20_train", "30_tradeoff"}
        assert (runs["30_tradeoff"].needs, runs["30_tradeoff"].without) == (("20_train",), ("23_own",))
        assert {run.parameters["model"] for run in runs.values()} == {source}
    for name in ("auto", "digits_cnn"):
        runs = made(trained, "30_tradeoff", settings={"model": name})
        assert (runs["30_tradeoff"].needs, runs["30_tradeoff"].without) == (("20_train", "23_own"), ())


def test_points_of_a_sweep_and_profiles_leave_it_out_one_by_one(trained: Path) -> None:
    runs = made(trained, "30_tradeoff", sweep='[grid]\nmodel = ["auto", "a/net.onnx"]')
    assert sum(run.notebook.stem == "23_own" for run in runs.values()) == 1
    assert [len(run.needs) for run in runs.values() if run.notebook.stem == "30_tradeoff"] == [2, 1]
    (trained / "profiles.toml").write_text(f'{OWN}["23_own".paper]\nmodel = "net.onnx"\n')
    assert "23_own" not in made(trained, "30_tradeoff", profile="paper")
    assert "23_own" in made(trained, "30_tradeoff", profile="paper", settings={"model": "auto"})


def test_who_asks_for_it_with_a_network_that_is_there_is_told(trained: Path) -> None:
    for names in (("23_own",), ("30_tradeoff", "23_own"), ()):
        with pytest.raises(ValueError, match=r"23_own trains networks of its own: .* got 'net.onnx'"):
            made(trained, *names, settings={"model": "net.onnx"})


def test_the_board_of_a_given_network_needs_what_takes_it_alone() -> None:
    folder = Path(__file__).parents[2] / "notebooks"
    settings = {"model": "torchvision:resnet18", "mean": "0.5", "std": "0.5"}
    request = Request(folder=folder, out=Path("runs"), notebooks=["30_tradeoff"], settings=settings)
    runs = make_plan(request)
    assert [run.name for run in runs] == ["20_train", "21_certify", "22_dual", "30_tradeoff"]
    assert all(run.parameters["model"] == "torchvision:resnet18" for run in runs)
