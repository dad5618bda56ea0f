"""CvT of its authors (the package einops must be installed). They publish the sizes in yaml files, which are read."""

import collections.abc
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import timm.layers
import yaml
from torch import nn

REPOSITORY = "https://github.com/microsoft/CvT"
COMMIT = "f851e681966390779b71380d2600b52360ff4fe1"
VARIANTS = ("cvt_13_224", "cvt_21_224", "cvt_w24_384")
IMG_SIZE = {"cvt_w24_384": 384}

_CONFIGS = {
    "cvt_13_224": "cvt-13-224x224",
    "cvt_21_224": "cvt-21-224x224",
    "cvt_w24_384": "cvt-w24-384x384",
}


def build(folder: Path, variant: str) -> nn.Module:
    # The file of 2021 imports two modules by names that they no longer have.
    six = ModuleType("torch._six")
    six.container_abcs = collections.abc  # type: ignore[attr-defined]
    sys.modules.update({"torch._six": six, "timm.models.layers": timm.layers})
    sys.path.insert(0, str(folder / "lib"))
    official = import_module("models.cls_cvt")
    config = yaml.safe_load(
        (folder / f"experiments/imagenet/cvt/{_CONFIGS[variant]}.yaml").read_text()
    )
    norm = partial(official.LayerNorm, eps=1e-5)
    return official.ConvolutionalVisionTransformer(
        act_layer=official.QuickGELU, norm_layer=norm, spec=config["MODEL"]["SPEC"]
    )
