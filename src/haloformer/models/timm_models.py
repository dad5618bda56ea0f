"""The architectures that timm has, as data.

Which of its entries, and the numbers that fit them to lens cutouts.

``nano`` and ``tiny`` are sized here, for images of 64–150 pixels of one channel; the others are the
papers' variants, as timm has them.
"""

from typing import Any

from haloformer.models.info import SMALL_HEAD, ModelInfo


def _paper_variants(
    family: str, paper: str, names: str, notes: str = "as in the paper"
) -> tuple[ModelInfo, ...]:
    """Entries of timm's under timm's own names; a star marks those with ImageNet weights."""
    return tuple(
        ModelInfo(
            name.rstrip("*"),
            family,
            paper,
            name.rstrip("*"),
            notes,
            pretrained=name.endswith("*"),
            size="paper",
        )
        for name in names.split()
    )


_BATCH_NORM_FAMILIES = (
    "LeViT",
    "FastViT",
    "MaxViT",
    "CoAtNet",
    "EfficientViT (MSRA)",
    "EfficientFormer v2",
)
"""Their features come from batch norms, so what all images share hardly reaches the classifier."""


def _sized(
    family: str, paper: str, timm_name: str, name: str, notes: str, **kwargs: Any
) -> ModelInfo:
    if family not in _BATCH_NORM_FAMILIES:
        kwargs["head_norm"] = "batch"
    size = "nano" if "nano" in name else "tiny"
    return ModelInfo(name, family, paper, timm_name, notes, kwargs, size=size)  # type: ignore[arg-type]


_VIT = "An Image is Worth 16x16 Words (arXiv:2010.11929)"
_DEIT = (
    "Training data-efficient image transformers & distillation through attention (arXiv:2012.12877)"
)
_TNT = "Transformer in Transformer (arXiv:2103.00112)"
_SWIN = "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows (arXiv:2103.14030)"
_SWIN2 = "Swin Transformer V2: Scaling Up Capacity and Resolution (arXiv:2111.09883)"
_PVT2 = "PVT v2: Improved Baselines with Pyramid Vision Transformer (arXiv:2106.13797)"
_CAIT = "Going deeper with Image Transformers (arXiv:2103.17239)"
_CROSSVIT = "CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image Classification (arXiv:2103.14899)"
_TWINS = (
    "Twins: Revisiting the Design of Spatial Attention in Vision Transformers (arXiv:2104.13840)"
)
_EFFICIENTNET = (
    "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks (arXiv:1905.11946)"
)
_RESNET = "Deep Residual Learning for Image Recognition (arXiv:1512.03385)"
_CONVIT = "ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases (arXiv:2103.10697)"
_BOTNET = "Bottleneck Transformers for Visual Recognition (arXiv:2101.11605)"
_EFFICIENTFORMER2 = "Rethinking Vision Transformers for MobileNet Size and Speed (arXiv:2212.08059)"
_COAT = "Co-Scale Conv-Attentional Image Transformers (arXiv:2104.06399)"
_COATNET = "CoAtNet: Marrying Convolution and Attention for All Data Sizes (arXiv:2106.04803)"
_LEVIT = "LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference (arXiv:2104.01136)"
_PIT = "Rethinking Spatial Dimensions of Vision Transformers (arXiv:2103.16302)"
_MAXVIT = "MaxViT: Multi-Axis Vision Transformer (arXiv:2204.01697)"
_FASTVIT = "FastViT: A Fast Hybrid Vision Transformer using Structural Reparameterization (arXiv:2303.14189)"
_MOBILEVIT = "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer (arXiv:2110.02178)"
_MOBILEVIT2 = "Separable Self-attention for Mobile Vision Transformers (arXiv:2206.02680)"
_EFFICIENTVIT = "EfficientViT: Multi-Scale Linear Attention for High-Resolution Dense Prediction (arXiv:2205.14756)"
_EFFICIENTVIT_M = "EfficientViT: Memory Efficient Vision Transformer with Cascaded Group Attention (arXiv:2305.07027)"
_TINYVIT = "TinyViT: Fast Pretraining Distillation for Small Vision Transformers (arXiv:2207.10666)"
_NEXTVIT = "Next-ViT: Next Generation Vision Transformer (arXiv:2207.05501)"
_DINOV3 = "DINOv3 (arXiv:2508.10104)"
_EVA02 = "EVA-02: A Visual Representation for Neon Genesis (arXiv:2303.11331)"
_HIERA = (
    "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles (arXiv:2306.00989)"
)
_CONVNEXT = "A ConvNet for the 2020s (arXiv:2201.03545)"
_CONVNEXT2 = (
    "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders (arXiv:2301.00808)"
)
_EDGENEXT = "EdgeNeXt: Efficiently Amalgamated CNN-Transformer Architecture (arXiv:2206.10589)"

MODELS: tuple[ModelInfo, ...] = (
    # ViT
    _sized(
        "ViT",
        _VIT,
        "vit_tiny_patch16_224",
        "vit_nano",
        "plain ViT with 8-pixel patches, for tests and comparisons",
        patch_size=8,
        embed_dim=96,
        depth=6,
        num_heads=3,
    ),
    ModelInfo(
        "vit_lens_tiny",
        "ViT",
        _VIT,
        "vit_tiny_patch16_224",
        "ViT-Ti with 8-pixel patches, as 16 leave 4×4 tokens of a 64-pixel image",
        {"patch_size": 8, "head_norm": "batch"},
        pretrained=True,
        size="tiny",
    ),  # timm resamples the patch embedding and the position embedding
    *_paper_variants(
        "ViT", _VIT, "vit_tiny_patch16_224* vit_small_patch16_224* vit_base_patch16_224*"
    ),
    *_paper_variants(
        "DeiT", _DEIT, "deit_tiny_patch16_224* deit_small_patch16_224* deit_base_patch16_224*"
    ),
    # TNT
    _sized(
        "TNT",
        _TNT,
        "tnt_s_patch16_224",
        "tnt_nano",
        "8-pixel patches of 4×4 inner tokens",
        patch_size=8,
        first_stride=2,
        embed_dim=128,
        inner_dim=16,
        depth=5,
        num_heads_inner=2,
        num_heads_outer=4,
    ),
    _sized(
        "TNT",
        _TNT,
        "tnt_s_patch16_224",
        "tnt_tiny",
        "8-pixel patches of 4×4 inner tokens",
        patch_size=8,
        first_stride=2,
        embed_dim=192,
        inner_dim=12,
        depth=12,
        num_heads_inner=2,
        num_heads_outer=3,
    ),
    *_paper_variants("TNT", _TNT, "tnt_s_patch16_224* tnt_b_patch16_224*"),
    # Swin
    _sized(
        "Swin",
        _SWIN,
        "swin_tiny_patch4_window7_224",
        "swin_nano",
        "4-pixel patches, windows of 4×4, three stages",
        patch_size=4,
        window_size=4,
        embed_dim=48,
        depths=(2, 2, 2),
        num_heads=(2, 4, 8),
        drop_path_rate=0.0,
    ),
    _sized(
        "Swin",
        _SWIN,
        "swin_tiny_patch4_window7_224",
        "swin_lens_tiny",
        "4-pixel patches, windows of 4×4, three stages",
        patch_size=4,
        window_size=4,
        embed_dim=96,
        depths=(2, 2, 2),
        num_heads=(3, 6, 12),
        drop_path_rate=0.0,
    ),
    *_paper_variants(
        "Swin",
        _SWIN,
        "swin_tiny_patch4_window7_224* swin_small_patch4_window7_224* swin_base_patch4_window7_224*",
    ),
    _sized(
        "Swin v2",
        _SWIN2,
        "swinv2_tiny_window8_256",
        "swinv2_nano",
        "4-pixel patches, windows of 4×4, three stages",
        patch_size=4,
        window_size=4,
        embed_dim=48,
        depths=(2, 2, 2),
        num_heads=(2, 4, 8),
        drop_path_rate=0.0,
    ),
    _sized(
        "Swin v2",
        _SWIN2,
        "swinv2_tiny_window8_256",
        "swinv2_lens_tiny",
        "4-pixel patches, windows of 4×4, three stages",
        patch_size=4,
        window_size=4,
        embed_dim=96,
        depths=(2, 2, 2),
        num_heads=(3, 6, 12),
        drop_path_rate=0.0,
    ),
    *_paper_variants(
        "Swin v2",
        _SWIN2,
        "swinv2_tiny_window8_256* swinv2_small_window8_256* swinv2_base_window8_256*",
    ),
    # PVT v2
    _sized(
        "PVT v2",
        _PVT2,
        "pvt_v2_b0",
        "pvt_v2_nano",
        "b0 at half its width",
        embed_dims=(24, 48, 96, 128),
        depths=(1, 1, 2, 1),
        num_heads=(1, 2, 4, 4),
        mlp_ratios=(4, 4, 4, 4),
    ),
    _sized(
        "PVT v2",
        _PVT2,
        "pvt_v2_b0",
        "pvt_v2_tiny",
        "b0 with more heads and width",
        embed_dims=(40, 80, 192, 256),
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 6, 8),
        mlp_ratios=(8, 8, 4, 4),
    ),
    *_paper_variants(
        "PVT v2",
        _PVT2,
        "pvt_v2_b0* pvt_v2_b1* pvt_v2_b2* pvt_v2_b2_li* pvt_v2_b3* pvt_v2_b4* pvt_v2_b5*",
    ),
    # CaiT
    _sized(
        "CaiT",
        _CAIT,
        "cait_xxs24_224",
        "cait_nano",
        "8-pixel patches; layer scale starts at 0.1, not 1e-5",
        patch_size=8,
        embed_dim=96,
        depth=6,
        num_heads=3,
        depth_token_only=2,
        init_values=0.1,
    ),
    _sized(
        "CaiT",
        _CAIT,
        "cait_xxs24_224",
        "cait_tiny",
        "8-pixel patches; layer scale starts at 0.1, not 1e-5",
        patch_size=8,
        embed_dim=192,
        depth=10,
        num_heads=4,
        depth_token_only=2,
        init_values=0.1,
    ),
    *_paper_variants("CaiT", _CAIT, "cait_xxs24_224* cait_xxs36_224* cait_s24_224*"),
    # CrossViT: without img_scale it would enlarge images to 240 pixels
    _sized(
        "CrossViT",
        _CROSSVIT,
        "crossvit_tiny_240",
        "crossvit_nano",
        "patches of 8 and 16 pixels at native size",
        img_scale=(1.0, 1.0),
        patch_size=(8, 16),
        embed_dim=(64, 96),
        depth=((1, 3, 0), (1, 3, 0)),
        num_heads=(2, 3),
        mlp_ratio=(2.0, 2.0, 1.0),
    ),
    _sized(
        "CrossViT",
        _CROSSVIT,
        "crossvit_tiny_240",
        "crossvit_lens_tiny",
        "patches of 8 and 16 pixels at native size",
        img_scale=(1.0, 1.0),
        patch_size=(8, 16),
    ),
    *(
        ModelInfo(
            name,
            "CrossViT",
            _CROSSVIT,
            name,
            "patches of 12 and 16 pixels; both branches see the native size",
            {"img_scale": (1.0, 1.0)},
            pretrained=True,
            size="paper",
        )
        for name in (
            "crossvit_tiny_240",
            "crossvit_small_240",
            "crossvit_base_240",
            "crossvit_9_240",
            "crossvit_15_240",
            "crossvit_9_dagger_240",
            "crossvit_15_dagger_240",
            "crossvit_18_dagger_240",
        )
    ),
    # Twins
    _sized(
        "Twins-SVT",
        _TWINS,
        "twins_svt_small",
        "twins_svt_nano",
        "windows of 4×4, three stages' worth of width",
        embed_dims=(32, 64, 96, 128),
        depths=(1, 1, 2, 2),
        num_heads=(1, 2, 3, 4),
        mlp_ratios=(4, 4, 4, 4),
        wss=(4, 4, 4, 4),
    ),
    _sized(
        "Twins-SVT",
        _TWINS,
        "twins_svt_small",
        "twins_svt_tiny",
        "windows of 4×4",
        embed_dims=(48, 96, 192, 256),
        depths=(2, 2, 4, 2),
        num_heads=(2, 3, 6, 8),
        wss=(4, 4, 4, 4),
    ),
    *_paper_variants("Twins-SVT", _TWINS, "twins_svt_small* twins_svt_base*"),
    _sized(
        "Twins-PCPVT",
        _TWINS,
        "twins_pcpvt_small",
        "twins_pcpvt_nano",
        "spatially reduced attention, PEG positions",
        embed_dims=(32, 64, 96, 128),
        depths=(1, 1, 2, 1),
        num_heads=(1, 2, 3, 4),
        mlp_ratios=(4, 4, 4, 4),
    ),
    _sized(
        "Twins-PCPVT",
        _TWINS,
        "twins_pcpvt_small",
        "twins_pcpvt_tiny",
        "spatially reduced attention, PEG positions",
        embed_dims=(48, 96, 192, 256),
        depths=(2, 2, 3, 2),
        num_heads=(2, 3, 6, 8),
        mlp_ratios=(4, 4, 4, 4),
    ),
    *_paper_variants("Twins-PCPVT", _TWINS, "twins_pcpvt_small* twins_pcpvt_base*"),
    # Convolutional baselines
    *_paper_variants(
        "EfficientNet",
        _EFFICIENTNET,
        "efficientnet_lite0* efficientnet_b1* efficientnet_b2* efficientnet_b3*",
    ),
    ModelInfo(
        "efficientnet_b0",
        "EfficientNet",
        _EFFICIENTNET,
        "efficientnet_b0",
        "the usual small convolutional network",
        pretrained=True,
        size="tiny",
    ),
    _sized(
        "ResNet",
        _RESNET,
        "resnet18",
        "resnet_nano",
        "ResNet-18 at a quarter of its width",
        channels=(16, 32, 64, 128),
    ),
    _sized(
        "ResNet",
        _RESNET,
        "resnet18",
        "resnet_tiny",
        "ResNet-18 at 5/8 of its width",
        channels=(40, 80, 160, 320),
    ),
    ModelInfo(
        "resnet18",
        "ResNet",
        _RESNET,
        "resnet18",
        "the usual convolutional baseline",
        pretrained=True,
        size="paper",
    ),
    *_paper_variants("ResNet", _RESNET, "resnet34* resnet50*"),
    # ConViT
    _sized(
        "ConViT",
        _CONVIT,
        "convit_tiny",
        "convit_lens_nano",
        "8-pixel patches; gated positional attention in four of six layers",
        patch_size=8,
        embed_dim=24,
        depth=6,
        num_heads=4,
        local_up_to_layer=4,
    ),
    _sized("ConViT", _CONVIT, "convit_tiny", "convit_lens_tiny", "8-pixel patches", patch_size=8),
    *_paper_variants("ConViT", _CONVIT, "convit_tiny* convit_small* convit_base*"),
    # BoTNet
    *_paper_variants(
        "BoTNet",
        _BOTNET,
        "botnet26t_256* botnet50ts_256",
        "timm's variant: self-attention in the last stages",
    ),
    _sized(
        "BoTNet",
        _BOTNET,
        "botnet26t_256",
        "botnet_nano",
        "a quarter of the width; no pooling in the stem: attention over 8×8 and 4×4",
        width_factor=0.25,
        stem_pool="",
    ),
    _sized(
        "BoTNet",
        _BOTNET,
        "botnet26t_256",
        "botnet_tiny",
        "0.6 of the width; no pooling in the stem: attention over 8×8 and 4×4",
        width_factor=0.625,
        stem_pool="",
    ),
    # EfficientFormer v2; v1 has a file of its own
    _sized(
        "EfficientFormer v2",
        _EFFICIENTFORMER2,
        "efficientformerv2_s0",
        "efficientformerv2_nano",
        "S0 at half its width",
        embed_dims=(16, 32, 64, 96),
        depths=(1, 1, 3, 2),
        mlp_ratios=(4, 4, 4, 4),
        num_vit=1,
        distillation=False,
        layer_scale_init_value=0.1,
    ),
    _sized(
        "EfficientFormer v2",
        _EFFICIENTFORMER2,
        "efficientformerv2_s1",
        "efficientformerv2_tiny",
        "S1",
        distillation=False,
        layer_scale_init_value=0.1,
    ),
    *_paper_variants(
        "EfficientFormer v2",
        _EFFICIENTFORMER2,
        "efficientformerv2_s0* efficientformerv2_s1* efficientformerv2_s2* efficientformerv2_l*",
    ),
    # CoaT
    _sized(
        "CoaT-Lite",
        _COAT,
        "coat_lite_tiny",
        "coat_lite_nano",
        "factorised attention, four stages",
        embed_dims=(32, 48, 80, 128),
        serial_depths=(1, 1, 2, 1),
        mlp_ratios=(4, 4, 4, 4),
    ),
    ModelInfo(
        "coat_lite_tiny",
        "CoaT-Lite",
        _COAT,
        "coat_lite_tiny",
        "as in the paper",
        pretrained=True,
        size="tiny",
    ),
    *_paper_variants("CoaT-Lite", _COAT, "coat_lite_mini* coat_lite_small* coat_lite_medium*"),
    _sized(
        "CoaT",
        _COAT,
        "coat_tiny",
        "coat_nano",
        "co-scale: parallel blocks across three scales",
        embed_dims=(48, 64, 64, 64),
        serial_depths=(1, 1, 1, 1),
        parallel_depth=2,
        mlp_ratios=(4, 2, 2, 2),
    ),
    ModelInfo(
        "coat_tiny", "CoaT", _COAT, "coat_tiny", "as in the paper", pretrained=True, size="tiny"
    ),
    *_paper_variants("CoaT", _COAT, "coat_mini* coat_small*"),
    # CoAtNet
    _sized(
        "CoAtNet",
        _COATNET,
        "coatnet_pico_rw_224",
        "coatnet_lens_nano",
        "two convolutional and two attention stages",
        embed_dim=(32, 64, 96, 192),
        depths=(1, 1, 2, 1),
        stem_width=(16, 32),
    ),
    _sized(
        "CoAtNet",
        _COATNET,
        "coatnet_pico_rw_224",
        "coatnet_tiny",
        "two convolutional and two attention stages",
        embed_dim=(64, 96, 192, 320),
        depths=(2, 2, 5, 2),
        stem_width=(32, 64),
    ),
    *_paper_variants(
        "CoAtNet",
        _COATNET,
        "coatnet_pico_rw_224 coatnet_nano_rw_224* coatnet_0_224 coatnet_1_224 coatnet_2_224",
    ),
    # LeViT
    _sized(
        "LeViT",
        _LEVIT,
        "levit_128s",
        "levit_nano",
        "stem of stride 16, three stages",
        embed_dim=(64, 96, 128),
        key_dim=16,
        num_heads=(2, 3, 4),
        depth=(2, 2, 2),
    ),
    ModelInfo(
        "levit_tiny", "LeViT", _LEVIT, "levit_128s", "LeViT-128S", pretrained=True, size="tiny"
    ),
    *_paper_variants(
        "LeViT", _LEVIT, "levit_128s* levit_128* levit_192* levit_256* levit_conv_128s*"
    ),
    # PiT
    _sized(
        "PiT",
        _PIT,
        "pit_ti_224",
        "pit_nano",
        "patches of 8 pixels every 4",
        patch_size=8,
        stride=4,
        base_dims=(16, 16, 16),
        depth=(1, 3, 2),
        heads=(2, 4, 8),
    ),
    _sized(
        "PiT",
        _PIT,
        "pit_ti_224",
        "pit_tiny",
        "PiT-Ti with patches of 8 pixels every 4",
        patch_size=8,
        stride=4,
    ),
    *_paper_variants("PiT", _PIT, "pit_ti_224* pit_xs_224* pit_s_224* pit_b_224*"),
    # Recent ones
    _sized(
        "MaxViT",
        _MAXVIT,
        "maxvit_rmlp_pico_rw_256",
        "maxvit_lens_nano",
        "convolution, block and grid attention in every block",
        embed_dim=(32, 32, 64, 96),
        depths=(1, 1, 2, 1),
        stem_width=(16, 32),
    ),
    _sized(
        "MaxViT",
        _MAXVIT,
        "maxvit_rmlp_pico_rw_256",
        "maxvit_lens_tiny",
        "convolution, block and grid attention in every block",
        embed_dim=(32, 64, 128, 192),
        depths=(2, 2, 3, 2),
        stem_width=(24, 32),
    ),
    *_paper_variants(
        "MaxViT",
        _MAXVIT,
        "maxvit_rmlp_pico_rw_256* maxvit_rmlp_nano_rw_256* maxvit_tiny_tf_224* maxvit_small_tf_224* maxvit_base_tf_224*",
    ),
    _sized(
        "FastViT",
        _FASTVIT,
        "fastvit_sa12",
        "fastvit_nano",
        "attention in the last stage",
        layers=(1, 1, 2, 1),
        embed_dims=(32, 64, 128, 128),
        mlp_ratios=(3, 3, 3, 3),
        layer_scale_init_value=0.1,
    ),
    _sized(
        "FastViT",
        _FASTVIT,
        "fastvit_sa12",
        "fastvit_tiny",
        "attention in the last stage",
        layers=(2, 2, 4, 2),
        embed_dims=(48, 96, 192, 384),
        mlp_ratios=(3, 3, 3, 3),
        layer_scale_init_value=0.1,
    ),
    *_paper_variants(
        "FastViT", _FASTVIT, "fastvit_t8* fastvit_t12* fastvit_s12* fastvit_sa12* fastvit_sa24*"
    ),
    *_paper_variants("MobileViT", _MOBILEVIT, "mobilevit_xxs* mobilevit_xs* mobilevit_s*"),
    ModelInfo(
        "mobilevitv2_nano",
        "MobileViTv2",
        _MOBILEVIT2,
        "mobilevitv2_050",
        "MobileViTv2 at half width",
        SMALL_HEAD,
        pretrained=True,
        size="nano",
    ),
    ModelInfo(
        "mobilevitv2_tiny",
        "MobileViTv2",
        _MOBILEVIT2,
        "mobilevitv2_100",
        "MobileViTv2-1.0",
        SMALL_HEAD,
        pretrained=True,
        size="tiny",
    ),
    *_paper_variants(
        "MobileViTv2",
        _MOBILEVIT2,
        "mobilevitv2_050* mobilevitv2_075* mobilevitv2_100* mobilevitv2_150* mobilevitv2_200*",
    ),
    _sized(
        "EfficientViT (MIT)",
        _EFFICIENTVIT,
        "efficientvit_b0",
        "efficientvit_nano",
        "linear attention over ReLU features",
        widths=(8, 16, 32, 48, 64),
        depths=(1, 1, 1, 1, 1),
        head_dim=16,
        head_widths=(128, 256),
    ),
    _sized(
        "EfficientViT (MIT)",
        _EFFICIENTVIT,
        "efficientvit_b1",
        "efficientvit_tiny",
        "B1 with a narrower head",
        head_widths=(512, 640),
    ),
    *_paper_variants(
        "EfficientViT (MIT)",
        _EFFICIENTVIT,
        "efficientvit_b0* efficientvit_b1* efficientvit_b2* efficientvit_b3*",
    ),
    _sized(
        "EfficientViT (MSRA)",
        _EFFICIENTVIT_M,
        "efficientvit_m0",
        "efficientvit_m_nano",
        "cascaded group attention",
        embed_dim=(64, 96, 128),
        depth=(1, 2, 2),
        num_heads=(4, 4, 4),
    ),
    ModelInfo(
        "efficientvit_m_tiny",
        "EfficientViT (MSRA)",
        _EFFICIENTVIT_M,
        "efficientvit_m3",
        "M3",
        pretrained=True,
        size="tiny",
    ),
    *_paper_variants(
        "EfficientViT (MSRA)",
        _EFFICIENTVIT_M,
        "efficientvit_m0* efficientvit_m1* efficientvit_m2* efficientvit_m3* efficientvit_m4* efficientvit_m5*",
    ),
    _sized(
        "TinyViT",
        _TINYVIT,
        "tiny_vit_5m_224",
        "tiny_vit_nano",
        "windows of 4×4 and 8×8",
        embed_dims=(32, 64, 96, 128),
        depths=(1, 1, 2, 1),
        num_heads=(1, 2, 3, 4),
        window_sizes=(4, 4, 4, 2),
        drop_path_rate=0.0,
    ),
    ModelInfo(
        "tiny_vit_tiny",
        "TinyViT",
        _TINYVIT,
        "tiny_vit_5m_224",
        "TinyViT-5M",
        pretrained=True,
        size="tiny",
    ),
    *_paper_variants("TinyViT", _TINYVIT, "tiny_vit_5m_224* tiny_vit_11m_224* tiny_vit_21m_224*"),
    *_paper_variants("Next-ViT", _NEXTVIT, "nextvit_small* nextvit_base*"),
    _sized(
        "DINOv3-ViT",
        _DINOV3,
        "vit_tiny_patch16_dinov3_qkvb",
        "dinov3_nano",
        "rotary positions, registers, 8-pixel patches",
        patch_size=8,
        embed_dim=96,
        depth=6,
        num_heads=3,
        init_values=0.1,
    ),
    _sized(
        "DINOv3-ViT",
        _DINOV3,
        "vit_tiny_patch16_dinov3_qkvb",
        "dinov3_tiny",
        "rotary positions, registers, 8-pixel patches",
        patch_size=8,
        init_values=0.1,
    ),
    *_paper_variants(
        "DINOv3-ViT",
        _DINOV3,
        "vit_tiny_patch16_dinov3_qkvb* vit_small_patch16_dinov3* vit_base_patch16_dinov3*",
    ),
    _sized(
        "EVA-02",
        _EVA02,
        "eva02_tiny_patch14_224",
        "eva02_nano",
        "SwiGLU, rotary positions, 8-pixel patches",
        patch_size=8,
        embed_dim=96,
        depth=6,
        num_heads=3,
    ),
    _sized(
        "EVA-02",
        _EVA02,
        "eva02_tiny_patch14_224",
        "eva02_lens_tiny",
        "SwiGLU, rotary positions, 8-pixel patches",
        patch_size=8,
    ),
    *_paper_variants(
        "EVA-02", _EVA02, "eva02_tiny_patch14_224* eva02_small_patch14_224* eva02_base_patch14_224*"
    ),
    _sized(
        "Hiera",
        _HIERA,
        "hiera_tiny_224",
        "hiera_nano",
        "three stages from 4-pixel patches",
        embed_dim=40,
        num_heads=1,
        stages=(1, 2, 3),
        q_pool=2,
        mask_unit_size=(4, 4),
        mask_unit_attn=(True, True, False),
    ),
    _sized(
        "Hiera",
        _HIERA,
        "hiera_tiny_224",
        "hiera_lens_tiny",
        "three stages from 4-pixel patches",
        embed_dim=80,
        num_heads=1,
        stages=(1, 2, 4),
        q_pool=2,
        mask_unit_size=(4, 4),
        mask_unit_attn=(True, True, False),
    ),
    *_paper_variants("Hiera", _HIERA, "hiera_tiny_224* hiera_small_224* hiera_base_224*"),
    _sized(
        "ConvNeXt",
        _CONVNEXT,
        "convnext_atto",
        "convnext_lens_nano",
        "layer scale starts at 0.1, not 1e-6",
        dims=(24, 48, 96, 192),
        depths=(1, 1, 3, 1),
        ls_init_value=0.1,
    ),
    _sized(
        "ConvNeXt",
        _CONVNEXT,
        "convnext_atto",
        "convnext_lens_tiny",
        "Atto widened; layer scale starts at 0.1, not 1e-6",
        dims=(48, 96, 192, 384),
        ls_init_value=0.1,
    ),
    *_paper_variants(
        "ConvNeXt",
        _CONVNEXT,
        "convnext_atto* convnext_femto* convnext_pico* convnext_tiny* convnext_small*",
    ),
    _sized(
        "ConvNeXt V2",
        _CONVNEXT2,
        "convnextv2_atto",
        "convnextv2_lens_nano",
        "global response normalisation",
        dims=(24, 48, 96, 192),
        depths=(1, 1, 3, 1),
    ),
    _sized(
        "ConvNeXt V2",
        _CONVNEXT2,
        "convnextv2_atto",
        "convnextv2_lens_tiny",
        "global response normalisation",
        dims=(48, 96, 192, 384),
    ),
    *_paper_variants(
        "ConvNeXt V2",
        _CONVNEXT2,
        "convnextv2_atto* convnextv2_femto* convnextv2_pico* convnextv2_nano* convnextv2_tiny*",
    ),
    ModelInfo(
        "edgenext_xx_small",
        "EdgeNeXt",
        _EDGENEXT,
        "edgenext_xx_small",
        "mobile hybrid with attention over channels",
        pretrained=True,
        size="nano",
    ),
    *_paper_variants("EdgeNeXt", _EDGENEXT, "edgenext_x_small* edgenext_small*"),
)
