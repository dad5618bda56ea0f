"""CPVT: a ViT that makes its position encoding from the tokens themselves.

Chu et al. 2021, "Conditional Positional Encodings for Vision Transformers"
(https://arxiv.org/abs/2102.10882). A DeiT without position embedding, and after its first block a
position encoding generator (PEG): a depthwise 3×3 convolution over the grid of tokens, added to
them. What the convolution sees of its zero padding tells the tokens where the border is, and its
filters who their neighbours are; nothing in the model depends on the number of tokens, so one set
of weights serves images of every size. CPVT classifies by a class token, CPVT-GAP by the mean of
the tokens.
"""

import math
from typing import Any, cast

import torch
from timm.layers import HybridEmbed, LayerNorm, PatchEmbed, calculate_drop_path_rates, to_2tuple
from timm.models import generate_default_cfgs, register_model
from timm.models.twins import PosConv
from timm.models.vision_transformer import Block
from timm.models.vision_transformer_hybrid import ConvStem
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
from haloformer.models.info import ModelInfo, Size, our_model, small_head


class CPVT(Backbone):
    """Patches, a pre-norm ViT, and a PEG after its first block.

    Args:
        img_size: Height and width in pixels. Images of other sizes are taken, too, if the patches
            divide them.
        in_chans: Channels of the images.
        num_classes: Length of the output.
        patch_size: Side of the patches in pixels; unused with a stem.
        stem_channels: If given, a stem makes the tokens: a 3×3 convolution of stride 2 for each
            number, with batch norm and GELU, then a 1×1 projection.
        embed_dim: Width D of the tokens.
        depth: Number of blocks, at least one.
        num_heads: Attention heads per block; divides ``embed_dim``.
        mlp_ratio: Width of a block's hidden layer over D.
        qkv_bias: Whether queries, keys and values have a bias.
        drop_rate: Dropout before the classifier.
        pos_drop_rate: Dropout of the patches' tokens.
        proj_drop_rate: Dropout after the blocks' projections.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth of the last block, rising linearly from 0.
        class_token: Whether there is one; the PEG passes it by.
        global_pool: ``token`` (the class token), ``avg`` (mean of the others) or empty; the former
            if None and there is a class token.
        init_std: Standard deviation of the linear layers' first weights; None for one over the root
            of their inputs.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        patch_size: int = 16,
        stem_channels: tuple[int, ...] | None = None,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        class_token: bool = True,
        global_pool: str | None = None,
        init_std: float | None = 0.02,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise InputError(f"CPVT: num_heads={num_heads} does not divide embed_dim={embed_dim}")
        if depth < 1:
            raise InputError("CPVT: depth must be at least 1, as the PEG follows the first block")
        self.num_classes = num_classes
        self.num_features = embed_dim
        self.global_pool = _pooling(global_pool, class_token)
        self.num_prefix_tokens = int(class_token)
        self.patch_embed = (
            _stem(img_size, in_chans, stem_channels, embed_dim)
            if stem_channels
            else PatchEmbed(
                img_size, patch_size, in_chans, embed_dim, flatten=False, strict_img_size=False
            )
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.pos_drop = nn.Dropout(pos_drop_rate)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                qkv_bias=qkv_bias,
                proj_drop=proj_drop_rate,
                attn_drop=attn_drop_rate,
                drop_path=rate,
            )
            for rate in cast(list[float], calculate_drop_path_rates(drop_path_rate, depth))
        )
        self.peg = PosConv(embed_dim, embed_dim)
        self.norm = LayerNorm(embed_dim)
        self.head_drop = nn.Dropout(drop_rate)
        self._init_weights(init_std)
        self.head = linear_head(embed_dim, num_classes)

    def _init_weights(self, init_std: float | None) -> None:
        """Draws the first weights, as the official code does; ``init_std`` is that of the class."""
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=init_std or module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        convolutions = [cast(nn.Conv2d, self.peg.proj[0])]
        # A stem keeps its own initialisation: from smaller weights its batch norms' statistics lag
        # behind at first.
        if isinstance(self.patch_embed, PatchEmbed):
            convolutions.append(self.patch_embed.proj)
        for convolution in convolutions:
            fan_out = math.prod(convolution.kernel_size) * convolution.out_channels
            std = math.sqrt(2 / (fan_out // convolution.groups))
            nn.init.normal_(convolution.weight, std=std)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)

    def trunk(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Returns the tokens (B, h·w, D), after the class token if there is one.

        See :meth:`Backbone.trunk`.
        """
        patches = self.patch_embed(images)
        grid = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        tokens = self.pos_drop(tokens)
        for index, block in enumerate(self.blocks):
            tokens = self.run(block, tokens)
            if index == 0:
                tokens = self.encode_position(tokens, grid)
            if maps is not None:
                places = tokens[:, self.num_prefix_tokens :]
                maps.append(places.transpose(1, 2).unflatten(2, grid))
        out: Tensor = self.norm(tokens)
        return out

    def encode_position(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Returns the tokens (B, N, D) with the PEG's convolution of the grid (h, w) added.

        The class token stays as it was.
        """
        prefix, places = tokens.split([self.num_prefix_tokens, math.prod(grid)], dim=1)
        return torch.cat([prefix, self.peg(places, grid)], dim=1)

    @jit_ignore
    def no_weight_decay(self) -> set[str]:
        """Returns the class token and the PEG."""
        return {
            name for name, _ in self.named_parameters() if name.startswith(("cls_token", "peg."))
        }

    @jit_ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns timm's layers: patches, then each block (the PEG with the first).

        See :meth:`Backbone.group_matcher`.
        """
        return {
            "stem": r"^cls_token|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^peg\.", (0,)), (r"^norm", (99999,))],
        }


def _pooling(global_pool: str | None, class_token: bool) -> str:
    """Returns the pooling that is meant, the class token's by default where there is one."""
    if global_pool is None:
        return "token" if class_token else "avg"
    if global_pool == "token" and not class_token:
        raise InputError("CPVT: global_pool='token' needs class_token=True")
    return global_pool


def _stem(
    img_size: int | tuple[int, int], in_chans: int, channels: tuple[int, ...], embed_dim: int
) -> HybridEmbed:
    """Convolutions of stride 2 that take images to a map of D channels."""
    # The projection is a last layer of kernel 1, to which timm gives neither norm nor activation.
    kernels, strides = [3] * len(channels) + [1], [2] * len(channels) + [1]
    convolutions = ConvStem(
        in_chans,
        len(strides),
        (*channels, embed_dim),
        tuple(kernels),
        tuple(strides),
        act_layer=nn.GELU,
    )
    convolutions.num_features = embed_dim  # type: ignore[assignment]  # where HybridEmbed looks for it
    ratio = math.prod(strides)
    size: tuple[int, int] = to_2tuple(img_size)
    return HybridEmbed(
        convolutions,
        img_size=size,
        feature_size=(-(-size[0] // ratio), -(-size[1] // ratio)),
        feature_ratio=ratio,
        in_chans=in_chans,
        embed_dim=embed_dim,
        proj=False,
        flatten=False,
    )


_OFFICIAL_KEYS = (
    (r"^patch_embeds\.0\.", "patch_embed."),
    (r"^blocks\.0\.(\d+)\.", r"blocks.\1."),
    (r"^pos_block\.0\.", "peg."),
)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Takes weights with the official pyramid's keys (of one stage), or ours, to our keys.

    There is no position embedding to resize. The official attention has one layer for queries and
    one for keys and values; they are put together.
    """
    converted = {}
    for key, value in state_dict.items():
        key = renamed(key, _OFFICIAL_KEYS)
        converted[key] = value
    for key in [key for key in converted if ".attn.kv." in key]:
        queries = converted.pop(key.replace(".kv.", ".q."))
        converted[key.replace(".kv.", ".qkv.")] = torch.cat([queries, converted.pop(key)])
    return converted


_PAPER = "Conditional Positional Encodings for Vision Transformers (arXiv:2102.10882)"
_NOTES: tuple[tuple[str, Size, str], ...] = (
    (
        "cpvt_nano",
        "nano",
        "convolutional stem of stride 8, mean of the tokens; one set of weights for all sizes",
    ),
    ("cpvt_tiny", "tiny", "the same with eight blocks of 224 channels"),
    ("cpvt_tiny_224", "paper", "CPVT-Ti: DeiT-Ti with a PEG instead of the position embedding"),
    ("cpvt_small_224", "paper", "CPVT-S: DeiT-S with a PEG instead of the position embedding"),
    ("cpvt_base_224", "paper", "CPVT-B: DeiT-B with a PEG instead of the position embedding"),
    ("cpvt_tiny_gap_224", "paper", "CPVT-Ti-GAP: without class token"),
    ("cpvt_small_gap_224", "paper", "CPVT-S-GAP: without class token"),
    ("cpvt_base_gap_224", "paper", "CPVT-B-GAP: without class token"),
)

default_cfgs = generate_default_cfgs(
    {
        f"{name}.in1k": weights_cfg(
            first_conv="patch_embed.proj" if size == "paper" else "patch_embed.backbone.0.conv",
            classifier="head",
        )
        for name, size, _ in _NOTES
    }
)


# For small images: a stem of stride 8, so that 64 pixels give 8×8 tokens, and no class token.
_SMALL: dict[str, Any] = {
    "img_size": 64,
    "in_chans": 1,
    "num_classes": 3,
    "stem_channels": (32, 64, 128),
    "class_token": False,
    "init_std": None,
}


@register_model
def cpvt_nano(pretrained: bool = False, **kwargs: Any) -> CPVT:
    """Four blocks of D = 128 on 8-pixel tokens."""
    numbers = {**_SMALL, "embed_dim": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 2.0}
    return build(CPVT, "cpvt_nano", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs})


@register_model
def cpvt_tiny(pretrained: bool = False, **kwargs: Any) -> CPVT:
    """Eight blocks of D = 224 on 8-pixel tokens."""
    numbers = {**_SMALL, "embed_dim": 224, "depth": 8, "num_heads": 7}
    return build(CPVT, "cpvt_tiny", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs})


@register_model
def cpvt_tiny_224(pretrained: bool = False, **kwargs: Any) -> CPVT:
    """CPVT-Ti: 5.7 M parameters."""
    numbers = {"embed_dim": 192, "num_heads": 3}
    return build(CPVT, "cpvt_tiny_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs})


@register_model
def cpvt_small_224(pretrained: bool = False, **kwargs: Any) -> CPVT:
    """CPVT-S: 22.0 M parameters."""
    numbers = {"embed_dim": 384, "num_heads": 6}
    return build(CPVT, "cpvt_small_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs})


@register_model
def cpvt_base_224(pretrained: bool = False, **kwargs: Any) -> CPVT:
    """CPVT-B: 86.4 M parameters."""
    numbers = {"embed_dim": 768, "num_heads": 12}
    return build(CPVT, "cpvt_base_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs})


@register_model
def cpvt_tiny_gap_224(pretrained: bool = False, **kwargs: Any) -> CPVT:
    """CPVT-Ti-GAP: 5.7 M parameters."""
    numbers = {"embed_dim": 192, "num_heads": 3, "class_token": False}
    return build(
        CPVT, "cpvt_tiny_gap_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def cpvt_small_gap_224(pretrained: bool = False, **kwargs: Any) -> CPVT:
    """CPVT-S-GAP: 22.0 M parameters."""
    numbers = {"embed_dim": 384, "num_heads": 6, "class_token": False}
    return build(
        CPVT, "cpvt_small_gap_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


@register_model
def cpvt_base_gap_224(pretrained: bool = False, **kwargs: Any) -> CPVT:
    """CPVT-B-GAP: 86.4 M parameters."""
    numbers = {"embed_dim": 768, "num_heads": 12, "class_token": False}
    return build(
        CPVT, "cpvt_base_gap_224", pretrained, checkpoint_filter_fn, **{**numbers, **kwargs}
    )


MODELS: tuple[ModelInfo, ...] = tuple(
    our_model("CPVT", _PAPER, name, size, notes, small_head(size)) for name, size, notes in _NOTES
)
