"""All devices of one machine: each takes the next part of a table until none is left. No scheduler."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from dualrs_lab.headless.processes import Slot, found_by_python

__all__ = ["make_on_devices"]


def make_on_devices(
    words: Sequence[str], numbers: Sequence[int], of: int, slots: Sequence[Slot], logs: Path
) -> list[int]:
    """Call the command `words` for the parts `numbers` of `of`, one at a time in each slot, on its device.

    Returns the numbers of those that failed. What a part prints goes into `logs`. Ctrl-C ends all of them;
    what they have done is kept.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, failed, lock = list(numbers), list[int](), threading.Lock()
    running: dict[int, subprocess.Popen[bytes]] = {}

    def work(slot: Slot) -> None:
        while True:
            with lock:
                if not waiting:
                    return
                number = waiting.pop(0)
                process = running[number] = _start(words, number, of, slot, logs)
            code = process.wait()
            with lock:
                del running[number]
                if code:
                    failed.append(number)

    threads = [threading.Thread(target=work, args=(slot,)) for slot in slots]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        with lock:
            waiting.clear()
            for process in running.values():
                process.terminate()
        raise
    return sorted(failed)


def _start(words: Sequence[str], number: int, of: int, slot: Slot, logs: Path) -> subprocess.Popen[bytes]:
    device = slot.device.partition(":")[0]  # the one that CUDA_VISIBLE_DEVICES leaves
    command = [sys.executable, "-m", "dualrs_lab", *words, "--shard", f"{number}/{of}", "--device", device]
    with (logs / f"part-{number}-of-{of}.txt").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=found_by_python({**os.environ, **slot.environment}),
        )
