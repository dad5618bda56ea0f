"""A ViT whose patches come from a small convolutional stem.

Xiao et al. 2021, "Early Convolutions Help Transformers See Better"
(https://arxiv.org/abs/2106.14881): replacing the ViT's one large patch convolution by a few
stride-2 ones makes it learn fast and from little data, which a plain ViT on small images does not.
Every part is timm's; here they are only put together at the size of a lens cutout.
"""

import math
from functools import partial
from typing import Any

from timm.layers import HybridEmbed, to_2tuple
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem
from torch import nn

from haloformer.errors import InputError
from haloformer.models.info import ModelInfo


def hybrid_vit(
    *,
    img_size: int | tuple[int, int] = 64,
    in_chans: int = 1,
    num_classes: int = 3,
    stem_channels: tuple[int, ...] = (32, 64, 128, 128),
    stem_strides: tuple[int, ...] = (2, 2, 2, 2),
    embed_dim: int = 128,
    depth: int = 4,
    num_heads: int = 4,
    mlp_ratio: float = 2.0,
    **kwargs: Any,
) -> VisionTransformer:
    """Builds a convolutional stem with a pre-norm ViT on its feature map.

    Args:
        img_size: Height and width in pixels; multiples of the stem's total stride.
        in_chans: Channels of the image.
        num_classes: Length of the output.
        stem_channels: Channels after each 3×3 convolution of the stem (with batch norm and GELU).
        stem_strides: Stride of each of them; their product is the patch size in pixels.
        embed_dim: Width D of the tokens, to which a 1×1 convolution takes the last of
            ``stem_channels``.
        depth: Number of transformer blocks.
        num_heads: Attention heads per block; divides ``embed_dim``.
        mlp_ratio: Width of a block's hidden layer over D.
        **kwargs: Of timm's ``VisionTransformer``, such as ``drop_path_rate``.
    """
    if len(stem_channels) != len(stem_strides):
        raise InputError("hybrid_vit: stem_channels and stem_strides must be of the same length")
    if embed_dim % num_heads:
        raise InputError(f"hybrid_vit: num_heads={num_heads} does not divide embed_dim={embed_dim}")
    layers = len(stem_channels) + 1
    stem = ConvStem(
        in_chans,
        depth=layers,
        channels=(*stem_channels, embed_dim),
        kernel_size=(
            *(3 for _ in stem_channels),
            1,
        ),  # the last, 1×1, projects: timm gives it neither norm nor activation
        stride=(*stem_strides, 1),
        act_layer=nn.GELU,
    )
    stem.num_features = embed_dim  # type: ignore[assignment]  # where HybridEmbed looks for it
    return VisionTransformer(
        img_size=img_size,
        patch_size=1,  # one token per pixel of the stem's feature map
        in_chans=in_chans,
        num_classes=num_classes,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        # Averaging all tokens needs no class token and serves small data better (Beyer et al. 2022,
        # arXiv:2205.01580).
        class_token=False,
        global_pool="avg",
        embed_layer=partial(stem_embed, backbone=stem, stride=math.prod(stem_strides)),
        **kwargs,
    )


def stem_embed(
    *, img_size: int | tuple[int, int], backbone: nn.Module, stride: int, **kwargs: Any
) -> HybridEmbed:
    """The stem as a patch embedding that knows its stride.

    Timm would divide the sizes and round it down.
    """
    sides = to_2tuple(img_size)
    feature_size = tuple(-(-side // stride) for side in sides)
    return HybridEmbed(
        backbone,
        img_size=sides,
        feature_size=feature_size,
        feature_ratio=stride,
        proj=False,
        **kwargs,
    )


@register_model
def hybrid_nano(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Stem of stride 16 (64 pixels give 4×4 tokens), D = 128, four blocks: 0.79 M parameters."""
    if pretrained:
        raise InputError(
            "there are no pretrained weights of model 'hybrid_nano': pretrained must be false"
        )
    for key in (
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "cache_dir",
    ):  # timm hands these to every entry
        kwargs.pop(key, None)
    return hybrid_vit(**kwargs)


_PAPER = "Early Convolutions Help Transformers See Better (arXiv:2106.14881)"

MODELS: tuple[ModelInfo, ...] = (
    ModelInfo(
        "hybrid_nano",
        "Hybrid ViT",
        _PAPER,
        "hybrid_nano",
        "convolutional stem of stride 16, four transformer blocks; the default: learns fastest on two CPU cores",
        source="haloformer",
        size="nano",
    ),
    ModelInfo(
        "hybrid_nano_s8",
        "Hybrid ViT",
        _PAPER,
        "hybrid_nano",
        "the same with a stem of stride 8: finer attention maps at twice the cost",
        {"stem_channels": (32, 64, 128), "stem_strides": (2, 2, 2)},
        source="haloformer",
        size="nano",
    ),
)
