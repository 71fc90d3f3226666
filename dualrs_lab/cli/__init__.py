"""The commands of `dualrs-lab`, a module for each kind; `dualrs_lab.__main__` hands over to them."""
