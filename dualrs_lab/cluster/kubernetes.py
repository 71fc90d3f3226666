"""A table in parts on Kubernetes: an Indexed Job, whose pods are told by their index which part is theirs.

Plain values, as `kubectl` takes them in JSON. Each pod may fail a few times and goes on where it stopped; one
that was evicted, or whose node died, does not count as a failure, and bad input is not tried again.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dualrs_lab.locks import LOCK_WAIT

__all__ = ["Pods", "indexed_job", "plain_job"]


REFUSED = (2, 70)  # exit codes after which another try would end as this one did


RETRIES = 6  # of each part


LARGEST_JOB = 100_000  # completions


@dataclass(frozen=True, kw_only=True)
class Pods:
    """What each pod is: its image, what it asks for, and the claim of the volume that all of them share.

    The volume is mounted at `mount`, where the command is called, so its paths are those within the volume.
    """

    name: str
    image: str
    claim: str
    mount: str = "/lab"
    gpus: int = 1
    cpus: int | None = None
    memory: str | None = None

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("claim", self.claim)):
            if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", text):
                raise ValueError(
                    f"manifest: --{what} {text!r}: want at most 63 of a-z, 0-9 and -, as Kubernetes has it"
                )
        if not self.mount.startswith("/"):
            raise ValueError(f"manifest: --mount {self.mount}: want a path that begins with /")


def indexed_job(
    pods: Pods, words: Sequence[str], *, parts: int, running: int | None = None
) -> dict[str, Any]:
    """The Job that makes all `parts` of the table of the command `words`, `running` at a time (None: all)."""
    if not 1 <= parts <= LARGEST_JOB:
        raise ValueError(
            f"manifest: --shards {parts}: want 1 to {LARGEST_JOB:,}, the most that a Job can have"
        )
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailIndex",
            "onExitCodes": {"containerName": "part", "operator": "In", "values": [*REFUSED]},
        },
    ]
    how = {
        "completionMode": "Indexed",
        "completions": parts,
        "parallelism": min(parts, running or parts),
        "backoffLimitPerIndex": RETRIES,
        "podFailurePolicy": {"rules": rules},
    }
    # a dead node's locks are given back within the time to wait for them
    environment = {"JOB_COMPLETIONS": str(parts), LOCK_WAIT: "180"}
    return _job(pods, how, "part", [*words, "--shard", "auto"], environment)


def plain_job(pods: Pods, words: Sequence[str]) -> dict[str, Any]:
    """The Job that calls `words` once, such as the merger of the parts."""
    return _job(pods, {"backoffLimit": RETRIES}, "command", words, {LOCK_WAIT: "180"})


def _job(
    pods: Pods, how: Mapping[str, Any], container: str, words: Sequence[str], environment: Mapping[str, str]
) -> dict[str, Any]:
    asked: dict[str, Any] = {"nvidia.com/gpu": pods.gpus} if pods.gpus else {}
    asked |= {"cpu": pods.cpus} if pods.cpus else {}
    asked |= {"memory": pods.memory} if pods.memory else {}
    each = {
        "name": container,
        "image": pods.image,
        "command": ["dualrs-lab", *words],
        "workingDir": pods.mount,
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "resources": {"limits": asked},
        "volumeMounts": [
            {"name": "work", "mountPath": pods.mount},
            {"name": "shm", "mountPath": "/dev/shm"},  # 64 MB by default, too little for torch
        ],
    }
    volumes = [
        {"name": "work", "persistentVolumeClaim": {"claimName": pods.claim}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]
    template = {"spec": {"restartPolicy": "Never", "containers": [each], "volumes": volumes}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": pods.name, "labels": {"app": "dualrs-lab"}},
        "spec": {**how, "template": template},
    }
