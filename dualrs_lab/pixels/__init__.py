"""Which pixels matter: class activation maps, masks, and the budgets that follow from them."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
