"""How fast is training, does it wait for its data, and what makes it faster? Against the field's usual loop in the same run.

    python benchmarks/training.py                                   # model_ii, three small networks
    python benchmarks/training.py --surveys model_ii model_i --table results/measurements/training.md
    python benchmarks/training.py --device cuda                     # the same tables on a GPU
    python benchmarks/training.py --quick                           # does it work?

What is measured is `haloformer train` itself: its data, its steps, its own images/s, of whole epochs after a first one that is not counted.
Only the iterator over its batches is watched, for the time that the loop stands still until the next batch is there. All rows of a
table are measured in turn, several times over, in one process per network. The best speed counts; ratios are of rows measured one after the other.
"""

import argparse
import csv
import dataclasses
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from isolated import CHILD, one_line, run_isolated, versions

MODELS = ("hybrid_nano", "resnet_nano", "vit_nano")
VARIANTS: dict[str, dict[str, Any]] = {
    "32 bits, channels first, fused AdamW": {},
    "AdamW not fused": {"fused": False},
    "`channels_last`": {"channels_last": True},
    "`precision: bf16`": {"precision": "bf16"},
    "no CUDA graphs": {"cuda_graphs": False},
    "`compile`": {"compile": True},
    "`channels_last`, bf16, `compile`": {
        "channels_last": True,
        "precision": "bf16",
        "compile": True,
    },
}
"""The first is what the others are compared with; fused AdamW is in all but the second."""
CLOCKED = " (on one thread of a CPU: per second that this thread had a core)"
FIELD_SIZE = 224
WARMUP_STEPS = 2
N_VAL = 96

PEERS = f"""The usual loop is ours to write, from what such scripts do: one `.npy` file per image, read by a `Dataset`, scaled to 0…1 by its least and largest
value, enlarged by torchvision's `Resize({FIELD_SIZE})`, batched by PyTorch's `DataLoader` with two workers; 32-bit floats, AdamW as PyTorch
has it, no augmentation. The network is the same in all rows, but for the size of its images. The start of the workers is not counted. The fastest
step{CLOCKED} leaves out what the workers do."""


# --- in the child: `haloformer train` ---------------------------------------------------------------------------------


def own_loop(
    out: Path, *, in_memory: bool = True, fused: bool = True, **options: Any
) -> dict[str, float]:
    """The speed of the best epoch of a training but the first, and how long it waited for its batches."""
    import torch

    from haloformer.training import batches, engine, tasks, train

    torch._dynamo.reset()  # what another row compiled counts against a limit
    watches: dict[int, list[tuple[float, float]]] = defaultdict(list)
    open_source, build_optimizer = engine.open_feed, tasks.build_optimizer

    def open_watched(experiment: Any) -> Any:
        source = open_source(experiment)
        return dataclasses.replace(
            source,
            epoch=lambda number, *rest: watched(
                lambda: source.epoch(number, *rest), watches[number]
            ),
        )

    with (
        mock.patch.object(engine, "open_feed", open_watched),
        mock.patch.object(batches, "MEMORY_BUDGET", 2**40 if in_memory else 0),
        mock.patch.object(tasks, "build_optimizer", lambda *given, **named: build_optimizer(*given, **{**named, "fused": fused})),
    ):  # fmt: skip
        train(out=str(out), progress=False, **options)
    with (out / "metrics.csv").open(encoding="utf-8", newline="") as file:
        speeds = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    best = max(range(1, len(speeds)), key=lambda epoch: speeds[epoch])
    images = len(watches[best]) * options["batch_size"]
    first, *others = (wait for wait, _ in watches[best])
    moments = ([moment for _, moment in watches[epoch]] for epoch in range(1, len(speeds)))
    return {
        "fastest": max(fastest(epoch, options["batch_size"]) for epoch in moments),
        "speed": speeds[best],
        "waiting": sum(others) / (images / speeds[best] - first),
        "first_wait": first,
        "start": images / speeds[0] - images / speeds[best],  # what the first epoch took longer
    }


def watched(make: Callable[[], Iterable[Any]], watch: list[tuple[float, float]]) -> Iterator[Any]:
    """Batches, and for each the seconds until it was there, and the moment when it was, by :func:`clock`."""
    began = time.perf_counter()
    for batch in make():
        watch.append((time.perf_counter() - began, clock()))
        yield batch
        began = time.perf_counter()


def clock() -> float:
    """Seconds, by which single steps are measured: on one thread of a CPU those that it had, whatever else runs beside it."""
    import torch

    return (
        time.perf_counter()
        if torch.cuda.is_available() or torch.get_num_threads() > 1
        else time.thread_time()
    )


def fastest(moments: Iterable[float], batch_size: int) -> float:
    """Images/s of the fastest step between two moments when a batch was there."""
    return batch_size / min(after - before for before, after in itertools.pairwise(moments))


# --- in the child: the usual loop -------------------------------------------------------------------------------------


def usual_loop(
    folder: str, model: str, img_size: int | None, task: dict[str, Any]
) -> dict[str, float]:
    """The speed of a loop over one .npy file per image, and how long it waited for its batches."""
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader

    from haloformer.models import create_model

    torch.manual_seed(0)
    device = torch.device(task["device"])
    dataset = npy_dataset(Path(folder), img_size)
    loader = DataLoader(dataset, task["batch_size"], shuffle=True, num_workers=2, drop_last=True)
    network = create_model(model, img_size=dataset[0][0].shape[-1]).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    watch: list[tuple[float, float]] = []
    began = time.perf_counter()
    for images, labels in watched(
        lambda: itertools.chain.from_iterable(itertools.repeat(loader)), watch
    ):
        loss = F.cross_entropy(network(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # its running mean is shown; on a GPU this also ends the step
        if len(watch) == WARMUP_STEPS:
            began = time.perf_counter()
        steps, seconds = len(watch) - WARMUP_STEPS, time.perf_counter() - began
        if steps >= 2 and seconds >= task["seconds"]:
            break
    return {
        "speed": steps * task["batch_size"] / seconds,
        "waiting": sum(wait for wait, _ in watch[WARMUP_STEPS:]) / seconds,
        "fastest": fastest([moment for _, moment in watch[WARMUP_STEPS:]], task["batch_size"]),
    }


def npy_dataset(folder: Path, img_size: int | None) -> Any:
    """The dataset of such scripts: a folder per class, a file per image."""
    import numpy as np
    import torch
    from torch.utils.data import Dataset
    from torchvision.transforms import Resize

    files = sorted(folder.glob("*/*.npy"))
    classes = sorted({file.parent.name for file in files})
    resize = Resize(img_size) if img_size else None

    class NpyFiles(Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            image = np.load(files[index])
            image = torch.from_numpy((image - image.min()) / (image.max() - image.min()))
            return image if resize is None else resize(image), classes.index(
                files[index].parent.name
            )

    return NpyFiles()


# --- in the child: the network alone, and a preset's images from all sources ------------------------------------------


def network_alone(task: dict[str, Any], experiment: Any) -> dict[str, float]:
    """The speed of steps on one batch that lies on the device, in the precision of the training: no data, no Lightning, no average."""
    import torch
    import torch.nn.functional as F

    from haloformer.models import create_model
    from haloformer.simulation import Simulator
    from haloformer.training.cuda_graphs import graphed
    from haloformer.training.hardware import Hardware
    from haloformer.training.optim import build_optimizer

    torch.manual_seed(0)
    device = torch.device(task["device"])
    side = experiment.data.crop or Simulator(experiment.data.source).image_shape[-1]
    network = create_model(experiment.model.name, side, CHANNELS[experiment.data.physics])
    layout = Hardware.of(experiment).layout
    network = network.to(device, memory_format=layout)
    optimizer = build_optimizer(network, lr=1e-3, weight_decay=0.05, fused=True)
    n = experiment.data.batch_size
    images = torch.randn(n, CHANNELS[experiment.data.physics], side, side, device=device)
    images, labels = images.contiguous(memory_format=layout), torch.arange(n, device=device) % 3
    half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    forward: Callable[[torch.Tensor], torch.Tensor] = network
    if device.type == "cuda":
        faster, _ = graphed(network, images, torch.bfloat16 if half else torch.float32)
        forward = faster or network

    def step() -> float:
        """Seconds of a step."""
        began = clock()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = F.cross_entropy(forward(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        loss.item()
        return clock() - began

    for _ in range(WARMUP_STEPS + 3):
        step()
    seconds: list[float] = []
    while sum(seconds) < task["seconds"] or len(seconds) < 3:
        seconds.append(step())
    return {"speed": n / statistics.median(seconds), "fastest": n / min(seconds), "waiting": 0.0}


CHANNELS = {"none": 1, "residual": 2, "detail": 3}


def pipeline_rows(
    task: dict[str, Any],
    own: Callable[..., Callable[[], dict[str, float]]],
    scratch: str,
    alone: Callable[[], dict[str, float]],
) -> dict[str, Callable[[], dict[str, float]]]:
    """The network alone, and the preset's training with its images in memory, prepared on disk, and simulated as they are needed."""
    from haloformer.training.config import compose
    from haloformer.training.preparing import parts_of

    given = {**task["given"], "precision": "auto"}
    folder = f"{scratch}/prepared"
    experiment = compose(None, {**given, "out": f"{scratch}/x", "model": task["model"], "prepared": folder, "device": task["device"], "batch_size": task["batch_size"], "epochs": 1 + task["epochs"], "epoch_size": task["images"], "val_size": N_VAL})  # fmt: skip
    for _, images, numbers in parts_of(experiment):
        for _ in images.prepare(numbers):
            pass
    own_given = {**given, "val_data": None, "val_size": N_VAL}
    return {
        "alone": alone,
        "memory": own(**own_given, n_images=task["images"]),
        "prepared": own(**own_given, prepared=folder),
        "stream": own(**own_given),
    }


# --- in the child: the tables -----------------------------------------------------------------------------------------


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Measures the rows of one table for one network: row → figures, or the reason why there are none."""
    import torch

    torch.set_num_threads(task["threads"])
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{scratch}/inductor"
        names = (str(Path(scratch) / str(number)) for number in itertools.count())
        common = {key: task[key] for key in ("model", "device", "batch_size", "val_data")}
        common |= {"precision": "32", "epochs": 1 + task["epochs"], "epoch_size": task["images"]}

        def own(**options: Any) -> Callable[[], dict[str, float]]:
            return lambda: own_loop(Path(next(names)), **{**common, **options})

        def usual(img_size: int | None) -> Callable[[], dict[str, float]]:
            return lambda: usual_loop(task["folder"], task["model"], img_size, task)

        rows: dict[str, Callable[[], dict[str, float]]] = {
            "sources": lambda: {
                "memory": own(data=task["file"]),
                "stream": own(data=task["survey"]),
                "disk": own(data=task["file"], in_memory=False),
            },
            "variants": lambda: {
                name: own(data=task["file"], **{"channels_last": False, **changes})
                for name, changes in VARIANTS.items()
            },
            "peers": lambda: {
                "field": usual(FIELD_SIZE),
                "native": usual(None),
                "memory": own(data=task["file"]),
                "stream": own(data=task["survey"]),
                **(
                    {"bf16": own(data=task["file"], precision="bf16")}
                    if task["device"] != "cpu"
                    else {}
                ),
            },
            "pipeline": lambda: pipeline_rows(
                task, own, scratch, lambda: network_alone(task, _experiment(task))
            ),
            "layouts": lambda: {
                name: lambda last=last: network_alone(task, _experiment(task, channels_last=last))
                for name, last in (("first", False), ("last", True))
            },
        }[task["table"]]()
        return in_turn(rows, task["repeats"])


def _experiment(task: dict[str, Any], **more: Any) -> Any:
    """The experiment of a preset, as far as its network is concerned."""
    from haloformer.training.config import compose

    sizes = {"model": task["model"], "batch_size": task["batch_size"], "device": task["device"]}
    return compose(None, {**task["given"], **sizes, **more, "out": "x"})


def in_turn(rows: dict[str, Callable[[], dict[str, float]]], repeats: int) -> dict[str, Any]:
    """Each row's fastest of several rounds; what cannot run here, or takes twice as long as the first row, is not tried again."""
    best: dict[str, Any] = {}
    first = next(iter(rows))
    for _ in range(repeats):
        for name, work in rows.items():
            if name in best and (
                "error" in best[name] or 2 * best[name]["fastest"] < best[first].get("fastest", 0)
            ):
                continue
            try:
                figures = work()
            except Exception as error:  # whatever a compiler or a device has to say
                best[name] = {"error": one_line(f"{type(error).__name__}: {error}")}
                continue
            before = best.get(name, {**figures, "rounds": []})
            rounds = [*before["rounds"], {key: figures[key] for key in ("speed", "fastest")}]
            best[name] = {**max(before, figures, key=lambda x: x["speed"]), "rounds": rounds}
            best[name]["fastest"] = max(x["fastest"] for x in rounds)
            if "start" in figures:  # the first time: later ones find compiled code
                best[name]["start"] = before["start"]
    return best


# --- in the parent ----------------------------------------------------------------------------------------------------


def prepare(survey: str, images: int, scratch: Path, seed: int) -> dict[str, Any]:
    """Simulates the images that all loops read: a dataset file, one to validate on, and a file per image."""
    import numpy as np

    from haloformer.cli.simulate import simulate
    from haloformer.data.dataset import LensDataset

    file, val, folder = (scratch / f"{survey}{end}" for end in (".h5", "_val.h5", ""))
    simulate(survey, n=images, seed=seed, out=str(file), quiet=True)
    simulate(survey, n=N_VAL, seed=seed + 1, out=str(val), quiet=True)
    with LensDataset(file) as dataset:
        for name in dataset.class_names:
            (folder / name).mkdir(parents=True)
        for i, label in enumerate(dataset.labels):
            np.save(folder / dataset.class_names[label] / f"{i}.npy", dataset[i][0].numpy())
        shape = dataset.image_shape
    return {
        "survey": survey,
        "file": str(file),
        "val_data": str(val),
        "folder": str(folder),
        "n": images,
        "shape": shape,
    }


def main(options: argparse.Namespace) -> None:
    from haloformer.devices import resolve_device
    from haloformer.simulation import Simulator

    device, quick = str(resolve_device(options.device)), options.quick
    options.models = options.models or (MODELS[:1] if quick else MODELS)
    images = options.images or (512 if quick else 1024 if device == "cpu" else 32768)
    common = {
        "device": device, "threads": options.threads, "batch_size": options.batch_size, "seconds": 1 if quick else options.seconds,
        "epochs": 1 if quick else 2, "repeats": 1 if quick else options.repeats,
    }  # fmt: skip

    def measured(kind: str, model: str, data: dict[str, Any], n: int) -> dict[str, Any]:
        result = run_isolated(
            __file__,
            {**common, **data, "table": kind, "model": model, "images": n},
            options.timeout,
        )
        print(f"  {kind} {model}: {json.dumps(result)}", file=sys.stderr, flush=True)
        return result

    with tempfile.TemporaryDirectory() as scratch:
        sets = {}
        for survey in options.surveys:
            # About as many pixels per epoch of every survey; whole batches.
            batches = round(
                images * (64 / Simulator(survey).image_shape[-1]) ** 2 / options.batch_size
            )
            sets[survey] = prepare(
                survey, max(4, batches) * options.batch_size, Path(scratch), seed=2
            )
        for kind in options.tables:
            origin = provenance(common)
            heading, text = SECTIONS[kind](measured, sets, options)
            section = f"{heading}\n\n{origin}\n\n{text}\n"
            print(f"\n## {section}", flush=True)
            if options.table:
                write(options.table, section)


Measured = Callable[[str, str, dict[str, Any], int], dict[str, Any]]


def provenance(common: dict[str, Any]) -> str:
    import torch

    from simulation import hardware

    load = f", load average before {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    threads = f"{common['threads']} thread{'s' * (common['threads'] > 1)}"
    gpu = "" if torch.cuda.is_available() else "; no GPU was there: `--device cuda` measures one"
    return (
        f"{versions()}; {hardware()}; device {common['device']}, {threads}{load}{gpu}. Command: "
        f"`{' '.join(['python benchmarks/training.py', *sys.argv[1:]])}`. Batches of {common['batch_size']}, seed 0, "
        f"best of {common['repeats']} rounds; ratios are the median of the rounds' (and their range)."
    )


def sources_section(
    measured: Measured, sets: dict[str, Any], options: argparse.Namespace
) -> tuple[str, str]:
    from simulation import table

    columns = ["images/s", "waits", "first batch", "ratio"]
    rows = [["survey", "network", "images/s", "waits", *columns, *columns]]
    rows[0][2], rows[0][4], rows[0][8] = (
        "in memory, images/s",
        "simulated, images/s",
        "read from disk, images/s",
    )
    first, *others = options.surveys
    for survey, model in [(first, model) for model in options.models] + [
        (other, options.models[0]) for other in others
    ]:
        result = measured("sources", model, sets[survey], sets[survey]["n"])
        memory, stream, disk = (result.get(key, result) for key in ("memory", "stream", "disk"))
        beside = (
            [speed(row), share(row), milliseconds(row), ratio(row, memory)]
            for row in (stream, disk)
        )
        rows.append([survey, f"`{model}`", speed(memory), share(memory), *itertools.chain(*beside)])
    counted = ", ".join(f"{data['n']} images of {survey}" for survey, data in sets.items())
    return "Does training wait for its data?", (
        f"{table(rows)}\n\nEpochs of {counted}. In memory: a dataset file of up to 1 GiB of images. Simulated: an endless stream, made "
        "while the network trains, on the same cores. Read from disk: the same file, read by two workers as files of more than 1 GiB are (here from the "
        "system's cache). First batch: the wait for it, once per epoch. Waits: share of the rest of the epoch in which the loop stood still for a batch. "
        "Ratios are to images in memory."
    )


def variants_section(
    measured: Measured, sets: dict[str, Any], options: argparse.Namespace
) -> tuple[str, str]:
    from simulation import table

    data, default = sets[options.surveys[0]], next(iter(VARIANTS))
    rows = [["network", "change", "images/s", "ratio", "longer first epoch"]]
    for model in options.models:
        result = measured("variants", model, data, few(data, options))
        for name in VARIANTS:
            row, base = result.get(name, result), result.get(default, result)
            start = f"{max(0.0, row['start']):.0f} s" if "start" in row else "–"
            rows.append(
                [f"`{model}`", name, speed(row, "fastest"), ratio(row, base, "fastest"), start]
            )
    return "What pays?", (
        f"{table(rows)}\n\n{options.surveys[0]}, images in memory. Images/s of the fastest step{CLOCKED}. What is less than half as fast as the first row was "
        "measured in one round. Longer first epoch: what compiling and the like cost once, for training alone, by the clock."
    )


def peers_section(
    measured: Measured, sets: dict[str, Any], options: argparse.Namespace
) -> tuple[str, str]:
    from simulation import table

    data = sets[options.surveys[0]]
    side = str(data["shape"][-1])
    labels = {
        "field": ("usual, 32 bits", f"{side}, enlarged to {FIELD_SIZE}"), "native": ("usual, 32 bits", side),
        "memory": ("ours, 32 bits, in memory", side), "stream": ("ours, 32 bits, simulated", side),
        "bf16": ("ours, bf16, in memory", side),
    }  # fmt: skip
    rows = [
        [
            "network",
            "loop",
            "pixels",
            "images/s",
            "waits",
            "ratio",
            "fastest step, images/s",
            "ratio",
        ]
    ]
    for model in options.peers:
        result = measured("peers", model, data, few(data, options))
        for key, (loop, size) in labels.items():
            if key in result or "error" in result:
                row, base = result.get(key, result), result.get("field", result)
                steps = [speed(row, "fastest"), ratio(row, base, "fastest")]
                rows.append(
                    [f"`{model}`", loop, size, speed(row), share(row), ratio(row, base), *steps]
                )
    return "Against the field's usual loop", f"{table(rows)}\n\n{options.surveys[0]}. {PEERS}"


def pipeline_section(
    measured: Measured, sets: dict[str, Any], options: argparse.Namespace
) -> tuple[str, str]:
    from simulation import table

    labels = {
        "alone": "the network alone",
        "memory": "in memory",
        "prepared": "prepared, on disk",
        "stream": "simulated and fitted meanwhile",
    }
    rows = [["survey", "network", "images from", "images/s", "waits", "of the network alone", "of images in memory"]]  # fmt: skip
    for survey, given in PIPELINES.items():
        if survey not in options.surveys:
            continue
        for model in options.models:
            data = {**sets[survey], "given": {"data": survey, **given}}
            result = measured("pipeline", model, data, few(sets[survey], options))
            for key, label in labels.items():
                row = result.get(key, result)
                alone, memory = result.get("alone", result), result.get("memory", result)
                beside = [ratio(row, alone), ratio(row, memory)]
                rows.append([survey, f"`{model}`", label, speed(row), share(row), *beside])
    return "How much of the network's own speed is left?", (
        f"{table(rows)}\n\nWith the residual of the smooth fit and its detail, {PIPELINES['model_i']['crop']} pixels a side of Model I. The network "
        "alone: steps on one batch that stays where it is, in the same precision, without Lightning, checks or a moving average of the weights. "
        "In memory: images that were simulated and fitted before training began. Prepared: the same from `haloformer prepare`, read as they are needed. "
        "The last: simulated and fitted while the network trains, on the same device. Validation is not counted."
    )


def layouts_section(
    measured: Measured, sets: dict[str, Any], options: argparse.Namespace
) -> tuple[str, str]:
    from simulation import table

    survey = options.surveys[0]
    rows = [["network", "channels first, images/s", "channels last, images/s", "ratio"]]
    for model in options.models:
        data = {**sets[survey], "given": {"data": survey, **PIPELINES[survey]}}
        result = measured("layouts", model, data, options.batch_size)
        first, last = (result.get(key, result) for key in ("first", "last"))
        beside = [speed(first, "fastest"), speed(last, "fastest"), ratio(last, first, "fastest")]
        rows.append([f"`{model}`", *beside])
    return "How do images lie in memory?", (
        f"{table(rows)}\n\nThe network alone, images as those of {survey} with residual and detail. Images/s of the fastest step{CLOCKED}, on one batch."
    )


PIPELINES: dict[str, dict[str, Any]] = {
    "model_i": {"physics": "detail", "crop": 96},
    "model_ii": {"physics": "detail", "normalization": "asinh_faint"},
    "model_iii": {"physics": "detail", "normalization": "asinh_faint"},
}


SECTIONS = {
    "sources": sources_section,
    "variants": variants_section,
    "peers": peers_section,
    "pipeline": pipeline_section,
    "layouts": layouts_section,
}


def few(data: dict[str, Any], options: argparse.Namespace) -> int:
    """A quarter of the images, in whole batches: enough where nothing happens once per epoch."""
    return max(4, data["n"] // 4 // options.batch_size) * options.batch_size


def speed(row: dict[str, Any], key: str = "speed") -> str:
    return row["error"] if "error" in row else f"{row[key]:.0f}"


def share(row: dict[str, Any]) -> str:
    return f"{row['waiting']:.1%}" if "waiting" in row else "–"


def milliseconds(row: dict[str, Any]) -> str:
    return f"{1000 * row['first_wait']:.0f} ms" if "first_wait" in row else "–"


def ratio(row: dict[str, Any], reference: dict[str, Any], key: str = "speed") -> str:
    """The median of the rounds' ratios, and the range: it tells what else was going on."""
    if "rounds" not in row or "rounds" not in reference:
        return "–"
    ratios = [mine[key] / other[key] for mine, other in zip(row["rounds"], reference["rounds"])]
    spread = f" ({min(ratios):.2f}–{max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.2f}×{spread}"


def write(path: Path, section: str) -> None:
    """Puts a section into the document; the others, and one on what the figures mean, stay as they are."""
    title, *sections = (
        path.read_text(encoding="utf-8") if path.exists() else "# Training speed\n"
    ).split("\n## ")
    heading = section.partition("\n")[0]
    places = [
        number for number, other in enumerate(sections) if other.partition("\n")[0] == heading
    ]
    sections[slice(places[0], places[0] + 1) if places else slice(len(sections), None)] = [section]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(
        "\n## ".join([title.rstrip() + "\n", *(text.rstrip() + "\n" for text in sections)]),
        encoding="utf-8",
    )
    os.replace(part, path)
    print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        print(json.dumps(measure(json.loads(sys.argv[2]))))
        sys.exit()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--surveys",
        nargs="+",
        default=["model_ii"],
        metavar="SURVEY",
        help="the first is in all tables",
    )
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", help=f"by default {', '.join(MODELS)}"
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        default=["resnet18"],
        metavar="NAME",
        help="networks of the comparison (resnet18)",
    )
    parser.add_argument(
        "--tables", nargs="+", choices=SECTIONS, default=[*SECTIONS], help="only these"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        help="of training, and of the simulation beside it",
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--images", type=int, help="of 64×64 pixels per epoch (1024; on GPUs 32768)"
    )
    parser.add_argument(
        "--seconds", type=float, default=6, help="time for each measurement of the usual loop (6)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="rounds over the rows of a table (3)"
    )
    parser.add_argument(
        "--timeout", type=float, default=3000, help="seconds for one network in one table"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test of one network: no figures to quote"
    )
    parser.add_argument("--table", type=Path, help="write the tables into this Markdown file")
    main(parser.parse_args())
