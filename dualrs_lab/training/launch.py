"""A command in several processes on this machine, by torch's own launcher."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

__all__ = ["call_together", "launch_together"]


def launch_together(call: str, words: Sequence[str], processes: int) -> int:
    """Call the command `words` of `dualrs-lab` in so many processes, as torchrun does; returns its exit code.

    They share the cores, where OMP_NUM_THREADS does not say otherwise. If one of them fails the others are
    ended, and its code comes back: it has told why. Raises ValueError that names the signal where one was
    killed, KeyboardInterrupt after Ctrl-C, which ends all of them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # pages about one error
    with tempfile.TemporaryDirectory(prefix="dualrs-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "dualrs_lab", *words)
        except ChildFailedError as error:
            rank, code = _cause({rank: failure.exitcode for rank, failure in error.failures.items()})
            if code < 0:
                name = signal.Signals(-code).name
                raise ValueError(
                    f"{call}: process {rank} of {processes} was ended by {name}, and so all were; call the "
                    "same again: it goes on after the last whole epoch"
                ) from None
            return code
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            sys.exit(128 + error.sigval)
    return 0


def _cause(codes: Mapping[int, int]) -> tuple[int, int]:
    """The process with which it began, and its code: one that was killed, else one that told an error.

    The launcher ends the others by SIGTERM; those that lost them by themselves end with 1.
    """
    killed = {rank: code for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM}
    return max((killed or codes).items(), key=lambda item: item[1])


def call_together(name: str, *, processes: int, **options: object) -> None:
    """Call the command `name` of `dualrs-lab` in so many processes, for a notebook: prints what it tells.

    `options` are those of the command; a list is joined by commas, True stands for one without a value. A
    kernel is none of the processes, and reads what they have made. Raises ValueError, with the last line that
    was told, where the command fails; an interrupt ends it.
    """
    words = [_word(option, value) for option, value in (options | {"processes": processes}).items()]
    command = [sys.executable, "-m", "dualrs_lab", name, *words]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as called:
        try:
            for line in called.stdout or ():
                print(line, end="", flush=True)
                last = line.strip() or last
        except BaseException:
            called.terminate()
            raise
    if called.returncode:
        raise ValueError(f"{name}: ended with {called.returncode}: {last}")


def _word(option: str, value: object) -> str:
    if value is True:
        return f"--{option}"
    return f"--{option}={','.join(map(str, value)) if isinstance(value, list | tuple) else value}"
