"""Attention maps: that the weights are those that the layers use, and that they lie where they belong in the image."""

import copy
import importlib
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from timm.layers import AttentionPoolLatent
from torch import nn
from torch.overrides import TorchFunctionMode

from haloformer.errors import InputError
from haloformer.models import attention, create_model, equivariant, has_attention, list_models
from haloformer.models.places import Places
from haloformer.models.timm_attention import KNOWN_LAYERS, NO_MAPS
from haloformer.models.tokens import TokenLayout, global_layout

# Sized for lens cutouts, of every family; where a family has no nano, its tiny.
_SMALL = {info.family: info.name for info in list_models() if info.size in ("tiny", "nano")}
_SMALL |= {info.family: info.name for info in list_models() if info.size == "nano"}
_OTHERS = {
    "MobileViT": "mobilevit_xxs",
    "Next-ViT": "nextvit_small",
    "DeiT": "deit_tiny_patch16_224",
}
WITHOUT_MAPS = {
    "CoaT": "factorised", "CoaT-Lite": "factorised", "EdgeNeXt": "over channels", "EfficientViT (MIT)": "linear",
    "EfficientNet": "none of its layers", "ResNet": "none of its layers", "ConvNeXt": "none of its layers",
    "ConvNeXt V2": "none of its layers",
}  # fmt: skip
CONVOLUTIONAL = {info.family: info.name for info in equivariant.MODELS if info.size == "nano"}
WITH_MAPS = {
    family: name
    for family, name in (_SMALL | _OTHERS).items()
    if family not in {*WITHOUT_MAPS, *CONVOLUTIONAL}
}


def images_of(size, n=2, channels=1):
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(0))


def total(maps):
    return maps.sum((-2, -1))


class _Counting(TorchFunctionMode):
    """Counts what could be attention, without knowing any layer."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        softmax = getattr(function, "__name__", "") == "softmax" and args[0].ndim > 2
        self.count += softmax or function is F.scaled_dot_product_attention
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("family", WITH_MAPS)
def test_every_attention_of_every_family_has_a_map_over_the_whole_image(family):
    model = create_model(WITH_MAPS[family], 64).eval()
    images = images_of(64)
    found = attention(model, images)
    for each in found:
        assert each.maps.shape[0] == 2
        assert each.maps.shape[2:] == (64, 64)
        assert (each.maps >= 0).all()
        torch.testing.assert_close(
            total(each.maps), torch.ones(each.maps.shape[:2]), rtol=0, atol=1e-5
        )
        assert each.weights is None
    assert has_attention(model)
    counting = _Counting()
    with torch.no_grad(), counting:
        model(images)
    # ConViT's gated layers form two softmaxes each; cascaded groups one for each head.
    softmaxes = {"GPSA": 2, "CascadedGroupAttention": found[0].maps.shape[1]}
    expected = sum(
        softmaxes.get(type(model.get_submodule(each.layer)).__name__, 1) for each in found
    )
    # Mobile-Former's tokens lie nowhere: of its three layers in a block, one has places for keys.
    expected += sum(
        type(module).__name__ in ("Former", "FormerToMobile") for module in model.modules()
    )
    assert counting.count == expected


@pytest.mark.parametrize("family", WITHOUT_MAPS)
def test_what_has_no_attention_between_places_says_so_and_why(family):
    model = create_model(_SMALL[family], 64)
    with pytest.raises(InputError, match=WITHOUT_MAPS[family]):
        attention(model, images_of(64))
    assert not has_attention(model)


@pytest.mark.parametrize("family", CONVOLUTIONAL)
def test_equivariant_networks_have_none(family):
    model = create_model(CONVOLUTIONAL[family], 64)
    assert not has_attention(model)
    with pytest.raises(InputError, match="has no attention"):
        attention(model, images_of(64))


@pytest.mark.parametrize(
    ("name", "size"),
    [("vit_nano", 150), ("swin_nano", 150), ("levit_nano", 150), ("hiera_nano", (45, 51)), ("mobilevit_xxs", (45, 51)),
     ("crossvit_nano", (45, 51)), ("tnt_nano", (45, 51)), ("maxvit_lens_nano", (45, 51))],
)  # fmt: skip
def test_maps_of_padded_models_are_of_the_image_without_its_padding(name, size):
    images = images_of(size)
    for each in attention(create_model(name, size), images):
        assert each.maps.shape[2:] == images.shape[2:]
        torch.testing.assert_close(
            total(each.maps), torch.ones(each.maps.shape[:2]), rtol=0, atol=1e-5
        )


# Where the tokens lie. How the input of a layer is ordered, as (W, N, D): the rest is for the maps to say.
def _windows_first(x, w):  # (B·W, N, D) or (B·W, h, w, D)
    return x.flatten(1, -2)[: len(x) // 2]


def _map(x, w):  # (B·W, D, h, w)
    return x.flatten(2).transpose(1, 2)[: len(x) // 2]


def _interleaved(x, w):  # Hiera: token r·W + window
    return x[0].unflatten(0, (-1, w)).transpose(0, 1)


def _stripes(x, w):  # CSWin's first pair: (3, B, h, w, D), rows of two
    return x[0, 0].unflatten(0, (-1, 2)).flatten(1, 2) if x.shape[2] // w == 2 else None


PLACED = {
    "vit_nano": _windows_first, "hybrid_nano": _windows_first, "swin_nano": _windows_first,
    "swinv2_nano": _windows_first, "pit_nano": _windows_first, "tnt_nano": _windows_first, "levit_nano": _windows_first,
    "cait_nano": _windows_first, "convit_lens_nano": _windows_first, "crossvit_nano": _windows_first,
    "efficientformer_nano": _windows_first, "dinov3_nano": _windows_first, "eva02_nano": _windows_first,
    "tiny_vit_nano": _windows_first, "mobilevit_xxs": _windows_first, "maxvit_lens_nano": _windows_first,
    "hiera_nano": _interleaved, "coatnet_lens_nano": _map, "botnet_nano": _map, "efficientvit_m_nano": _map,
    "cpvt_nano": _windows_first, "rvt_nano": _windows_first,
    "a_vit_nano": _windows_first, "cct_nano": _windows_first,
}  # fmt: skip


def _centre(spread):
    """The centre of gravity of (H, W), in pixels from the upper left corner."""
    spread = spread / spread.sum()
    rows, columns = (torch.arange(side) + 0.5 for side in spread.shape)
    return torch.stack([(spread.sum(1) * rows).sum(), (spread.sum(0) * columns).sum()])


@pytest.mark.parametrize("name", PLACED)
def test_tokens_lie_where_the_pixels_are_that_they_are_made_of(name):
    """The first layer's tokens, before any attention mixes them: their gradient's centre is that of their cell.

    (T2T-ViT is not here: its linear attention mixes tokens before the first layer that has maps.)

    By an even division of the image a 3×3 stem of stride 16 (``hybrid_nano``, ``levit_nano``) would be 7.5 pixels off.
    """
    torch.manual_seed(0)
    # EfficientFormer pools before its tokens, which see so far that a small image's edge would cut them off on one side.
    side = 128 if name == "efficientformer_nano" else 64
    model = create_model(name, side).eval()
    # Two images: with one, batch norm's gradient is wrong on some versions of PyTorch.
    images = images_of(side).requires_grad_()
    first = attention(model, images.detach(), keep_weights=True)[0]
    seen = {}
    layer = model.get_submodule(first.layer)
    layer.register_forward_pre_hook(lambda module, args: seen.update(tokens=args[0].clone()))
    model(images)
    windows, keys = first.layout.keys.shape
    tokens = PLACED[name](seen["tokens"], windows)
    assert tokens.shape[:2] == (windows, keys)
    offsets = []
    for window, key in _some_inner_keys(first):
        one = (
            F.one_hot(torch.tensor(window * keys + key), windows * keys)
            .float()
            .view(1, windows, 1, keys)
        )
        expected = _centre(first.in_image(one)[0, 0])
        token = tokens[window, key]
        (gradient,) = torch.autograd.grad(
            (token * torch.randn_like(token)).sum(), images, retain_graph=True
        )
        offsets.append(_centre(gradient[0, 0].square()) - expected)
    pixels = side / first.grid[0]
    assert torch.stack(offsets).mean(0).abs().max() < max(0.8, 0.15 * pixels)
    assert torch.stack(offsets).norm(dim=1).max() < max(3.0, 0.5 * pixels)


def _some_inner_keys(each, n=8):
    """Keys whose cells are not at the edge, where cells are cut off."""
    rows, columns = each.layout.keys // each.grid[1], each.layout.keys % each.grid[1]
    margin_rows, margin_columns = max(1, each.grid[0] // 4), max(1, each.grid[1] // 4)
    inner = (each.layout.keys >= 0) & (rows >= margin_rows) & (rows < each.grid[0] - margin_rows)
    inner &= (columns >= margin_columns) & (columns < each.grid[1] - margin_columns)
    places = inner.nonzero()
    return places[
        torch.randperm(len(places), generator=torch.Generator().manual_seed(0))[:n]
    ].tolist()


@pytest.mark.parametrize("name", ["pvt_v2_nano", "twins_pcpvt_nano"])
def test_reduced_keys_lie_in_the_middle_of_the_tokens_that_they_merge(name):
    torch.manual_seed(0)
    model = create_model(name, 128).eval()
    images = images_of(128).requires_grad_()
    first = attention(model, images.detach())[0]
    assert (first.kind, first.grid) == ("spatially reduced", (4, 4))
    seen = {}
    layer = model.get_submodule(first.layer)
    layer.norm.register_forward_hook(lambda module, args, result: seen.update(keys=result))
    model(images)
    for key in (5, 6, 9, 10):
        expected = _centre(
            first.in_image(F.one_hot(torch.tensor(key), 16).float().view(1, 1, 1, 16))[0, 0]
        )
        token = seen["keys"][0, key]
        (gradient,) = torch.autograd.grad(
            (token * torch.randn_like(token)).sum(), images, retain_graph=True
        )
        assert (_centre(gradient[0, 0].square()) - expected).norm() < 3  # of 32 pixels


def test_tokens_that_subsampling_keeps_stay_where_they_were():
    """LeViT's second stage goes on with every second token of the first, whose tokens lie at 0.5, 16.5, 32.5, …"""
    stages = {
        each.grid: each
        for each in attention(create_model("levit_nano", 128), images_of(128))
        if each.kind == "global"
    }
    for grid, key, place in (((8, 8), 9, 16.5), ((4, 4), 5, 32.5)):
        one = F.one_hot(torch.tensor(key), grid[0] * grid[1]).float().view(1, 1, 1, -1)
        torch.testing.assert_close(
            _centre(stages[grid].in_image(one)[0, 0]), torch.tensor([place, place])
        )


def test_windows_of_swin_are_those_that_its_own_code_cuts():
    """10×10 cells in shifted, padded windows of 4×4; queries and keys switched off, values passed through."""
    torch.manual_seed(0)
    model = create_model("swin_nano", 150).eval()
    block = (
        model.get_submodule("layers.2.blocks.1")
        if not hasattr(model, "model")
        else model.model.layers[2].blocks[1]
    )
    heads, dim = block.attn.num_heads, block.attn.dim
    assert block.shift_size == (2, 2)
    with torch.no_grad():
        block.attn.relative_position_bias_table.normal_()
        block.attn.qkv.weight.zero_()
        block.attn.qkv.weight[2 * dim :].copy_(torch.eye(dim))
        block.attn.qkv.bias.zero_()
        block.attn.proj.weight.copy_(torch.eye(dim))
        block.attn.proj.bias.zero_()
        mixed = block._attn(
            torch.eye(100).view(100, 10, 10, 1).expand(-1, -1, -1, dim).contiguous()
        )
    by_swin = mixed.view(100, 100, heads, -1)[..., 0].permute(
        2, 1, 0
    )  # (heads, cell that asks, cell that is asked)

    (found,) = (
        each
        for each in attention(model, images_of(150, 1), keep_weights=True)
        if each.layer.endswith("layers.2.blocks.1.attn")
    )
    by_layout = torch.zeros(heads, 101, 101)
    cells = found.layout.keys.where(found.layout.keys >= 0, 100)
    for window, members in enumerate(cells):
        by_layout[:, members[:, None], members[None]] += found.weights[0, window]
    torch.testing.assert_close(by_layout[:, :100, :100], by_swin)


def test_every_cell_is_asked_and_asks_in_one_window():
    for name in (
        "swin_nano",
        "maxvit_lens_nano",
        "twins_svt_nano",
        "tiny_vit_nano",
        "hiera_nano",
        "mobilevit_xxs",
    ):
        for each in attention(create_model(name, 96), images_of(96, 1)):
            for cells, grid in (
                (each.layout.keys, each.grid),
                (each.layout.queries, each.layout.query_grid),
            ):
                counts = Counter(cells[cells >= 0].tolist())
                assert counts == Counter(range(grid[0] * grid[1])), (name, each.layer)


# Which weights.
def test_fused_attention_shows_the_weights_that_it_would_hide():
    """The same with and without PyTorch's fused kernels, with biases, prefix tokens, and rotary positions."""
    for name in (
        "vit_nano",
        "dinov3_nano",
        "twins_svt_nano",
        "maxvit_lens_nano",
        "tiny_vit_nano",
        "hiera_nano",
    ):
        torch.manual_seed(0)
        model = create_model(name, 64)
        fused = attention(model, images_of(64))
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
        for one, other in zip(fused, attention(model, images_of(64)), strict=True):
            torch.testing.assert_close(one.maps, other.maps, rtol=1e-4, atol=1e-7)


def test_weights_are_those_that_the_layer_multiplies_its_values_with():
    """What comes out before the projection, computed from the weights returned."""
    torch.manual_seed(0)
    model = create_model("vit_nano", 64).eval()
    layer = model.blocks[2].attn
    seen = {}
    layer.qkv.register_forward_hook(lambda module, args, result: seen.update(qkv=result))
    layer.proj.register_forward_pre_hook(lambda module, args: seen.update(mixed=args[0]))
    found = attention(model, images_of(64), keep_weights=True)[2]
    assert found.weights.shape == (2, 1, 3, 65, 65)
    values = seen["qkv"].unflatten(2, (3, 3, -1))[:, :, 2].transpose(1, 2)
    torch.testing.assert_close(
        (found.weights[:, 0] @ values).transpose(1, 2).flatten(2), seen["mixed"]
    )


def test_gated_attention_gives_the_mixture_of_content_and_position():
    torch.manual_seed(0)
    model = create_model("convit_lens_nano", 64)
    layer = model.blocks[0].attn
    with torch.no_grad():
        layer.gating_param.normal_()
    seen = {}
    layer.attn_drop.register_forward_pre_hook(lambda module, args: seen.update(final=args[0]))
    found = attention(model, images_of(64), keep_weights=True)[0]
    torch.testing.assert_close(found.weights[:, 0], seen["final"])


def test_runs_of_averaged_keys_share_their_weight():
    """Next-ViT averages 4 tokens in reading order; what the average gets, each gets a quarter of."""
    torch.manual_seed(0)
    found = attention(create_model("nextvit_small", 64), images_of(64), keep_weights=True)
    reduced = next(each for each in found if each.grid == (4, 4))
    runs = reduced.weights.unflatten(-1, (-1, 4))
    torch.testing.assert_close(runs, runs[..., :1].expand_as(runs))
    torch.testing.assert_close(reduced.weights.sum(-1), torch.ones(reduced.weights.shape[:-1]))


# Which queries.
def test_the_class_token_asks_where_it_is_classified_and_all_tokens_where_not():
    torch.manual_seed(0)
    for name, prefix, by_class in (
        ("vit_nano", 1, True),
        ("dinov3_nano", 5, False),
        ("eva02_nano", 1, False),
    ):
        found = attention(create_model(name, 64), images_of(64), keep_weights=True)[1]
        weights = found.weights[:, 0, :, :, prefix:]
        asking = weights[:, :, 0] if by_class else weights[:, :, prefix:].mean(2)
        expected = (asking / asking.sum(-1, keepdim=True)).unflatten(-1, (8, 8))
        expected = expected.repeat_interleave(8, -1).repeat_interleave(8, -2) / 64
        torch.testing.assert_close(found.maps, expected, rtol=1e-4, atol=1e-8)


def test_class_tokens_can_be_switched_on():
    """The same network, pooled by its class token."""
    model = create_model("eva02_nano", 64, global_pool="token")
    assert attention(model, images_of(64))[0].layout.class_query == 0


def test_a_query_asks_for_the_token_at_its_pixel():
    torch.manual_seed(0)
    model = create_model("vit_nano", 150)  # 152 with a ring of one pixel
    found = attention(model, images_of(150), query=(39, 80), keep_weights=True)[3]
    token = 1 + (39 + 1) // 8 * 19 + (80 + 1) // 8
    row = found.weights[:, :, :, token]
    shown = found.in_image(row)
    torch.testing.assert_close(
        found.maps, shown / shown.sum((-2, -1), keepdim=True), rtol=1e-4, atol=1e-8
    )


def test_a_query_in_a_window_sees_only_that_window():
    """A shifted Swin window of 4×4 cells of 4 pixels: cell (5, 9) lies in that of rows 2 to 5 and columns 6 to 9."""
    found = attention(create_model("swin_nano", 64), images_of(64), query=(22, 37))[1]
    assert found.kind == "windowed"
    seen = found.maps[0, 0] > 0
    assert seen.any(1).nonzero().flatten().tolist() == list(range(8, 24))
    assert seen.any(0).nonzero().flatten().tolist() == list(range(24, 40))


def test_layers_without_a_token_at_a_place_are_left_out_of_what_a_query_sees():
    images = images_of(64)
    model = create_model("cait_nano", 64)
    assert len(attention(model, images, query=(3, 60))) == len(attention(model, images)) - 2
    with pytest.raises(InputError, match="no layer of model ByobNet has a token at a place"):
        attention(create_model("mobilevitv2_nano", 64), images, query=(3, 60))


@pytest.mark.parametrize("place", [(3, 5), (78, 149), (149, 0)])
def test_attention_to_the_bright_pixel_peaks_at_the_bright_pixel(place):
    """A network whose only key feature is the brightness of a patch, in a padded image."""
    model = create_model("vit_nano", 150)
    vit = model.model
    with torch.no_grad():
        vit.pos_embed.zero_()
        vit.cls_token.zero_()
        vit.patch_embed.proj.weight.zero_()
        vit.patch_embed.proj.weight[0] = 1.0
        attn = vit.blocks[0].attn
        attn.qkv.weight.zero_()
        attn.qkv.bias.zero_()
        attn.qkv.bias[:96] = 1.0  # every query is the same
        attn.qkv.weight[96:192, 0] = 1.0  # keys are the first, bright feature
    images = torch.zeros(1, 1, 150, 150)
    images[0, 0, place[0], place[1]] = 10.0
    maps = attention(model, images)[0].maps[0]
    for head in maps:
        assert head[place] > 2 * head.median()
        # Exactly the 8-pixel patch that holds it: patches begin one pixel outside of the image.
        for pixel, peak in zip(place, ((head == head.max()).any(1), (head == head.max()).any(0))):
            patch = [p for p in range(150) if (p + 1) // 8 == (pixel + 1) // 8]
            assert peak.nonzero().flatten().tolist() == patch


# Manners.
def test_the_model_is_left_as_it_was_even_when_it_fails():
    model = create_model("pvt_v2_nano", 64)
    model.train()
    model.stages[0].eval()  # frozen by its owner
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    attention(model, images_of(64))
    with pytest.raises(RuntimeError):
        attention(model, images_of(64, channels=3))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.is_grad_enabled()


def test_models_in_half_precision_and_compiled_models_are_shown_too():
    torch.manual_seed(0)
    model = create_model("vit_nano", 64).eval()
    expected = attention(model, images_of(64))
    compiled = torch.compile(model, backend="eager")
    compiled(images_of(64))
    half = copy.deepcopy(model).bfloat16()
    for variant, tolerance in ((compiled, 1e-6), (half, 0.1)):
        for one, other in zip(attention(variant, images_of(64)), expected, strict=True):
            assert one.layer == other.layer
            assert one.maps.dtype == torch.float32
            torch.testing.assert_close(one.maps, other.maps, rtol=tolerance, atol=0)


@pytest.mark.parametrize(
    "name", ["swin_nano", "hiera_nano", "convit_lens_nano", "cswin_nano", "mobilevitv2_nano"]
)
def test_maps_are_made_where_the_model_is(name):
    """On a device whose tensors refuse to meet those of another, without a GPU."""
    found = attention(create_model(name, 64).to("meta"), images_of(64))
    assert all(each.maps.device.type == "meta" for each in found)


def test_images_and_queries_that_do_not_fit_are_refused():
    model = create_model("vit_nano", 64)
    with pytest.raises(InputError, match=r"floats of shape \(B, C, H, W\)"):
        attention(model, torch.zeros(64, 64))
    for query in ((64, 0), (0, -1)):
        with pytest.raises(InputError, match="64×64 image"):
            attention(model, images_of(64), query=query)


# Layers of one's own.
class _Own(nn.Module):
    """Patches of 16 pixels, then attention over half the columns at a time: (B, heads, W, N, N)."""

    def __init__(self, layer):
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 16, 16)
        self.layer = layer

    def forward(self, images):
        return self.layer(self.embed(images).flatten(2).transpose(1, 2)).mean(1)


class _Halves(nn.Module):
    heads_first = True

    def token_layout(self, tokens):
        left = torch.arange(16).view(4, 4)[:, :2].flatten()
        return TokenLayout(
            (4, 4), (4, 4), torch.stack([left, left + 2]), torch.stack([left, left + 2])
        )

    def forward(self, tokens):
        halves = tokens.unflatten(1, (4, 2, 2)).transpose(1, 2).flatten(2, 3)  # (B, W, N, D)
        heads = halves.unflatten(3, (4, 2)).movedim(3, 1 if self.heads_first else 2)
        return (heads @ heads.transpose(-2, -1)).softmax(-1).mean((1, 2)) @ tokens[:, :8]


def test_layers_that_know_their_tokens_need_no_more():
    torch.manual_seed(0)
    model = _Own(_Halves())
    (found,) = attention(model, images_of(64), query=(60, 3))
    assert (found.kind, found.grid, found.maps.shape[1]) == ("windowed", (4, 4), 4)
    assert (found.maps[..., :32] > 0).all()
    assert (found.maps[..., 32:] == 0).all()
    model.layer.heads_first = False
    torch.testing.assert_close(attention(model, images_of(64), query=(60, 3))[0].maps, found.maps)
    assert has_attention(model)


def test_keys_that_lie_at_no_place_are_no_map():
    model = _Own(_Halves())
    model.layer.token_layout = lambda tokens: None
    with pytest.raises(InputError, match="the keys of _Halves lie at no place"):
        attention(model, images_of(64))


def test_unknown_layers_are_shown_if_their_tokens_match_a_map_and_named_if_not():
    class Unknown(nn.Module):
        def forward(self, tokens):
            scores = tokens @ tokens.transpose(1, 2)
            return (scores[:, None].softmax(-1) @ tokens[:, None])[:, 0]

    class Odd(nn.Module):
        def forward(self, tokens):
            return (tokens @ tokens.transpose(1, 2))[:, :, :7].softmax(-1) @ tokens[:, :7]

    (found,) = attention(_Own(Unknown()), images_of(64))
    assert (found.kind, found.grid) == ("global", (4, 4))
    with pytest.raises(
        InputError, match=r"the attention of model _Own is not understood: layer weights of shape"
    ):
        attention(_Own(Odd()), images_of(64))
    with pytest.raises(InputError, match="is PyTorch's own"):
        attention(_Own(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)), images_of(64))


def test_a_pooling_query_is_no_place():
    (found,) = attention(_Own(AttentionPoolLatent(8, num_heads=2)), images_of(64))
    assert found.kind == "class attention"


def test_every_layer_of_the_tables_exists():
    for name in (*KNOWN_LAYERS, *NO_MAPS):
        module, _, layer = name.rpartition(".")
        assert issubclass(getattr(importlib.import_module(module), layer), nn.Module)


# Places.
def _follow(images, *calls):
    places = Places(tuple(images.shape[-2:]), len(images))
    for function, *args in calls:
        result = function(images, *args)
        places.follow(function, (images, *args), {}, result)
        images = result
    return places


def test_places_follow_strides_and_paddings():
    images = torch.zeros(2, 1, 64, 48)
    three, four = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 4, 4)
    assert _follow(images, (F.conv2d, four, None, 4)).centres((16, 12)) == ((2.0, 4.0), (2.0, 4.0))
    stem = [(F.conv2d, three, None, 2, 1)] * 4
    assert _follow(images, *stem).centres((4, 3)) == ((0.5, 16.0), (0.5, 16.0))
    pooled = _follow(
        images, (F.conv2d, three, None, 2, 1), (F.avg_pool2d, 2), (F.max_pool2d, 3, 2, 1)
    )
    assert pooled.centres((8, 6)) == ((1.5, 8.0), (1.5, 8.0))
    padded = _follow(images, (F.pad, (0, 1, 0, 1)), (F.conv2d, three, None, 2, "valid"))
    assert padded.centres((32, 24)) == ((1.5, 2.0), (1.5, 2.0))
    dilated = _follow(images, (F.conv2d, three, None, 1, 0, 2))
    assert dilated.centres((60, 44)) == ((2.5, 1.0), (2.5, 1.0))
    assert _follow(images, (F.unfold, 7, 1, 2, 4)).centres((16, 12)) == ((1.5, 4.0), (1.5, 4.0))
    assert _follow(images, (F.interpolate, (32, 12))).centres((32, 12)) == ((1.0, 2.0), (2.0, 4.0))


def test_places_of_two_ways_lie_midway_and_of_unseen_merging_between_the_merged():
    images = torch.zeros(2, 1, 64, 64)
    places = _follow(images, (F.conv2d, torch.zeros(1, 1, 3, 3), None, 2, 1))
    places.follow(F.avg_pool2d, (images, 2), {}, F.avg_pool2d(images, 2))
    assert places.centres((32, 32)) == ((0.75, 2.0), (0.75, 2.0))
    patches = _follow(torch.zeros(2, 1, 76, 76), (F.conv2d, torch.zeros(1, 1, 4, 4), None, 4))
    assert patches.centres((10, 10)) == ((4.0, 8.0), (4.0, 8.0))  # 19 cells, padded to 20


@pytest.mark.parametrize(
    ("grid", "size"), [((4, 4), (64, 64)), ((5, 7), (64, 45)), ((80, 80), (64, 64))]
)
def test_cells_share_all_they_have_among_pixels(grid, size):
    ratio = (size[0] / grid[0], size[1] / grid[1])
    places = Places(size, 1)
    places.derive(grid, size, kernel=ratio, stride=ratio)
    for shares, cells, pixels in zip(places.shares(grid), grid, size):
        assert shares.shape == (pixels, cells)
        torch.testing.assert_close(shares.sum(0), torch.ones(cells))
        torch.testing.assert_close(shares.sum(1), torch.full((pixels,), cells / pixels))
    assert places.cell_at(grid, 0.5, 0.5) == 0
    assert places.cell_at(grid, size[0] - 0.5, size[1] - 0.5) == grid[0] * grid[1] - 1


@pytest.mark.parametrize(
    "name", ["hybrid_nano", "swin_nano", "pit_nano", "levit_nano", "hiera_nano", "mobilevit_xxs"]
)
def test_even_attention_makes_an_even_map(name):
    """Cells at the edge, which their receptive fields hang over, too."""
    for each in attention(create_model(name, 150), images_of(150, 1)):
        even = each.in_image(
            torch.ones(1, *each.layout.keys.shape[:1], 1, each.layout.keys.shape[1])
        )
        torch.testing.assert_close(even, even.mean().expand_as(even), rtol=1e-4, atol=0)


def test_global_layouts_number_cells_in_reading_order():
    layout = global_layout((2, 3), prefix=2)
    assert layout.keys.tolist() == [[-1, -1, 0, 1, 2, 3, 4, 5]]
    assert layout.class_query == 0
