"""RunMonitor: trainings, certifications and sweeps started, watched, stopped and resumed from a notebook.

They are tasks (`dualrs_lab.tasks`): processes that go on when the kernel ends, and are found again after a
restart. The panel only reads what they write, once a second while it is shown.
"""

import shlex
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from markupsafe import Markup

from dualrs_lab.cluster.submission import find_submissions, home_of
from dualrs_lab.headless.progress import span
from dualrs_lab.headless.status import Found, find_runs
from dualrs_lab.panels.panel import as_html, html_widget
from dualrs_lab.tasks.bars import Bar, bars_of
from dualrs_lab.tasks.task import Task, find_tasks, start_task

__all__ = ["RunMonitor"]


_COLOURS = {"running": "#1f6feb", "ok": "#1a7f37", "failed": "#b00020", "damaged": "#b00020"}


class RunMonitor:
    """A list of the tasks under `out`, and of the one that is chosen: state, bars, last lines, Stop, Resume.

    `start` takes the words of a `dualrs-lab` command, as the field below the list does. `every` is the time
    between two looks in seconds; 0 looks only when `refresh` is called.
    """

    def __init__(self, out: str | Path = "runs/tasks", *, every: float = 1.0, lines: int = 12) -> None:
        self.out, self.lines = Path(out), lines
        wide = widgets.Layout(width="46em")
        self.chooser = widgets.Dropdown(description="task", layout=wide).add_class("dualrs-task")
        self.stop_button = _button("Stop", "stop", "what is done is kept", self._stop)
        self.resume_button = _button("Resume", "play", "goes on where it stopped", self._resume)
        self.command = widgets.Text(
            description="dualrs-lab", placeholder="certify --checkpoint FILE --data digits …", layout=wide
        ).add_class("dualrs-command")
        self.start_button = _button("Start", "plus", "in a process of its own", self._start)
        self.text, self.status = html_widget("task-state"), html_widget("status")
        self.view = widgets.VBox(
            [
                widgets.HBox([self.chooser, self.stop_button, self.resume_button]),
                self.text,
                widgets.HBox([self.command, self.start_button]),
                self.status,
            ]
        ).add_class("dualrs-monitor")
        self.chooser.observe(lambda _: self.refresh(), "value")
        self._end = threading.Event()
        self.refresh()
        if every:
            threading.Thread(target=self._watch, args=(every,), daemon=True).start()

    @property
    def task(self) -> Task | None:
        """The one that is chosen; None where there is none."""
        return Task(self.out.resolve() / self.chooser.value) if self.chooser.value else None

    def start(self, *words: str, name: str = "") -> Task:
        """Start a command, such as `start("certify", "--checkpoint", file, …)`, and show it."""
        task = start_task(words, name=name, out=self.out)
        self._list(task.name)
        self.refresh()
        return task

    def refresh(self) -> None:
        """Look at the tasks now."""
        self._list(self.chooser.value)
        task = self.task
        self.text.value = as_html(_described(task, self.lines) if task else "no task yet: start one below")
        self.stop_button.disabled = task is None or task.state != "running"
        self.resume_button.disabled = task is None or task.state in ("running", "damaged")

    def close(self) -> None:
        """Stop looking; the tasks go on."""
        self._end.set()

    def _list(self, chosen: str | None) -> None:
        names = [task.name for task in find_tasks(self.out)]
        if tuple(names) != tuple(self.chooser.options):
            self.chooser.options = names
        if names:
            self.chooser.value = chosen if chosen in names else names[0]

    def _watch(self, every: float) -> None:
        while not self._end.wait(every):
            self._shown(self.refresh)

    def _start(self) -> None:
        self.start(*shlex.split(self.command.value))

    def _stop(self) -> None:
        if self.task:
            self.task.stop()

    def _resume(self) -> None:
        if self.task:
            self.task.resume()

    def _shown(self, act: Callable[[], object]) -> None:
        # what goes wrong in a callback nobody else would see
        try:
            act()
            self.status.value = ""
        except (ValueError, OSError) as error:
            red = Markup('<span style="color: #b00020">{}</span>')
            self.status.value = as_html(red.format(error))

    def _clicked(self, act: Callable[[], None]) -> None:
        self._shown(act)
        self.refresh()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle: dict[str, Any] = self.view._repr_mimebundle_()
        told = [f"{task.name}: {task.state}" for task in find_tasks(self.out)]
        return bundle | {"text/plain": "\n".join(["RunMonitor", *told])}


def _button(text: str, icon: str, tip: str, act: Callable[[], None]) -> widgets.Button:
    button = widgets.Button(description=text, icon=icon, tooltip=tip, layout=widgets.Layout(width="8em"))
    button.add_class(f"dualrs-{text.lower()}")
    monitor: RunMonitor = act.__self__  # type: ignore[attr-defined]
    button.on_click(lambda _: monitor._clicked(act))
    return button


def _described(task: Task, lines: int) -> Markup:
    record = task.record
    state = str(record["state"])
    head = Markup('<b style="color: {}">{}</b> <code>dualrs-lab {}</code>').format(
        _COLOURS.get(state, "#6e7781"), state, shlex.join(record["command"])
    )
    when = " … ".join(str(record[key]) for key in ("started", "finished") if key in record)
    parts = [head, Markup("<small>{}</small>").format(when), *(_bar(bar.name, bar) for bar in task.bars)]
    parts += _submitted(record)
    parts += [_run(found) for found in _runs(record)]
    tail = Markup('<pre style="line-height: 1.3; max-height: 18em; overflow: auto">{}</pre>')
    return Markup("").join([Markup("<br>").join(parts), tail.format(task.tail(lines) or " ")])


def _runs(record: dict[str, Any]) -> Sequence[Found]:
    # the runs of notebooks that this task made or makes
    words = record["command"]
    if not words or words[0] != "run":
        return []
    out = Path(record["cwd"]) / (words[words.index("--out") + 1] if "--out" in words[:-1] else "runs")
    begun = str(record.get("started", ""))
    return [found for found in find_runs(out) if found.status["queued"] >= begun]


def _submitted(record: dict[str, Any]) -> list[Markup]:
    # how the tasks are that this command sent to a cluster, by what they wrote
    words = record["command"]
    if "slurm" not in words and "--on=slurm" not in words:
        return []
    out = words[words.index("--out") + 1] if "--out" in words[:-1] else "runs"
    last = find_submissions(home_of(Path(record["cwd"]) / out))[:1]
    states = [Counter(task.state for task in one.tasks()) for one in last]
    return [
        Markup("on the cluster: {}").format(
            ", ".join(f"{number} {state}" for state, number in sorted(count.items()))
        )
        for count in states
    ]


def _run(found: Found) -> Markup:
    state, run = str(found.status["state"]), str(found.status["run"])
    bars = bars_of(found.folder) if state == "running" else []
    if bars:
        return _bar(f"{run}: {bars[-1].name}", bars[-1])
    taken = f", {span(found.status['seconds'])}" if "seconds" in found.status else ""
    return Markup("{}: {}{}").format(run, state, taken)


def _bar(name: str, bar: Bar) -> Markup:
    left = "" if bar.left is None else f", {span(bar.left)} left"
    rate = f", {bar.rate}" if bar.rate else ""
    return Markup('<progress value="{}" max="{}" aria-label="{}"></progress> {}: {} of {}, {}{}{}').format(
        bar.done, bar.total, name, name, bar.done, bar.total, span(bar.taken), left, rate
    )
