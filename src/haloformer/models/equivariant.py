"""Convolutional networks that are equivariant under rotations and reflections: C4, C8, D4, D8.

Cohen & Welling 2016, "Group Equivariant Convolutional Networks" (https://arxiv.org/abs/1602.07576);
Weiler & Cesa 2019, "General E(2)-Equivariant Steerable CNNs" (https://arxiv.org/abs/1911.08251).

A lens has no preferred orientation: a rotated or mirrored picture shows the same dark matter. Here
that is built in. A feature is a *regular field*: one map per element of the group. If the image is
rotated by an element g, each map is rotated and the maps of a field change places, h → gh; the
largest of them at each pixel, averaged over the image, does not change at all, and that is what the
classifier sees. Of F fields all the maps of one element lie together: channel h·F + f.

A filter is a sum of basis filters, each of which is tabulated in all its orientations, so that one
table of numbers per layer (``filter_basis``) holds everything that distinguishes the groups. For
quarter turns the basis may be the single pixels; for 45° it must be one that can be rotated:
circular harmonics on Gaussian rings.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from haloformer.errors import InputError
from haloformer.models.backbone import Backbone, build, linear_head, weights_cfg
from haloformer.models.info import ModelInfo, Size

Basis = Literal["pixels", "rings"]


@dataclass(frozen=True)
class Group:
    """The rotations by multiples of 360°/n about the origin (Cn) or these and n reflections (Dn).

    The element of number ``m·n + r`` mirrors the image left to right if m = 1 and then turns it
    counter-clockwise by 360°·r/n.

    Attributes:
        rotations: n.
        reflections: Whether the group has reflections.
    """

    rotations: int
    reflections: bool = False

    @property
    def order(self) -> int:
        """Number of elements |G|."""
        return self.rotations * (1 + self.reflections)

    def compose(self, g: Any, h: Any) -> Any:
        """Returns the number of the element that does h and then g; numbers or arrays of them."""
        n = self.rotations
        (flip_g, turn_g), (flip_h, turn_h) = np.divmod(g, n), np.divmod(h, n)
        # A reflection turns the sense of the rotations that follow it around.
        return (flip_g + flip_h) % 2 * n + (turn_g + (1 - 2 * flip_g) * turn_h) % n

    def inverse(self, g: Any) -> Any:
        """Returns the number of the inverse; reflections are their own."""
        flip, turn = np.divmod(g, self.rotations)
        return np.where(flip == 1, g, -turn % self.rotations)

    def shifts(self) -> np.ndarray:
        """Returns (|G|, |G|): the number of g⁻¹h."""
        elements = np.arange(self.order)
        numbers: np.ndarray = self.compose(self.inverse(elements)[:, None], elements[None, :])
        return numbers

    def on_pixels(self, maps: Tensor, g: int) -> Tensor:
        """Mirrors and turns maps (…, H, W) by an element that sends pixels to pixels.

        Raises:
            InputError: The element turns by something else than quarter turns.
        """
        flip, turn = divmod(g, self.rotations)
        quarters, rest = divmod(4 * turn, self.rotations)
        if rest:
            raise InputError(
                f"a rotation by {360 * turn / self.rotations:g}° does not send pixels to pixels"
            )
        return torch.rot90(maps.flip(-1) if flip else maps, quarters, (-2, -1))

    def on_fields(self, maps: Tensor, g: int) -> Tensor:
        """Applies the same element to fields (B, |G|·F, H, W).

        Turns each map and moves it to its new place.
        """
        sources = self.compose(self.inverse(g), np.arange(self.order))
        out: Tensor = (
            self.on_pixels(maps, g)
            .unflatten(1, (self.order, -1))[:, torch.from_numpy(sources)]
            .flatten(1, 2)
        )
        return out


GROUPS = {
    "c4": Group(4),
    "c8": Group(8),
    "d4": Group(4, reflections=True),
    "d8": Group(8, reflections=True),
}


def filter_basis(group: Group, kernel_size: int, basis: Basis) -> Tensor:
    """Returns the basis filters in every orientation.

    (|G|, K, k, k), of which [g] is [0] rotated by g.

    Args:
        group: Of order |G|.
        kernel_size: k, odd.
        basis: ``pixels``: K = k², for quarter turns only. ``rings``: circular harmonics on Gaussian
            rings of radius 0, 1, …, ⌊k/2⌋ pixels, at angular frequencies low enough for the pixels
            to resolve them, so that K = 1, 6, 11 and 18 for k = 1, 3, 5 and 7. Rings, widths and
            frequencies are the defaults of escnn 1.0.11, whose filters are thus exactly these.
    """
    if kernel_size % 2 == 0:
        raise InputError(f"equivariant filters have an odd kernel_size, not {kernel_size}")
    if basis == "pixels":
        if 4 % group.rotations:
            raise InputError(
                f"basis 'pixels' has no rotations by {360 / group.rotations:g}°; use 'rings'"
            )
        pixels = torch.eye(kernel_size**2).unflatten(1, (kernel_size, kernel_size))
        return torch.stack([group.on_pixels(pixels, g) for g in range(group.order)])
    if basis != "rings":
        raise InputError(f"basis must be 'pixels' or 'rings', not '{basis}'")
    outermost = kernel_size // 2
    columns, rows = np.meshgrid(
        np.arange(kernel_size) - outermost, np.arange(kernel_size) - outermost
    )
    radius, angle = (
        np.hypot(columns, rows),
        np.arctan2(-rows, columns),
    )  # counter-clockwise in the displayed image
    flip, turn = np.divmod(np.arange(group.order)[:, None, None], group.rotations)
    # [g](x) = [0](g⁻¹x): the angle before the turn, and before the reflection.
    angles = angle - 2 * np.pi * turn / group.rotations
    angles = np.where(flip == 1, np.pi - angles, angles)
    filters = []
    for ring in range(outermost + 1):
        # The centre pixel alone; wide rings inside; a narrow outermost one, as the square cuts it
        # off.
        width = 0.005 if ring == 0 else 0.4 if ring == outermost else 0.6
        highest = 0 if ring == 0 else 2 if ring == outermost else 2 * ring - (ring + 1) % 2
        profile = np.exp(-((radius - ring) ** 2) / (2 * width**2))
        filters.append(np.broadcast_to(profile, angles.shape))
        around = np.where(radius > 0, profile, 0)  # the centre has no angle
        for frequency in range(1, highest + 1):
            filters += [around * np.cos(frequency * angles), around * np.sin(frequency * angles)]
    stacked = np.stack(filters, axis=1)
    norms = np.sqrt((stacked[:1] ** 2).sum((2, 3), keepdims=True))
    return torch.tensor(stacked / norms, dtype=torch.float32)


class GroupConv2d(nn.Module):
    """A convolution from fields to fields, or from an image to fields.

    Ordinary channels in which filters are tied.

    The filter from map h of a field to map g of another is that from map g⁻¹h to map e, rotated by
    g.

    Args:
        in_fields: Fields of the input; channels, if ``lifting``.
        out_fields: Fields of the output.
        group: The group G.
        kernel_size: Side of the filters; maps keep their size.
        basis: See :func:`filter_basis`.
        lifting: Whether the input is an image, whose channels are no fields but scalars.
    """

    def __init__(
        self,
        in_fields: int,
        out_fields: int,
        group: Group,
        kernel_size: int,
        basis: Basis,
        lifting: bool = False,
    ) -> None:
        super().__init__()
        basis_filters = filter_basis(group, kernel_size, basis)
        orientations, size = (1 if lifting else group.order), basis_filters.shape[1]
        self.weight = nn.Parameter(torch.empty(out_fields, in_fields, orientations, size))
        self.register_buffer("basis", basis_filters, persistent=False)
        # Rows of a table (F_out·|H|, F_in·K) in the order in which the filters need them, (g, o, h)
        # → (o, g⁻¹h).
        shifts = torch.tensor(
            group.shifts() if not lifting else np.zeros((group.order, 1), dtype=int)
        )
        rows = torch.arange(out_fields)[None, :, None] * orientations + shifts[:, None, :]
        self.register_buffer("rows", rows.flatten(), persistent=False)
        # He et al. 2015: the basis filters are of norm 1, so that a filter's expected square is K
        # times a weight's.
        nn.init.normal_(self.weight, std=(2 / (in_fields * orientations * size)) ** 0.5)

    basis: Tensor
    rows: Tensor

    def filters(self) -> Tensor:
        """Returns ordinary filters (|G|·F_out, |G|·F_in, k, k).

        (|G|·F_out, C, k, k) when lifting.
        """
        order, size, side, _ = self.basis.shape
        out_fields, in_fields, orientations, _ = self.weight.shape
        table = self.weight.transpose(1, 2).reshape(out_fields * orientations, in_fields * size)
        tied = table.index_select(0, self.rows).reshape(order, -1, size)  # (g, o·h·i, K)
        filters = torch.bmm(tied, self.basis.flatten(2))
        return filters.reshape(order * out_fields, orientations * in_fields, side, side)

    def forward(self, maps: Tensor) -> Tensor:
        """Takes (B, |G|·F_in, H, W) to (B, |G|·F_out, H, W)."""
        return F.conv2d(maps, self.filters(), padding=self.basis.shape[-1] // 2)


class FieldNorm(nn.BatchNorm2d):
    """Batch normalisation with one mean, variance, scale and shift for the |G| maps of a field."""

    def forward(self, maps: Tensor) -> Tensor:
        """Takes (B, |G|·F, H, W)."""
        batch = maps.shape[0]
        # The maps of an element are as good as another image.
        return (
            super()
            .forward(maps.reshape(-1, self.num_features, *maps.shape[2:]))
            .reshape(batch, -1, *maps.shape[2:])
        )


class Downsample(nn.Module):
    """Halves maps after a Gaussian blur, symmetrically: what is left is equivariant at every size.

    A stride of 2 keeps the even rows. Of an odd number these lie symmetrically about the middle; of
    an even number they do not, but the places between rows 0 and 1, 2 and 3, … do, and a blur with
    an even number of taps is centred there.

    Args:
        sigma: Standard deviation of the Gaussian in pixels.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        for name, taps in (("odd", torch.arange(-2.0, 3.0)), ("even", torch.arange(-1.5, 2.0))):
            weights = torch.exp(-(taps**2) / (2 * sigma**2))
            self.register_buffer(name, weights / weights.sum(), persistent=False)

    odd: Tensor
    even: Tensor

    def forward(self, maps: Tensor) -> Tensor:
        """Takes (B, C, H, W) to (B, C, ⌈H/2⌉, ⌈W/2⌉)."""
        vertical, horizontal = (self.odd if side % 2 else self.even for side in maps.shape[-2:])
        blur = (vertical[:, None] * horizontal).expand(maps.shape[1], 1, -1, -1)
        padding = ((len(vertical) - 1) // 2, (len(horizontal) - 1) // 2)
        return F.conv2d(maps, blur.to(maps.dtype), stride=2, padding=padding, groups=maps.shape[1])


class ConvBlock(nn.Module):
    """Group convolution, normalisation, ReLU; maps may be halved before.

    Args:
        in_fields: Fields of the input; channels, if ``lifting``.
        out_fields: Fields of the output.
        group: The group.
        kernel_size: Side of the filters.
        basis: See :func:`filter_basis`.
        downsample: Halves the maps, or the identity.
        lifting: Whether the input is an image.
    """

    def __init__(
        self,
        in_fields: int,
        out_fields: int,
        group: Group,
        kernel_size: int,
        basis: Basis,
        downsample: nn.Module,
        lifting: bool = False,
    ) -> None:
        super().__init__()
        self.downsample = downsample
        self.conv = GroupConv2d(in_fields, out_fields, group, kernel_size, basis, lifting)
        self.norm = FieldNorm(out_fields)

    def forward(self, maps: Tensor) -> Tensor:
        """Takes (B, |G|·F_in, H, W) to (B, |G|·F_out, H, W), or half of it."""
        out: Tensor = self.norm(self.conv(self.downsample(maps))).relu()
        return out


class ResidualBlock(nn.Module):
    """The basic block of a ResNet with group convolutions; maps may be halved before.

    Args:
        in_fields: Fields of the input.
        out_fields: Fields of the output; the shortcut is a 1×1 group convolution if they differ
            from the input's.
        group: The group.
        kernel_size: Side of the filters.
        basis: See :func:`filter_basis`.
        downsample: Halves the maps, or the identity.
        drop_path: Stochastic depth.
    """

    def __init__(
        self,
        in_fields: int,
        out_fields: int,
        group: Group,
        kernel_size: int,
        basis: Basis,
        downsample: nn.Module,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.downsample = downsample
        self.conv1 = GroupConv2d(in_fields, out_fields, group, kernel_size, basis)
        self.norm1 = FieldNorm(out_fields)
        self.conv2 = GroupConv2d(out_fields, out_fields, group, kernel_size, basis)
        self.norm2 = FieldNorm(out_fields)
        self.shortcut: nn.Module = nn.Identity()
        if in_fields != out_fields:
            pointwise = GroupConv2d(in_fields, out_fields, group, 1, basis)
            self.shortcut = nn.Sequential(pointwise, FieldNorm(out_fields))
        self.drop_path = DropPath(drop_path)

    def forward(self, maps: Tensor) -> Tensor:
        """Takes (B, |G|·F_in, H, W) to (B, |G|·F_out, H, W), or half of it."""
        maps = self.downsample(maps)
        branch = self.norm2(self.conv2(self.norm1(self.conv1(maps)).relu()))
        out: Tensor = (self.shortcut(maps) + self.drop_path(branch)).relu()
        return out


class EquivariantCNN(Backbone):
    """A convolutional network whose logits do not change when its image is rotated or mirrored.

    ``forward_features`` returns fields (B, |G|·F, h, w), which turn and change places with the
    image; ``forward_head`` takes the maximum over each field's |G| maps and averages it over the
    image. Every size works, and none is padded.

    Args:
        img_size: Height and width in pixels; any will do.
        in_chans: Channels of the images.
        num_classes: Length of the output.
        group: ``c4``, ``c8``, ``d4`` or ``d8``.
        basis: Of the filters: ``pixels`` (C4 and D4 only) or ``rings``, see :func:`filter_basis`.
        stem_fields: Fields of the first convolution.
        stem_kernel_size: Side of its filters.
        fields: Fields of each block after it.
        strides: 1, or 2 to halve the maps before the block.
        kernel_size: Side of the blocks' filters, or one for each block.
        residual: Whether the blocks are residual ones of two convolutions, or single convolutions.
        blur: Standard deviation of the Gaussian before maps are halved, in pixels.
        head_fields: Fields that a last 1×1 group convolution makes of the last block's; 0 for none.
        head_hidden: Width of a hidden layer of the classifier; 0 for none.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last residual block; the first has none.
        global_pool: ``avg``, or empty to leave the fields as they are.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 129,
        in_chans: int = 3,
        num_classes: int = 1000,
        group: str = "c8",
        basis: Basis = "rings",
        stem_fields: int = 24,
        stem_kernel_size: int = 7,
        fields: tuple[int, ...] = (48, 48, 96, 96, 64),
        strides: tuple[int, ...] = (1, 2, 1, 2, 1),
        kernel_size: int | tuple[int, ...] = 5,
        residual: bool = False,
        blur: float = 0.66,
        head_fields: int = 0,
        head_hidden: int = 64,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        if group not in GROUPS:
            raise InputError(f"group must be one of {', '.join(GROUPS)}, not '{group}'")
        kernel_sizes = (kernel_size,) * len(fields) if isinstance(kernel_size, int) else kernel_size
        if not len(fields) == len(strides) == len(kernel_sizes) or not set(strides) <= {1, 2}:
            raise InputError(
                "equivariant networks take one stride of 1 or 2 and one kernel_size for each of fields"
            )
        self.group = symmetry = GROUPS[group]
        self.num_classes, self.global_pool = num_classes, global_pool
        self.stem = ConvBlock(
            in_chans, stem_fields, symmetry, stem_kernel_size, basis, nn.Identity(), lifting=True
        )
        rates = torch.linspace(0, drop_path_rate, len(fields), device="cpu").tolist()
        blocks: list[nn.Module] = []
        before = stem_fields
        for after, stride, side, rate in zip(fields, strides, kernel_sizes, rates, strict=True):
            downsample = Downsample(blur) if stride == 2 else nn.Identity()
            if residual:
                blocks.append(ResidualBlock(before, after, symmetry, side, basis, downsample, rate))
            else:
                blocks.append(ConvBlock(before, after, symmetry, side, basis, downsample))
            before = after
        self.blocks = nn.ModuleList(blocks)
        self.final: nn.Module = nn.Identity()
        if head_fields:
            self.final = ConvBlock(before, head_fields, symmetry, 1, basis, nn.Identity())
        invariants = head_fields or before
        self.num_features = invariants * symmetry.order
        self.hidden: nn.Module = nn.Identity()
        if head_hidden:
            linear = nn.Linear(invariants, head_hidden)
            self.hidden = nn.Sequential(linear, nn.BatchNorm1d(head_hidden), nn.ELU())
        self._head_width = head_hidden or invariants
        self.head_drop = nn.Dropout(drop_rate)
        self.head = linear_head(self.head_hidden_size, num_classes)

    @property
    def head_hidden_size(self) -> int:
        """Width of what the classifier is given."""
        return self._head_width

    def trunk(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Returns the fields (B, |G|·F, h, w); see the base class."""
        features = self.stem(images)
        for block in self.blocks:
            features = self.run(block, features)
            if maps is not None:
                maps.append(features)
        out: Tensor = self.final(features)
        return out

    def pool(self, features: Tensor) -> Tensor:
        """Returns what does not change with the orientation, (B, F) or (B, head_hidden)."""
        if not self.global_pool:
            return features
        out: Tensor = self.hidden(
            features.unflatten(1, (self.group.order, -1)).amax(1).mean((2, 3))
        )
        return out

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns the patterns of parameter names by which timm forms layers."""
        return {
            "stem": r"^stem",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^final|^hidden", (99999,))],
        }


# Of the published networks: blocks are numbered from 1, their modules by place, norms named after
# the size of a field.
_OFFICIAL_BLOCK = re.compile(r"block(\d+)\.\d+\.(?:(filter)|batch_norm_\[\d+\]\.(\w+))$")
_OFFICIAL_HEAD = {"fully_net.0.": "hidden.0.", "fully_net.1.": "hidden.1.", "fully_net.3.": "head."}
# What follows from the filters and the group.
_RECOMPUTED = re.compile(r"\.(?:weights|sampled_basis|mask|(?:\w+_)?indices_\d+)$")


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Converts the weights of a steerable network of the published layout; our own pass unchanged.

    The packages escnn and e2cnn write filters as such only in evaluation mode (``block1.1.filter``). Ours are
    the coefficients that make the same filters.

    Raises:
        InputError: The weights were saved in training mode, or belong to another group or basis.
    """
    if not any(key.startswith("block1.") for key in state_dict):
        return state_dict
    if not any(key.endswith(".filter") for key in state_dict):
        raise InputError(
            "the steerable network was saved in training mode: call its eval() before state_dict()"
        )
    converted = {}
    for key, value in state_dict.items():
        if _RECOMPUTED.search(key):
            continue
        if match := _OFFICIAL_BLOCK.match(key):
            number, is_filter, statistic = int(match[1]), match[2], match[3]
            block = "stem" if number == 1 else f"blocks.{number - 2}"
            if is_filter:
                conv = model.get_submodule(f"{block}.conv")
                converted[f"{block}.conv.weight"] = _coefficients(key, value, conv)  # type: ignore[arg-type]
            else:
                converted[f"{block}.norm.{statistic}"] = value
            continue
        start = next((prefix for prefix in _OFFICIAL_HEAD if key.startswith(prefix)), "")
        converted[_OFFICIAL_HEAD.get(start, start) + key.removeprefix(start)] = value
    return converted


def _coefficients(key: str, filters: Tensor, conv: GroupConv2d) -> Tensor:
    """Returns a layer's weight (F_out, F_in, |H|, K) from escnn's (F_out·|G|, F_in·|H|, k, k)."""
    order, orientations = len(conv.basis), conv.weight.shape[2]
    upright = (
        filters.unflatten(0, (-1, order))[:, 0].unflatten(1, (-1, orientations)).flatten(3).double()
    )
    basis = conv.basis[0].flatten(1).double()
    if upright.shape[-1] != basis.shape[-1]:
        raise InputError(
            f"'{key}' has filters of {filters.shape[-1]}×{filters.shape[-1]} pixels, the model others"
        )
    weight = upright @ torch.linalg.pinv(basis)
    if (weight @ basis - upright).abs().max() > 1e-4 * upright.abs().max():
        raise InputError(f"the filters '{key}' are not sums of the model's basis filters")
    out: Tensor = weight.to(filters.dtype)
    return out


default_cfgs = generate_default_cfgs(
    {
        f"equivariant_{group}_{size}": weights_cfg(129, first_conv="stem.conv")
        for group in GROUPS
        for size in ("nano", "tiny", "deeplense_129")
    }
)

# Pixels are the largest basis and the cheapest to convolve, but turn by 90° only. A blur of one
# pixel costs little detail and halves what aliasing adds to the error at 45°.
_PIXELS: dict[str, Any] = {
    "basis": "pixels",
    "stem_kernel_size": 5,
    "kernel_size": 3,
    "blur": 1.0,
    "head_hidden": 0,
}
_RINGS: dict[str, Any] = {**_PIXELS, "basis": "rings", "kernel_size": 5}
_NANO: dict[str, Any] = {"strides": (2, 2, 1, 2, 1), "head_fields": 64}
_TINY: dict[str, Any] = {"strides": (2, 2, 2, 2, 1), "head_fields": 512, "residual": True}
_TINY_RINGS: dict[str, Any] = {
    **_RINGS,
    **_TINY,
    "kernel_size": (5, 5, 5, 3, 3),
}  # 5×5 would fill the last maps


def _network(name: str, pretrained: bool, kwargs: dict[str, Any], **numbers: Any) -> EquivariantCNN:
    return build(EquivariantCNN, name, pretrained, checkpoint_filter_fn, **{**numbers, **kwargs})


@register_model
def equivariant_c4_nano(pretrained: bool = False, **kwargs: Any) -> EquivariantCNN:
    """Rotations by 90°; six convolutions, stride 8."""
    numbers = {**_PIXELS, **_NANO, "group": "c4", "stem_fields": 8, "fields": (12, 24, 24, 40, 40)}
    return _network("equivariant_c4_nano", pretrained, kwargs, **numbers)


@register_model
def equivariant_d4_nano(pretrained: bool = False, **kwargs: Any) -> EquivariantCNN:
    """Rotations by 90° and reflections; six convolutions, stride 8."""
    numbers = {**_PIXELS, **_NANO, "group": "d4", "stem_fields": 4, "fields": (8, 16, 16, 24, 24)}
    return _network("equivariant_d4_nano", pretrained, kwargs, **numbers)


@register_model
def equivariant_c8_nano(pretrained: bool = False, **kwargs: Any) -> EquivariantCNN:
    """Rotations by 45°; six convolutions, stride 8."""
    numbers = {**_RINGS, **_NANO, "group": "c8", "stem_fields": 4, "fields": (6, 12, 12, 16, 16)}
    return _network("equivariant_c8_nano", pretrained, kwargs, **numbers)


@register_model
def equivariant_d8_nano(pretrained: bool = False, **kwargs: Any) -> EquivariantCNN:
    """Rotations by 45° and reflections; six convolutions, stride 8."""
    numbers = {**_RINGS, **_NANO, "group": "d8", "stem_fields": 2, "fields": (4, 6, 6, 10, 10)}
    return _network("equivariant_d8_nano", pretrained, kwargs, **numbers)


@register_model
def equivariant_c4_tiny(pretrained: bool = False, **kwargs: Any) -> EquivariantCNN:
    """Rotations by 90°; five residual blocks, stride 16."""
    numbers = {
        **_PIXELS,
        **_TINY,
        "group": "c4",
        "stem_fields": 8,
        "fields": (12, 24, 64, 170, 170),
    }
    return _network("equivariant_c4_tiny", pretrained, kwargs, **numbers)


@register_model
def equivariant_d4_tiny(pretrained: bool = False, **kwargs: Any) -> EquivariantCNN:
    """Rotations by 90° and reflections; five residual blocks, stride 16."""
    numbers = {**_PIXELS, **_TINY, "group": "d4", "stem_fields": 4, "fields": (8, 16, 40, 120, 120)}
    return _network("equivariant_d4_tiny", pretrained, kwargs, **numbers)


@register_model
def equivariant_c8_tiny(pretrained: bool = False, **kwargs: Any) -> EquivariantCNN:
    """Rotations by 45°; five residual blocks, stride 16."""
    numbers = {**_TINY_RINGS, "group": "c8", "stem_fields": 4, "fields": (6, 16, 32, 150, 150)}
    return _network("equivariant_c8_tiny", pretrained, kwargs, **numbers)


@register_model
def equivariant_d8_tiny(pretrained: bool = False, **kwargs: Any) -> EquivariantCNN:
    """Rotations by 45° and reflections; five residual blocks, stride 16."""
    numbers = {**_TINY_RINGS, "group": "d8", "stem_fields": 2, "fields": (3, 10, 24, 100, 100)}
    return _network("equivariant_d8_tiny", pretrained, kwargs, **numbers)


@register_model
def equivariant_c4_deeplense_129(pretrained: bool = False, **kwargs: Any) -> EquivariantCNN:
    """Rotations by 90°; the layout of DeepLense's network, which the class has by default."""
    return _network("equivariant_c4_deeplense_129", pretrained, kwargs, group="c4")


@register_model
def equivariant_d4_deeplense_129(pretrained: bool = False, **kwargs: Any) -> EquivariantCNN:
    """Rotations by 90° and reflections; the layout of DeepLense's network."""
    return _network("equivariant_d4_deeplense_129", pretrained, kwargs, group="d4")


@register_model
def equivariant_c8_deeplense_129(pretrained: bool = False, **kwargs: Any) -> EquivariantCNN:
    """Rotations by 45°; the layout of DeepLense's network."""
    return _network("equivariant_c8_deeplense_129", pretrained, kwargs, group="c8")


@register_model
def equivariant_d8_deeplense_129(pretrained: bool = False, **kwargs: Any) -> EquivariantCNN:
    """Rotations by 45° and reflections; the layout of DeepLense's network."""
    return _network("equivariant_d8_deeplense_129", pretrained, kwargs, group="d8")


def _info(group: str, size: Size, notes: str) -> ModelInfo:
    paper = (
        "General E(2)-Equivariant Steerable CNNs (arXiv:1911.08251)"
        if group.endswith("8") or size == "paper"
        else "Group Equivariant Convolutional Networks (arXiv:1602.07576)"
    )
    name = f"equivariant_{group}_{'deeplense_129' if size == 'paper' else size}"
    return ModelInfo(
        name, f"{group.upper()} CNN", paper, name, notes, source="haloformer", size=size
    )


_SYMMETRY = {
    "c4": "turning the image by 90° changes nothing",
    "d4": "turning the image by 90° or mirroring it changes nothing",
    "c8": "turning by 90° changes nothing, by 45° little",
    "d8": "turning by 90° or mirroring changes nothing, turning by 45° little",
}
_SIZES: dict[Size, str] = {
    "nano": "",
    "tiny": "; wide, for a GPU",
    "paper": "; DeepLense's layout, for a GPU",
}
MODELS: tuple[ModelInfo, ...] = tuple(
    _info(group, size, _SYMMETRY[group] + remark)
    for group in _SYMMETRY
    for size, remark in _SIZES.items()
)
