"""The experiment: what a training run is told, as one typed record that is printed, saved as YAML and compared before a run goes on.

An experiment has nine groups of fields. Each field also has a short name of its own, so that ``lr=1e-3``, ``--lr 1e-3`` and the YAML line
``lr: 1e-3`` all mean ``optimizer.lr``; a group that is given as a plain value sets its first field (``model: swin_nano``).
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from haloformer.errors import InputError
from haloformer.vocabulary import unknown_name

Noise = Literal["original", "instrument", "none"]
Optimizer = Literal[
    "adamw", "adam", "adamax", "adabelief", "adopt", "nadam", "nadamw", "radam", "adagrad", "rmsprop", "adafactor", "sgd",
    "lamb", "lars", "lion",
]  # fmt: skip


@dataclass(frozen=True)
class DataConfig:
    """Which images are trained on, and how they become the network's input.

    Attributes:
        source: A dataset file (train.h5), or a survey (model_ii, or a YAML file of your own) whose images are simulated as they
            are needed, each seen once. Short name: data.
        val_data: A dataset file to validate on, with the classes and shape of the training images. Without it, a share of the data
            file or freshly simulated images serve.
        val_size: Validation images to simulate, for a survey.
        val_fraction: Share of a dataset file's images kept for validation, the same share of every class.
        noise: Noise of simulated images: as the survey was released, the instrument's own, or none.
        epoch_size: Images per epoch. By default 6000 of a survey's endless stream; for a dataset file or with n_images, every image
            once. Where there are fewer, they are used in turn, each as often as the others.
        n_images: For a survey: only so many different images, which come again in every epoch.
        labels_per_class: Use only so many labelled training images of each class (of a file, or of n_images).
        classes: all classes; substructure (axion and cdm together, against no_sub); or axion_cdm (one against the other).
        batch_size: Images per optimiser step, over all processes together.
        normalization: How pixel values become network input; fitted on training images and stored with the model. Kinds: standard,
            sqrt, asinh, asinh_faint (for images with little noise), image_standard, image_max, image_minmax, none.
        crop: First cut out the central part of so many pixels a side.
        img_size: Side of the images that the network gets, in pixels; by default that of the data.
        fit: How other images come to img_size: resize (interpolated), crop (the centre), or pad (with zeros).
        channels: Channels that the network gets: 3 repeats a one-channel image, as ImageNet weights like it.
        physics: residual gives the network one more channel: what the survey's best smooth lens cannot explain of the image, in units of
            the noise (docs/fitting.md). detail adds a third: what is left of that when small changes of the lens as a whole are taken out,
            too. none: the image alone.
        num_workers: Processes that read a dataset file too large for memory.
    """

    source: str = ""
    val_data: str | None = None
    val_size: int = 1500
    val_fraction: float = 0.1
    noise: Noise = "original"
    epoch_size: int | None = None
    n_images: int | None = None
    labels_per_class: int | None = None
    classes: Literal["all", "substructure", "axion_cdm"] = "all"
    batch_size: int = 64
    normalization: str = "sqrt"
    crop: int | None = None
    img_size: int | None = None
    fit: Literal["resize", "crop", "pad"] = "resize"
    channels: int | None = None
    physics: Literal["none", "residual", "detail"] = "none"
    num_workers: int = 2

    def __post_init__(self) -> None:
        _at_least(
            self, 1, "val_size", "epoch_size", "n_images", "labels_per_class", "channels", "crop"
        )
        _at_least(self, 0, "num_workers")
        _require(
            self.batch_size >= 2, "batch_size", "at least 2, as batch norm needs", self.batch_size
        )
        _require(0 < self.val_fraction < 1, "val_fraction", "between 0 and 1", self.val_fraction)
        _require(
            self.img_size is None or 8 <= self.img_size <= 4096,
            "img_size",
            "from 8 to 4096",
            self.img_size,
        )


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        name: `haloformer models` lists them, and any timm name works. Short name: model.
        model_args: More keywords for the network, such as {depth: 6, embed_dim: 96}.
    """

    name: str = "hybrid_nano"
    model_args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights are changed.

    Attributes:
        name: adamw is the usual one for transformers; sgd wants lr of about 0.1. Short name: optimizer.
        lr: Peak learning rate. If the loss stays near ln(classes) or becomes NaN, try a third of it.
        weight_decay: Pull of the weights towards zero; not applied to norms, biases and position embeddings.
        momentum: Of sgd and its like.
        betas: Of adam and its like.
        clip: Largest norm of a step's gradient; 0 turns clipping off.
    """

    name: Optimizer = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0

    def __post_init__(self) -> None:
        _require(0 < self.lr < 100, "lr", "above 0 and below 100", self.lr)
        _at_least(self, 0, "weight_decay", "clip")
        _require(0 <= self.momentum < 1, "momentum", "from 0 to below 1", self.momentum)
        _require(
            all(0 <= b < 1 for b in self.betas),
            "betas",
            "two numbers from 0 to below 1",
            list(self.betas),
        )


@dataclass(frozen=True)
class ScheduleConfig:
    """How long, and with what learning rate when.

    Attributes:
        name: Course of the learning rate, after its rise. Short name: schedule.
        epochs: Passes over the data, or blocks of epoch_size simulated images. Each ends with a validation.
        warmup: Share of all steps over which the learning rate rises.
        min_lr: Where cosine and one_cycle end, and what step and plateau do not go below, as a share of lr.
        step_size: step: epochs between two falls of the learning rate.
        gamma: step, plateau: the factor by which it falls.
        plateau_patience: plateau: epochs without a better validation result before it falls.
    """

    name: Literal["cosine", "step", "plateau", "one_cycle", "constant"] = "cosine"
    epochs: int = 10
    warmup: float = 0.1
    min_lr: float = 0.001
    step_size: int = 10
    gamma: float = 0.1
    plateau_patience: int = 5

    def __post_init__(self) -> None:
        _at_least(self, 1, "epochs", "step_size")
        _at_least(self, 0, "plateau_patience")
        _require(
            0 <= self.warmup < 1, "warmup", "a share of the training from 0 to below 1", self.warmup
        )
        _require(0 <= self.min_lr <= 1, "min_lr", "a share of lr from 0 to 1", self.min_lr)
        _require(0 < self.gamma <= 1, "gamma", "above 0 and up to 1", self.gamma)


@dataclass(frozen=True)
class RegularizationConfig:
    """What keeps the network from learning images by heart.

    Attributes:
        dropout: Share of activations dropped before the classifier or in the MLPs, as the architecture has it; null: its own default.
        attention_dropout: Share of attention weights dropped; null: the architecture's default.
        stochastic_depth: Share of residual branches skipped; null: the architecture's default.
        label_smoothing: Share of each label spread over all classes.
        ema: Decay of an exponential moving average of the weights, such as 0.999, which is then validated and shipped; 0: none.
        mixup: Images and labels are mixed in pairs, with weights from a Beta(mixup, mixup); 0: none.
        residual_dropout: Share of training images whose residual (of physics: residual or detail) is wiped out, so that the network can do without.
        wrong_fits: Share of training images whose residual comes from the fit of a wrong lens, PSF or source, so that the network learns what
            that looks like; for surveys that are simulated as they go.
        cutmix: A rectangle of another image, and its share of the label, is put in; with Beta(cutmix, cutmix); 0: none.
    """

    dropout: float | None = None
    attention_dropout: float | None = None
    stochastic_depth: float | None = None
    label_smoothing: float = 0.0
    ema: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    residual_dropout: float = 0.0
    wrong_fits: float = 0.0

    def __post_init__(self) -> None:
        shares = (
            "dropout",
            "attention_dropout",
            "stochastic_depth",
            "label_smoothing",
            "ema",
            "residual_dropout",
            "wrong_fits",
        )
        for name in shares:
            value = getattr(self, name)
            _require(value is None or 0 <= value < 1, name, "from 0 to below 1", value)
        _at_least(self, 0, "mixup", "cutmix")


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of training images; docs/augmentation.md says which of them keep the label true.

    Attributes:
        augment: d4 (the eight quarter turns and mirrors of a square, exact), flips (those that keep a rectangle's shape), or none.
        rotation: Largest angle of a rotation, in degrees; interpolated.
        shift: Largest shift along each axis, in pixels; interpolated.
        zoom: Largest relative change of scale: 0.1 is a factor between 1/1.1 and 1.1; interpolated.
        erasing: Probability that one rectangle of an image is wiped out.
        fresh_noise: For simulated images and noise-free dataset files: draw the noise anew each time an image is used, as released or
            as the instrument's; none: the images keep the noise that they have.
        exposure: With fresh_noise: factors between which the exposure time varies, such as [0.5, 2].
    """

    augment: str = "d4"
    rotation: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    erasing: float = 0.0
    fresh_noise: Noise = "none"
    exposure: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _require(
            0 <= self.rotation <= 180, "rotation", "an angle from 0 to 180 degrees", self.rotation
        )
        _at_least(self, 0, "shift", "zoom")
        _require(0 <= self.erasing <= 1, "erasing", "a probability from 0 to 1", self.erasing)
        if self.exposure is not None:
            low, high = self.exposure
            _require(
                0 < low <= high,
                "exposure",
                "two factors above 0, the smaller first",
                list(self.exposure),
            )
            _require(
                self.fresh_noise != "none",
                "fresh_noise",
                "original or instrument when exposure is given",
                "none",
            )


@dataclass(frozen=True)
class TransferConfig:
    """Starting from weights that are there already.

    Attributes:
        pretrained: true for ImageNet's, which timm downloads; or a file (.safetensors, .pth, .pt, .bin, .tar) of the official code or
            of timm; or the run folder of another training. Read when the run begins, not when it goes on.
        tune: full: all weights learn; probe: the classifier alone; last_blocks: the last blocks and the classifier; lora: low-rank
            additions to the frozen weights.
        last_blocks: How many.
        layer_decay: Factor of the learning rate from each layer to the one before; 1: the same for all.
        lora_rank: Rank of the additions.
        lora_alpha: Their weight is lora_alpha / lora_rank.
    """

    pretrained: bool | str = False
    tune: Literal["full", "probe", "last_blocks", "lora"] = "full"
    last_blocks: int = 1
    layer_decay: float = 1.0
    lora_rank: int = 8
    lora_alpha: float = 16.0

    def __post_init__(self) -> None:
        _at_least(self, 1, "last_blocks", "lora_rank")
        _require(0 < self.layer_decay <= 1, "layer_decay", "above 0 and up to 1", self.layer_decay)
        _require(self.lora_alpha > 0, "lora_alpha", "above 0", self.lora_alpha)


@dataclass(frozen=True)
class TaskConfig:
    """What is learned.

    Attributes:
        name: classification; regression of the targets; or both in one network. Short name: task.
        targets: Of the regression: log10_m_axion (of axion images), log10_m_subhalos (total subhalo mass, of cdm images).
        loss: Of the regression: beta_nll (mean and variance), quantile (median and interval), or mse (mean only).
        beta: Of beta_nll: 0 is the plain likelihood, 1 weighs errors as mse does.
        coverage: Share of images whose true value the predicted interval shall contain; calibrated after training.
        regression_weight: both: weight of the regression's loss beside the classification's.
    """

    name: Literal["classification", "regression", "both"] = "classification"
    targets: tuple[Literal["log10_m_axion", "log10_m_subhalos"], ...] = ("log10_m_axion",)
    loss: Literal["beta_nll", "quantile", "mse"] = "beta_nll"
    beta: float = 0.5
    coverage: float = 0.9
    regression_weight: float = 0.3

    def __post_init__(self) -> None:
        _require(0 <= self.beta <= 1, "beta", "from 0 to 1", self.beta)
        _require(0 < self.coverage < 1, "coverage", "between 0 and 1", self.coverage)
        _require(self.regression_weight > 0, "regression_weight", "above 0", self.regression_weight)
        _require(len(self.targets) > 0, "targets", "at least one name", list(self.targets))


@dataclass(frozen=True)
class TrainerConfig:
    """How and where the run is carried out.

    Attributes:
        out: The run folder to write, or to continue.
        seed: Of initial weights, image order, transforms, and simulated images.
        precision: auto takes bf16 mixed precision on GPUs that have it, otherwise 32 bits.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1, mps.
        devices: GPUs (or, on the CPU, processes) per machine; each takes its share of every batch.
        nodes: Machines, when started on each by torchrun or srun.
        strategy: How several processes work together: auto (ddp), ddp, fsdp.
        deterministic: Use only algorithms that give the same result every time, on GPUs too; slower.
        checkpoint_minutes: Besides after every epoch, save where the run stands after so many minutes.
        patience: Stop after so many epochs without a better validation result; 0 never stops early.
        compile: Compile the network by torch.compile: slow to start, then faster.
        channels_last: Keep images in memory with the channel last: often faster for convolutions on GPUs.
        loggers: Where to log besides metrics.csv: tensorboard, wandb, mlflow. The last two must be installed.
        resume: Continue a run found in out; if false, such a folder is an error.
        progress: Show a progress bar and a line per epoch.
    """

    out: str = "runs/latest"
    seed: int = 0
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    deterministic: bool = False
    checkpoint_minutes: float = 5.0
    patience: int = 20
    compile: bool = False
    channels_last: bool = False
    loggers: tuple[str, ...] = ("tensorboard",)
    resume: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**32, "seed", "a whole number from 0 to 2^32 - 1", self.seed)
        _at_least(self, 1, "devices", "nodes")
        _at_least(self, 0, "patience", "checkpoint_minutes")


@dataclass(frozen=True)
class Experiment:
    """Everything that a training run is told. :func:`compose` makes one from presets and options."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def nested(self) -> dict[str, dict[str, Any]]:
        """Returns plain values by group and field, ready for YAML and JSON."""
        return _plain(dataclasses.asdict(self))

    def flat(self) -> dict[str, Any]:
        """Returns plain values by short name."""
        nested = self.nested()
        return {short: nested[group][name] for short, (group, name) in SHORT_NAMES.items()}

    def to_yaml(self) -> str:
        """Returns the YAML that ``haloformer train --config`` takes."""
        return yaml.safe_dump(self.nested(), sort_keys=False, allow_unicode=True)

    def differences(self, other: "Experiment") -> list[str]:
        """Returns what another run's experiment says differently, as ``lr: 0.001 there, 0.002 here``."""
        mine, theirs = self.flat(), other.flat()
        keys = [key for key in mine if key not in RUN_ONLY and mine[key] != theirs[key]]
        return [f"{key}: {theirs[key]!r} there, {mine[key]!r} here" for key in keys]


GROUPS: dict[str, type] = {f.name: f.type for f in dataclasses.fields(Experiment)}  # type: ignore[misc]

SHORT_NAMES: dict[str, tuple[str, str]] = {
    group if i == 0 and f.name in ("source", "name") else f.name: (group, f.name)
    for group, kind in GROUPS.items()
    for i, f in enumerate(dataclasses.fields(kind))
}
"""Short name → group and field."""

# How and where a run is carried out, not what is learned: free to change when it is resumed, and not in the artefact.
RUN_ONLY = {"out", "resume", "device", "num_workers", "progress", "checkpoint_minutes", "loggers"}

_PRESET_FOLDERS = ("recipes", "models")


def compose(
    presets: str | Iterable[str] | None = None,
    options: Mapping[str, Any] | None = None,
    *layers: Mapping[str, Any],
) -> Experiment:
    """Makes an experiment: the defaults, then presets, then options, what comes later winning.

    Args:
        presets: Names of shipped presets, or YAML files; one, several, or ``"a,b"``.
        options: Field → value, by short name (``lr``), by group and field (``optimizer.lr``), or nested by group. ``preset`` names
            more presets. ``model_args.depth`` changes one keyword of the network.
        *layers: More of the same kind.

    Raises:
        InputError: An unknown field, with the nearest; a value of the wrong type or out of range.
    """
    nested: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    _take(nested, {"preset": presets}, "options")
    for layer in (options or {}, *layers):
        _take(nested, layer, "options")
    built = {}
    for group, kind in GROUPS.items():
        hints = typing.get_type_hints(kind)
        values = {
            name: _checked(hints[name], value, name, group) for name, value in nested[group].items()
        }
        built[group] = kind(**values)
    return Experiment(**built)


def short_name(key: str) -> str:
    """Returns the short name of a field in any of its spellings, such as ``lr`` for ``optimizer.lr``.

    Raises:
        InputError: There is no such field.
    """
    group, name = _field(key, "options")
    keyword = name.partition(".")[2]
    short = next(
        short for short, place in SHORT_NAMES.items() if place == (group, name.partition(".")[0])
    )
    return f"{short}.{keyword}" if keyword else short


def list_presets() -> dict[str, str]:
    """Returns the shipped presets: name → what its first comment line says."""
    found = {}
    for folder in _PRESET_FOLDERS:
        for file in sorted(_configs(folder), key=lambda entry: entry.name):
            first = file.read_text(encoding="utf-8").partition("\n")[0]
            found[file.name.removesuffix(".yaml")] = first.removeprefix("#").strip()
    return found


def read_options(path: Path) -> dict[str, Any]:
    """Returns the options that a YAML file holds.

    Raises:
        InputError: It cannot be read, or is no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: is not valid YAML: {' '.join(str(error).split())[:200]}"
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold options, one 'name: value' per line")
    return content


def read_config(path: Path) -> Experiment:
    """Returns the experiment that a run folder holds."""
    try:
        return compose(None, read_options(path))
    except InputError as error:
        raise InputError(
            f"{path}: is not a training configuration of this version: {error}"
        ) from error


def _take(nested: dict[str, dict[str, Any]], options: Mapping[str, Any], where: str) -> None:
    """Puts options into the groups they belong to."""
    presets = options.get("preset")
    for preset in presets.split(",") if isinstance(presets, str) else presets or ():
        _take(nested, _preset(str(preset).strip()), f"preset '{preset}'")
    for key, value in options.items():
        if key == "preset":
            continue
        if key in GROUPS and isinstance(value, Mapping):
            for name, inner in value.items():
                _put(nested, *_field(f"{key}.{name}", where), inner)
        else:
            _put(nested, *_field(str(key), where), value)


def _put(nested: dict[str, dict[str, Any]], group: str, name: str, value: Any) -> None:
    if name.startswith(
        "model_args"
    ):  # keywords are added, not replaced: a preset's stay where the user's say nothing
        keyword = name.partition(".")[2]
        update = {keyword: value} if keyword else value
        if isinstance(update, Mapping):
            nested[group]["model_args"] = {**nested[group].get("model_args", {}), **update}
            return
    nested[group][name] = value


def _field(key: str, where: str) -> tuple[str, str]:
    """Returns group and field of a key in any of its spellings."""
    if key in SHORT_NAMES:
        return SHORT_NAMES[key]
    group, _, name = key.partition(".")
    if group in GROUPS and name.partition(".")[0] in {
        f.name for f in dataclasses.fields(GROUPS[group])
    }:
        return group, name
    if group == "model_args":
        return "model", key
    known = [
        f"{g}.{f.name}" for g in [group] if g in GROUPS for f in dataclasses.fields(GROUPS[g])
    ] or [*SHORT_NAMES]
    raise unknown_name(f"field in {where}", key, known)


def preset_text(name: str) -> str:
    """Returns the YAML of a shipped preset, comments included."""
    for folder in _PRESET_FOLDERS:
        for file in _configs(folder):
            if file.name == f"{name}.yaml":
                return file.read_text(encoding="utf-8")
    raise unknown_name("preset", name, list_presets())


def _preset(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml"):
        return read_options(path)
    return yaml.safe_load(preset_text(name)) or {}


@functools.cache
def _configs(folder: str) -> tuple[Any, ...]:
    place = resources.files("haloformer").joinpath("configs", folder)
    return (
        tuple(entry for entry in place.iterdir() if entry.name.endswith(".yaml"))
        if place.is_dir()
        else ()
    )


def _checked(hint: Any, value: Any, name: str, group: str) -> Any:
    """Returns a value as its field's type has it, or says what would be right."""
    for option in typing.get_args(hint) if _is_union(hint) else (hint,):
        fits, converted = _converted(option, value)
        if fits:
            return converted
    raise InputError(
        f"{short_name(f'{group}.{name}')} must be {type_in_words(hint)}, not {value!r}"
    )


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _converted(hint: Any, value: Any) -> tuple[bool, Any]:
    origin = typing.get_origin(hint)
    if hint is type(None):
        return value is None, None
    if origin is Literal:
        text = (
            str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        )  # precision: 32
        return text in typing.get_args(hint), text
    if origin is tuple:
        items = typing.get_args(hint)
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list | tuple) or (
            items[-1] is not ... and len(items) != len(value)
        ):
            return False, None
        converted = [_converted(items[0], item) for item in value]
        return all(fits for fits, _ in converted), tuple(item for _, item in converted)
    if origin is dict or hint is dict:
        return isinstance(value, Mapping), dict(value) if isinstance(value, Mapping) else None
    if hint is bool:
        return isinstance(value, bool), value
    if hint is int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return whole and not isinstance(value, bool), int(value) if whole else None
    if hint is float:  # YAML reads 1e-3, without a point, as a text
        try:
            number = (
                float(value)
                if isinstance(value, int | float | str) and not isinstance(value, bool)
                else None
            )
        except ValueError:
            number = None
        return number is not None, number
    if hint is str:
        return isinstance(value, str | Path), str(value)
    raise TypeError(f"no rule for {hint}")


def type_in_words(hint: Any) -> str:
    """Returns what a value of a type is, for people: ``a whole number or null``."""
    return " or ".join(map(_in_words, typing.get_args(hint) if _is_union(hint) else (hint,)))


def _in_words(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if origin is tuple:
        items = typing.get_args(hint)
        if typing.get_origin(items[0]) is Literal:
            return f"a list of names out of {', '.join(typing.get_args(items[0]))}"
        return f"a list of {'' if items[-1] is ... else f'{len(items)} '}{_in_words(items[0]).partition(' ')[2]}s"
    if origin is list:
        return f"a list of {_in_words(typing.get_args(hint)[0]).partition(' ')[2]}s"
    words = {
        type(None): "null",
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
    }
    return words.get(hint, "a mapping of names to values")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _at_least(config: Any, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(
            value is None or value >= least,
            name,
            "0 or more" if least == 0 else f"at least {least}",
            value,
        )


def _require(fine: bool, name: str, wanted: str, value: Any) -> None:
    if not fine:
        raise InputError(f"{name} must be {wanted}, not {value!r}")
