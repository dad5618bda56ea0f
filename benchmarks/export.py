"""Which networks can be exported: each, untrained, at 64×64 pixels, as ONNX, and its answers beside its own for batches of 1 and 5.

python benchmarks/export.py            # all of size nano
python benchmarks/export.py vit_nano cait_nano
python benchmarks/export.py --trace    # only torch.export, the first half of the way
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from haloformer.data.framing import Framing
from haloformer.data.normalization import Normalization
from haloformer.errors import InputError
from haloformer.models import create_model
from haloformer.models.registry import list_models
from haloformer.outputs.layout import Outputs
from haloformer.prediction.export import export_model
from haloformer.prediction.predictor import Predictor

SIZE, CLASSES = 64, ("axion", "cdm", "no_sub")


def untrained(name: str) -> Predictor:
    torch.manual_seed(0)
    model = create_model(name, img_size=SIZE, in_chans=1, num_classes=3).eval()
    description = {"model": {"name": name}}
    shape, cpu = (1, SIZE, SIZE), torch.device("cpu")
    return Predictor(
        model,
        Framing(),
        None,
        Normalization("image_max"),
        Outputs(CLASSES),
        None,
        shape,
        description,
        cpu,
    )


def difference(predictor: Predictor, folder: Path, trace: bool) -> float:
    """The largest difference of a probability."""
    if trace:
        out = export_model(predictor, folder / "x.pt2", format="torch_export", overwrite=True).out
        module = torch.export.load(out).module()
        answer = lambda x: module(x)[0].detach().numpy()  # noqa: E731
    else:
        import onnxruntime

        out = export_model(predictor, folder / "x.onnx", overwrite=True).out
        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        answer = lambda x: session.run(None, {"images": x.numpy()})[0]  # noqa: E731
    batches = [torch.rand(n, 1, SIZE, SIZE) for n in (1, 5)]
    return max(float(np.abs(answer(x) - predictor.probabilities(x).numpy()).max()) for x in batches)


if __name__ == "__main__":
    names = [name for name in sys.argv[1:] if name != "--trace"]
    with tempfile.TemporaryDirectory() as folder:
        for name in names or [info.name for info in list_models() if info.size == "nano"]:
            try:
                print(
                    f"{name:24} {difference(untrained(name), Path(folder), '--trace' in sys.argv):.1e}",
                    flush=True,
                )
            except InputError as error:
                print(f"{name:24} {error}", flush=True)
