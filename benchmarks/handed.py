"""`python -m benchmarks.handed --data folder:PATH`: are hopeless images better left to the next expert?

An expert that is trained on images that it can hope for has larger radii there and less accuracy elsewhere
(Sun et al. 2025). In a cascade that falls back, images that it leaves go to a smaller noise level. So the
expert for σ = 0.5 goes on from the shipped `fast_narrow` for the same seconds of this process with all images
or with easy ones, and is judged alone and in front of the shipped σ = 0.25, by votes about held-out images.
Twenty minutes on one core; a run that was killed goes on with what is missing.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.gpu.certifying import ALPHA, RADII, SEED, split
from benchmarks.gpu.recipes import Run, taught
from benchmarks.quality import SHIPPED
from benchmarks.recipes import SMALL, on_one_core
from dualrs_lab.cascade import MOST, Cascade, CascadeFront, cascade_front
from dualrs_lab.data import Images
from dualrs_lab.files import replace_json, replace_text
from dualrs_lab.models import Classifier, load_checkpoint
from dualrs_lab.runtime import describe
from dualrs_lab.smoothing import GridNoise, count_images, freeze

__all__ = ["ALONE", "ARMS", "BEHIND", "main"]

FIRST, SECOND = 0.5, 0.25
ARMS = {"as it began": None, "all images": "consistency", "easy images": "consistency, easy images"}
ALONE, BEHIND = Cascade((FIRST,), (0.0,)), Cascade((FIRST, SECOND), (0.0, -0.3), (MOST, 1 - MOST))
SIZE = replace(SMALL, trial=360, counts=1, judge=400)


def main(argv: Sequence[str] | None = None) -> pd.DataFrame:
    """Train and judge what is missing; print, write and return two rows an arm."""
    run = on_one_core("handed", __doc__ or "", SIZE, argv)
    images = run.everything.select(split(run.everything)[1][::2])
    path, rows = run.out / "handed.csv", list[dict[str, object]]()
    if path.exists():
        rows = pd.read_csv(path).to_dict("records")  # type: ignore[assignment]
    second = _votes(run, load_checkpoint(SHIPPED.expert(SECOND))[0], SECOND, images)
    for arm, name in ARMS.items():
        if arm in {row["arm"] for row in rows}:
            continue
        model, how = taught(run, name, FIRST, SIZE.trial) if name else (run.start(FIRST), {"epochs": 0.0})
        votes = np.stack([_votes(run, model, FIRST, images), second], axis=1)
        front = cascade_front(votes, images.labels.numpy(), (FIRST, SECOND), radii=RADII, alpha=ALPHA)
        rows += [
            {"arm": arm, "epochs": how["epochs"], "asked": asked} | _curve(front, cascade)
            for asked, cascade in (("alone", ALONE), ("first", BEHIND))
        ]
        replace_text(path, pd.DataFrame(rows).round(6).to_csv(lineterminator="\n", index=False))
    record = {"seconds": SIZE.trial, "images": len(images), "draws": SIZE.judge, "counts": SIZE.counts}
    replace_json(run.out / "handed.json", record | {"provenance": describe(run.device)})
    found = pd.DataFrame(rows)
    print(found.round(3).to_string(index=False))
    return found


def _votes(run: Run, model: Classifier, sigma: float, images: Images) -> NDArray[np.int64]:
    how = {"classes": len(images.classes), "device": run.device}
    how |= {"dtype": run.sampling.dtype, "fast": run.sampling.fast}
    voter = freeze(model, GridNoise(sigma), images.shape, **how)  # type: ignore[arg-type]
    return count_images(voter, images, n=run.size.judge, seed=SEED, stream="handed", device=run.device)


def _curve(front: CascadeFront, cascade: Cascade) -> dict[str, float]:
    # as if the shares of votes had come of the draws of a certification
    reached = front.curves[front.cascades.index(cascade)]
    return {f"{r:g}": float(share) for r, share in zip(RADII, reached, strict=True)}


if __name__ == "__main__":
    main()
