"""The published layout of DeepLense's steerable networks, built from escnn's layers.

The layout is that of ML4SCI/DeepLense, ``Equivariant_Neural_Networks_for_DeepLense_Apoorva_Singh`` (which follows escnn's
MNIST example), with the changes that docs/models/networks.md names: maps keep their size, no mask, no last blur, and an
average over the image instead of one weight per pixel. At odd sizes pooling is theirs, too.
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

REPOSITORY = "https://github.com/QUVA-Lab/escnn"
COMMIT = "9ad44cc37d694d9c805c4fef4d16722a254b3bf2"
VARIANTS = tuple(f"equivariant_{group}_deeplense_129" for group in ("c4", "c8", "d4", "d8"))
IMG_SIZE = dict.fromkeys(VARIANTS, 33)  # 129 would take minutes


def import_escnn(folder: Path) -> types.ModuleType:
    """Imports the clone without its dependencies for groups in three dimensions."""
    for name in ("lie_learn", "lie_learn.representations", "lie_learn.representations.SO3"):
        sys.modules[name] = types.ModuleType(name)
    wigner = types.ModuleType("lie_learn.representations.SO3.wigner_d")
    wigner.wigner_D_matrix = None  # type: ignore[attr-defined]
    sys.modules[wigner.__name__] = wigner
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    import escnn
    import escnn.group._numerical as numerical

    decompose = numerical.randomized_svd
    if decompose is not None:  # scikit-learn no longer takes the np.matrix that escnn hands it
        numerical.randomized_svd = lambda matrix, **options: decompose(
            np.asarray(matrix), **options
        )
    return escnn


class Conv(nn.Module):
    """One of escnn's convolutions, whose state dict shows the filters, as escnn's does in evaluation mode."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.weights = conv.weights
        self.inner = (conv,)  # not registered: its tables are no weights

    def forward(self, fields):
        """Takes a GeometricTensor of escnn's to another."""
        return self.inner[0](fields)

    def _save_to_state_dict(
        self, destination: dict[str, Tensor], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        with torch.no_grad():
            destination[prefix + "filter"] = self.inner[0].expand_parameters()[0]


class Network(nn.Module):
    """Six convolutions, two poolings, two fully connected layers."""

    def __init__(
        self, escnn: types.ModuleType, group: str, in_chans: int = 3, num_classes: int = 1000
    ) -> None:
        super().__init__()
        spaces, layers = escnn.gspaces, escnn.nn
        space = (spaces.flipRot2dOnR2 if group[0] == "d" else spaces.rot2dOnR2)(N=int(group[1:]))
        before = self.input_type = layers.FieldType(space, in_chans * [space.trivial_repr])
        pools = {}
        for number, fields in enumerate((24, 48, 48, 96, 96, 64), start=1):
            after = layers.FieldType(space, fields * [space.regular_repr])
            size = 7 if number == 1 else 5
            conv = layers.R2Conv(before, after, size, padding=size // 2, bias=False)
            parts = (Conv(conv), layers.InnerBatchNorm(after), layers.ReLU(after))
            setattr(self, f"block{number}", nn.Sequential(*parts))
            if number in (2, 4):
                pools[number] = layers.PointwiseAvgPoolAntialiased(after, sigma=0.66, stride=2)
            before = after
        self.pools = (pools,)  # not registered: a fixed blur
        self.group_pool = layers.GroupPooling(before)
        hidden = (nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ELU())
        self.fully_net = nn.Sequential(*hidden, nn.Linear(64, num_classes))
        self.wrap = layers.GeometricTensor

    def features(self, images: Tensor) -> Tensor:
        """Returns the invariant features (B, 64)."""
        fields = self.wrap(images, self.input_type)
        for number in range(1, 7):
            fields = getattr(self, f"block{number}")(fields)
            if number in self.pools[0]:
                fields = self.pools[0][number](fields)
        return self.group_pool(fields).tensor.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Returns the logits (B, num_classes)."""
        return self.fully_net(self.features(images))


def build(folder: Path, variant: str) -> nn.Module:
    return Network(import_escnn(folder), variant.split("_")[1])
