"""The first thing that people see: a front page without code, served by Jupyter beside Lab or Voilà."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
