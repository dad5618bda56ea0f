"""Classifies FITS files with the shipped model, read as `haloformer predict` reads them: another pixel scale is resampled.

python examples/classify_fits.py a.fits b.fits      files of yours
python examples/classify_fits.py                    simulates one, and writes it to simulated.fits first
"""

import sys

import haloformer
from haloformer.data.reader import find_inputs, read_images
from haloformer.errors import InputError


def simulated(path: str = "simulated.fits") -> str:
    from astropy.io import fits

    lens = haloformer.simulate("model_i", 1, classes=["cdm"], seed=2000)
    fits.writeto(path, lens.images[0, 0].numpy(), overwrite=True)
    return path


def main(*files: str, run: str = "model_i") -> None:
    predictor = haloformer.load(run, device="cpu")
    inputs = find_inputs(
        list(files) or [simulated()], keep_errors=True, channels=predictor.image_shape[0]
    )
    for (image,) in read_images(inputs, predictor.grid, batch_size=1):
        try:
            answers = predictor.answers(image.pixels[None])
        except InputError as error:
            print(f"{image.file}: {str(error).removeprefix(f'{image.file} ')}")
            continue
        told = ", ".join(
            f"{name} {p:.3f}" for name, p in zip(predictor.class_names, answers.probabilities[0])
        )
        why = f": {answers.reasons[0]}" if answers.flagged[0] else ""
        print(f"{image.file}: {told} – {answers.classes[0]}{why}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
