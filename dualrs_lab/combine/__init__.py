"""Combiners: one certified classifier from any 1-Lipschitz function of all that smoothed experts know."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
