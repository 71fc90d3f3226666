"""Work of which only the newest counts (`panels.latest`)."""

import threading
from collections.abc import Callable

from dualrs_lab.panels import Latest


def test_the_newest_ends_what_is_under_way_and_overtakes_what_waits() -> None:
    began, ended, worked = threading.Event(), [], []

    def work(item: int, over: Callable[[], bool]) -> None:
        worked.append(item)
        if item == 0:
            began.set()
            while not over():
                pass
            ended.append(item)

    latest = Latest(work)
    latest.give(0)
    assert began.wait(10)
    for item in (1, 2, 3):
        latest.give(item)
    assert latest.wait(10)
    assert ended == [0]
    assert worked[0] == 0
    assert worked[-1] == 3  # whatever became of 1 and 2
    latest.give(4)  # a new thread, as the first has gone
    assert latest.wait(10)
    assert worked[-1] == 4
    assert not latest.stopped


def test_what_is_stopped_ends_and_nothing_follows() -> None:
    began, worked = threading.Event(), []

    def work(item: int, over: Callable[[], bool]) -> None:
        began.set()
        while not over():
            pass
        worked.append(item)

    latest = Latest(work)
    latest.give(0)
    assert began.wait(10)
    assert not latest.wait(0.01)
    latest.give(1)
    latest.stop()
    assert latest.wait(10)
    assert latest.stopped
    assert set(worked) <= {0, 1}
    assert 0 in worked
