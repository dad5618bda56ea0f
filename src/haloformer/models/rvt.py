"""RVT and RVT*: a vision transformer put together from what makes one robust.

Mao et al. 2022, "Towards Robust Vision Transformer" (https://arxiv.org/abs/2105.07926). Patches
come from a small convolutional stem, feed-forward networks hold a depthwise convolution, nothing
depends on an absolute position, and the tokens are averaged instead of read from a class token.
RVT* adds two things:

- position-aware attention scaling: the logits of attention are multiplied by a learned number
  between 0 and 1 for each pair of places, so that a distant, noisy patch cannot win by its content
  alone;
- patch-wise augmentation: in training, each patch by itself may be cropped, made noisy or mirrored.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, to_2tuple
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from haloformer.errors import InputError
from haloformer.models.backbone import (
    Backbone,
    build,
    jit_ignore,
    linear_head,
    renamed,
    weights_cfg,
)
from haloformer.models.info import ModelInfo, Size
from haloformer.models.tokens import TokenLayout, global_layout


class RobustVisionTransformer(Backbone):
    """RVT, or RVT* where ``scaled_blocks`` is not 0.

    Args:
        img_size: Height and width in pixels; multiples of ``patch_size``.
        patch_size: Total stride of the stem in pixels, a multiple of 4.
        in_chans: Channels of the images.
        num_classes: Length of the output.
        embed_dims: Width of the tokens in each stage. Between stages the map is halved.
        depths: Blocks in each stage.
        num_heads: Attention heads in each stage.
        mlp_ratio: Width of a block's hidden layer over that of its tokens.
        conv_mlp: Whether feed-forward networks hold a depthwise convolution and batch norms. The
            official code leaves them out at the width of RVT-B.
        scaled_blocks: How many blocks of the first stage have position-aware attention scaling. It
            has a parameter for each pair of tokens and head, so it is made for one image size and
            resized for others.
        patch_augment: Probability of each of the three changes of :func:`patchwise_augment` for
            each patch, in training mode; the paper's is 0.1.
        global_pool: ``avg``, or empty to return the map.
        drop_rate: Dropout after the stem, attention and feed-forward layers.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth, rising linearly from 0 at the first block.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dims: tuple[int, ...] = (384,),
        depths: tuple[int, ...] = (12,),
        num_heads: tuple[int, ...] = (6,),
        mlp_ratio: float = 4.0,
        conv_mlp: bool = True,
        scaled_blocks: int = 0,
        patch_augment: float = 0.0,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if not len(embed_dims) == len(depths) == len(num_heads):
            raise InputError("rvt: embed_dims, depths and num_heads must be of the same length")
        self.num_classes, self.num_features, self.global_pool = (
            num_classes,
            embed_dims[-1],
            global_pool,
        )
        height, width = to_2tuple(img_size)
        self.grid_size = (height // patch_size, width // patch_size)
        self.augment = PatchwiseAugment(patch_size, patch_augment) if patch_augment else None
        self.patch_embed = Stem(in_chans, embed_dims[0], patch_size)
        self.pos_drop = nn.Dropout(drop_rate)
        self.stages, self.pools = nn.ModuleList(), nn.ModuleList()
        for stage, (dim, depth, heads) in enumerate(zip(embed_dims, depths, num_heads)):
            if stage > 0:
                before = embed_dims[stage - 1]
                self.pools.append(nn.Conv2d(before, dim, 3, stride=2, padding=1, groups=before))
            first = sum(depths[:stage])
            self.stages.append(
                nn.ModuleList(
                    Block(
                        dim,
                        heads,
                        mlp_ratio,
                        conv_mlp,
                        self.grid_size if stage == 0 and index < scaled_blocks else None,
                        drop_rate,
                        attn_drop_rate,
                        drop_path_rate * (first + index) / sum(depths),
                    )
                    for index in range(depth)
                )
            )
        self.norm = nn.LayerNorm(self.num_features, eps=1e-6)
        self.head = linear_head(self.num_features, num_classes)

    def trunk(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Returns the map (B, D, h, w) before pooling; ``maps`` gets those after each block."""
        if self.augment is not None:
            images = self.augment(images)
        features = self.pos_drop(self.patch_embed(images))
        for stage, blocks in enumerate(self.stages):
            if stage > 0:
                features = self.pools[stage - 1](features)
            grid = (features.shape[-2], features.shape[-1])
            tokens = features.flatten(2).transpose(1, 2)
            for block in blocks:  # type: ignore[attr-defined]
                tokens = self.run(block, tokens, grid)
                if maps is not None:
                    maps.append(tokens.transpose(1, 2).unflatten(2, grid))
            features = tokens.transpose(1, 2).unflatten(2, grid)
        out: Tensor = features
        return out

    def pool(self, features: Tensor) -> Tensor:
        """Returns the normalised mean (B, D) over the map.

        The paper normalises after averaging, not before.
        """
        return self.norm(super().pool(features)) if self.global_pool else features

    @jit_ignore
    def no_weight_decay(self) -> set[str]:
        """Returns the attention scalings: like position embeddings, they say where things are."""
        return {name for name, _ in self.named_parameters() if name.endswith("attn.scaling")}

    @jit_ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns the patterns of parameter names by which timm forms layers."""
        return {
            "stem": r"^patch_embed",
            "blocks": [
                (r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)", None),
                (r"^pools\.(\d+)", (99999,)),  # after all blocks of the stage before
                (r"^norm", (99999,)),
            ],
        }


class Stem(nn.Module):
    """Convolution and max pooling to a quarter of the size, then patches of that.

    The strange padding of the first layer is the paper's; the map is (H / patch_size, W /
    patch_size) all the same, and every pixel counts.
    """

    def __init__(self, in_chans: int, embed_dim: int, patch_size: int, width: int = 32) -> None:
        super().__init__()
        if patch_size < 4 or patch_size % 4:
            raise InputError(f"rvt: patch_size must be a multiple of 4, not {patch_size}")
        self.patch_size = (patch_size, patch_size)
        self.conv = nn.Conv2d(in_chans, width, 7, stride=2, padding=2)
        self.norm = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.proj = nn.Conv2d(width, embed_dim, patch_size // 4, stride=patch_size // 4)

    def forward(self, images: Tensor) -> Tensor:
        """Returns (B, D, h, w) of images (B, C, H, W)."""
        out: Tensor = self.proj(self.pool(self.norm(self.conv(images))))
        return out


class Attention(nn.Module):
    """Global self-attention.

    With a grid, its logits are multiplied by a learned position-aware scaling.

    Its weights are (B, heads, N, N).

    Args:
        dim: Width D of the tokens.
        num_heads: Heads.
        scaled_grid: Rows and columns of the tokens, if there is to be a scaling.
        attn_drop: Dropout of the weights.
        proj_drop: Dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        scaled_grid: tuple[int, int] | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise InputError(f"rvt: {num_heads} heads do not divide a width of {dim}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attn_drop = attn_drop
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.scaling: nn.Parameter | None = None
        if scaled_grid is not None:
            tokens = scaled_grid[0] * scaled_grid[1]
            # The official code leaves this uninitialised. sigmoid(2) = 0.88 starts near plain
            # attention, where the slope still lets pairs be turned up and down.
            self.scaling = nn.Parameter(torch.full((num_heads, tokens, tokens), 2.0))

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Returns (B, N, D) of the same; ``grid`` is their rows and columns."""
        q, k, v = (
            self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        )  # (B, heads, N, D/heads)
        dropout = self.attn_drop if self.training else 0.0
        if self.scaling is None:
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        else:
            logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) * self.scaling.sigmoid()
            mixed = F.dropout(logits.softmax(-1), dropout) @ v
        out: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return out

    def token_layout(self, tokens: Tensor, grid: tuple[int, int]) -> TokenLayout:
        """Returns where queries and keys lie, given what :meth:`forward` is given."""
        return global_layout(grid)


class ConvMlp(nn.Module):
    """A feed-forward network with a depthwise 3×3 convolution.

    Every token sees its neighbours, and the map's edge.
    """

    def __init__(self, dim: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1, self.norm1 = nn.Conv2d(dim, hidden, 1), nn.BatchNorm2d(hidden)
        self.dwconv, self.norm2 = (
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.BatchNorm2d(hidden),
        )
        self.fc2, self.norm3 = nn.Conv2d(hidden, dim, 1), nn.BatchNorm2d(dim)
        self.drop = nn.Dropout(drop)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Returns (B, N, D) of the same; ``grid`` is their rows and columns."""
        features = tokens.transpose(1, 2).unflatten(2, grid)
        features = self.drop(F.gelu(self.norm1(self.fc1(features))))
        features = F.gelu(self.norm2(self.dwconv(features)))
        out: Tensor = self.drop(self.norm3(self.fc2(features))).flatten(2).transpose(1, 2)
        return out


class Block(nn.Module):
    """Attention and feed-forward network, each with pre-norm and a residual path."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        conv_mlp: bool,
        scaled_grid: tuple[int, int] | None,
        drop: float,
        attn_drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, scaled_grid, attn_drop, drop)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.conv_mlp = conv_mlp
        self.mlp = ConvMlp(dim, hidden, drop) if conv_mlp else Mlp(dim, hidden, drop=drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Returns (B, N, D) of the same; ``grid`` is their rows and columns."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), grid))
        normed = self.norm2(tokens)
        out: Tensor = tokens + self.drop_path(
            self.mlp(normed, grid) if self.conv_mlp else self.mlp(normed)
        )
        return out


class PatchwiseAugment(nn.Module):
    """Changes patches of training images at random, each by itself.

    Does nothing in evaluation mode.

    Args:
        patch_size: Height and width of a patch in pixels, or one number for both.
        probability: Of each of the three changes, for each patch.
        min_area: Smallest part of a patch's area that a crop keeps.
        noise: Standard deviation of the noise; images are taken to have one near 1.
    """

    def __init__(
        self,
        patch_size: int | tuple[int, int],
        probability: float = 0.1,
        min_area: float = 0.85,
        noise: float = 0.01,
    ) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise InputError(
                f"the probability of patch-wise augmentation must lie in 0 … 1, not {probability}"
            )
        self.patch_size = to_2tuple(patch_size)
        self.probability, self.min_area, self.noise = probability, min_area, noise

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Returns images (B, C, H, W) of the same shape; see :func:`patchwise_augment`."""
        if not self.training:
            return images
        return patchwise_augment(
            images,
            self.patch_size,
            self.probability,
            min_area=self.min_area,
            noise=self.noise,
            generator=generator,
        )

    def extra_repr(self) -> str:
        """Returns what ``print`` shows."""
        return f"patch_size={self.patch_size}, probability={self.probability}"


def patchwise_augment(
    images: Tensor,
    patch_size: tuple[int, int],
    probability: float = 0.1,
    *,
    min_area: float = 0.85,
    noise: float = 0.01,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Crops and enlarges, makes noisy, and mirrors patches of images, each patch by its own dice.

    The numbers are those of the authors' training code
    (https://github.com/vtddggg/Robust-Vision-Transformer), which shows the model each batch twice,
    with and without the changes.

    Args:
        images: (B, C, H, W). Rows and columns beyond the last whole patch stay as they are.
        patch_size: Height and width of a patch in pixels.
        probability: Of each of the three changes; they are drawn independently and applied in the
            order above.
        min_area: Smallest part of a patch's area that a crop keeps; the part is uniform up to 1, as
            is its place.
        noise: Standard deviation of the Gaussian noise.
        generator: Where the random numbers come from; torch's global one if None.

    Returns:
        (B, C, H, W), newly allocated.
    """
    (batch, channels, height, width), (patch_height, patch_width) = images.shape, patch_size
    rows, columns = height // patch_height, width // patch_width
    whole = images[..., : rows * patch_height, : columns * patch_width]
    patches = (
        whole.unflatten(3, (columns, patch_width))
        .unflatten(2, (rows, patch_height))
        .permute(0, 2, 4, 1, 3, 5)
    )
    patches = patches.reshape(-1, channels, patch_height, patch_width)

    count = len(patches)
    device = images.device if generator is None else generator.device
    uniform = torch.rand(6, count, generator=generator, device=device, dtype=images.dtype).to(
        images.device
    )
    normal = torch.randn(patches.shape, generator=generator, device=device, dtype=images.dtype).to(
        images.device
    )
    crop, noisy, mirror = (uniform[:3] < probability).reshape(3, count, 1, 1, 1)

    side = (min_area + (1 - min_area) * uniform[3]).sqrt()
    zero = torch.zeros_like(side)
    shift_x, shift_y = (1 - side) * (2 * uniform[4:] - 1)  # in half patches
    placed = torch.stack([side, zero, shift_x, zero, side, shift_y], 1).reshape(count, 2, 3)
    points = F.affine_grid(placed, list(patches.shape), align_corners=False)
    cropped = F.grid_sample(patches, points, padding_mode="border", align_corners=False)

    patches = torch.where(crop, cropped, patches)
    patches = torch.where(noisy, patches + noise * normal, patches)
    patches = torch.where(mirror, patches.flip(-1), patches)

    patches = patches.reshape(batch, rows, columns, channels, patch_height, patch_width).permute(
        0, 3, 1, 4, 2, 5
    )
    augmented = images.clone()
    augmented[..., : rows * patch_height, : columns * patch_width] = patches.reshape(whole.shape)
    return augmented


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Renames the official code's keys and resizes the attention scalings to the model's grid."""
    converted = {}
    for key, value in state_dict.items():
        key = renamed(key, _RENAMED)
        if key.endswith("attn.scaling"):
            value = resize_scaling(value, model.grid_size)  # type: ignore[arg-type]
        converted[key] = value
    return converted


_RENAMED = (
    (r"^patch_embed\.proj\.0\.", "patch_embed.conv."),
    (r"^patch_embed\.proj\.1\.", "patch_embed.norm."),
    (r"^patch_embed\.proj\.3\.", "patch_embed.proj."),
    (r"^transformers\.(\d+)\.blocks\.", r"stages.\1."),
    (r"^pools\.(\d+)\.conv\.", r"pools.\1."),
    (r"\.attn\.att_mask$", ".attn.scaling"),
    (r"\.mlp\.bn(\d)\.", r".mlp.norm\1."),
)


def resize_scaling(scaling: Tensor, grid: tuple[int, int]) -> Tensor:
    """Returns a scaling (heads, N, N) for the tokens of another grid.

    Interpolated over the keys, then over the queries.

    Args:
        scaling: Of a square grid, or of one with the proportions of the new.
        grid: Rows and columns of the new.
    """
    tokens = scaling.shape[-1]
    if tokens == grid[0] * grid[1]:
        return scaling
    rows = math.isqrt(tokens)
    if rows * rows != tokens:
        rows = max(1, round(math.sqrt(tokens * grid[0] / grid[1])))
    if tokens % rows:
        raise InputError(
            f"rvt: it cannot be told on which grid an attention scaling of {tokens} tokens lies"
        )
    for _ in range(2):
        maps = scaling.unflatten(2, (rows, tokens // rows))
        resized = F.interpolate(maps.float(), grid, mode="bilinear", align_corners=False).to(
            scaling.dtype
        )
        scaling = resized.flatten(2).transpose(1, 2)
    return scaling


_PAPER = "Towards Robust Vision Transformer (arXiv:2105.07926)"
_NOTES: dict[str, tuple[Size, str]] = {
    "rvt_nano": ("nano", "convolutions in the stem and in every feed-forward network"),
    "rvt_star_nano": ("nano", "RVT*: the same with position-aware attention scaling"),
    "rvt_tiny": ("tiny", "seven blocks, 8-pixel patches"),
    "rvt_star_tiny": ("tiny", "RVT*: the same with position-aware attention scaling"),
    "rvt_tiny_224": ("paper", "RVT-Ti: two stages, 16-pixel patches"),
    "rvt_star_tiny_224": ("paper", "RVT-Ti*: with position-aware attention scaling"),
    "rvt_small_224": ("paper", "RVT-S: twelve blocks of width 384"),
    "rvt_star_small_224": ("paper", "RVT-S*: with position-aware attention scaling"),
    "rvt_base_224": ("paper", "RVT-B: twelve blocks of width 768"),
    "rvt_star_base_224": ("paper", "RVT-B*: with position-aware attention scaling"),
}

default_cfgs = generate_default_cfgs(
    {name: weights_cfg(first_conv="patch_embed.conv", classifier="head") for name in _NOTES}
)

_TINY = {"embed_dims": (192, 384), "depths": (10, 2), "num_heads": (6, 12)}
_BASE = {"embed_dims": (768,), "num_heads": (12,), "conv_mlp": False}
_OUR_NANO = {"patch_size": 8, "embed_dims": (96, 192), "depths": (3, 1), "num_heads": (3, 6)}
_OUR_TINY = {"patch_size": 8, "embed_dims": (192, 384), "depths": (6, 1), "num_heads": (6, 12)}


def _rvt(name: str, pretrained: bool, **kwargs: Any) -> RobustVisionTransformer:
    return build(RobustVisionTransformer, name, pretrained, checkpoint_filter_fn, **kwargs)


@register_model
def rvt_tiny_224(pretrained: bool = False, **kwargs: Any) -> RobustVisionTransformer:
    """RVT-Ti: 8.6 M parameters."""
    return _rvt("rvt_tiny_224", pretrained, **{**_TINY, **kwargs})


@register_model
def rvt_small_224(pretrained: bool = False, **kwargs: Any) -> RobustVisionTransformer:
    """RVT-S: 22 M parameters."""
    return _rvt("rvt_small_224", pretrained, **kwargs)


@register_model
def rvt_base_224(pretrained: bool = False, **kwargs: Any) -> RobustVisionTransformer:
    """RVT-B: 86 M parameters."""
    return _rvt("rvt_base_224", pretrained, **{**_BASE, **kwargs})


@register_model
def rvt_star_tiny_224(pretrained: bool = False, **kwargs: Any) -> RobustVisionTransformer:
    """RVT-Ti*: all ten blocks of the first stage are scaled."""
    return _rvt("rvt_star_tiny_224", pretrained, **{**_TINY, "scaled_blocks": 10, **kwargs})


@register_model
def rvt_star_small_224(pretrained: bool = False, **kwargs: Any) -> RobustVisionTransformer:
    """RVT-S*: five of twelve blocks are scaled."""
    return _rvt("rvt_star_small_224", pretrained, **{"scaled_blocks": 5, **kwargs})


@register_model
def rvt_star_base_224(pretrained: bool = False, **kwargs: Any) -> RobustVisionTransformer:
    """RVT-B*: five of twelve blocks are scaled."""
    return _rvt("rvt_star_base_224", pretrained, **{**_BASE, "scaled_blocks": 5, **kwargs})


@register_model
def rvt_nano(pretrained: bool = False, **kwargs: Any) -> RobustVisionTransformer:
    """Three blocks on 8×8 tokens and one on 4×4, of a 64-pixel image: 0.8 M parameters."""
    return _rvt("rvt_nano", pretrained, **{**_OUR_NANO, **kwargs})


@register_model
def rvt_tiny(pretrained: bool = False, **kwargs: Any) -> RobustVisionTransformer:
    """Six blocks on 8×8 tokens and one on 4×4, of a 64-pixel image: 4.6 M parameters."""
    return _rvt("rvt_tiny", pretrained, **{**_OUR_TINY, **kwargs})


@register_model
def rvt_star_nano(pretrained: bool = False, **kwargs: Any) -> RobustVisionTransformer:
    """``rvt_nano`` with attention scaling in all blocks of the first stage."""
    return _rvt("rvt_star_nano", pretrained, **{**_OUR_NANO, "scaled_blocks": 3, **kwargs})


@register_model
def rvt_star_tiny(pretrained: bool = False, **kwargs: Any) -> RobustVisionTransformer:
    """``rvt_tiny`` with attention scaling in half of the first stage."""
    return _rvt("rvt_star_tiny", pretrained, **{**_OUR_TINY, "scaled_blocks": 3, **kwargs})


MODELS: tuple[ModelInfo, ...] = tuple(
    ModelInfo(name, "RVT", _PAPER, name, notes, source="haloformer", size=size)
    for name, (size, notes) in _NOTES.items()
)
