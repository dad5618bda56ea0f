"""What a training run prints."""

from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from haloformer.training.config import Experiment
from haloformer.training.examples import Feed
from haloformer.training.hardware import Hardware
from haloformer.training.optim import scaled_lr
from haloformer.training.transfer import trainable_parameters


def is_first_process() -> bool:
    """Returns whether this process writes and prints: the only one, or the first of several."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)


def say(experiment: Experiment, text: str) -> None:
    """Prints a line, unless ``progress`` is off or another process does."""
    if experiment.trainer.progress and is_first_process():
        print(text, flush=True)


def announce(
    experiment: Experiment, feed: Feed, network: nn.Module, hardware: Hardware, resuming: bool
) -> None:
    """Prints what is about to be trained on what."""
    default = Experiment().flat()
    changed = {
        key: value
        for key, value in experiment.flat().items()
        if value != default[key] and key != "out"
    }
    settings = ", ".join(f"{key}: {value}" for key, value in changed.items())
    out = experiment.trainer.out
    say(experiment, f"{settings}; all else by default, as {out}/config.yaml says in full")
    trainable, everything = (count / 1e6 for count in trainable_parameters(network))
    some = "" if trainable == everything else f", {trainable:.3f} M of them learn"
    each = " per epoch" if feed.n_train == feed.steps * experiment.data.batch_size else ""
    say(
        experiment,
        f"{experiment.model.name} ({everything:.2f} M parameters{some}) on "
        f"{feed.n_train} images{each} of {feed.image_shape}, validated on {feed.n_val}",
    )
    say(experiment, f"computed {hardware.in_words()}")
    optimizer, batch_size = experiment.optimizer, experiment.data.batch_size
    if optimizer.lr_batch not in (None, batch_size):
        rate = scaled_lr(optimizer.lr, optimizer.lr_batch, batch_size, optimizer.name)
        say(
            experiment,
            f"learning rate {rate:.3g} for batches of {batch_size}: lr {optimizer.lr:g} is for "
            f"{optimizer.lr_batch} (lr_batch)",
        )
    if experiment.trainer.devices * experiment.trainer.nodes > 1 and _local_batch_norm(network):
        say(
            experiment,
            "batch norm here sees one process's share of each batch: across processes it needs GPUs",
        )
    if resuming:
        say(experiment, f"resuming the run in {out}")


def _local_batch_norm(network: nn.Module) -> bool:
    return any(
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not isinstance(module, nn.SyncBatchNorm)
        for module in network.modules()
    )
