"""Figures: a table or an array in, matplotlib Axes out. Nothing here computes certificates."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
