"""Classify lens images with an exported model and ONNX Runtime alone: neither PyTorch nor haloformer is needed.

haloformer export model_i --out model_i.onnx
python examples/onnx_inference.py model_i.onnx a.npy b.fits
"""

import json
import sys

import numpy as np
import onnxruntime


def read(path: str) -> np.ndarray:
    if path.endswith((".fits", ".fits.gz")):
        from astropy.io import fits

        return fits.getdata(path)
    return np.load(path)


def main(model: str, *paths: str) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    names, shape = json.loads(facts["class_names"]), json.loads(facts["image_shape"])
    images = np.stack(
        [np.asarray(read(path), np.float32).reshape(shape) for path in paths]
    )  # as they are, in the survey's units
    answers = dict(
        zip([o.name for o in session.get_outputs()], session.run(None, {"images": images}))
    )
    for i, path in enumerate(paths):
        classes = [
            f"p_{name} {p:.4f}"
            for name, p in zip(names, answers.get("probabilities", [[]] * len(paths))[i])
        ]
        targets = [
            f"{name} {answers['mean'][i, t]:.3f} ({answers['low'][i, t]:.3f} – {answers['high'][i, t]:.3f})"
            for t, name in enumerate(json.loads(facts["targets"]))
        ]
        print(path, *classes, *targets, sep="  ")


if __name__ == "__main__":
    main(*sys.argv[1:])
