"""A table of command lines that are no good: each ends with 2 and one line that says which word or file.

Nothing that lay in the folder is changed by any of them. Every option gets the values that its kind makes
people, scripts and shells write by mistake; files come damaged, foreign and hostile.
"""

import hashlib
import json
import os
import pickle
import shlex
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dualrs_lab.__main__ import main
from dualrs_lab.evidence import append_rows, decide
from dualrs_lab.models import make_model, save_checkpoint

# ---- words


TEXT = (
    "",
    " ",
    "x",
    "None",
    "True",
    "½",
    "0x10",
    "1_000",
    "１２",
    "1 2",
    "--",
    "nan",
    "inf",
    "-inf",
    "1e999",
)
WHOLE = (*TEXT, "1.5", "1e3", "-1", "-7", "1e30", str(10**30), "9" * 5000)
POSITIVE = (*TEXT, "0", "-1", "-0.25", "1,5")
LISTED = (*TEXT[:7], "1,", ",1", "1,,2", "0.25;0.5", "1 2", "nan", "0,nan", "inf", "1_0,2")
PATHS = ("", " ", "a\0b")


def values(option: str) -> Sequence[str]:
    """Bad values of an option, by its kind."""
    kinds: dict[str, Sequence[str]] = {
        "--sigma": (*POSITIVE, "1e-300", "1e-9", "1e30", "1001"),
        "--n": (*WHOLE, "0"),
        "--n0": (*WHOLE, "0"),
        "--batch": (*WHOLE, "0"),
        "--skip": (*WHOLE, "0"),
        "--max": (*(value for value in WHOLE if value != "-1"), "0"),
        "--seed": (*WHOLE, str(2**63), str(2**70)),
        "--alpha": (*POSITIVE, "1", "1.5", "2"),
        "--loss": (*POSITIVE, "1e30"),
        "--at-radii": (*LISTED, "-1", "0.2,0.1", "0.1,0.1"),
        "--radii": (*LISTED, "-1", "0,-0.5"),
        "--thresholds": (*LISTED, "0.1", "0,0,0"),
        "--surest": (*LISTED, "0.1", "0,0,0"),
        "--radii-weights": (*LISTED, "-1", "0,-0.5"),
        "--starts": (*WHOLE, "0"),
        "--changes": (*WHOLE, "0"),
        "--eps": (*POSITIVE, "8/0", "8/", "/255", "8/x", "0/255", "-8/255", "8/255/2", "8/255", "1e30", "8"),
        "--restarts": (*WHOLE, "0"),
        "--weight": (*TEXT, "-0.1", "1.1", "2", "1e30", "1/2"),
        "--rule": ("best", "Cohen", "", "two bounds"),
        "--jobs": (*WHOLE, "0"),
        "--timeout": (*POSITIVE, "1h"),
        "--shard": ("", "1", "/", "1/", "/2", "0/2", "3/2", "-1/2", "1/0", "1/x", "a/b", "1/2/3", "1.0/2",
                    "1_0/20", "²/³"),
        "--device": ("", "meta", "gpu", "cuda:99", "cuda:-1", "cuda:x", "tpu", "cpu,cpu", "xla", "mps:7",
                     "None"),
        "--devices": ("", "gpu", "meta", "cuda:", "cuda:x", "cpu;cpu", "cpu,", "-1"),
        "--split": ("", "val", "Test", "0", "test,train"),
        "--noise": ("", "uniform", "Grid"),
        "--dtype": ("", "float64", "int8", "fp16", "None"),
        "--norm": ("", "l1", "L2", "inf"),
        "--form": ("", "open", "Closed"),
        "--profile": ("", "fast", "Paper", "None"),
        "--data": ("", "digit", "folder", "folder:", "folder:none", "folder:log.tsv", "folder:?size=0",
                   "folder:.", "folder:images?size=0", "folder:images?size=-1", "folder:images?grey=1",
                   "digits:x", "folder:~nobody_of_this_name", "folder:a\0b", "folder:" + "x" * 5000),
        "--checkpoint": (*PATHS, "none.safetensors", "images", "pipe", "socket", "circle", "dangling",
                         "x" * 300),
        "--model": ("none.safetensors", "nowhere:make", "torchvision:none", "robustbench:none.pt", "hf:", "gopher://a/b",
                    "http://"),
        "--weights": (*PATHS, "none.safetensors", "images", "pipe"),
        "--mean": LISTED,
        "--std": (*LISTED, "0", "-1"),
        "--size": (*WHOLE, "0", "10000"),
        "--classes": (*WHOLE, "0"),
        "--out": (*PATHS, "t", "t.txt", "t.json", "log.tsv/t.tsv", "x" * 300 + ".tsv", "folder.tsv",
                  "pipe.tsv", "socket.tsv", "link.tsv", "dangling.tsv", "circle.tsv", "device.tsv", "."),
        "--sweep": (*PATHS, "none.toml", "images", "pipe", "dangling", "bad.toml", "zip.toml", "odd.toml"),
        "--junit": PATHS,
        "-p": ("", "n", "=1", "n=", "n=x", "n=1.5", "m=1", "n =1", "1=n"),
    }  # fmt: skip
    return kinds[option]


NETWORK = "--checkpoint net.safetensors --data digits --max 1 --device cpu"
GOOD = {
    "certify": f"{NETWORK} --sigma 0.25 --n 100 --out new.tsv",
    "attack": f"{NETWORK} --eps 0.1 --no-auto --out new.tsv",
    "cascade": "votes.tsv fewer.tsv --out new.tsv",
    "combine": "votes.tsv fewer.tsv --surest 0,0 --out new.tsv",
    "mix": "votes.tsv --weight 0.8 --out new.tsv",
    "summary": "votes.tsv",
    "run": "--dry-run",
    "status": "",
}
OPTIONS = {
    "certify": "--sigma --rule --n --n0 --batch --skip --max --seed --alpha --loss --at-radii --device "
    "--split --noise --dtype --data --checkpoint --model --weights --mean --std --size --classes --out",
    "attack": "--eps --norm --restarts --batch --skip --max --seed --device --split --data --checkpoint "
    "--out",
    "cascade": "--thresholds --alpha --radii --out",
    "combine": "--surest --radii-weights --starts --changes --seed --alpha --radii --out",
    "mix": "--weight --form --rule --radii --sigma --out",
    "summary": "--radii --rule",
    "run": "--jobs --timeout --shard --devices --profile --sweep --junit -p",
}
FINE = {("attack", "--eps", "8/255"), ("run", "-p", "n="), ("mix", "--sigma", "0.25")}


def with_words() -> Iterator[tuple[list[str], tuple[str, ...]]]:
    """Command lines that are good but for one option, and the words that the complaint names."""
    for command, options in OPTIONS.items():
        for option in options.split():
            for value in values(option):
                good = shlex.split(GOOD[command])
                if option in good:
                    del good[(at := good.index(option)) : at + 2]
                if (command, option, value) not in FINE:
                    joined = f"{option}={value}" if option.startswith("--") else None
                    worn = [joined] if joined else [option, value]
                    other = "parameter n" if option == "-p" else value[:60]
                    yield [command, *good, *worn], (option, *([other] if len(other) > 2 else []))


# ---- files


def text(path: str, content: str | bytes) -> None:
    Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())


def network(path: str, **changes: Any) -> None:
    """A checkpoint whose json says something else."""
    model = make_model("digits_cnn", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    save_checkpoint(path, model)
    made = Path(path).with_suffix(".json")
    record = json.loads(made.read_text())
    made.write_text(json.dumps(record | changes))


def weights(path: str, change: Callable[[torch.Tensor], object]) -> None:
    model = make_model("digits_cnn", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    with torch.no_grad():
        change(model.body.fc.weight)
    save_checkpoint(path, model)


def certificates(path: str, sigma: float, most: int = 12) -> None:
    rng = np.random.default_rng(0)
    rows = [
        decide(rng.multinomial(20, [0.8, 0.1, 0.1]), rng.multinomial(100, [0.9, 0.05, 0.05]), idx=i, label=0,
               sigma=sigma, alpha=0.001, seed=0, seconds=0.1)
        for i in range(most)
    ]  # fmt: skip
    append_rows(path, rows)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch owned",)


LOG = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.6\t1\t0:00:01.5\n"
DEEP = "[" * 200_000
ARCHITECTURE = {"name": "digits_cnn", "classes": 10, "channels": 1}
JSONS: dict[str, str | bytes | None] = {
    "missing": None,
    "empty": "",
    "text": "hello",
    "list": "[]",
    "number": "3",
    "table": "{}",
    "bytes": b"\xff\xfe\x00",
    "deep": DEEP,
    "cut": '{"architecture": {"name": "digi',
    "null": '{"architecture": null}',
    "word": '{"architecture": "digits_cnn"}',
    "nameless": '{"architecture": {"classes": 10, "channels": 1}}',
    **{
        f"{key} {value!r}": json.dumps({"architecture": ARCHITECTURE | {key: value}})
        for key, several in {
            "name": ["resnet19", None, 3, ["digits_cnn"], {}],
            "classes": [0, -1, 2, 12, 10**9, 10**30, 1.5, "10", None, True, [10]],
            "channels": [0, -1, 3, 10**9, 1.5, "1", None, [1]],
        }.items()
        for value in several
    },
}
STATE = {"arch": "cifar_resnet20"}
ENDS = ("fc.weight", "conv1.weight")
PICKLES: dict[str, object] = {
    "list": [1, 2],
    "text": "hello",
    "nothing": None,
    "tensor": torch.zeros(2),
    "no arch": {"state_dict": {}},
    "arch of lists": {"arch": ["cifar_resnet20"], "state_dict": {}},
    "arch unknown": {"arch": "vit", "state_dict": {}},
    "state of lists": STATE | {"state_dict": [1]},
    "state of text": STATE | {"state_dict": "x"},
    "weights of text": STATE | {"state_dict": {"fc.weight": "x"}},
    "weights by number": STATE | {"state_dict": {1: torch.zeros(2)}},
    "weights without axes": STATE | {"state_dict": dict.fromkeys(ENDS, torch.tensor(1.0))},
    "weights of another": STATE | {"state_dict": dict.fromkeys(ENDS, torch.zeros(2, 2, 2, 2))},
    "weights that are none": STATE | {"state_dict": {"fc.weight": torch.zeros(2, 2, device="meta")}},
    "no weights": STATE | {"state_dict": {}},
    "not finite": STATE | {"state_dict": {"fc.weight": torch.full((2, 2), float("nan"))}},
    "hostile": STATE | {"state_dict": {}, "extra": Hostile()},
    "hostile itself": Hostile(),
}  # fmt: skip
FOREIGN: dict[str, bytes] = {
    "empty": b"",
    "of text": b"hello world\n" * 9,
    "of bytes": bytes(range(256)) * 4,
    "zip": b"PK\x03\x04junk",
    "pickle": pickle.dumps({"a": 1}),
    "pickle of code": pickle.dumps(Hostile()),
    "zeros": bytes(3000),
}
TABLES: dict[str, str | bytes] = {
    "empty": "",
    "of one line": "\n",
    "unfinished": LOG[:-1],
    "header": LOG.splitlines()[0] + "\n",
    "of columns": "a\tb\n1\t2\n",
    "twice": LOG.replace("time\n", "time\ttime\n"),
    "ragged": LOG + "1\t2\t3\n",
    "wide": LOG + "1\t3\t3\t0.6\t1\t1\t1\n",
    "of words": LOG + "one\ttwo\t3\t0.6\t1\t1\n",
    "bytes": b"\xff\xfe\x00" + LOG.encode(),
    "bytes within": LOG.encode() + b"1\t3\t3\t0.\xff6\t1\t1\n",
    "binary": bytes(range(256)) * 8,
}
NOTEBOOKS: dict[str, str | bytes] = {
    "empty": "",
    "text": "hello",
    "list": "[]",
    "old": '{"nbformat": 3, "worksheets": []}',
    "without cells": '{"nbformat": 4}',
    "bytes": b"\xff\xfe",
}


def with_files() -> Iterator[tuple[list[str], tuple[str, ...]]]:
    """Command lines on files that are damaged, foreign or hostile, and the file that the complaint names."""
    for command in ("certify", "attack"):
        for number in range(len(JSONS)):
            yield (
                shlex.split(f"{command} {GOOD[command].replace('net.', f'json{number}.')}"),
                f"json{number}.",
            )
        for number in range(len(FOREIGN)):
            changed = GOOD[command].replace("net.", f"foreign{number}.")
            yield shlex.split(f"{command} {changed}"), (f"foreign{number}.",)
            yield shlex.split(f"{command} {changed.replace('safetensors', 'pth')}"), (f"foreign{number}.pth",)
        for name in ("nan", "inf", "cut", "other"):
            yield shlex.split(f"{command} {GOOD[command].replace('net.', f'{name}.')}"), (f"{name}.",)
    for number in range(len(PICKLES)):
        yield (
            shlex.split(f"certify {GOOD['certify'].replace('net.safetensors', f'pickle{number}.pth')}"),
            (f"pickle{number}.pth",),
        )
    for name in [
        *(f"table{number}.tsv" for number in range(len(TABLES))),
        "none.tsv",
        "images",
        "pipe",
        "circle",
    ]:
        yield ["cascade", name, "votes.tsv", "--out", "new.tsv"], (name,)
        yield ["combine", name, "votes.tsv", "--surest", "0,0", "--out", "new.tsv"], (name,)
        yield ["mix", name, "--weight", "0.8", "--out", "new.tsv"], (name,)
        yield ["summary", "votes.tsv", name], (name,)
    combine = ["combine", "votes.tsv", "fewer.tsv", "--out", "new.tsv"]
    for name in [
        *(f"json{number}.json" for number in range(len(JSONS))),
        "none.json",
        "images",
        "pipe",
        "circle",
    ]:
        yield [*combine, "--combiner", name], (name,)
    for name in [
        *(f"foreign{number}.safetensors" for number in range(len(FOREIGN))),
        "net.safetensors",
        "pipe",
    ]:
        yield [*combine, "--train", name], (name,)
    for number in range(len(NOTEBOOKS)):
        yield ["run", "--dry-run", f"notebook{number}.ipynb"], (f"notebook{number}",)
    for name in ("odd", "small", "clipped", "pipes"):
        good = GOOD["certify"].replace("digits", f"folder:{name}")
        yield shlex.split(f"certify {good}"), (f"folder:{name}",)


LINES = (
    ("", "COMMAND"),
    ("rnu", "'rnu'"),
    ("--foo", "COMMAND"),
    ("summary", "TABLE"),
    ("cascade", "TABLE"),
    ("cascade votes.tsv", "--out"),
    ("cascade --out new.tsv", "TABLE"),
    ("cascade votes.tsv votes.tsv --out new.tsv", "votes.tsv"),
    ("cascade log.tsv votes.tsv --out new.tsv", "log.tsv"),
    ("cascade votes.tsv --out votes.tsv", "votes.tsv"),
    ("combine", "TABLE"),
    ("combine votes.tsv --out new.tsv", "--train"),
    ("combine votes.tsv --surest 0", "--out"),
    ("combine --surest 0 --out new.tsv", "TABLE"),
    ("combine votes.tsv votes.tsv --surest 0,0 --out new.tsv", "votes.tsv"),
    ("combine log.tsv votes.tsv --surest 0,0 --out new.tsv", "log.tsv"),
    ("combine votes.tsv --surest 0 --out votes.tsv", "votes.tsv"),
    ("combine votes.tsv --surest 0 --train net.safetensors --out new.tsv", "--train"),
    ("combine votes.tsv --surest 0 --combiner json0.json --out new.tsv", "--combiner"),
    ("mix", "TABLE"),
    ("mix votes.tsv", "--weight"),
    ("mix votes.tsv fewer.tsv --weight 1 --out new.tsv", "fewer.tsv"),
    ("mix log.tsv --weight 0.8 --out new.tsv", "log.tsv"),
    ("mix log.tsv --weight 0.8 --sigma 0.01 --out new.tsv", "log.tsv"),
    ("mix log.tsv --weight 0.8 --sigma 0.5 --form exact --out new.tsv", "log.tsv"),
    ("mix votes.tsv --weight 0.8 --sigma 0.5 --out new.tsv", "votes.tsv"),
    ("mix votes.tsv --weight 0.8 --form closed --out new.tsv", "--rule cohen"),
    ("mix votes.tsv --weight 0.8 --rule best --out new.tsv", "best"),
    ("mix votes.tsv --weight 0.8 --out votes.tsv", "votes.tsv"),
    ("certify", "--checkpoint"),
    ("certify --checkpoint net.safetensors", "--data"),
    ("certify --checkpoint net.safetensors --data digits --sigma 1", "--out"),
    (f"certify {GOOD['certify']} --loss 0.1 --at-radii 0.1", "--loss"),
    (f"certify {GOOD['certify']} --foo", "--foo"),
    (f"certify {GOOD['certify']} extra", "extra"),
    (f"certify {GOOD['certify']} --sigma 50", "sigma"),
    (f"certify {GOOD['certify']} --fold=1", "--fold"),
    ("attack", "--checkpoint"),
    (f"attack {GOOD['attack']} --foo", "--foo"),
    (f"attack {GOOD['attack']} --mix 0.5", "--accurate"),
    (f"attack {GOOD['attack']} --accurate net.safetensors", "--mix"),
    (f"attack {GOOD['attack']} --accurate none.safetensors --mix 0.5", "none.safetensors"),
    (f"attack {GOOD['attack']} --accurate net.safetensors --mix 1.5", "1.5"),
    (f"attack {GOOD['attack']} --accurate net.safetensors --mix 0.5,", "0.5,"),
    (f"attack {GOOD['attack']} --accurate net.safetensors --mix 0.5,0.50", "once"),
    ("attack --checkpoint net.safetensors --data digits --out new.tsv", "--eps"),
    ("run --foo", "--foo"),
    ("run none", "'none'"),
    ("run none.ipynb", "none.ipynb"),
    ("run images/", "images/"),
    ("run --dry-run --retry-failed=1", "--retry-failed"),
    ("run --keep-going --fail-fast", "--fail-fast"),
    ("run -p n=1 -p n=2", "-p n"),
    ("run --update -p n=3", "--update"),
    ("run --update --profile paper", "--update"),
    ("status", "runs"),
    ("status none", "none"),
    ("status ''", "DIR"),
    ("status images extra", "extra"),
    ("status log.tsv", "log.tsv"),
)


CASES = [*with_words(), *with_files(), *((shlex.split(line), (named,)) for line, named in LINES)]


# ---- the folder


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with good files, bad files, and things that are no files."""
    folder, before = tmp_path_factory.mktemp("scratch"), os.getcwd()
    os.chdir(folder)
    try:
        fill()
        yield folder
    finally:
        os.chdir(before)


def fill() -> None:
    network("net.safetensors")
    certificates("votes.tsv", 0.25)
    certificates("fewer.tsv", 0.5, most=5)
    text("log.tsv", LOG)
    for number, content in enumerate(JSONS.values()):
        network(f"json{number}.safetensors")
        made = Path(f"json{number}.json")
        made.unlink() if content is None else text(str(made), content)
    for number, content in enumerate(FOREIGN.values()):
        network(f"foreign{number}.safetensors")
        for ending in ("safetensors", "pth"):
            text(f"foreign{number}.{ending}", content)
    for number, value in enumerate(PICKLES.values()):
        torch.save(value, f"pickle{number}.pth")
    for number, content in enumerate(TABLES.values()):
        text(f"table{number}.tsv", content)
    for number, content in enumerate(NOTEBOOKS.values()):
        text(f"notebook{number}.ipynb", content)
    weights("nan.safetensors", lambda weight: weight.fill_(float("nan")))
    weights("inf.safetensors", lambda weight: weight[0, 0].fill_(float("inf")))
    network("cut.safetensors")
    text("cut.safetensors", Path("cut.safetensors").read_bytes()[:-100])
    network("other.safetensors", architecture=ARCHITECTURE | {"name": "fast"})
    special()
    notebooks()
    pictures()


def special() -> None:
    for name in ("pipe", "pipe.tsv"):
        os.mkfifo(name)
    for name in ("socket", "socket.tsv"):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(name)
    Path("folder.tsv").mkdir()
    for name, target in (
        ("circle", "circle"),
        ("dangling", "nothing"),
        ("link", "log.tsv"),
        ("device", "/dev/zero"),
    ):
        Path(f"{name}.tsv").symlink_to(f"{name}.tsv" if name == "circle" else target)
        if name in ("circle", "dangling"):
            Path(name).symlink_to(target)


def notebooks() -> None:
    cell = {"cell_type": "code", "id": "a", "metadata": {"tags": ["parameters"]}, "execution_count": None}
    cell |= {"outputs": [], "source": "n: int = 100\nsigma: float = 0.25\nname: str = 'x'"}
    Path("notebooks").mkdir()
    book = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    text("notebooks/21_certify.ipynb", json.dumps(book))
    text("notebooks/profiles.toml", '["21_certify".paper]\nn = 10000\n')
    text("bad.toml", "grid = [")
    text("zip.toml", "[zip]\nn = [1, 2]\nsigma = [1.0]\n")
    text("odd.toml", "odd = 1\n")


def pictures() -> None:
    for folder in ("images", "odd", "small", "clipped", "pipes"):
        for label in ("a", "b"):
            place = Path(folder, label)
            place.mkdir(parents=True)
            for number in range(5):
                Image.new("L", (8, 8), number).save(place / f"{number}.png")
    text("odd/a/0.png", b"%!PS-Adobe-3.0 EPSF-3.0\n")
    Image.new("L", (4, 4)).save("small/a/0.png")
    text("clipped/a/0.png", Path("clipped/a/0.png").read_bytes()[:40])
    Path("pipes/a/0.png").unlink()
    os.mkfifo("pipes/a/0.png")


def digests(folder: Path) -> dict[str, str]:
    """What lies in a folder: the sha256 of files, the kind of all else."""
    found = {}
    for path in sorted(folder.rglob("*")):
        plain = path.is_file() and not path.is_symlink()
        mode = path.lstat().st_mode
        found[str(path.relative_to(folder))] = (
            hashlib.sha256(path.read_bytes()).hexdigest() if plain else f"{mode:o}"
        )
    return found


# ---- the test


@pytest.fixture(scope="module")
def before(scratch: Path) -> dict[str, str]:
    return digests(scratch)


@pytest.mark.parametrize(("words", "named"), CASES, ids=map(str, range(len(CASES))))
def test_a_bad_command_line_is_one_line_that_names_the_word_or_the_file(
    words: list[str],
    named: tuple[str, ...],
    before: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DUALRS_CACHE", "/dev/null/no-cache")
    monkeypatch.delenv("DUALRS_TRACEBACK", raising=False)
    code = main(words)
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), (shlex.join(words)[:300], err)
    assert err.startswith("dualrs-lab: error: ")
    assert err.count("\n") == 1
    assert any(name in err for name in named), (shlex.join(words)[:300], err)
    assert "weights_only" not in err
    assert len(err) < 2000


def test_none_of_them_changed_a_file(scratch: Path, before: dict[str, str]) -> None:
    """Runs behind the others, whose folder it is."""
    after = digests(scratch)
    assert {name: after.get(name) for name in before} == before
    assert not Path("owned").exists()


def test_the_table_is_as_large_as_it_is_said_to_be() -> None:
    assert len({shlex.join(words) for words, _ in CASES}) >= 600


@pytest.mark.parametrize("command", ["summary", "run", "mix", "combine"])
def test_the_same_lines_are_good_without_the_bad_word(
    scratch: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = GOOD[command].replace("new.tsv", f"fine_{command}.tsv")
    assert main([command, *shlex.split(line)]) == 0, capsys.readouterr().err
