"""What the command line's commands do beyond calling the library: tables, progress bars, summaries for people.

Each function is a command of ``haloformer``; its signature is its options and its docstring is its ``--help``. Heavy modules are
imported inside, so that asking for help is quick.
"""

import csv
import json
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from haloformer.errors import InputError
from haloformer.vocabulary import unknown_name

_FEW = 20  # rows of predictions that are shown, not only written
Noise = Literal["original", "instrument", "none"]


def simulate(
    survey: str,
    out: str,
    *,
    n: int = 3000,
    seed: int = 0,
    start: int = 0,
    classes: list[str] | str | None = None,
    noise: Noise = "original",
    format: Literal["hdf5", "deeplense"] = "hdf5",
    dtype: Literal["float32", "float64"] = "float32",
    device: str = "cpu",
    backend: Literal["auto", "numba", "torch", "lenstronomy"] = "auto",
    batch_size: int = 256,
    workers: int = 0,
    shard_size: int = 8192,
    ray_address: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> None:
    """Simulates lenses and writes them, with their class and all physical parameters, to one file.

    Image k of (survey, seed) is always the same, so a dataset can be made in parts with --start. With --workers many processes make
    the same images as one would, shard by shard; the same command again makes only the shards that are missing.

    Examples:
        haloformer simulate model_ii --n 3000 --seed 1 --out train.h5
        haloformer simulate model_i --classes axion,no_sub --noise instrument --out two.h5
        haloformer simulate model_iii --n 900 --format deeplense --out Model_III
        haloformer simulate model_ii --n 1000000 --workers 8 --out million.h5

    Args:
        survey: model_i, model_ii, model_iii, or a YAML file that puts together a survey of your own.
        out: File to write (folder, for the format deeplense). It must not exist. With workers: a name that ends in .h5 is one
            file in the end, any other a folder of shards, each a dataset file.
        n: Number of images in all, balanced over the classes.
        seed: Of all random draws: another seed gives other, independent images.
        start: Number of the first image.
        classes: Classes to simulate, such as cdm,no_sub; all of the survey's by default.
        noise: original: as the survey was released; instrument: the camera's own, in counts/s; none.
        format: hdf5: one self-describing file; deeplense: the original folders of .npy files.
        dtype: Precision of the computation; files hold float32.
        device: Where to render: cpu, cuda, cuda:1.
        backend: numba: compiled CPU kernel; torch: any device; lenstronomy: that package, slowly, to check ours.
        batch_size: Images rendered at once; changes memory and speed only.
        workers: Processes that share the images, one CPU (or one GPU) each; 0: this process does it alone.
        shard_size: With workers: images per shard.
        ray_address: Of a running Ray cluster, or auto: its machines share the images.
        overwrite: Replace an existing file.
        quiet: Say nothing.
    """
    import torch

    from haloformer.simulation import Simulator

    names = [name.strip() for name in classes.split(",")] if isinstance(classes, str) else classes
    simulator = Simulator(
        survey,
        classes=names,
        seed=seed,
        noise=noise,
        dtype=getattr(torch, dtype),
        device=device,
        backend=backend,
    )
    began = time.perf_counter()
    if workers or ray_address is not None:
        if format == "deeplense":
            raise InputError("--workers writes the format hdf5, not deeplense")
        from haloformer.data.shards import simulate_shards

        simulate_shards(
            simulator, out, n=n, start=start, batch_size=batch_size, workers=workers, shard_size=shard_size,
            ray_address=ray_address, overwrite=overwrite, progress=False if quiet else None,
        )  # fmt: skip
    else:
        _simulate_alone(simulator, out, n, start, format, batch_size, overwrite, quiet)
    seconds = time.perf_counter() - began
    if not quiet:
        print(
            f"wrote {n} images of {simulator.survey.name} ({', '.join(simulator.class_names)}) to {out}: {n / seconds:.0f} images/s"
        )


def _simulate_alone(
    simulator: Any,
    out: str,
    n: int,
    start: int,
    format: str,
    batch_size: int,
    overwrite: bool,
    quiet: bool,
) -> None:
    from haloformer.data.dataset_writer import DatasetWriter
    from haloformer.data.deeplense import write_deeplense_folder
    from haloformer.simulation import iterate

    batches = iterate(simulator, n, start=start, batch_size=batch_size)
    with _progress(f"simulate {simulator.survey.name}", n, quiet) as advance:
        counted = _counted(batches, advance)
        if format == "deeplense":
            write_deeplense_folder(
                counted, out, class_names=simulator.class_names, n=n, overwrite=overwrite
            )
        else:
            writer = DatasetWriter(
                out,
                n=n,
                image_shape=simulator.image_shape,
                class_names=simulator.class_names,
                attributes=simulator.attributes,
                overwrite=overwrite,
            )
            with writer:
                for batch in counted:
                    writer.write(batch)


def convert(
    src: str,
    out: str,
    *,
    channels: int | None = None,
    hdu: int | str | None = None,
    class_map: dict[str, str] | None = None,
    subset: str | None = None,
    nan: Literal["error", "zero"] = "error",
    compression: Literal["gzip", "lzf"] | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> None:
    """Makes one dataset file of labelled images that you have.

    Reads DeepLense folders and .tgz archives (axion|vort, cdm|sphere, no_sub|no; plain and pickled .npy, the latter without ever
    running what a pickle asks for), folders of class folders with FITS, PNG or JPEG images, and other HDF5 files.

    Examples:
        haloformer convert Model_I.tgz --out model_i.h5
        haloformer convert dataset --subset val --out val.h5
        haloformer convert cutouts --class_map '{smooth: no_sub, clumpy: cdm}' --out mine.h5

    Args:
        src: Folder, archive (.tgz, .tar.gz, .tar) or HDF5 file.
        out: Dataset file to write. It must not exist.
        channels: How many channels each image must have; by default whatever is there.
        hdu: Number or name of the FITS extension to read.
        class_map: Class of each folder that has a name of its own.
        subset: Which part to take where a source holds several, such as train and val: they are never mixed.
        nan: error: refuse images with NaN or infinite pixels; zero: put 0 there.
        compression: gzip or lzf make smaller files that are slower to read.
        overwrite: Replace an existing file.
        quiet: Say nothing.
    """
    from haloformer.data.convert import convert as convert_images

    with _progress("convert", None, quiet) as advance:
        summary = convert_images(
            src,
            out,
            channels=channels,
            progress=advance,
            overwrite=overwrite,
            hdu=hdu,
            class_map=class_map,
            subset=subset,
            nan=nan,
            compression=compression,
        )
    if not quiet:
        counts = ", ".join(f"{count} {name}" for name, count in summary["classes"].items())
        shape = "×".join(str(size) for size in summary["image_shape"])
        print(f"wrote {summary['n']} images of {shape} ({counts}) to {out}")


def inspect(
    data: str,
    *,
    figure: str | None = None,
    per_class: int = 6,
    seed: int = 0,
    json: bool = False,
    overwrite: bool = False,
) -> None:
    """Shows what a dataset file holds: classes, pixel statistics, parameters, provenance.

    Examples:
        haloformer inspect train.h5
        haloformer inspect train.h5 --figure samples.png

    Args:
        data: Dataset file (.h5).
        figure: Also draw a panel of sample images per class to this file (.png, .svg, .pdf).
        per_class: Images per class in the figure.
        seed: Of the choice of images for the figure.
        json: Print JSON instead of tables.
        overwrite: Replace an existing figure.
    """
    from haloformer.data import inspect as inspection

    if figure is not None and Path(figure).exists() and not overwrite:
        raise InputError(f"{figure} exists: choose another name, or give --overwrite")
    summary = inspection.summarise(data)
    if figure is not None:
        inspection.figure(data, figure, per_class=per_class, seed=seed)
    if json:
        _print_json(summary)
        return
    attributes = summary["attributes"]
    shape = "×".join(str(size) for size in summary["image_shape"])
    print(
        f"{data}: {summary['n']} images of {shape} {summary['dtype']}, {summary['bytes'] / 1e6:.1f} MB"
    )
    known = {
        k: v
        for k, v in attributes.items()
        if v is not None and len(str(v)) < 80 and k not in ("class_names", "units")
    }
    _print_table("provenance", ["field", "value"], [[k, str(v)] for k, v in known.items()])
    _print_table(
        "pixels",
        ["class", "images", "mean", "std", "min", "max", "zeros", "not finite"],
        [
            [
                name,
                *(
                    _short(row[k])
                    for k in ("count", "mean", "std", "min", "max", "zero_fraction", "not_finite")
                ),
            ]
            for name, row in summary["classes"].items()
        ],
    )
    _print_table(
        "parameters",
        ["name", "unit", "per image", "min", "median", "max", "applies to"],
        [
            [
                row["name"], row["unit"], "×".join(map(str, row["shape"])) or "1", _short(row["min"]), _short(row["median"]),
                _short(row["max"]), f"{100 * row['applicable']:.0f} %",
            ]
            for row in summary["parameters"]
        ],
    )  # fmt: skip
    if figure is not None:
        print(f"drew {figure}")


def train(
    *,
    preset: str | None = None,
    config: str | None = None,
    print_config: bool = False,
    options: dict[str, Any] | None = None,
) -> None:
    """Trains a network and leaves a run folder: configuration, metrics, checkpoints and the artefact for prediction.

    The same command again continues an interrupted run, and gives the same weights as if it had never been interrupted
    (on a CPU, bit for bit). A test set is never touched.

    Every option can stand in a YAML file, by its short name (lr: 1e-3) or by its group (optimizer: {lr: 1e-3}).
    What comes later wins: defaults, presets, --config files, options.

    Examples:
        haloformer train --data train.h5 --model hybrid_nano --out runs/x
        haloformer train --preset quick --data model_ii --out runs/y
        haloformer train --preset standard,swin --data model_ii --epochs 20 --lr 5e-4 --print_config
        haloformer train --config runs/y/config.yaml --out runs/again
        torchrun --nproc_per_node 4 -m haloformer train --config mine.yaml --devices 4

    Args:
        preset: Recipes and models to start from, such as standard,swin; `haloformer presets` lists them. Or YAML files.
        config: YAML file with options, such as the config.yaml of another run.
        print_config: Print the whole experiment as YAML, as it would be carried out, and do nothing else.
        options: Fields of the experiment, by short name.
    """
    from haloformer.training.config import compose, read_options

    experiment = compose(preset, read_options(Path(config)) if config else {}, options or {})
    if print_config:
        print(experiment.to_yaml(), end="")
        return
    from haloformer.training import run

    run(experiment)


def presets(name: str | None = None) -> None:
    """Lists the shipped presets, or shows one as YAML: where to start for a recipe of your own.

    Examples:
        haloformer presets
        haloformer presets standard > mine.yaml

    Args:
        name: A preset to show.
    """
    from haloformer.training.config import list_presets, preset_text

    if name:
        print(preset_text(name), end="")
    else:
        _print_table(
            "presets", ["name", "what it is"], [[key, text] for key, text in list_presets().items()]
        )


def models(
    name: str | None = None,
    *,
    family: str | None = None,
    size: Literal["nano", "tiny", "paper", "other"] | None = None,
    max_parameters: str | None = None,
    pretrained: bool = False,
    attention: bool = False,
    img_size: int | None = None,
    json: bool = False,
) -> None:
    """Lists the networks that can be trained, or builds one and shows it in detail.

    MACs are the multiply-accumulate operations of one image of one channel, of 64×64 and 150×150 pixels.

    Examples:
        haloformer models
        haloformer models --size nano --max-parameters 1M --attention
        haloformer models --family Swin --json
        haloformer models resnet18 --img-size 96

    Args:
        name: A model to show in detail; any timm name works, too.
        family: Only models of this family, such as ViT or Swin; upper and lower case are the same.
        size: nano (at most 1.5 M parameters) and tiny (4 to 7 M) are made for lens cutouts; paper: as papers name them.
        max_parameters: Only models of at most so many, such as 5M or 5e6.
        pretrained: Only models with ImageNet weights that can be downloaded.
        attention: Only models whose attention can be shown on the image.
        img_size: For one model: the side of the images in pixels, beside 64 and 150.
        json: Print JSON instead of a table.
    """
    filters = {"family": family, "size": size, "max_parameters": max_parameters, "pretrained": pretrained, "attention": attention}  # fmt: skip
    if name is not None:
        if given := [key for key, value in filters.items() if value]:
            raise InputError(
                f"--{given[0]} chooses from the list: leave it out, or the name '{name}'"
            )
        _show_model(name, img_size, json)
        return
    if img_size is not None:
        raise InputError("--img_size is for one model: give its name, too")
    from haloformer.models.table import model_table

    rows = model_table()
    if family is not None:
        families = sorted({row["family"] for row in rows}, key=str.lower)
        chosen = next((known for known in families if known.lower() == family.lower()), None)
        if chosen is None:
            raise unknown_name("family", family, families)
        rows = [row for row in rows if row["family"] == chosen]
    most = None if max_parameters is None else _number(max_parameters)
    rows = [
        row
        for row in rows
        if (size is None or row["size"] == size)
        and (most is None or row["parameters"] <= most)
        and (row["pretrained"] or not pretrained)
        and (row["attention"] or not attention)
    ]
    if json:
        _print_json(rows)
    elif not rows:
        print("no model has all these properties")
    else:
        _print_models(rows)


def _print_models(rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD

    columns = ["name", "family", "size", "para-\nmeters", "MACs\nat 64", "MACs\nat 150", "Image-\nNet", "atten-\ntion", "arXiv"]  # fmt: skip
    shown = [
        [
            row["name"], row["family"], row["size"], _si(row["parameters"]), _si(row["macs_64"]),
            _si(row["macs_150"]), *("yes" if row[key] else "no" for key in ("pretrained", "attention")),
            _arxiv(row["paper"]),
        ]
        for row in rows
    ]  # fmt: skip
    numbers = {"para-\nmeters", "MACs\nat 64", "MACs\nat 150"}
    _print_table(f"{len(rows)} models", columns, shown, box=SIMPLE_HEAD, right=numbers)


def _show_model(name: str, img_size: int | None, as_json: bool) -> None:
    from haloformer.models import find_model
    from haloformer.models.details import describe_model
    from haloformer.models.table import model_table

    row = describe_model(find_model(name), img_size)
    row["exceptions"] = next(
        (known["exceptions"] for known in model_table() if known["name"] == name), None
    )
    if as_json:
        _print_json(row)
        return
    shown = {
        **row,
        "parameters": f"{row['parameters']:,}",
        **{key: _si(value) for key, value in row.items() if key.startswith("macs")},
        "pretrained": row["weights_url"] or "no ImageNet weights to download; a file can be given",
        "attention": "; ".join(_runs(row["attention_layers"])) or row["no_attention"],
        "keywords": ", ".join(f"{key}: {value}" for key, value in row["keywords"].items())
        or "none",
        "exceptions": "not tried"
        if row["exceptions"] is None
        else "; ".join(row["exceptions"]) or "none",
    }
    hidden = {"name", "weights_url", "attention_layers", "no_attention"}
    rows = [
        [key.replace("_", " "), str(value)] for key, value in shown.items() if key not in hidden
    ]
    _print_table(name, ["field", "value"], rows)


def _runs(layers: list[str]) -> list[str]:
    """Layers with kind and shape, ``name: kind``, those of the same kind together: ``6 layers name … name: kind``."""
    grouped = [
        (kind, [name for name, _ in run])
        for kind, run in groupby((x.split(": ", 1) for x in layers), lambda x: x[1])
    ]
    return [
        names[0] + (f" … {names[-1]} ({len(names)} layers)" if len(names) > 1 else "") + f": {kind}"
        for kind, names in grouped
    ]


def _number(text: str) -> float:
    """A number of parameters as people write it: 5e6, 5M, 900k."""
    factor = {"k": 1e3, "m": 1e6, "g": 1e9}.get(text.strip()[-1:].lower(), 1.0)
    try:
        number = float(text.strip().rstrip("kKmMgG")) * factor
    except ValueError:
        number = float("nan")
    if not number > 0:
        raise InputError(f"max_parameters must be a number such as 5M or 5e6, not '{text}'")
    return number


def _si(number: int | None) -> str:
    """A large number with three digits and its unit: 5.72 M, 411 M, 1.25 G."""
    if number is None:
        return "–"
    value, unit = (number / 1e9, "G") if number >= 999.5e6 else (number / 1e6, "M")
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def _arxiv(paper: str) -> str:
    """The arXiv number in ``Title (arXiv:1234.56789)``."""
    return paper.rpartition("arXiv:")[2].rstrip(")")


def print_metrics(result: dict[str, Any]) -> None:
    """Prints the tables of per-class AUCs and of regression errors, warnings, and where the report is."""
    n = result["n_images"]
    if result["class_names"]:
        rows = [
            [name, str(row["n"]), *_with_interval(row["auc"])]
            for name, row in result["per_class"].items()
        ]
        rows.append(["macro", str(n), *_with_interval(result["macro_auc"])])
        _print_table(
            f"one-vs-rest AUC on {n} images", ["class", "images", "AUC", "95 % interval"], rows
        )
        value, interval = _with_interval(result["accuracy"])
        print(f"accuracy {value} ({interval})")
    if result["regression"]:
        rows = [
            [name, str(row["n"]), *_with_interval(row["mae"])]
            for name, row in result["regression"].items()
        ]
        _print_table(
            "mean absolute error in dex", ["target", "images", "MAE", "95 % interval"], rows
        )
        for name, row in result["regression"].items():
            if math.isfinite(row["coverage"]["value"]):
                value, interval = _with_interval(row["coverage"])
                wanted = f"nominal {row['nominal_coverage']:g}"
                print(f"intervals of {name} hold {value} ({interval}) of the true values, {wanted}")
    if result["left_out"]:
        counts = ", ".join(f"{count} of class {name}" for name, count in result["left_out"].items())
        print(f"left out, as the model has no answer for them: {counts}")
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"report: {result['report']}")


def print_audit(result: dict[str, Any]) -> None:
    """Prints what an audit comes to, and where its report is."""
    import textwrap

    print(textwrap.fill(result["verdict"], 100))
    print(f"report: {result['report']}")


def print_comparison(result: dict[str, Any]) -> None:
    """Prints the models' macro AUCs, their differences to the first with p-values, warnings, and where the report is."""
    rows = [[model["name"], *_with_interval(model["macro_auc"])] for model in result["models"]]
    _print_table(
        f"macro AUC on {result['n_images']} images", ["model", "macro AUC", "95 % interval"], rows
    )
    rows = [
        [
            row["name"],
            title,
            f"{d['value']:+.4f}",
            f"{d['low']:+.4f} – {d['high']:+.4f}",
            f"{d['p_holm']:.2g}",
        ]
        for row in result["differences"]
        for title, d in (
            (title, row["differences"][key]) for key, title in result["measures"].items()
        )
    ]
    header = ["model", "measure", "difference", "95 % interval", "p, corrected"]
    _print_table(f"differences to {result['reference']}, paired by image", header, rows)
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"report: {result['report']}")


def _with_interval(estimate: dict[str, float]) -> list[str]:
    return [f"{estimate['value']:.4f}", f"{estimate['low']:.4f} – {estimate['high']:.4f}"]


def print_study(result: Any) -> int:
    """Prints a study's table, and where table and figure are; returns 1 if some of its runs failed."""
    rows = []
    for row in result.rows:
        estimate = {key: row.get(f"macro_auc{end}", math.nan) for key, end in _ENDS}
        difference = f"{row['difference']:+.4f}" if "difference" in row else "–"
        rows.append([row["variant"], str(row["n_seeds"]), *_with_interval(estimate), difference])
    _print_table(
        "test macro AUC", ["variant", "seeds", "macro AUC", "95 % interval", "difference"], rows
    )
    for count, what in ((result.n_failed, "failed"), (result.n_missing, "are not there yet")):
        if count:
            print(f"{count} runs {what}")
    print(f"table and figure: {result.out / 'table.md'}, {result.out / 'figure.png'}")
    return 1 if result.n_failed else 0


def print_leaderboard(result: Any) -> int:
    """Prints the leaderboard, and where it is; returns 1 if some of its runs failed."""
    from haloformer.studies.leaderboard import board

    entries = board(result.rows)
    for survey in dict.fromkeys(entry["survey"] for entry in entries):
        rows = []
        for entry in (entry for entry in entries if entry["survey"] == survey):
            estimate = {key: entry.get(f"macro_auc{end}", math.nan) for key, end in _ENDS}
            theirs = entry["published_macro_auc"]
            rows.append(
                [
                    str(entry["rank"]),
                    entry["model"],
                    *_with_interval(estimate),
                    f"{theirs:.4f}" if theirs else "–",
                ]
            )
        _print_table(survey, ["", "model", "macro AUC", "95 % interval", "published"], rows)
    if result.n_failed:
        print(f"{result.n_failed} runs failed")
    print(f"leaderboard: {result.out / 'leaderboard.md'}, {result.out / 'leaderboard.html'}")
    return 1 if result.n_failed else 0


_ENDS = (("value", ""), ("low", "_low"), ("high", "_high"))


def print_search(result: Any) -> None:
    """Prints the best trial of a search."""
    _print_table(
        f"trial {result.best_trial}: {result.value:.4f}",
        ["field", "value"],
        [
            [key, f"{value:.4g}" if isinstance(value, float) else str(value)]
            for key, value in result.params.items()
        ],
    )
    print(f"best experiment: {result.out / 'best.yaml'}")


def print_fit(summary: Any) -> int:
    """Prints what a fit did; returns 1 if some images were errors."""
    errors = f", {summary.n_errors} errors" if summary.n_errors else ""
    print(
        f"wrote {summary.n_rows} rows to {summary.out}: median chi2 {summary.chi2:.3f}, {summary.n_unsettled} not converged{errors}"
    )
    if summary.figure is not None:
        print(f"drew {summary.figure}")
    return 1 if summary.n_errors else 0


def print_explanation(result: dict[str, Any]) -> None:
    """Prints how well each map finds the substructure, what random weights change, warnings, and where the page is."""
    sanity = {(row["method"], row["layer"]): row["correlation"] for row in result["sanity"]}
    scores = [row for row in result["scores"] if row["weights"] == "trained"]
    scores = [
        row for row in scores if row["class"] == "all"
    ] or scores  # of one class there is no sum
    if scores:
        rows = [
            [" ".join([row["method"], row["layer"]]).strip(), row["class"], str(row["n"]),
             f"{row['gain']:.2f}", f"{row['gain_low']:.2f} – {row['gain_high']:.2f}",
             f"{row['auc']:.3f}", f"{row['auc_low']:.3f} – {row['auc_high']:.3f}"]
            for row in scores
        ]  # fmt: skip
        columns = ["map", "class", "images", "gain", "95 % interval", "pixel AUC", "95 % interval"]
        _print_table(
            "where substructure changes the image: gain 1, AUC 0.5 by chance", columns, rows
        )
    if sanity:
        rows = [[" ".join(key).strip(), f"{value:.2f}"] for key, value in sanity.items()]
        _print_table("rank correlation with random weights", ["map", "correlation"], rows)
    for what, why in result["left_out"].items():
        print(f"left out: {what}: {why}")
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"explained {len(result['images'])} images: {result['page']}")


def print_calibration(result: dict[str, Any]) -> None:
    """Prints what a calibration came to."""
    print(f"calibrated on {result['data']}")
    if (found := result["calibration"]) is not None:
        print(
            f"temperature {found['temperature']:.3f}: negative log-likelihood {found['nll_before']:.4f} before, {found['nll_after']:.4f} after"
        )
    if result["ood"] is not None:
        parts = ", ".join(result["ood"]["thresholds"])
        print(
            f"images unlike these are told by {parts}; {100 * result['ood']['alarm_rate']:g} % of such as these are flagged, too"
        )
    print(f"wrote {result['out']}")


_UNSHOWN = {"confidence", "entropy", "ood_score", "ra", "dec"}


def print_predictions(summary: Any) -> int:
    """Prints what a prediction did, and the main columns of its rows if they are few; returns 1 if some images were errors."""
    if 0 < summary.n_rows <= _FEW and summary.out.suffix == ".csv":
        with summary.out.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        # What is nowhere filled, and what few ask for, would make the rest too narrow to read.
        shown = [
            name for name in rows[0] if name not in _UNSHOWN and any(row[name] for row in rows)
        ]
        for row in rows:
            short = Path(row["file"]).name
            row |= {
                name: row.get(name, "").replace(row["file"], short) for name in ("error", "file")
            }
        _print_table(
            str(summary.out), shown, [[_shorter(row[name]) for name in shown] for row in rows]
        )
    counts = ", ".join(f"{count} {name}" for name, count in summary.class_counts.items())
    errors = f", {summary.n_errors} errors" if summary.n_errors else ""
    strange = "" if summary.n_ood is None else f", {summary.n_ood} unlike the training images"
    print(
        f"wrote {summary.n_rows} rows to {summary.out}{': ' if counts else ''}{counts}{strange}{errors}"
    )
    if summary.n_ood:
        print(
            f"warning: {summary.n_ood} of {summary.n_rows} images are unlike those that the model was trained on: their classes mean "
            "little; the column ood_reason says why",
            file=sys.stderr,
        )
    return 1 if summary.n_errors else 0


def export(
    model: str,
    out: str,
    *,
    format: Literal["onnx", "torch_export", "hub"] = "onnx",
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    check: int = 0,
    seed: int | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> None:
    """Exports a trained network with all its preprocessing: raw images in, probabilities out, without haloformer.

    With --check the export answers newly simulated images beside the network itself, and what it costs is told.

    Examples:
        haloformer export model_i --out model_i.onnx --check 300
        haloformer export runs/x --out small.onnx --precision int8 --check 3000
        haloformer export runs/x --format torch_export --out x.pt2
        haloformer export runs/x --format hub --out x-hub

    Args:
        model: Run folder or artefact folder of a trained model, or the name of a shipped one, such as model_i.
        out: File to write, .onnx or .pt2; for hub a folder.
        format: onnx: for ONNX Runtime; torch_export: for torch.export.load; hub: a folder as the Hugging Face hub has them, which
            haloformer reads again.
        precision: Of an ONNX network. fp16 halves its weights, int8 quantises those of its matrix products; fit and normalisation
            stay fp32.
        check: Number of images of the model's survey to simulate and compare the export on; 0 for none.
        seed: Of these images; by default one that training did not use.
        overwrite: Replace ``out`` if it exists.
        progress: Show a progress bar of the check; by default when standard error is a terminal.
    """
    from haloformer.prediction.export import export_model

    if check < 0:
        raise InputError(f"check is {check}: a number of images, or 0 for none")
    done = export_model(model, out, format=format, precision=precision, overwrite=overwrite)
    outputs = f": {', '.join(done.outputs)}" if done.outputs else ""
    print(
        f"wrote {done.out} ({done.format}, {done.precision}, {done.n_bytes / 2**20:.1f} MiB){outputs}"
    )
    if check:
        from haloformer.evaluation.exported import check_export

        result = check_export(model, done, n=check, seed=seed, progress=progress)
        print(f"checked on {result.n} {result.images}")
        if result.differences.size:
            high = ", ".join(
                f"{share:.1%} of images below {result.below(share):.1e}" for share in (0.99, 0.999)
            )
            print(f"largest |Δ{result.what}| {result.differences.max():.1e}; {high}")
        if result.before is not None and result.after is not None:
            rows = [
                [name, *_with_interval(vars(x))]
                for name, x in (("before", result.before), ("after", result.after))
            ]
            _print_table("macro AUC", ["", "AUC", "95 % interval"], rows)


def surveys(name: str | None = None) -> None:
    """Lists the shipped surveys, or shows one as YAML: where to start for a survey of your own.

    Examples:
        haloformer surveys
        haloformer surveys model_ii > mine.yaml

    Args:
        name: A survey to show.
    """
    import yaml

    from haloformer.simulation import describe_survey, get_survey, list_surveys

    if name:
        print(
            yaml.safe_dump(describe_survey(get_survey(name)), sort_keys=False, allow_unicode=True),
            end="",
        )
    else:
        _print_table(
            "surveys",
            ["name", "description"],
            [[key, text] for key, text in list_surveys().items()],
        )


@contextmanager
def _progress(
    what: str, total: int | None, quiet: bool
) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on a terminal; yields a function of (done, total)."""
    if quiet or not sys.stderr.isatty():
        yield _say_nothing
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)

        def advance(done: int, total: int | None = None) -> None:
            progress.update(task, completed=done, total=total)  # None leaves the total as it is

        yield advance


def _say_nothing(done: int, total: int | None = None) -> None:
    """The progress of quiet work."""


def _counted(batches: Any, advance: Callable[[int, int | None], None]) -> Iterator[Any]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch.labels)
        advance(done, None)


def _print_table(
    title: str,
    columns: list[str],
    rows: list[list[str]],
    *,
    box: Any = None,
    right: Collection[str] = (),
) -> None:
    """Prints a table; with a ``box`` that has no sides, tightly, with the columns ``right`` aligned there."""
    from rich.console import Console
    from rich.table import Table

    tight = (
        {}
        if box is None
        else {"box": box, "padding": (0, 0), "pad_edge": False, "show_edge": False}
    )
    table = Table(title=title, title_justify="left", title_style="bold", **tight)
    for i, column in enumerate(columns):
        table.add_column(
            column, overflow="fold", no_wrap=i == 0, justify="right" if column in right else "left"
        )
    for row in rows:
        table.add_row(*row)
    # Into a pipe or file nothing is cut to 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


def _shorter(cell: str) -> str:
    """A table's cell with numbers of many digits cut to four decimals."""
    try:
        return f"{float(cell):.4f}" if "." in cell or "e" in cell else cell
    except ValueError:
        return cell


def _short(value: Any) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int | str) else f"{value:.4g}"
