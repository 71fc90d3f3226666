"""Runs at first sight: a card for each notebook, with its claim and a picture, all on one page."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
