"""Notebooks run headless: plans, sweeps, workers, records and reports. Knows no method and no torch."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
