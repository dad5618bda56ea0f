"""Shows what the answer for one image rests on: a page of pictures, whose name is printed.

python examples/explain_prediction.py lens.fits why      an image of yours
python examples/explain_prediction.py                    simulates one first
"""

import sys

from classify_fits import simulated

from haloformer.errors import InputError
from haloformer.explanation import explain


def main(file: str | None = None, out: str = "why", run: str = "model_i") -> None:
    # attention needs nothing else; gradcam and integrated_gradients need pip install '.[explain]'.
    shown = explain(run, [file or simulated()], out=out, methods="attention", overwrite=True)
    for warning in shown["warnings"]:
        print(f"warning: {warning}")
    print(f"open {shown['page']}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except InputError as error:
        sys.exit(f"error: {error}")
