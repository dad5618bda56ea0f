"""``haloformer train``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from haloformer.cli.registry import Command

if TYPE_CHECKING:
    from haloformer.training import RunResult


def as_json(result: "RunResult | str") -> object:
    """Returns the best epoch, its metrics, and the log of all epochs; or the options that are printed."""
    if isinstance(result, str):
        import yaml

        return yaml.safe_load(result)
    from haloformer.cli.as_json import as_document

    fields = {name: as_document(value) for name, value in vars(result).items()}
    return {**fields, "log": as_document(result)}


COMMAND = Command(
    "train a network on a dataset file or on freshly simulated images",
    experiment=True,
    as_json=as_json,
    dry_run=True,
    examples=(
        "haloformer train --data train.h5 --model hybrid_nano --out runs/x",
        "haloformer train --preset quick --data model_ii --out runs/y",
        "haloformer train --preset standard,swin --data model_ii --epochs 20 --lr 5e-4 --print_config",
        "haloformer train --config runs/y/config.yaml --out runs/again",
        "torchrun --nproc_per_node 4 -m haloformer train --config mine.yaml --devices 4",
    ),
)


def train(
    *,
    preset: str | None = None,
    config: str | None = None,
    print_config: bool = False,
    options: Mapping[str, object] | None = None,
) -> "RunResult | str":
    """Trains a network; the run folder gets its configuration, metrics, checkpoints and artefact.

    The same command again continues an interrupted run, and gives the same weights as if it had
    never been interrupted (on a CPU, bit for bit). A test set is never used.

    Every option can stand in a YAML file, by its short name (lr: 1e-3) or by its group
    (optimizer: {lr: 1e-3}). What comes later wins: defaults, presets, --config files, options.

    Args:
        preset: Recipes and models to start from, such as standard,swin; `haloformer presets` lists
            them. Or YAML files.
        config: YAML file with options, or another run, whose config.yaml is taken.
        print_config: Print the whole experiment as YAML, with all options, and train nothing.
        options: Fields of the experiment, by short name.
    """
    from haloformer.training.config import compose, read_options

    experiment = compose(preset, read_options(Path(config)) if config else {}, options or {})
    if print_config:
        return experiment.to_yaml()
    from haloformer.training import run
    from haloformer.training.idle import warn_of_idle

    warn_of_idle(experiment, options or {})

    return run(experiment)
