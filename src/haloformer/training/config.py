"""One *experiment* config defines a training run.

It is a typed record that is printed, saved as YAML, and compared before a run is resumed. It has
nine groups of fields. Each field also has a short name of its own, so that ``lr=1e-3``,
``--lr 1e-3`` and the YAML line ``lr: 1e-3`` all mean ``optimizer.lr``; a group that is given as a
plain value sets its first field (``model: swin_nano``).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StrictBool,
    ValidationError,
    field_validator,
    model_validator,
)

from haloformer.errors import InputError
from haloformer.files import with_home
from haloformer.training.presets import (
    list_presets,
    preset_options,
    preset_text,
    read_options,
)
from haloformer.validation import (
    Number,
    Strict,
    WholeNumber,
    field_path,
    input_error,
    plain_keyword,
)
from haloformer.vocabulary import TIMMS_OWN, unknown_name

__all__ = [
    "GROUPS",
    "RUN_ONLY",
    "SHORT_NAMES",
    "Experiment",
    "compose",
    "list_presets",
    "preset_text",
    "read_config",
    "read_options",
    "short_name",
]


def _path_to_text(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _int_to_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _split_names(value: object) -> object:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_path_to_text)]
Place = Annotated[Text, AfterValidator(with_home)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Positive = Annotated[Number, Field(gt=0)]

Noise = Literal["original", "instrument", "none"]
Target = Literal["log10_m_axion", "log10_m_subhalos"]
Optimizer = Literal[
    "adamw", "adam", "adamax", "adabelief", "adopt", "nadam", "nadamw", "radam", "adagrad", "rmsprop", "adafactor", "sgd",
    "lamb", "lars", "lion",
]  # fmt: skip


class DataConfig(Strict):
    """Training images, and how they become the network's input.

    Attributes:
        source: A dataset file (train.h5), or a survey (model_ii, or a YAML file of your own) whose
            images are simulated during training, each used once. Short name: data.
        val_data: Dataset file to validate on, with the classes and shape of the training images.
            Without it, a share of the dataset file or freshly simulated images are used.
        val_size: Validation images to simulate, for a survey.
        val_fraction: Share of a dataset file's images kept for validation, the same of every class.
        noise: Noise of simulated images: as the survey was released, the instrument's own, or none.
        paired: For a survey whose lenses vary: training images come as one of each class of the same lens,
            source and noise, one after the other, so that batches show what dark matter alone changes.
            Validation images are of lenses of their own.
        epoch_size: Images per epoch. By default 6000 of a survey's endless stream; for a dataset
            file or with n_images, every image once. If there are fewer, all are used equally often.
        n_images: For a survey: only so many different images, the same in every epoch.
        labels_per_class: Use only so many labelled training images of each class (of a file, or of
            n_images).
        classes: all classes; substructure (axion and cdm together, against no_sub); or axion_cdm
            (one against the other).
        batch_size: Images per optimiser step, over all processes together.
        normalization: How pixel values become network input; fitted on training images and stored
            with the model. Kinds: standard, sqrt, asinh, asinh_faint (for images with little
            noise), image_standard, image_max, image_minmax, none.
        crop: First cut out the central part of so many pixels a side.
        img_size: Side of the images that the network gets, in pixels; by default that of the data.
        fit: How other images are brought to img_size: resize (interpolated), crop (the centre), or
            pad (with zeros).
        channels: Channels that the network gets: 3 repeats a one-channel image, for ImageNet
            weights.
        physics: residual gives the network one more channel: image minus the survey's best smooth
            lens, in units of the noise (docs/fitting.md). detail adds a third: the same after small
            changes of the whole lens are fitted, too. none: the image alone.
        fit_place: That fit finds where each lens lies on the pixels, so that cutouts that are off
            by half a pixel or by a few mean the same; for surveys whose lens has a fixed place.
        num_workers: Processes that read a dataset file too large for memory.
    """

    source: Place = ""
    val_data: Place | None = None
    val_size: WholeNumber = Field(default=1500, ge=1)
    val_fraction: Number = Field(default=0.1, gt=0, lt=1)
    noise: Noise = "original"
    paired: StrictBool = False
    epoch_size: WholeNumber | None = Field(default=None, ge=1)
    n_images: WholeNumber | None = Field(default=None, ge=1)
    labels_per_class: WholeNumber | None = Field(default=None, ge=1)
    classes: Literal["all", "substructure", "axion_cdm"] = "all"
    batch_size: WholeNumber = Field(default=64, ge=2)  # batch norm needs two
    normalization: Text = "sqrt"
    crop: WholeNumber | None = Field(default=None, ge=1)
    img_size: WholeNumber | None = Field(default=None, ge=8, le=4096)
    fit: Literal["resize", "crop", "pad"] = "resize"
    channels: WholeNumber | None = Field(default=None, ge=1)
    physics: Literal["none", "residual", "detail"] = "none"
    fit_place: StrictBool = False
    num_workers: WholeNumber = Field(default=2, ge=0)


_NO_KEYWORDS = {
    "name": "model names the network",
    "img_size": "it is a field of its own, of the data",
    "in_chans": "it follows from the data; channels: 3 repeats those of the images",
    "num_classes": "it follows from the data and the task",
    "pretrained": "it is a field of its own",
    **dict.fromkeys(TIMMS_OWN, "pretrained: path/to/file starts from weights"),
}
"""What is no keyword of the network here, and why."""


class ModelConfig(Strict):
    """The network.

    Attributes:
        name: `haloformer models` lists them, and any timm name works. Short name: model.
        model_args: More keywords for the network, such as {depth: 6, embed_dim: 96}.
    """

    name: Text = "hybrid_nano"
    model_args: dict[str, Any] = Field(default_factory=dict)

    @field_validator("model_args")
    @classmethod
    def _check_keywords(cls, keywords: dict[str, Any]) -> dict[str, Any]:
        """What an artefact could not hold would be told only when the network is trained."""
        for name, why in _NO_KEYWORDS.items():
            if name in keywords:
                raise ValueError(f"must not hold '{name}': {why}")
        return {name: plain_keyword(value) for name, value in keywords.items()}


class OptimizerConfig(Strict):
    """How the weights are updated.

    Attributes:
        name: adamw is the usual one for transformers; sgd wants lr of about 0.1. Short name:
            optimizer.
        lr: Peak learning rate. If the loss stays near ln(classes) or becomes NaN, try a third of
            it.
        lr_batch: The batch_size that lr is meant for: with another one the learning rate changes
            with the square root of their ratio, that of sgd and lars in proportion. By default lr
            is used as it is.
        weight_decay: Decay of the weights towards zero; not applied to norms, biases and position
            embeddings.
        momentum: Momentum of sgd and similar optimizers.
        betas: The two decay rates of adam and similar optimizers.
        clip: Largest norm of a step's gradient; 0 turns clipping off.
    """

    name: Optimizer = "adamw"
    lr: Number = Field(default=1e-3, gt=0, lt=100)
    lr_batch: WholeNumber | None = Field(default=None, ge=1)
    weight_decay: Number = Field(default=0.05, ge=0)
    momentum: Share = 0.9
    betas: tuple[Share, Share] = (0.9, 0.999)
    clip: Number = Field(default=1.0, ge=0)


class ScheduleConfig(Strict):
    """Length of the training and course of the learning rate.

    Attributes:
        name: Course of the learning rate after the warm-up. Short name: schedule.
        epochs: Passes over the data, or blocks of epoch_size simulated images. Each ends with a
            validation.
        warmup: Share of all steps over which the learning rate rises.
        min_lr: Last learning rate of cosine and one_cycle, and lowest of step and plateau, as a
            share of lr.
        step_size: step: epochs between two drops of the learning rate.
        gamma: step, plateau: the factor by which it drops.
        plateau_patience: plateau: epochs without a better validation result before it drops.
    """

    name: Literal["cosine", "step", "plateau", "one_cycle", "constant"] = "cosine"
    epochs: WholeNumber = Field(default=10, ge=1)
    warmup: Share = 0.1
    min_lr: Number = Field(default=0.001, ge=0, le=1)
    step_size: WholeNumber = Field(default=10, ge=1)
    gamma: Number = Field(default=0.1, gt=0, le=1)
    plateau_patience: WholeNumber = Field(default=5, ge=0)


class RegularizationConfig(Strict):
    """Against overfitting.

    Attributes:
        dropout: Share of activations dropped before the classifier or in the MLPs, as the
            architecture has it; null: its own default.
        attention_dropout: Share of attention weights dropped; null: the architecture's default.
        stochastic_depth: Share of residual branches skipped; null: the architecture's default.
        label_smoothing: Share of each label spread over all classes.
        ema: Decay of an exponential moving average of the weights, such as 0.999, which is then
            validated and shipped; 0: none.
        mixup: Images and labels are mixed in pairs, with weights from a Beta(mixup, mixup); 0:
            none.
        cutmix: A rectangle of another image, and its share of the label, is put in; with
            Beta(cutmix, cutmix); 0: none.
        residual_dropout: Share of training images whose residual (see physics) is set to zero, so
            that the network can do without.
        wrong_fits: Share of training images whose residual is fitted with a wrong lens, PSF or
            source, so that the network knows such residuals; for surveys simulated during training.
    """

    dropout: Share | None = None
    attention_dropout: Share | None = None
    stochastic_depth: Share | None = None
    label_smoothing: Share = 0.0
    ema: Share = 0.0
    mixup: Number = Field(default=0.0, ge=0)
    cutmix: Number = Field(default=0.0, ge=0)
    residual_dropout: Share = 0.0
    wrong_fits: Share = 0.0


class AugmentationConfig(Strict):
    """Random changes of training images; docs/recipes.md says which of them keep the label.

    Attributes:
        augment: d4 (the eight quarter turns and mirrors of a square, exact), flips (those that keep
            a rectangle's shape), or none.
        rotation: Largest angle of a rotation, in degrees; interpolated.
        shift: Largest shift along each axis, in pixels; interpolated.
        zoom: Largest relative change of scale: 0.1 is a factor between 1/1.1 and 1.1; interpolated.
        erasing: Probability that one rectangle of an image is erased.
        fresh_noise: For simulated images and noise-free dataset files: draw the noise anew each
            time an image is used, as released or as the instrument's; none: the images keep their
            noise.
        exposure: With fresh_noise: factors between which the exposure time varies, such as
            [0.5, 2].
    """

    augment: Text = "d4"
    rotation: Number = Field(default=0.0, ge=0, le=180)
    shift: Number = Field(default=0.0, ge=0)
    zoom: Number = Field(default=0.0, ge=0)
    erasing: Number = Field(default=0.0, ge=0, le=1)
    fresh_noise: Noise = "none"
    exposure: tuple[Positive, Positive] | None = None

    @model_validator(mode="after")
    def _check_exposure(self) -> "AugmentationConfig":
        if self.exposure is not None:
            if self.exposure[0] > self.exposure[1]:
                raise ValueError(
                    "exposure must be two factors above 0, the smaller first, "
                    f"not {list(self.exposure)}"
                )
            if self.fresh_noise == "none":
                raise ValueError(
                    "fresh_noise must be original or instrument when exposure is given, not 'none'"
                )
        return self


class TransferConfig(Strict):
    """Starting from trained weights.

    Attributes:
        pretrained: true for ImageNet's, which timm downloads; or a file (.safetensors, .pth, .pt,
            .bin, .tar) of the official code or of timm; or the run folder of another training. Read
            when the run begins, not when it is resumed.
        tune: full: all weights learn; probe: the classifier alone; last_blocks: the last blocks and
            the classifier; lora: low-rank additions to the frozen weights.
        last_blocks: How many.
        layer_decay: Factor of the learning rate from each layer to the one before; 1: the same for
            all.
        lora_rank: Rank of the additions.
        lora_alpha: Their weight is lora_alpha / lora_rank.
    """

    pretrained: StrictBool | Place = False
    tune: Literal["full", "probe", "last_blocks", "lora"] = "full"
    last_blocks: WholeNumber = Field(default=1, ge=1)
    layer_decay: Number = Field(default=1.0, gt=0, le=1)
    lora_rank: WholeNumber = Field(default=8, ge=1)
    lora_alpha: Positive = 16.0


class TaskConfig(Strict):
    """What is learned.

    Attributes:
        name: classification; regression of the targets; or both in one network. Short name: task.
        targets: Of the regression: log10_m_axion (of axion images), log10_m_subhalos (total subhalo
            mass, of cdm images).
        loss: Of the regression: beta_nll (mean and variance), quantile (median and interval), or
            mse (mean only).
        beta: Of beta_nll: 0 is the plain likelihood, 1 weighs errors as mse does.
        coverage: Share of images whose true value should lie in the predicted interval; calibrated
            after training.
        regression_weight: both: weight of the regression's loss beside the classification's.
    """

    name: Literal["classification", "regression", "both"] = "classification"
    targets: Annotated[tuple[Target, ...], BeforeValidator(_split_names)] = Field(
        default=("log10_m_axion",), min_length=1
    )
    loss: Literal["beta_nll", "quantile", "mse"] = "beta_nll"
    beta: Number = Field(default=0.5, ge=0, le=1)
    coverage: Number = Field(default=0.9, gt=0, lt=1)
    regression_weight: Positive = 0.3

    @model_validator(mode="after")
    def _check_targets(self) -> "TaskConfig":
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets must differ, not {', '.join(self.targets)}")
        return self


class TrainerConfig(Strict):
    """How and where the run is carried out.

    Attributes:
        out: The run folder to write, or to continue.
        seed: Of initial weights, image order, transforms, and simulated images.
        precision: auto takes bf16 mixed precision on GPUs that have it, otherwise 32 bits.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1, mps.
        simulate_on: Where images are simulated and fitted: auto (on the GPU that trains), cpu (the
            very images of machines without a GPU: on GPUs noise is drawn by another generator).
        devices: GPUs (or, on the CPU, processes) per machine; each takes its share of every batch.
        nodes: Machines, when started on each by torchrun or srun.
        strategy: How several processes work together: ddp averages their gradients; auto does, too,
            and bears weights that a batch does not use (frozen ones, early exits).
        deterministic: Use only algorithms that give the same result every time, on GPUs too;
            slower.
        checkpoint_minutes: Save a checkpoint after so many minutes, besides after every epoch.
        patience: Stop after so many epochs without a better validation result; 0 never stops early.
        compile: Compile the network by torch.compile: slow to start, then faster.
        channels_last: Keep images in memory with the channel last. auto does on a CPU in 32 bits,
            where networks with convolutions train up to 1.5 times as fast and others about as fast.
        cuda_graphs: On a GPU, record a step's kernels once and start them together, where that is
            found to be faster: small networks.
        loggers: Where to log besides metrics.csv: tensorboard, wandb, mlflow. The last two must be
            installed.
        prepared: Folder in which simulated and fitted images are stored (float16 where they have
            noise), and read again by every run that asks for the same: of studies, sweeps, and
            repeated trainings. `haloformer prepare` fills it beforehand.
        prepared_gb: Largest size of that folder in GB; kinds of images that were not used for
            longest make room.
        resume: Continue a run found in out; if false, such a folder is an error.
        progress: Show a progress bar and a line per epoch.
    """

    out: Annotated[Place, Field(min_length=1)] = "runs/latest"
    seed: WholeNumber = Field(default=0, ge=0, lt=2**32)
    precision: Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(_int_to_text)] = (
        "auto"
    )
    device: Text = "auto"
    simulate_on: Literal["auto", "cpu"] = "auto"
    devices: WholeNumber = Field(default=1, ge=1)
    nodes: WholeNumber = Field(default=1, ge=1)
    strategy: Literal["auto", "ddp"] = "auto"
    deterministic: StrictBool = False
    checkpoint_minutes: Number = Field(default=5.0, ge=0)
    patience: WholeNumber = Field(default=20, ge=0)
    compile: StrictBool = False
    channels_last: StrictBool | Literal["auto"] = "auto"
    cuda_graphs: StrictBool = True
    loggers: Annotated[tuple[str, ...], BeforeValidator(_split_names)] = ("tensorboard",)
    prepared: Annotated[Place, Field(min_length=1)] | None = None
    prepared_gb: Number = Field(default=20.0, gt=0)
    resume: StrictBool = True
    progress: StrictBool = True


class Experiment(Strict):
    """Everything that defines a training run. `compose` makes one from presets and options."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    regularization: RegularizationConfig = RegularizationConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    transfer: TransferConfig = TransferConfig()
    task: TaskConfig = TaskConfig()
    trainer: TrainerConfig = TrainerConfig()

    def nested(self) -> dict[str, dict[str, Any]]:
        """Returns plain values by group and field, ready for YAML and JSON."""
        return {
            group: {name: _plain(value) for name, value in fields.items()}
            for group, fields in self.model_dump().items()
        }

    def flat(self) -> dict[str, Any]:
        """Returns plain values by short name."""
        nested = self.nested()
        return {short: nested[group][name] for short, (group, name) in SHORT_NAMES.items()}

    def to_yaml(self) -> str:
        """Returns the YAML that ``haloformer train --config`` takes."""
        return yaml.safe_dump(self.nested(), sort_keys=False, allow_unicode=True)

    def differences(self, other: "Experiment") -> list[str]:
        """Returns where another run's experiment differs, as ``lr: 0.001 there, 0.002 here``."""
        mine, theirs = self.flat(), other.flat()
        keys = [key for key in mine if key not in RUN_ONLY and mine[key] != theirs[key]]
        return [f"{key}: {theirs[key]!r} there, {mine[key]!r} here" for key in keys]


GROUPS: dict[str, type[Strict]] = {
    group: type(field.default) for group, field in Experiment.model_fields.items()
}
"""Name of each group → its class."""

SHORT_NAMES: dict[str, tuple[str, str]] = {
    group if i == 0 and name in ("source", "name") else name: (group, name)
    for group, kind in GROUPS.items()
    for i, name in enumerate(kind.model_fields)
}
"""Short name → group and field."""

_SHORT_OF = {place: short for short, place in SHORT_NAMES.items()}

RUN_ONLY = {
    *("out", "resume", "device", "num_workers", "progress", "checkpoint_minutes", "loggers"),
    *("prepared", "prepared_gb", "cuda_graphs", "channels_last", "simulate_on"),
}
"""Fields that say where and how a run is carried out, not what is learned: they may change when a
run is resumed, and are not in the artefact."""


def compose(
    presets: str | Iterable[str] | None = None,
    options: Mapping[str, Any] | None = None,
    *layers: Mapping[str, Any],
) -> Experiment:
    """Makes an experiment from the defaults, then presets, then options; what comes later wins.

    Args:
        presets: Names of shipped presets, or YAML files; one, several, or ``"a,b"``.
        options: Field → value, by short name (``lr``), by group and field (``optimizer.lr``), or
            nested by group. ``preset`` names more presets. ``model_args.depth`` changes one keyword
            of the network.
        *layers: More of the same kind.

    Raises:
        InputError: An unknown field, with the nearest; a value of the wrong type or out of range.
    """
    nested: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
    _merge(nested, {"preset": presets}, "options")
    for layer in (options or {}, *layers):
        _merge(nested, layer, "options")
    try:
        return Experiment.model_validate(nested)
    except ValidationError as error:
        raise input_error(error, "", Experiment, spell=_short_path) from error


def short_name(key: str) -> str:
    """Returns the short name of a field in any of its spellings, such as ``lr`` for ``optimizer.lr``.

    Raises:
        InputError: There is no such field.
    """
    group, name = _field(key, "options")
    field, _, keyword = name.partition(".")
    short = _SHORT_OF[group, field]
    return f"{short}.{keyword}" if keyword else short


def read_config(path: Path) -> Experiment:
    """Returns the experiment that a run folder holds."""
    try:
        return compose(None, read_options(path))
    except InputError as error:
        raise InputError(
            f"{path}: is not a training configuration of this version: {error}"
        ) from error


def _merge(
    nested: dict[str, dict[str, Any]],
    options: Mapping[str, Any],
    where: str,
    within: tuple[str, ...] = (),
) -> None:
    """Puts options, by any of their spellings, into their groups; the options' presets first.

    ``within`` are the presets that these options are of.
    """
    presets = options.get("preset")
    presets = presets.split(",") if isinstance(presets, str) else presets or ()
    if not isinstance(presets, Iterable):
        raise InputError(f"preset must be a name or a list of names, not {presets!r}")
    for preset in (str(each).strip() for each in presets):
        if preset in within:
            raise InputError(f"preset '{preset}' names itself: {' → '.join([*within, preset])}")
        _merge(nested, preset_options(preset), f"preset '{preset}'", (*within, preset))
    for key, value in options.items():
        if key == "preset":
            continue
        if key in GROUPS and isinstance(value, Mapping):
            for name, inner in value.items():
                _put(nested, *_field(f"{key}.{name}", where), inner)
        else:
            _put(nested, *_field(str(key), where), value)


def _put(nested: dict[str, dict[str, Any]], group: str, name: str, value: object) -> None:
    field, _, keyword = name.partition(".")
    if field == "model_args" and (keyword or isinstance(value, Mapping)):
        # Keywords are added to those of a preset, not put in their place.
        update = {keyword: value} if keyword else value
        nested[group][field] = {**nested[group].get(field, {}), **update}  # type: ignore[dict-item]
    else:
        nested[group][name] = value


def _field(key: str, where: str) -> tuple[str, str]:
    """Returns group and field of a key in any of its spellings."""
    if key in SHORT_NAMES:
        return SHORT_NAMES[key]
    group, _, name = key.partition(".")
    if group in GROUPS and name.partition(".")[0] in GROUPS[group].model_fields:
        return group, name
    if group == "model_args":
        return "model", key
    fields = GROUPS[group].model_fields if group in GROUPS else ()
    known = [f"{group}.{field}" for field in fields] or [*SHORT_NAMES]
    if key == "overwrite":
        raise InputError(
            "overwrite is no field of a training, which goes on with what is in out: choose another out, or remove that folder"
        )
    raise unknown_name(f"field in {where}", key, known)


def _short_path(loc: tuple[int | str, ...]) -> str:
    """Returns where a fault of an experiment lies, by the field's short name: ``betas[1]``."""
    group, *inside = loc
    if not inside:
        return ""  # a check of several fields, which names them itself
    short = _SHORT_OF.get((str(group), str(inside[0])), str(inside[0]))
    return short + field_path(tuple(part for part in inside[1:] if isinstance(part, int)))


def _plain(value: Any) -> Any:
    """Returns a value with lists in place of tuples, ready for YAML."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
