"""Modules and thousands of tests stay to the end: the garbage collector need not look at them every time."""

import gc


def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
