"""Work on a cluster: arrays of Slurm through submitit, what was submitted, and manifests for Kubernetes."""

from dualrs_lab.faces import face

__getattr__, __dir__, __all__ = face(__name__, __file__)
