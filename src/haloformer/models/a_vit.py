"""A-ViT: a ViT whose tokens stop when they have seen enough.

Yin et al. 2022, "A-ViT: Adaptive Tokens for Efficient Vision Transformer"
(https://arxiv.org/abs/2112.07658), on the adaptive computation time of Graves 2016
(https://arxiv.org/abs/1603.08983). After each block l, every token gives itself a halting score
from one of its own channels,

    h_l = sigmoid(gate_scale · t_l[0] + gate_center),

and halts once its scores add up to 1 - 0.01: from then on it stays as it is and nobody attends to
it. The scores, with what is missing to 1 given to the last block that a token runs through, are a
distribution over depth; the image is classified by the class token's average under it. Two losses
go with it: the ponder loss asks for few blocks, the distribution loss for scores that peak at a
target depth. There are no parameters beyond the ViT's.

All tokens are computed and the halted ones masked, so batches stay rectangular: what is saved is
seen in the depth map, not on the clock.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import (
    DropPath,
    HybridEmbed,
    Mlp,
    PatchEmbed,
    resample_abs_pos_embed,
    to_2tuple,
    trunc_normal_,
)
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer_hybrid import ConvStem
from torch import Tensor, nn

from haloformer.errors import InputError
from haloformer.models.backbone import Backbone, build, jit_ignore, linear_head, weights_cfg
from haloformer.models.info import ModelInfo, Size, our_model, small_head
from haloformer.models.tokens import TokenLayout, global_layout

_EPSILON = 0.01  # a token halts when its scores sum to 1 minus this (Section 3.1)
_HALTED = (
    -1000.0
)  # added to the logits of halted keys: zero in the softmax, yet no NaN where all have halted


@dataclass(frozen=True)
class Halting:
    """When the tokens of a batch halted: B images of N tokens, the class token first, in L blocks.

    Attributes:
        weights: (B, L, N): each token's distribution over depth, summing to 1 over the blocks.
        ponder: (B, N): the ponder cost of each token: the blocks it ran through plus its remainder.
        depth: (B, h, w) integers from 1 to L: through how many blocks each patch ran.
        class_depth: (B,) integers: the same for the class token.
        distribution: (L,): mean over the patches of the halting score that each block gives them,
            halted or not: if halted ones did not count, a model whose tokens all halt at once would
            have no gradient to tell it otherwise.
    """

    weights: Tensor
    ponder: Tensor
    depth: Tensor
    class_depth: Tensor
    distribution: Tensor


def ponder_loss(halting: Halting) -> Tensor:
    """Returns the mean ponder cost.

    Its gradient raises the scores that come before a token's last block.
    """
    return halting.ponder.mean()


def distribution_loss(halting: Halting, target_depth: float) -> Tensor:
    """Returns the divergence of the halting scores from a Gaussian about ``target_depth``.

    Both are normalised to 1 over the blocks, as Kullback and Leibler would have it. (The paper's
    code normalises the scores alone, cuts them off at 0.01, and divides by the number of blocks.)

    Args:
        halting: Of a batch.
        target_depth: In blocks, counted from 1; the Gaussian's standard deviation is one block.
    """
    scores = halting.distribution
    blocks = torch.arange(1, len(scores) + 1, device=scores.device, dtype=scores.dtype)
    log_target = F.log_softmax(-0.5 * (blocks - target_depth) ** 2, 0)
    scores = scores / scores.sum().clamp_min(
        1e-30
    )  # its inverse, times some hundreds, is finite in float32
    # A hundredth of a uniform distribution keeps the logarithm and its gradient bounded.
    scores = (scores + 0.01 / len(scores)) / 1.01
    return (log_target.exp() * (log_target - scores.log())).sum()


class AdaptiveVisionTransformer(Backbone):
    """A ViT with adaptive halting of its tokens.

    Args:
        img_size: Height and width in pixels; multiples of the patch size.
        patch_size: Height and width of a patch in pixels; not used with a convolutional stem.
        in_chans: Channels of the images.
        num_classes: Length of the output.
        embed_dim: Width D of the tokens.
        depth: Number of blocks L.
        num_heads: Attention heads per block.
        mlp_ratio: Width of a block's hidden layer over D.
        stem_channels: Channels after each 3×3 convolution of a convolutional stem; plain patches if
            None, as in the paper.
        stem_strides: Stride of each of them.
        gate_scale: What a token's first channel is multiplied by for its halting score; the paper's
            is 5.
        gate_center: What is then added; the paper's is -10. (The paper's code subtracts it.)
            Strongly negative lets all tokens run to the end.
        target_depth: Block about which halting is to happen, counted from 1; 2/3 of the depth (the
            paper's) if None.
        ponder_loss_scale: Weight of the ponder loss in :meth:`forward_with_auxiliary_loss`.
        distribution_loss_scale: Weight of the distribution loss there.
        global_pool: ``token``, or ``avg`` to classify the mean of the patches, each averaged over
            depth.
        drop_rate: Dropout after the embedding, attention and feed-forward layers.
        attn_drop_rate: Dropout of attention weights.
        drop_path_rate: Stochastic depth, rising linearly from 0 at the first block.
    """

    num_prefix_tokens = 1

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 3,
        mlp_ratio: float = 4.0,
        stem_channels: tuple[int, ...] | None = None,
        stem_strides: tuple[int, ...] | None = None,
        gate_scale: float = 5.0,
        gate_center: float = -10.0,
        target_depth: float | None = None,
        ponder_loss_scale: float = 5e-4,
        distribution_loss_scale: float = 0.1,
        global_pool: str = "token",
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise InputError(f"a_vit: num_heads={num_heads} does not divide embed_dim={embed_dim}")
        self.num_classes, self.num_features, self.global_pool = num_classes, embed_dim, global_pool
        self.gate_scale, self.gate_center = gate_scale, gate_center
        self.target_depth = depth * 2 / 3 if target_depth is None else target_depth
        self.ponder_loss_scale, self.distribution_loss_scale = (
            ponder_loss_scale,
            distribution_loss_scale,
        )

        sides = to_2tuple(img_size)
        if stem_channels is None:
            self.patch_embed: nn.Module = PatchEmbed(sides, patch_size, in_chans, embed_dim)
        else:
            self.patch_embed = _stem(
                sides, in_chans, embed_dim, tuple(stem_channels), tuple(stem_strides or ())
            )
        self.grid_size: tuple[int, int] = self.patch_embed.grid_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + math.prod(self.grid_size), embed_dim))
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                drop_rate,
                attn_drop_rate,
                drop_path_rate * index / max(1, depth - 1),
            )
            for index in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        for linear in self.blocks.modules():
            if isinstance(linear, nn.Linear):
                trunc_normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)
        trunc_normal_(self.cls_token, std=0.02)
        trunc_normal_(self.pos_embed, std=0.02)
        self.head = linear_head(embed_dim, num_classes)

    def trunk(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Returns the tokens (B, 1 + h·w, D) averaged over depth.

        ``maps`` gets those after each block.
        """
        return self._adapt(images, maps)[0]

    def forward_with_halting(self, images: Tensor) -> tuple[Tensor, Halting]:
        """Returns the logits (B, num_classes) of images (B, C, H, W) and when tokens halted."""
        features, halting = self._adapt(images)
        return self.forward_head(features), halting

    def forward_with_auxiliary_loss(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits (B, num_classes) of images (B, C, H, W), and an addition to the loss."""
        logits, halting = self.forward_with_halting(images)
        return logits, (
            self.ponder_loss_scale * ponder_loss(halting)
            + self.distribution_loss_scale * distribution_loss(halting, self.target_depth)
        )

    def _adapt(self, images: Tensor, maps: list[Tensor] | None = None) -> tuple[Tensor, Halting]:
        tokens = self.patch_embed(images)
        tokens = self.pos_drop(
            torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1) + self.pos_embed
        )

        alive = torch.ones_like(tokens[..., 0])  # (B, N): 1 until a token halts
        spent = torch.zeros_like(alive)  # the sum of its scores so far
        depth, remainder = torch.zeros_like(alive), torch.zeros_like(alive)
        averaged = torch.zeros_like(tokens)
        weights, distribution = [], []
        for index, block in enumerate(self.blocks):
            after = self.run(block, tokens, alive, self.grid_size)
            tokens = torch.where(alive[..., None] > 0, after, tokens)
            asked = torch.sigmoid(self.gate_scale * after[..., 0] + self.gate_center)
            score = alive * asked
            missing = 1 - spent
            spent = spent + score
            last = index == len(self.blocks) - 1
            halts = alive if last else alive * (spent >= 1 - _EPSILON)
            weight = torch.where(halts > 0, missing, score)
            averaged = averaged + weight[..., None] * tokens
            depth = depth + alive
            remainder = remainder + halts * missing
            alive = alive - halts
            weights.append(weight)
            distribution.append(asked[:, self.num_prefix_tokens :].mean())
            if maps is not None:
                maps.append(
                    tokens[:, self.num_prefix_tokens :].transpose(1, 2).unflatten(2, self.grid_size)
                )
        halting = Halting(
            weights=torch.stack(weights, 1),
            ponder=depth + remainder,
            depth=depth[:, self.num_prefix_tokens :].unflatten(1, self.grid_size).long(),
            class_depth=depth[:, 0].long(),
            distribution=torch.stack(distribution),
        )
        return self.norm(averaged), halting

    @jit_ignore
    def no_weight_decay(self) -> set[str]:
        """Returns the class token and the position embedding."""
        return {"cls_token", "pos_embed"}

    @jit_ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns the patterns of parameter names by which timm forms layers."""
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }


def _stem(
    img_size: tuple[int, int],
    in_chans: int,
    embed_dim: int,
    channels: tuple[int, ...],
    strides: tuple[int, ...],
) -> HybridEmbed:
    """3×3 convolutions with batch norm and GELU, then a 1×1 convolution to the tokens' width."""
    if len(channels) != len(strides):
        raise InputError("a_vit: stem_channels and stem_strides must be of the same length")
    stem = ConvStem(
        in_chans,
        depth=len(channels) + 1,
        channels=(*channels, embed_dim),
        kernel_size=(*(3 for _ in channels), 1),
        stride=(*strides, 1),
        act_layer=nn.GELU,
    )
    stem.num_features = embed_dim  # type: ignore[assignment]  # where HybridEmbed looks for it
    stride = math.prod(strides)
    grid = (-(-img_size[0] // stride), -(-img_size[1] // stride))
    return HybridEmbed(
        stem, img_size, feature_size=grid, feature_ratio=stride, embed_dim=embed_dim, proj=False
    )


class Attention(nn.Module):
    """Global self-attention to the tokens that have not halted.

    Its weights are (B, heads, N, N).
    """

    def __init__(
        self, dim: int, num_heads: int, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attn_drop = attn_drop
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, tokens: Tensor, alive: Tensor, grid: tuple[int, int]) -> Tensor:
        """Returns (B, N, D) of the same.

        Args:
            tokens: (B, 1 + h·w, D), the class token first.
            alive: (B, 1 + h·w): 1 for tokens that may be attended to, 0 for halted ones.
            grid: Rows and columns of the patches.
        """
        q, k, v = (
            self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        )  # (B, heads, N, D/heads)
        bias = (_HALTED * (1 - alive))[:, None, None].to(q.dtype)
        dropout = self.attn_drop if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        out: Tensor = self.proj_drop(self.proj(mixed.transpose(1, 2).flatten(2)))
        return out

    def token_layout(self, tokens: Tensor, alive: Tensor, grid: tuple[int, int]) -> TokenLayout:
        """Returns where queries and keys lie, given what :meth:`forward` is given."""
        return global_layout(grid, prefix=1)


class Block(nn.Module):
    """Attention and feed-forward network, each with pre-norm and a residual path."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        drop: float,
        attn_drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, attn_drop, drop)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, alive: Tensor, grid: tuple[int, int]) -> Tensor:
        """Returns (B, N, D) of the same; ``alive`` and ``grid`` as for :class:`Attention`."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens), alive, grid))
        out: Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return out


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Resizes the position embedding to the model's grid.

    The keys are those of the official code (and of DeiT).
    """
    converted = dict(state_dict)
    embedding = converted.get("pos_embed")
    if embedding is not None and embedding.shape != model.pos_embed.shape:
        patches = embedding.shape[1] - 1
        if math.isqrt(patches) ** 2 == patches:  # else not of a square image: left to others
            converted["pos_embed"] = resample_abs_pos_embed(embedding, list(model.grid_size))  # type: ignore[arg-type]
    return converted


_PAPER = "A-ViT: Adaptive Tokens for Efficient Vision Transformer (arXiv:2112.07658)"
_NOTES: dict[str, tuple[Size, str]] = {
    "a_vit_nano": (
        "nano",
        "patches halt when they have seen enough: a token-depth map; convolutional stem of stride 16",
    ),
    "a_vit_tiny": ("tiny", "the same with a stem of stride 8: finer depth maps"),
    "a_vit_tiny_224": ("paper", "DeiT-Ti with halting, 16-pixel patches"),
    "a_vit_small_224": ("paper", "DeiT-S with halting, 16-pixel patches"),
}

default_cfgs = generate_default_cfgs(
    {
        name: weights_cfg(
            first_conv="patch_embed.proj" if size == "paper" else "patch_embed.backbone.0.conv"
        )
        for name, (size, _) in _NOTES.items()
    }
)


def _a_vit(name: str, pretrained: bool, **kwargs: Any) -> AdaptiveVisionTransformer:
    return build(AdaptiveVisionTransformer, name, pretrained, checkpoint_filter_fn, **kwargs)


# The gates of the two paper variants are those of the published weights, which are named after
# them.
@register_model
def a_vit_tiny_224(pretrained: bool = False, **kwargs: Any) -> AdaptiveVisionTransformer:
    """A-ViT-T: 5.7 M parameters."""
    numbers = {"gate_scale": 10.0, "gate_center": -30.0}
    return _a_vit("a_vit_tiny_224", pretrained, **{**numbers, **kwargs})


@register_model
def a_vit_small_224(pretrained: bool = False, **kwargs: Any) -> AdaptiveVisionTransformer:
    """A-ViT-S: 22 M parameters."""
    numbers = {"embed_dim": 384, "num_heads": 6, "gate_scale": 10.0, "gate_center": -75.0}
    return _a_vit("a_vit_small_224", pretrained, **{**numbers, **kwargs})


@register_model
def a_vit_nano(pretrained: bool = False, **kwargs: Any) -> AdaptiveVisionTransformer:
    """Stem of stride 16 (64 pixels give 4×4 patches), six blocks of width 128: 1.1 M parameters."""
    numbers = {
        "stem_channels": (32, 64, 128, 128),
        "stem_strides": (2, 2, 2, 2),
        "embed_dim": 128,
        "depth": 6,
        "num_heads": 4,
        "mlp_ratio": 2.0,
    }
    return _a_vit("a_vit_nano", pretrained, **{**numbers, **kwargs})


@register_model
def a_vit_tiny(pretrained: bool = False, **kwargs: Any) -> AdaptiveVisionTransformer:
    """Stem of stride 8 (64 pixels give 8×8 patches), six blocks of width 256: 4.2 M parameters."""
    numbers = {
        # Two convolutions on the final map, without which small patches of a thin ring are learned
        # slowly.
        "stem_channels": (32, 64, 128, 256, 256),
        "stem_strides": (2, 2, 2, 1, 1),
        "embed_dim": 256,
        "depth": 6,
        "num_heads": 4,
        "mlp_ratio": 2.0,
    }
    return _a_vit("a_vit_tiny", pretrained, **{**numbers, **kwargs})


MODELS: tuple[ModelInfo, ...] = tuple(
    our_model("A-ViT", _PAPER, name, size, notes, small_head(size))
    for name, (size, notes) in _NOTES.items()
)
