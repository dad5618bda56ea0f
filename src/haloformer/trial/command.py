"""`try`: the images that come with the package, fitted, drawn and classified, without any training."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from haloformer.trial.run import TrialSummary


def try_out(*, out: str = "haloformer-try") -> "TrialSummary":
    """Fits, draws and classifies images that come with the package: what it does, in a minute or two.

    The first is a lens as HST sees it, simulated (survey hst, the lens galaxy's light in the image), with its noise map and point-spread
    function. From the image alone the fit finds the lens's mass and light, and the source. The others are simulated images of Model I,
    one of each class, which the network that comes with the package classifies. It does not know HST: asked all the same,
    it says that the first image is out of distribution. The folder holds the images, ``fit/`` (fit.png, fit.html, fit.json, fit.fits)
    and ``predictions.csv``. Once more, the folder is written anew; a call that was ended goes on where it was.

    Args:
        out: Folder to write.
    """
    from haloformer.trial.run import carry_out

    return carry_out(out)
