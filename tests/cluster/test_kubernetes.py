"""The Job for Kubernetes: what its API asks of an Indexed Job, and pods that find their part."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dualrs_lab.__main__ import main
from dualrs_lab.cluster import Pods, indexed_job, plain_job
from dualrs_lab.models import make_model, save_checkpoint
from dualrs_lab.shards import find_parts
from tests.cli.test_main import DIGITS, complaint

ROOT = Path(__file__).parents[2]
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
TEXT = {"type": "string", "minLength": 1}


def of(required: str, more: str = "", **fields: Any) -> dict[str, Any]:
    """An object of the API: these fields and no others, which the server would drop or refuse."""
    assert {*required.split(), *more.split()} == {*fields}
    return {
        "type": "object",
        "required": required.split(),
        "additionalProperties": False,
        "properties": fields,
    }


def some(of_each: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of_each, "minItems": 1}


# What batch/v1 says of the fields that we use (Kubernetes 1.33, in which backoffLimitPerIndex is stable).
CONTAINER = of(
    "name image command workingDir env resources volumeMounts",
    name=NAME, image=TEXT, command=some(TEXT), workingDir={"type": "string", "pattern": "^/"},
    env=some(of("name value", name={"type": "string", "pattern": "^[A-Z_]+$"}, value={"type": "string"})),
    resources=of("limits", limits={
        "type": "object", "additionalProperties": False,
        "properties": {
            "nvidia.com/gpu": COUNT, "cpu": COUNT, "memory": {"type": "string", "pattern": r"^\d+[KMGT]i?$"},
        },
    }),
    volumeMounts=some(of("name mountPath", name=NAME, mountPath={"type": "string", "pattern": "^/[^:]*$"})),
)  # fmt: skip
VOLUME = of(
    "name", "persistentVolumeClaim emptyDir",
    name=NAME,
    persistentVolumeClaim=of("claimName", claimName=NAME),
    emptyDir=of("medium", medium={"enum": ["", "Memory"]}),
) | {"oneOf": [{"required": ["persistentVolumeClaim"]}, {"required": ["emptyDir"]}]}  # fmt: skip
RULE = of(
    "action", "onExitCodes onPodConditions",
    action={"enum": ["FailJob", "FailIndex", "Ignore", "Count"]},
    onExitCodes=of("containerName operator values", containerName=NAME, operator={"enum": ["In", "NotIn"]},
                   values=some({"type": "integer", "minimum": 1, "maximum": 255})),
    onPodConditions=some(of("type status", type=TEXT, status={"enum": ["True", "False", "Unknown"]})),
) | {"oneOf": [{"required": ["onExitCodes"]}, {"required": ["onPodConditions"]}]}  # fmt: skip
JOB = of(
    "apiVersion kind metadata spec",
    apiVersion={"const": "batch/v1"}, kind={"const": "Job"},
    metadata=of("name labels", name=NAME, labels={"type": "object"}),
    spec=of(
        "template",
        "completionMode completions parallelism backoffLimitPerIndex backoffLimit podFailurePolicy",
        completionMode={"enum": ["Indexed", "NonIndexed"]}, completions=COUNT, parallelism=COUNT,
        backoffLimitPerIndex=COUNT, backoffLimit=COUNT,
        podFailurePolicy=of("rules", rules=some(RULE) | {"maxItems": 20}),
        template=of("spec", spec=of(
            "restartPolicy containers volumes", restartPolicy={"enum": ["Never", "OnFailure"]},
            containers=some(CONTAINER), volumes=some(VOLUME),
        )),
    ),
)  # fmt: skip


def check(job: dict[str, Any]) -> None:
    """The schema, and what the server checks across fields."""
    jsonschema.validate(job, JOB)
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    if "backoffLimitPerIndex" in spec or "podFailurePolicy" in spec:
        assert (spec["completionMode"], pod["restartPolicy"]) == ("Indexed", "Never")
    for rule in spec.get("podFailurePolicy", {}).get("rules", ()):
        assert rule.get("onExitCodes", {}).get("containerName", container["name"]) == container["name"]
        assert rule["action"] != "FailIndex" or "backoffLimitPerIndex" in spec
    if spec.get("completionMode") == "Indexed":
        assert 1 <= spec["parallelism"] <= spec["completions"] <= 100_000


PODS = Pods(name="certificates", image="lab:gpu", claim="work", gpus=1, cpus=8, memory="32Gi")


@pytest.mark.parametrize(
    "job",
    [
        indexed_job(PODS, ["certify"], parts=64, running=8),
        indexed_job(Pods(name="a", image="lab:cpu", claim="b", gpus=0), ["certify"], parts=1),
        plain_job(PODS, ["merge", "c.tsv"]),
    ],
)
def test_a_job_is_one_that_the_api_takes(job: dict[str, Any]) -> None:
    check(json.loads(json.dumps(job)))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda job: job["spec"].update(completion=4),
        lambda job: job["spec"].update(completionMode="indexed"),
        lambda job: job["spec"]["template"]["spec"].update(restartPolicy="Always"),
        lambda job: job["spec"]["template"]["spec"]["containers"][0].update(gpus=1),
        lambda job: job["metadata"].update(name="A job"),
    ],
)
def test_the_check_finds_what_the_api_would_refuse(wrong: Any) -> None:
    job = indexed_job(PODS, ["certify"], parts=4)
    wrong(job)
    with pytest.raises(jsonschema.ValidationError):
        check(job)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["manifest", "--image", "lab:gpu", "--claim", "work", *words]) == 0
    job: dict[str, Any] = json.loads(capsys.readouterr().out)
    check(job)
    return job


def test_pods_find_their_part_and_the_merger_makes_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each pod of the Job is played by this process, with the environment that it would have."""
    monkeypatch.chdir(tmp_path)
    model = make_model("digits_narrow", classes=10, channels=1, mean=[0.3], std=[0.3], seed=0)
    save_checkpoint("net.safetensors", model, data=DIGITS)
    words = ["certify", "--model", "net.safetensors", "--data", "digits", "--sigma", "0.25", "--max", "4",
             "--n", "50", "--n0", "10", "--batch", "50", "--device", "cpu", "--out", "c.tsv"]  # fmt: skip
    job = printed(capsys, "--shards", "2", "--gpus", "0", *words)
    (pod,) = job["spec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in pod["resources"]["limits"]
    for one in pod["env"]:
        monkeypatch.setenv(one["name"], one["value"])
    for index in range(job["spec"]["completions"]):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        assert main(pod["command"][1:]) == 0
    assert len(find_parts(Path("c.tsv"))) == 2
    capsys.readouterr()
    (merger,) = printed(capsys, "merge", "c.tsv")["spec"]["template"]["spec"]["containers"]
    assert main(merger["command"][1:]) == 0
    assert Path("c.tsv").read_text().count("\n") == 5


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "manifest: got no command; wanted certify, attack or merge"),
        ("run", "manifest: got run; wanted certify, attack or merge"),
        ("--name A certify", "--name 'A': want at most 63 of a-z, 0-9 and -"),
        ("certify --model m --data digits --sigma 1", "the following arguments are required: --out"),
        ("certify --model m --data digits --sigma 1 --out c.tsv --shard 1/2", "--shard is said by the Job"),
        (
            "certify --model m --data digits --sigma 1 --out c.tsv --on slurm",
            "--on slurm is another scheduler",
        ),
        ("certify --model m --data digits --sigma 1 --out c.tsv --nn 3", "unknown argument '--nn'"),
        ("--mount work merge c.tsv", "--mount work: want a path that begins with /"),
    ],
)
def test_what_would_fail_in_every_pod_is_told_at_once(
    words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--name" in words:
        words += " --model m --data digits --sigma 1 --out c.tsv"
    assert told in complaint(capsys, "manifest", "--image", "i", "--claim", "work", *words.split())


def test_a_job_has_at_least_one_part() -> None:
    with pytest.raises(ValueError, match="--shards 0: want 1 to 100,000"):
        indexed_job(PODS, ["certify"], parts=0)


def test_the_container_installs_what_is_here() -> None:
    text = (ROOT / "Containerfile").read_text()
    extras = re.search(r"dualrs-lab\[([\w,]+)\]", text)
    known = (ROOT / "pyproject.toml").read_text()
    assert extras
    assert all(f"\n{extra} = [" in known for extra in extras[1].split(","))
    assert {"ARG TORCH=cu126", "USER lab", "WORKDIR /lab"} <= {*text.splitlines()}
