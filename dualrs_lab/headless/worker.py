"""One run in a process of its own: papermill with caps and a normal form, told and watched by the runner.

The runner starts `python -m dualrs_lab.headless.worker`, writes one line of JSON (the job) to its stdin and
keeps that pipe open: its end means that the runner is gone, and this process then ends all that it started
and itself. Events go back as lines of JSON on stdout: the kernel's process, cells done, the outcome. Text
goes to stderr, which is the log.
"""

import json
import os
import re
import resource
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

# jsonschema can check internationalised URLs and compiles a grammar for that, seconds at each start;
# notebooks hold none to check. So it is not to be found, before papermill imports jsonschema.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill import execute_notebook
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from dualrs_lab.files import replace_json
from dualrs_lab.gallery import show_run
from dualrs_lab.headless.notebook import normalise_notebook, overwrite_lines, read_notebook
from dualrs_lab.headless.processes import MARK, SCRATCH, adopt_orphans, birth, kill_marked, oom_kills

START_SECONDS = 120  # a busy machine needs more than papermill's 60 for many kernels at once


AUTOSAVE_SECONDS = 10  # how much of a killed cell's output may be missing


STREAM_LIMIT, RICH_LIMIT = 100_000, 2_000_000  # characters of a cell's printed text, of one picture or page


SOCKET_FOLDER_LIMIT = 50  # the whole path of a Unix socket has at most 107 characters


CUT = "\n[cut by dualrs-lab after {} characters; more of it is in log.txt]\n"


_events = sys.stdout


def main() -> None:
    """Read the job from stdin, run it, tell the outcome, keep notebook and page."""
    global _events
    _events = os.fdopen(
        os.dup(1), "w"
    )  # not inherited by kernels, whose own prints to stdout belong in the log
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    if "page_of" in job:
        show_run(Path(job["page_of"]), read_notebook(job["page_of"]), Path(job["page"]))
        return
    threading.Thread(target=_die_with_the_runner, daemon=True).start()
    adopt_orphans()
    outcome = _outcome(job)
    _kill_what_is_left()
    _tell(outcome=outcome)  # first: writing the page is not the notebook's time
    _keep(Path(job["part"]), Path(job["output"]), Path(job["page"]))


def _tell(**event: object) -> None:
    try:
        print(json.dumps(event), file=_events, flush=True)
    except BrokenPipeError:
        _end_all()


def _die_with_the_runner() -> None:
    sys.stdin.read()
    _end_all()


def _kill_what_is_left() -> None:
    """What the notebook started and left behind; all of it descends from this process."""
    if mark := os.environ.get(MARK):
        kill_marked(mark, [_Kernel.leader] if _Kernel.leader else [])


def _end_all() -> None:
    _kill_what_is_left()
    scratch = os.environ.get("JUPYTER_RUNTIME_DIR", "")
    if Path(scratch).name.startswith(SCRATCH):  # the runner's to remove, if it still lived
        shutil.rmtree(scratch, ignore_errors=True)
    os._exit(1)


class _Kernel(AsyncKernelManager):
    """This interpreter as the kernel, over Unix sockets where their path fits: no race for TCP ports."""

    leader: tuple[int, str] | None = None  # of a session and a group of its own: its number and birth
    exit_code: int | None = None
    answered = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._kernel_spec = KernelSpec(**get_kernel_dict())  # whatever "python3" is installed as elsewhere
        folder = os.environ["JUPYTER_RUNTIME_DIR"]
        if len(folder) <= SOCKET_FOLDER_LIMIT:
            self.transport = "ipc"
            self.ip = f"{folder}/{os.getpid()}"  # the default is one name for all kernels of a folder

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
        await super()._async_launch_kernel(kernel_cmd, **options)
        if pid := getattr(self.provisioner, "pid", None):
            _Kernel.leader = pid, birth(pid)
            _tell(kernel=_Kernel.leader)

    async def _async_is_alive(self) -> bool:
        running = await super()._async_is_alive()
        if not running and self.provisioner is not None:
            _Kernel.exit_code = await self.provisioner.poll()
        return running

    _launch_kernel = _async_launch_kernel
    is_alive = _async_is_alive


class _Client(PapermillNotebookClient):  # type: ignore[misc]  # papermill has no types
    """Keeps a cell's output within bounds while it grows; the log still gets all of it."""

    def output(self, outs: list[Any], msg: Any, display_id: Any, cell_index: int) -> Any:
        before = len(outs)
        out = super().output(outs, msg, display_id, cell_index)
        if out is not None and outs and outs[-1] is out:
            outs[-1] = out.copy()
            if out.output_type == "stream":
                _bound_stream(outs, before)
            elif "data" in out:
                outs[-1]["data"] = _bounded(out.data)
        return out


def _bound_stream(outs: list[Any], before: int) -> None:
    """Join the last stream output to the one before, as a terminal would show both; cut the cell's text."""
    new = outs[-1]
    others = [out for out in outs[:-1] if out.output_type == "stream"]
    if others and others[-1].text.endswith(CUT.format(STREAM_LIMIT)):
        outs.pop()
        return
    if before and others and outs[-2] is others[-1] and others[-1].name == new.name:
        outs.pop()
        new, added = others.pop(), new.text
        kept, _, line = new.text.rpartition("\n")
        new.text = (kept + "\n" if _ else "") + overwrite_lines(line + added)
    room = STREAM_LIMIT - sum(len(out.text) for out in others)
    if len(new.text) > room:
        new.text = new.text[: max(room, 0)] + CUT.format(STREAM_LIMIT)


def _bounded(data: Any) -> dict[str, Any]:
    big = {mime: len(value) for mime, value in data.items() if len(value) > RICH_LIMIT}
    notice = {f"[{mime} of {size} characters left out by dualrs-lab]" for mime, size in big.items()}
    return {mime: value for mime, value in data.items() if mime not in big} | (
        {"text/plain": "\n".join(sorted(notice))} if notice else {}
    )


class _Engine(NBClientEngine):  # type: ignore[misc]  # papermill has no types
    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **_: Any) -> Any:
        cells = [
            i for i, cell in enumerate(nb_man.nb.cells) if cell.cell_type == "code" and cell.source.strip()
        ]

        def ready(notebook: object) -> None:
            _Kernel.answered = True

        def started(cell: object, cell_index: int) -> None:
            _tell(cell=sum(i <= cell_index for i in cells), of=len(cells))

        return _Client(
            nb_man,
            kernel_name=kernel_name,
            kernel_manager_class=_Kernel,
            startup_timeout=START_SECONDS,
            timeout=None,
            stdout_file=sys.stderr,
            stderr_file=sys.stderr,
            on_notebook_start=ready,
            on_cell_start=started,
        ).execute()


papermill_engines.register("dualrs", _Engine)


def _outcome(job: dict[str, Any]) -> dict[str, Any]:
    killed_before = oom_kills()
    for attempt in (1, 2):
        outcome = _attempt(job) | {"kernel_starts": attempt}
        if outcome["state"] == "ok" or _Kernel.answered:
            break  # once a cell could have run, a second try could repeat its effects
    if outcome["state"] == "dead-kernel":
        outcome["message"] = _cause_of_death(_Kernel.exit_code, oom_kills() > killed_before)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    outcome["peak_mb"] = round(peak / (1e6 if sys.platform == "darwin" else 1e3))
    return outcome


def _attempt(job: dict[str, Any]) -> dict[str, Any]:
    try:
        execute_notebook(
            _for_papermill(str(_complete_source(job["notebook"]))),
            _for_papermill(job["part"]),
            parameters=job["parameters"],
            engine_name="dualrs",
            kernel_name="python3",
            language="python",
            progress_bar=False,
            cwd=job["cwd"],
            autosave_cell_every=AUTOSAVE_SECONDS,
        )
    except PapermillExecutionError as error:
        text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
        print(text, file=sys.stderr)
        message = f"{error.ename}: {error.evalue}".splitlines()[0]
        return {"state": "error", "message": f"{message} (in cell [{error.exec_count}])", "traceback": text}
    except DeadKernelError:
        return {"state": "dead-kernel", "message": "the kernel died"}
    except Exception as error:  # whatever else stops a run is its outcome, and must be told
        print(repr(error), file=sys.stderr)
        return {"state": "error", "message": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"state": "ok", "message": ""}


def _complete_source(notebook: str) -> Path:
    """A copy of the notebook with what papermill takes for granted in each cell."""
    copy = Path(os.environ["JUPYTER_RUNTIME_DIR"], "source.ipynb")
    replace_json(copy, read_notebook(notebook))
    return copy


def _for_papermill(path: str) -> str:
    return path.replace("{", "{{").replace("}", "}}")  # which takes it for a format


def _cause_of_death(code: int | None, out_of_memory: bool) -> str:
    if code == -signal.SIGKILL:
        why = "out of memory" if out_of_memory else "by someone, or for want of memory in a container"
        return f"the kernel was killed (signal 9): {why}"
    if code is not None and code < 0:
        return f"the kernel died of signal {-code} ({signal.Signals(-code).name})"
    return f"the kernel exited with code {code}"


def _keep(part: Path, output: Path, page: Path) -> None:
    """Put what papermill left in its normal form at `output`, and its page at `page`."""
    if part.is_file():
        replace_json(output, normalise_notebook(read_notebook(part)))
        part.unlink()
        show_run(output, read_notebook(output), page)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the runner, which reads the log, is gone
        _end_all()
