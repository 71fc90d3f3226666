"""Dual randomized smoothing: a smoothed router chooses the noise level of each input."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
