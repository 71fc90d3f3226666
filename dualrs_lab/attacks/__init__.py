"""Attacks on networks, and what accuracy is left under them."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
