"""Denoised smoothing (Salman et al. 2020): any classifier behind a denoiser is one network to certify.

The pair h(x) = f(D(x)) is smoothed as it stands, so its certificate is that of any smoothed classifier and
needs nothing of D: a poor denoiser costs votes, never validity. Images are in [0, 1] pixel units before and
after the denoiser; what it gives back is not clipped, unless it clips itself.
"""

from torch import Tensor, nn

from dualrs_lab.models.suited import MadeFor

__all__ = ["Behind"]


class Behind(nn.Module):
    """`classifier` of what `denoiser` makes of an image: (B, C, H, W) in pixel units -> logits.

    In evaluation mode when both are; gradients flow through both. Its classes are those of the classifier.
    """

    made_for: MadeFor | None

    def __init__(self, denoiser: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.classifier = denoiser, classifier
        self.made_for = getattr(classifier, "made_for", None)
        self.train(denoiser.training and classifier.training)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.denoiser(x))
        return logits
