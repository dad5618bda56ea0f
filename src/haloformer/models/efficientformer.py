"""EfficientFormer for images of any size.

Li et al. 2022, "EfficientFormer: Vision Transformers at MobileNet Speed"
(https://arxiv.org/abs/2206.01191). The network is timm's; its attention biases are made for the 7×7
tokens of a 224-pixel image, here for those of the image's own size.

Its blocks of pooling learn no filters: all that the network sees between neighbouring pixels it
learns in the strided convolutions. The small ones here have two more in the stem.
"""

from typing import Any

import torch.nn.functional as F
from timm.layers import to_2tuple
from timm.models import efficientformer as timm_efficientformer
from timm.models import generate_default_cfgs, register_model
from timm.models.efficientformer import Attention, EfficientFormer
from torch import Tensor, nn

from haloformer.models.backbone import build, weights_cfg
from haloformer.models.info import SMALL_HEAD, ModelInfo


class NativeEfficientFormer(EfficientFormer):
    """timm's EfficientFormer with attention biases for ``img_size``.

    Args:
        img_size: Pixels per side, or (height, width).
        embed_dims: Channels of each stage.
        downsamples: Whether each stage begins with a convolution of stride 2.
        stem_refine: Whether a 3×3 convolution of stride 1 follows each of the stem's strided ones.
        **kwargs: As timm's.
    """

    def __init__(
        self,
        *,
        img_size: int | tuple[int, int] = 224,
        embed_dims: tuple[int, ...] = (48, 96, 224, 448),
        downsamples: tuple[bool, ...] = (False, True, True, True),
        stem_refine: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(embed_dims=embed_dims, downsamples=downsamples, **kwargs)
        if stem_refine:
            for number, width in ((1, embed_dims[0] // 2), (2, embed_dims[0])):
                refined = nn.Sequential(getattr(self.stem, f"act{number}"), _refining(width))
                setattr(self.stem, f"act{number}", refined)
                refined.apply(self._init_weights)
        stride = 4 * 2 ** sum(downsamples)
        # Every stride is that of a 3×3 convolution with padding, which rounds up.
        self.token_grid: tuple[int, ...] = tuple(-(-side // stride) for side in to_2tuple(img_size))
        for block in self.modules():
            if isinstance(getattr(block, "token_mixer", None), Attention):
                block.token_mixer = Attention(embed_dims[-1], resolution=self.token_grid)  # type: ignore[arg-type]
                block.token_mixer.apply(self._init_weights)


def _refining(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )


def checkpoint_filter_fn(state_dict: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Accepts timm's and the official keys.

    Resizes the tables of attention biases (heads, h·w) to the model's grid.
    """
    state_dict = timm_efficientformer.checkpoint_filter_fn(state_dict, model)
    own = model.state_dict()
    converted = {}
    for key, value in state_dict.items():
        if key.endswith("attention_bias_idxs"):
            value = own[key]  # a function of the grid alone
        elif key.endswith("attention_biases") and value.shape != own[key].shape:
            side = round(value.shape[1] ** 0.5)
            table = value.reshape(1, -1, side, side)  # by the absolute distance in rows and columns
            value = F.interpolate(
                table, size=model.token_grid, mode="bilinear", align_corners=True
            )[0].flatten(1)
        converted[key] = value
    return converted


def _distilled_cfg(name: str) -> dict[str, Any]:
    return {**timm_efficientformer.default_cfgs[name].default.to_dict(), "fixed_input_size": False}


default_cfgs = generate_default_cfgs(
    {
        "efficientformer_nano.untrained": weights_cfg(
            first_conv="stem.conv1", classifier=("head", "head_dist")
        ),
        "efficientformer_tiny.untrained": weights_cfg(
            first_conv="stem.conv1", classifier=("head", "head_dist")
        ),
        "efficientformer_l1_native.snap_dist_in1k": _distilled_cfg("efficientformer_l1"),
        "efficientformer_l3_native.snap_dist_in1k": _distilled_cfg("efficientformer_l3"),
        "efficientformer_l7_native.snap_dist_in1k": _distilled_cfg("efficientformer_l7"),
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> NativeEfficientFormer:
    return build(NativeEfficientFormer, variant, pretrained, checkpoint_filter_fn, **kwargs)


@register_model
def efficientformer_nano(pretrained: bool = False, **kwargs: Any) -> NativeEfficientFormer:
    """Narrow and shallow, 16-pixel tokens.

    Layer scale starts at 1: at 1e-5 it delays learning by thousands of steps, and 0.1 still delays it.
    """
    numbers = dict(
        depths=(1, 1, 1, 3),
        embed_dims=(24, 48, 128, 128),
        downsamples=(False, True, True, False),
        num_vit=2,
        layer_scale_init_value=1.0,
        stem_refine=True,
    )
    return _create("efficientformer_nano", pretrained, **{**numbers, **kwargs})


@register_model
def efficientformer_tiny(pretrained: bool = False, **kwargs: Any) -> NativeEfficientFormer:
    """L1 narrowed, 16-pixel tokens; see :func:`efficientformer_nano`."""
    numbers = dict(
        depths=(2, 2, 3, 4),
        embed_dims=(48, 96, 256, 256),
        downsamples=(False, True, True, False),
        num_vit=2,
        layer_scale_init_value=1.0,
        stem_refine=True,
    )
    return _create("efficientformer_tiny", pretrained, **{**numbers, **kwargs})


@register_model
def efficientformer_l1_native(pretrained: bool = False, **kwargs: Any) -> NativeEfficientFormer:
    """EfficientFormer-L1."""
    numbers = dict(depths=(3, 2, 6, 4), embed_dims=(48, 96, 224, 448), num_vit=1)
    return _create("efficientformer_l1_native", pretrained, **{**numbers, **kwargs})


@register_model
def efficientformer_l3_native(pretrained: bool = False, **kwargs: Any) -> NativeEfficientFormer:
    """EfficientFormer-L3."""
    numbers = dict(depths=(4, 4, 12, 6), embed_dims=(64, 128, 320, 512), num_vit=4)
    return _create("efficientformer_l3_native", pretrained, **{**numbers, **kwargs})


@register_model
def efficientformer_l7_native(pretrained: bool = False, **kwargs: Any) -> NativeEfficientFormer:
    """EfficientFormer-L7."""
    numbers = dict(depths=(6, 6, 18, 8), embed_dims=(96, 192, 384, 768), num_vit=8)
    return _create("efficientformer_l7_native", pretrained, **{**numbers, **kwargs})


_PAPER = "EfficientFormer: Vision Transformers at MobileNet Speed (arXiv:2206.01191)"

MODELS: tuple[ModelInfo, ...] = (
    ModelInfo(
        "efficientformer_nano",
        "EfficientFormer",
        _PAPER,
        "efficientformer_nano",
        "two more convolutions in the stem, pooling blocks, then two of attention",
        SMALL_HEAD,
        size="nano",
    ),
    ModelInfo(
        "efficientformer_tiny",
        "EfficientFormer",
        _PAPER,
        "efficientformer_tiny",
        "two more convolutions in the stem, pooling blocks, then two of attention",
        SMALL_HEAD,
        size="tiny",
    ),
    *(
        ModelInfo(
            f"efficientformer_{size}",
            "EfficientFormer",
            _PAPER,
            f"efficientformer_{size}_native",
            "as in the paper, with attention biases for the image's own size",
            pretrained=True,
            size="paper",
        )
        for size in ("l1", "l3", "l7")
    ),
)
