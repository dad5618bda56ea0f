"""A-ViT as its authors wrote it.

Run as a script with the clone's folder, this compares more than the logits: ponder costs and token depths.
"""

import contextlib
import importlib.util
import io
import sys
import types
from pathlib import Path

import timm.data
import timm.layers
import torch
from torch import nn

REPOSITORY = "https://github.com/NVlabs/A-ViT"
COMMIT = "120c9cb90acf86828f1c61dd42c08722aa7173c7"
VARIANTS = ("a_vit_tiny_224", "a_vit_small_224")

_NUMBERS = {
    "a_vit_tiny_224": {"embed_dim": 192, "num_heads": 3},
    "a_vit_small_224": {"embed_dim": 384, "num_heads": 6},
}
_GATES = {"a_vit_tiny_224": (10.0, 30.0), "a_vit_small_224": (10.0, 75.0)}


def build(folder: Path, variant: str) -> nn.Module:
    """Builds the official model of a variant with the gate of its published weights."""
    # The repository holds a timm of its own, which must not replace the installed one. One file of it is enough.
    package = "official_a_vit"
    shims = {
        package: {"__path__": []},
        f"{package}.helpers": {
            "build_model_with_cfg": None,
            "named_apply": None,
            "adapt_input_conv": None,
        },
        f"{package}.layers": {**vars(timm.layers), "ACT_Mlp": None},
        f"{package}.registry": {"register_model": lambda entry: entry},
        "utils": {"get_distribution_target": None},
    }
    for name, members in shims.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(members)
    path = folder / "timm/models/act_vision_transformer.py"
    spec = importlib.util.spec_from_file_location(f"{package}.act_vision_transformer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    del sys.modules["utils"]
    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda tensor: (
            tensor
        )  # the official forward puts its counters on the GPU
    scale, center = _GATES[variant]
    arguments = types.SimpleNamespace(
        act_mode=4, gate_scale=scale, gate_center=center, distr_prior_alpha=0.0
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of its progress
        return module.VisionTransformer(**_NUMBERS[variant], args=arguments)


@torch.no_grad()
def compare_halting(folder: Path) -> None:
    """Prints how often depths agree and how far ponder costs and logits lie apart, for gates from never to at once."""
    import haloformer.models  # noqa: F401  registers our models with timm

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from official_weights import randomize

    official = build(folder, "a_vit_tiny_224").eval()
    randomize(official)
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    print(
        f"{'scale':>6}{'centre':>8}{'equal depths':>14}{'ponder':>10}{'logits':>10}  tokens that ran 1 … 12 blocks"
    )
    for scale, center in (
        (5.0, -10.0),
        (1.0, -2.0),
        (0.5, -1.0),
        (1.0, 1.0),
        (0.0, -40.0),
        (0.0, 40.0),
    ):
        official.args.gate_scale, official.args.gate_center = scale, -center
        expected = official(images)
        ours = timm.create_model("a_vit_tiny_224", gate_scale=scale, gate_center=center).eval()
        ours.load_state_dict(official.state_dict(), strict=True)
        logits, halting = ours.forward_with_halting(images)
        depths = torch.cat([halting.class_depth[:, None], halting.depth.flatten(1)], 1)
        counts = torch.bincount(depths.flatten(), minlength=13)[1:].tolist()
        agree = float((depths == official.counter_token.long()).float().mean())
        ponder = float((halting.ponder - official.rho_token).abs().max())
        difference = float((logits - expected).abs().max() / expected.abs().max())
        print(f"{scale:6g}{center:8g}{agree:14.2%}{ponder:10.1e}{difference:10.1e}  {counts}")


if __name__ == "__main__":
    compare_halting(Path(sys.argv[1]).resolve())
