"""Classifies FITS cutouts (150 × 150 pixels of 0.05 arcsec) with the shipped model.

python examples/classify_fits.py a.fits b.fits      cutouts of yours
python examples/classify_fits.py                    simulates one, and writes it to simulated.fits first
"""

import sys

import torch

import haloformer
from haloformer.data.images import read_image


def simulated(path: str = "simulated.fits") -> str:
    from astropy.io import fits

    lens = haloformer.simulate("model_i", 1, classes=["cdm"], seed=2000)
    fits.writeto(path, lens.images[0, 0].numpy(), overwrite=True)
    return path


def main(*files: str, run: str = "model_i") -> None:
    predictor = haloformer.load(run, device="cpu")
    for file in files or (simulated(),):
        image = torch.from_numpy(read_image(file))[None]
        probabilities = predictor.probabilities(image)[0].tolist()
        told = ", ".join(f"{name} {p:.3f}" for name, p in zip(predictor.class_names, probabilities))
        strange = predictor.ood(image)
        warning = (
            f" – but it is unlike the training's images: {strange.reasons[0]}"
            if strange and strange.flag[0]
            else ""
        )
        print(f"{file}: {told}{warning}")


if __name__ == "__main__":
    main(*sys.argv[1:])
