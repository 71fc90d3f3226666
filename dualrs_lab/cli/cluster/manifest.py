"""`dualrs-lab manifest`: a table in parts on Kubernetes, as a Job for `kubectl apply`."""

import json
from argparse import REMAINDER, Namespace

from dualrs_lab.afar.address import want_no_secret
from dualrs_lab.cli.parser import Command, Parser, a_number
from dualrs_lab.settings import Range

__all__ = ["MANIFEST"]


_COUNT = Range(whole=True, least=1, most=100_000)


def _options(parser: Parser) -> None:
    parser.add_argument("--image", required=True, help="with this package inside; see the Containerfile")
    parser.add_argument(
        "--claim", required=True, help="persistentVolumeClaim that all pods share, ReadWriteMany"
    )
    parser.add_argument(
        "--mount",
        default="/lab",
        help="where it is mounted, and the command is called (default: %(default)s)",
    )
    parser.add_argument("--name", default="dualrs-lab", help="of the Job (default: %(default)s)")
    parser.add_argument(
        "--shards", type=a_number(_COUNT), default=16, metavar="N", help="parts (default: %(default)s)"
    )
    parser.add_argument(
        "--max-running", type=a_number(_COUNT), metavar="N", help="pods at a time (default: all)"
    )
    parser.add_argument(
        "--gpus",
        type=a_number(Range(whole=True, least=0, most=16)),
        default=1,
        metavar="N",
        help="for each pod (default: %(default)s)",
    )
    parser.add_argument("--cpus", type=a_number(_COUNT), metavar="N", help="for each pod")
    parser.add_argument("--mem", metavar="SIZE", help="for each pod, such as 32Gi")
    parser.add_argument(
        "called",
        nargs=REMAINDER,
        metavar="COMMAND …",
        help="certify, attack or merge, with its options; paths are those within the volume",
    )


def _manifest(options: Namespace) -> int:
    from dualrs_lab.cluster import Pods, indexed_job, plain_job

    words = options.called
    _check(words)
    want_no_secret("manifest", words, "the manifest")
    pods = Pods(
        name=options.name,
        image=options.image,
        claim=options.claim,
        mount=options.mount,
        gpus=0 if words[0] == "merge" else options.gpus,
        cpus=options.cpus,
        memory=options.mem,
    )
    if words[0] == "merge":
        found = plain_job(pods, words)
    else:
        found = indexed_job(pods, words, parts=options.shards, running=options.max_running)
    print(json.dumps(found, indent=2))
    return 0


def _check(words: list[str]) -> None:
    """What would fail in every pod is told here."""
    from dualrs_lab.cli.attack import ATTACK
    from dualrs_lab.cli.certify import CERTIFY
    from dualrs_lab.cli.cluster.parts import MERGE

    known = {command.name: command for command in (CERTIFY, ATTACK, MERGE)}
    if not words or words[0] not in known:
        raise ValueError(
            f"manifest: got {' '.join(words[:1]) or 'no command'}; wanted certify, attack or merge, with its "
            "options"
        )
    parser = Parser(prog=f"dualrs-lab {words[0]}")
    known[words[0]].options(parser)
    asked, rest = parser.parse_known_args(words[1:])
    if rest:
        raise ValueError(f"manifest: {words[0]}: unknown argument {rest[0]!r}")
    for name in ("shard", "devices", "shards"):
        if getattr(asked, name, None):
            raise ValueError(
                f"manifest: {words[0]}: --{name} is said by the Job; wanted the command without it"
            )
    if getattr(asked, "on", "here") != "here":
        raise ValueError(
            f"manifest: {words[0]}: --on {asked.on} is another scheduler; wanted the command without it"
        )


MANIFEST = Command(
    name="manifest",
    help="a Job of Kubernetes that makes a table in parts, for kubectl apply",
    options=_options,
    run=_manifest,
    example="dualrs-lab manifest --image lab:gpu --claim work --shards 64 certify --model net.safetensors "
    "--data folder:images --sigma 0.5 --out c.tsv > job.json\n"
    "kubectl apply -f job.json && kubectl wait --for=condition=complete --timeout=-1s job/dualrs-lab\n"
    "dualrs-lab manifest --image lab:gpu --claim work --name merge merge c.tsv | kubectl apply -f -",
)
