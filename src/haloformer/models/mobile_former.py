"""Mobile-Former: a MobileNet and a transformer of few tokens, with bridges in every block.

Chen et al. 2022, "Mobile-Former: Bridging MobileNet and Transformer"
(https://arxiv.org/abs/2108.05895). The tokens stand for the whole image: they gather from the map
(Mobile → Former), talk to each other (Former), steer the activations of the convolutions (Mobile,
by dynamic ReLU) and are given back to the map (Former → Mobile). The numbers of the variants, and
what the paper leaves open, are those of https://github.com/AAboys/MobileFormer.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import ConvNormAct, DropPath, Mlp
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
from haloformer.models.head import HeadNorm
from haloformer.models.info import ModelInfo, Size, our_model
from haloformer.models.tokens import TokenLayout

_PAPER = "Mobile-Former: Bridging MobileNet and Transformer (arXiv:2108.05895)"

BlockNumbers = tuple[str, int, int, int]
"""A block: kind (``lite``, ``plain`` or ``down``), channels of its output, expansion, stride."""

# `down` blocks widen a second time, after the map is halved.
_SECOND_EXPANSION = 4


class MobileToFormer(nn.Module):
    """Tokens gather from the cells of the map; the weights are (B, heads, T, h·w).

    The cells are keys and values as they are, without projections: that is what makes the bridge
    light.
    """

    def __init__(
        self, channels: int, token_dim: int, num_heads: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(token_dim, channels)
        self.alpha = nn.Linear(token_dim, channels)
        self.proj = nn.Linear(channels, token_dim)
        self.norm = nn.LayerNorm(token_dim)
        self.drop_path = DropPath(drop_path)

    def token_layout(self, tokens: Tensor, maps: Tensor) -> TokenLayout:
        """Returns where the keys lie.

        Queries are at no place, and the first is the one that is classified.
        """
        grid = (maps.shape[2], maps.shape[3])
        queries = torch.full((1, tokens.shape[1]), -1)
        return TokenLayout(
            grid, grid, queries, torch.arange(grid[0] * grid[1])[None], class_query=0
        )

    def forward(self, tokens: Tensor, maps: Tensor) -> Tensor:
        """Maps tokens (B, T, D) and a map (B, C, h, w) to tokens (B, T, D)."""
        q = self.q(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        cells = maps.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)
        gathered = F.scaled_dot_product_attention(q, cells, cells).transpose(1, 2).flatten(2)
        # Each token chooses by itself which channels to listen to.
        gathered = gathered * (2 * F.hardsigmoid(self.alpha(tokens)))
        out: Tensor = self.norm(tokens + self.drop_path(self.proj(gathered)))
        return out


class Former(nn.Module):
    """A post-norm transformer block of the tokens alone; the weights are (B, heads, T, T).

    Keys and values are the tokens as they are, without projections.
    """

    def __init__(
        self, token_dim: int, num_heads: int, mlp_ratio: float = 2.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(token_dim, token_dim)
        self.proj = nn.Linear(token_dim, token_dim)
        self.norm = nn.LayerNorm(token_dim)
        self.ffn = Mlp(token_dim, int(token_dim * mlp_ratio))
        self.ffn_norm = nn.LayerNorm(token_dim)
        self.drop_path = DropPath(drop_path)

    def token_layout(self, tokens: Tensor) -> None:
        """Neither queries nor keys lie anywhere in the image."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens (B, T, D) to (B, T, D)."""
        q = self.q(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        k = tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, k).transpose(1, 2).flatten(2)
        tokens = self.norm(tokens + self.drop_path(self.proj(mixed)))
        out: Tensor = self.ffn_norm(tokens + self.ffn(tokens))
        return out


class FormerToMobile(nn.Module):
    """Cells of the map are given a mixture of tokens; the weights are (B, heads, h·w, T).

    The cells are queries as they are, without projection.
    """

    def __init__(
        self, channels: int, token_dim: int, num_heads: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.k = nn.Linear(token_dim, channels)
        self.v = nn.Linear(token_dim, channels)
        self.drop_path = DropPath(drop_path)

    def token_layout(self, maps: Tensor, tokens: Tensor) -> None:
        """The keys are tokens, which lie nowhere in the image."""

    def forward(self, maps: Tensor, tokens: Tensor) -> Tensor:
        """Maps a map (B, C, h, w) and tokens (B, T, D) to a map (B, C, h, w)."""
        q = maps.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)
        k, v = (
            layer(tokens).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.k, self.v)
        )
        given = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)
        out: Tensor = maps + self.drop_path(given.unflatten(2, maps.shape[2:]))
        return out


class DynamicReLU(nn.Module):
    """max(a x, b x), with a in (0, 2) and b in (−1, 1) of each channel told by a token.

    At first they are 1 and 0.
    """

    def __init__(self, token_dim: int, channels: int) -> None:
        super().__init__()
        self.slopes = Mlp(token_dim, token_dim // 4, 2 * channels, act_layer=nn.ReLU)

    def forward(self, maps: Tensor, token: Tensor) -> Tensor:
        """Maps (B, C, h, w) to the same, given the token (B, D)."""
        a, b = (2 * F.hardsigmoid(self.slopes(token)))[:, :, None, None].chunk(2, dim=1)
        return torch.maximum(maps * a, maps * (b - 1))


def _conv(
    in_chans: int, out_chans: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Module:
    """A convolution and batch norm."""
    return ConvNormAct(
        in_chans, out_chans, kernel_size, stride=stride, groups=groups, apply_act=False
    )


def _shuffle(channels: int, groups: int) -> nn.Module:
    """Deals the channels out anew, so that grouped convolutions see all.

    Nothing to do if they are not grouped.
    """
    return nn.ChannelShuffle(channels) if groups > 1 else nn.Identity()


class PlainMobile(nn.Module):
    """An inverted bottleneck: 1×1 wide, 3×3 in each channel, 1×1 narrow.

    Its activations are dynamic.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        expansion: int,
        groups: int,
        token_dim: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        hidden = in_chans * expansion
        self.conv1 = _conv(in_chans, hidden, 1, groups=groups)
        self.shuffle1 = _shuffle(groups, groups)
        self.act1 = DynamicReLU(token_dim, hidden)
        self.conv2 = _conv(hidden, hidden, 3, groups=hidden)
        self.act2 = DynamicReLU(token_dim, hidden)
        self.conv3 = _conv(hidden, out_chans, 1, groups=groups)
        self.shuffle3 = _shuffle(groups, groups)
        self.drop_path = DropPath(drop_path)
        self.has_skip = in_chans == out_chans

    def forward(self, maps: Tensor, token: Tensor) -> Tensor:
        """Maps (B, C, h, w), given the token (B, D), to (B, C', h, w)."""
        hidden = self.act1(self.shuffle1(self.conv1(maps)), token)
        hidden = self.act2(self.conv2(hidden), token)
        narrow = self.shuffle3(self.conv3(hidden))
        out: Tensor = maps + self.drop_path(narrow) if self.has_skip else narrow
        return out


class DownMobile(nn.Module):
    """Halves the map: twice 3×3 wide in each channel and 1×1 narrow.

    The first has stride 2, the second a skip.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        expansion: int,
        groups: int,
        token_dim: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        hidden1, hidden2 = in_chans * expansion, out_chans * _SECOND_EXPANSION
        self.conv1 = _conv(in_chans, hidden1, 3, stride=2, groups=in_chans)
        self.shuffle1 = _shuffle(in_chans, groups)
        self.act1 = DynamicReLU(token_dim, hidden1)
        self.conv2 = _conv(hidden1, out_chans, 1, groups=groups)
        self.conv3 = _conv(out_chans, hidden2, 3, groups=out_chans)
        self.shuffle3 = _shuffle(out_chans, groups)
        self.act2 = DynamicReLU(token_dim, hidden2)
        self.conv4 = _conv(hidden2, out_chans, 1, groups=groups)
        self.drop_path = DropPath(drop_path)

    def forward(self, maps: Tensor, token: Tensor) -> Tensor:
        """Maps (B, C, h, w), given the token (B, D), to (B, C', h/2, w/2), rounded up."""
        maps = self.conv2(self.act1(self.shuffle1(self.conv1(maps)), token))
        out: Tensor = maps + self.drop_path(
            self.conv4(self.act2(self.shuffle3(self.conv3(maps)), token))
        )
        return out


class LiteBlock(nn.Module):
    """The block at the finest map: 3×3 wide in each channel and 1×1 narrow, without tokens."""

    def __init__(
        self, in_chans: int, out_chans: int, expansion: int, stride: int, groups: int
    ) -> None:
        super().__init__()
        hidden = in_chans * expansion
        self.conv1 = ConvNormAct(
            in_chans, hidden, 3, stride=stride, groups=in_chans, act_layer=nn.ReLU6
        )
        self.shuffle1 = _shuffle(in_chans, groups)
        self.conv2 = _conv(hidden, out_chans, 1, groups=groups)
        self.has_skip = stride == 1 and in_chans == out_chans

    def forward(self, maps: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, C, h, w) to (B, C', h/stride, w/stride), and hands on the tokens (B, T, D)."""
        narrow = self.conv2(self.shuffle1(self.conv1(maps)))
        return maps + narrow if self.has_skip else narrow, tokens


class Block(nn.Module):
    """Mobile → Former, Former, Mobile, Former → Mobile."""

    def __init__(
        self,
        kind: str,
        in_chans: int,
        out_chans: int,
        expansion: int,
        groups: int,
        token_dim: int,
        num_heads: int,
        former_heads: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        mobile = DownMobile if kind == "down" else PlainMobile
        self.mobile_to_former = MobileToFormer(in_chans, token_dim, num_heads, drop_path)
        self.former = Former(token_dim, former_heads, drop_path=drop_path)
        self.mobile = mobile(in_chans, out_chans, expansion, groups, token_dim, drop_path)
        self.former_to_mobile = FormerToMobile(out_chans, token_dim, num_heads, drop_path)

    def forward(self, maps: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, C, h, w) and tokens (B, T, D) to the next of both.

        The first token steers the activations.
        """
        tokens = self.former(self.mobile_to_former(tokens, maps))
        maps = self.mobile(maps, tokens[:, 0])
        return self.former_to_mobile(maps, tokens), tokens


class MobileFormer(Backbone):
    """Mobile-Former.

    Its features (before pooling) are a map: the last channels hold the class token, the same in
    every cell.

    Args:
        img_size: Height and width in pixels; nothing depends on it, and every size runs as it is.
        in_chans: Channels of the image.
        num_classes: Length of the output; 0 for pooled features.
        stem_chs: Channels after the first convolution, of stride 2.
        blocks: Kind, channels, expansion and stride of each block.
        num_tokens: How many tokens accompany the map; the first is classified.
        token_dim: Width D of the tokens.
        num_heads: Attention heads of the bridges; divides the blocks' channels.
        former_heads: Attention heads among the tokens; divides ``token_dim``.
        groups: Groups of the 1×1 convolutions.
        head_expansion: Channels of the map before pooling, over those of the last block.
        head_dim: Width of the layer before the classifier.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the last block and the last bridge, growing linearly.
        global_pool: ``avg``, or empty for none.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        stem_chs: int = 16,
        blocks: tuple[BlockNumbers, ...] = (
            ("lite", 16, 2, 1),
            ("down", 24, 6, 2),
            ("plain", 24, 4, 1),
            ("down", 48, 6, 2),
            ("plain", 48, 4, 1),
            ("down", 96, 6, 2),
            ("plain", 96, 4, 1),
            ("plain", 128, 6, 1),
            ("plain", 128, 6, 1),
            ("down", 192, 6, 2),
            ("plain", 192, 6, 1),
            ("plain", 192, 6, 1),
        ),
        num_tokens: int = 6,
        token_dim: int = 192,
        num_heads: int = 2,
        former_heads: int = 4,
        groups: int = 1,
        head_expansion: int = 6,
        head_dim: int = 1920,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        _check(blocks, stem_chs, token_dim, num_heads, former_heads, groups)
        self.num_classes = num_classes
        self.global_pool = global_pool
        self.head_dim = head_dim

        self.tokens = nn.Parameter(torch.randn(1, num_tokens, token_dim))
        self.stem = ConvNormAct(in_chans, stem_chs, 3, stride=2, act_layer=nn.ReLU6)
        layers: list[nn.Module] = []
        channels = stem_chs
        for index, (kind, out_chans, expansion, stride) in enumerate(blocks):
            drop_path = drop_path_rate * (index + 1) / len(blocks)
            if kind == "lite":
                layers.append(LiteBlock(channels, out_chans, expansion, stride, groups))
            else:
                layers.append(
                    Block(
                        kind,
                        channels,
                        out_chans,
                        expansion,
                        groups,
                        token_dim,
                        num_heads,
                        former_heads,
                        drop_path,
                    )
                )
            channels = out_chans
        self.blocks = nn.ModuleList(layers)
        self.ends_stage = (*(stride == 2 for *_, stride in blocks[1:]), True)
        self.mobile_to_former = MobileToFormer(channels, token_dim, num_heads, drop_path_rate)

        hidden = channels * head_expansion
        self.final_shuffle = _shuffle(groups, groups)
        self.final_conv = ConvNormAct(channels, hidden, 1, groups=groups, act_layer=nn.ReLU6)
        self.num_features = hidden + token_dim
        self.final_fc = nn.Linear(self.num_features, head_dim)
        self.final_norm = HeadNorm(head_dim)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = linear_head(head_dim, num_classes)
        self.apply(_init_weights)

    @property
    def head_hidden_size(self) -> int:
        """Width of what the classifier is given."""
        return self.head_dim

    def trunk(self, images: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Returns the last map and, in each of its cells, the class token: (B, C + D, h, w)."""
        tokens = self.tokens.expand(images.shape[0], -1, -1)
        current = self.stem(images)
        for block, ends_stage in zip(self.blocks, self.ends_stage):
            current, tokens = self.run(block, current, tokens)
            if maps is not None and ends_stage:
                maps.append(current)
        tokens = self.mobile_to_former(tokens, current)
        current = self.final_conv(self.final_shuffle(current))
        class_token = tokens[:, 0, :, None, None].expand(-1, -1, *current.shape[2:])
        return torch.cat([current, class_token.to(current.dtype)], dim=1)

    def pool(self, features: Tensor) -> Tensor:
        """Returns (B, head_dim), or the features as they are if ``global_pool`` is empty."""
        if not self.global_pool:
            return features
        mean = features.mean((2, 3))
        cells, class_token = mean.tensor_split([features.shape[1] - self.tokens.shape[2]], dim=1)
        return F.hardswish(
            self.final_norm(self.final_fc(torch.cat([F.hardswish(cells), class_token], dim=1)))
        )

    @jit_ignore
    def no_weight_decay(self) -> set[str]:
        """Returns the tokens' name."""
        return {"tokens"}

    @jit_ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns the patterns of timm's layer groups."""
        return {
            "stem": r"^stem|^tokens",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^mobile_to_former|^final_", (99999,))],
        }


def _check(
    blocks: tuple[BlockNumbers, ...],
    stem_chs: int,
    token_dim: int,
    num_heads: int,
    former_heads: int,
    groups: int,
) -> None:
    """Says which number does not fit."""
    for kind, channels, _, stride in blocks:
        strides = {"lite": (1, 2), "plain": (1,), "down": (2,)}
        if kind not in strides:
            raise InputError(
                f"mobile_former: a block's kind must be lite, plain or down, not '{kind}'"
            )
        if stride not in strides[kind]:
            raise InputError(f"mobile_former: a {kind} block cannot have stride {stride}")
        if channels % num_heads or channels % groups:
            raise InputError(
                f"mobile_former: num_heads and groups must divide the {channels} channels of a block"
            )
    if token_dim % former_heads or token_dim % 4:
        raise InputError(
            f"mobile_former: former_heads={former_heads} and 4 must divide token_dim={token_dim}"
        )
    if stem_chs % num_heads or stem_chs % groups:
        raise InputError(f"mobile_former: num_heads and groups must divide stem_chs={stem_chs}")


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        fan_out = (
            math.prod(module.kernel_size) * module.out_channels
        )  # of depthwise convolutions, too
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


_OFFICIAL = (
    (r"^tokens\.weight$", "tokens"),
    (r"^stem\.0\.", "stem.conv."),
    (r"^stem\.1\.", "stem.bn."),
    (r"^features\.", "blocks."),
    (r"^(blocks\.\d+)\.conv\.0\.", r"\1.conv1.conv."),
    (r"^(blocks\.\d+)\.conv\.1\.", r"\1.conv1.bn."),
    (r"^(blocks\.\d+)\.conv\.4\.", r"\1.conv2.conv."),
    (r"^(blocks\.\d+)\.conv\.5\.", r"\1.conv2.bn."),
    (r"^(blocks\.\d+)\.(conv\d)\.0\.", r"\1.mobile.\2.conv."),
    (r"^(blocks\.\d+)\.(conv\d)\.1\.", r"\1.mobile.\2.bn."),
    (r"\blocal_global\.", "mobile_to_former."),
    (r"\bglobal_block\.", "former."),
    (r"\bglobal_local\.proj\.", "former_to_mobile.v."),
    (r"\bglobal_local\.", "former_to_mobile."),
    (r"\.alpha\.0\.", ".alpha."),
    (r"\.layer_norm\.", ".norm."),
    (r"\.channel_mlp\.", ".proj."),
    (r"\.ffn\.0\.", ".ffn.fc1."),
    (r"\.ffn\.2\.", ".ffn.fc2."),
    (r"\.hyper1\.hyper\.", ".mobile.act1.slopes."),
    (r"\.hyper[23]\.hyper\.", ".mobile.act2.slopes."),
    (r"\.slopes\.0\.", ".slopes.fc1."),
    (r"\.slopes\.2\.", ".slopes.fc2."),
    (r"^classifier\.conv\.1\.", "final_conv.conv."),
    (r"^classifier\.conv\.2\.", "final_conv.bn."),
    (r"^classifier\.fc\.0\.", "final_fc."),
    (r"^classifier\.fc\.1\.", "final_norm."),
    (r"^classifier\.classifier\.1\.", "head."),
)


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Returns the weights under this file's names, from those of AAboys/MobileFormer or these.

    Args:
        state_dict: Weights of the same variant; none depends on the size of the image.
        model: The model that they are for.
    """
    converted = {}
    for name, tensor in state_dict.items():
        name = renamed(name, _OFFICIAL)
        converted[name] = tensor[None] if name == "tokens" and tensor.ndim == 2 else tensor
    return converted


def _mobile_former(
    variant: str, pretrained: bool, numbers: dict[str, Any], kwargs: dict[str, Any]
) -> MobileFormer:
    return build(MobileFormer, variant, pretrained, checkpoint_filter_fn, **{**numbers, **kwargs})


def _twelve(widths: tuple[int, ...], expansions: tuple[int, int]) -> tuple[BlockNumbers, ...]:
    """The blocks of the larger variants.

    ``expansions`` are those of the plain blocks of the second and third stage.
    """
    first, second, third, fourth, fifth, last = widths
    return (
        ("lite", first, 2, 1),
        *(("down", second, 6, 2), ("plain", second, expansions[0], 1)),
        *(("down", third, 6, 2), ("plain", third, expansions[1], 1)),
        *(
            ("down", fourth, 6, 2),
            ("plain", fourth, 4, 1),
            ("plain", fifth, 6, 1),
            ("plain", fifth, 6, 1),
        ),
        *(("down", last, 6, 2), ("plain", last, 6, 1), ("plain", last, 6, 1)),
    )


_BLOCKS_26M = (
    *(("lite", 12, 3, 2), ("plain", 12, 3, 1)),
    *(("down", 24, 6, 2), ("plain", 24, 3, 1)),
    *(("down", 48, 6, 2), ("plain", 48, 4, 1), ("plain", 64, 6, 1)),
    *(("down", 96, 6, 2), ("plain", 96, 6, 1)),
)
_BLOCKS_96M = (
    ("lite", 12, 2, 1),
    ("down", 16, 6, 2),
    *(("down", 32, 6, 2), ("plain", 32, 3, 1)),
    *(("down", 64, 6, 2), ("plain", 64, 4, 1), ("plain", 88, 6, 1)),
    *(("down", 128, 6, 2), ("plain", 128, 6, 1)),
)
# Ours leave out the last halving: 64 pixels end at 4×4 cells.
_BLOCKS_NANO = (
    *(("lite", 16, 3, 2), ("plain", 16, 3, 1)),
    *(("down", 32, 6, 2), ("plain", 32, 3, 1)),
    *(("down", 64, 6, 2), ("plain", 64, 4, 1)),
)
_BLOCKS_TINY = (
    *(("lite", 24, 3, 2), ("plain", 24, 4, 1)),
    *(("down", 48, 6, 2), ("plain", 48, 4, 1)),
    *(("down", 96, 6, 2), ("plain", 96, 6, 1), ("plain", 128, 6, 1), ("plain", 128, 6, 1)),
)

default_cfgs = generate_default_cfgs(
    {
        "mobile_former_nano": weights_cfg(64, first_conv="stem.conv"),
        "mobile_former_tiny": weights_cfg(64, first_conv="stem.conv"),
        "mobile_former_26m_224.in1k": weights_cfg(first_conv="stem.conv"),
        "mobile_former_52m_224.in1k": weights_cfg(first_conv="stem.conv"),
        "mobile_former_96m_224.in1k": weights_cfg(first_conv="stem.conv"),
        "mobile_former_151m_224.in1k": weights_cfg(first_conv="stem.conv"),
        "mobile_former_214m_224.in1k": weights_cfg(first_conv="stem.conv"),
        "mobile_former_294m_224.in1k": weights_cfg(first_conv="stem.conv"),
        "mobile_former_508m_224.in1k": weights_cfg(first_conv="stem.conv"),
    }
)


@register_model
def mobile_former_nano(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """Four tokens of 96 beside maps of 16×16, 8×8 and 4×4 cells of a 64-pixel image.

    0.7 M parameters.
    """
    numbers = {
        "stem_chs": 12,
        "blocks": _BLOCKS_NANO,
        "num_tokens": 4,
        "token_dim": 96,
        "head_dim": 256,
    }
    return _mobile_former("mobile_former_nano", pretrained, numbers, kwargs)


@register_model
def mobile_former_tiny(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """Six tokens of 192 beside maps of 16×16, 8×8 and 4×4 cells of a 64-pixel image.

    4.5 M parameters.
    """
    numbers = {
        "stem_chs": 16,
        "blocks": _BLOCKS_TINY,
        "num_tokens": 6,
        "token_dim": 192,
        "head_dim": 1024,
    }
    return _mobile_former("mobile_former_tiny", pretrained, numbers, kwargs)


@register_model
def mobile_former_26m_224(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """Mobile-Former-26M."""
    numbers = {
        "stem_chs": 8,
        "blocks": _BLOCKS_26M,
        "num_tokens": 3,
        "token_dim": 128,
        "groups": 4,
        "head_dim": 1024,
    }
    return _mobile_former("mobile_former_26m_224", pretrained, numbers, kwargs)


@register_model
def mobile_former_52m_224(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """Mobile-Former-52M."""
    numbers = {
        "stem_chs": 8,
        "blocks": _BLOCKS_26M,
        "num_tokens": 3,
        "token_dim": 128,
        "head_dim": 1024,
    }
    return _mobile_former("mobile_former_52m_224", pretrained, numbers, kwargs)


@register_model
def mobile_former_96m_224(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """Mobile-Former-96M."""
    numbers = {
        "stem_chs": 12,
        "blocks": _BLOCKS_96M,
        "num_tokens": 4,
        "token_dim": 128,
        "head_dim": 1280,
    }
    return _mobile_former("mobile_former_96m_224", pretrained, numbers, kwargs)


@register_model
def mobile_former_151m_224(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """Mobile-Former-151M."""
    numbers = {
        "stem_chs": 12,
        "blocks": _twelve((12, 16, 32, 64, 88, 128), (3, 3)),
        "head_dim": 1280,
    }
    return _mobile_former("mobile_former_151m_224", pretrained, numbers, kwargs)


@register_model
def mobile_former_214m_224(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """Mobile-Former-214M."""
    numbers = {
        "stem_chs": 12,
        "blocks": _twelve((12, 20, 40, 80, 112, 160), (3, 4)),
        "head_dim": 1600,
    }
    return _mobile_former("mobile_former_214m_224", pretrained, numbers, kwargs)


@register_model
def mobile_former_294m_224(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """Mobile-Former-294M."""
    numbers = {
        "stem_chs": 16,
        "blocks": _twelve((16, 24, 48, 96, 128, 192), (4, 4)),
        "head_dim": 1920,
    }
    return _mobile_former("mobile_former_294m_224", pretrained, numbers, kwargs)


@register_model
def mobile_former_508m_224(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """Mobile-Former-508M."""
    numbers = {
        "stem_chs": 24,
        "blocks": _twelve((24, 40, 72, 128, 176, 240), (3, 3)),
        "head_dim": 1920,
    }
    return _mobile_former("mobile_former_508m_224", pretrained, numbers, kwargs)


def _info(name: str, size: Size, notes: str) -> ModelInfo:
    return our_model("Mobile-Former", _PAPER, name, size, notes)


MODELS: tuple[ModelInfo, ...] = (
    _info("mobile_former_nano", "nano", "four tokens beside a small MobileNet of stride 16"),
    _info("mobile_former_tiny", "tiny", "six tokens beside a MobileNet of stride 16"),
    *(
        _info(
            f"mobile_former_{flops}m_224",
            "paper",
            f"{flops} million multiply-adds at 224 pixels; stride 32",
        )
        for flops in (26, 52, 96, 151, 214, 294, 508)
    ),
)
