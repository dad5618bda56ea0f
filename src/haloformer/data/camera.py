"""The camera that an image brings along, where it is not that of a survey."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class ImageCamera:
    """What the smooth fit of an image needs to know of its camera.

    Attributes:
        psf: (odd, odd) point-spread function; None: the survey's.
        noise_map: (H, W) standard deviation of the noise, in the image's unit; None: as the survey says.
        psf_oversampling: Pixels of ``psf`` per side of one of the image.
    """

    psf: np.ndarray | None = None
    noise_map: np.ndarray | None = None
    psf_oversampling: int = 1

    def goes_with(self, other: "ImageCamera") -> bool:
        """Tells whether images of both can be fitted together."""
        same = self.psf is other.psf and self.psf_oversampling == other.psf_oversampling
        return same and (self.noise_map is None) == (other.noise_map is None)
