"""Measures what each model costs on this computer: images per second, forward and in training, and peak memory.

    python benchmarks/models.py --size nano                     on the CPU, and on a GPU if there is one
    python benchmarks/models.py --models vit_nano cct_nano --image-sizes 64 --seconds 5
    python benchmarks/models.py --device cuda --precision bf16 --compile

Speeds are also given relative to ResNet-18's, measured in the same run before the others, as those of one computer say
little of another. Each measurement runs in a process of its own. Results go to results/measurements/models.json after each
one, and as a table to models.md; the same command goes on where it was interrupted (--again measures anew).
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isolated import CHILD, one_line, run_isolated, versions

RESULTS = Path(__file__).parents[1] / "results" / "measurements" / "models.json"
REFERENCE = "resnet18"
PRECISIONS = {"32": "float32", "bf16": "bf16 autocast"}


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Measures one model; runs in the child."""
    import torch
    import torch.nn.functional as F

    from haloformer.models import create_model
    from haloformer.models.cost import count_parameters

    torch.manual_seed(0)
    torch.set_num_threads(task["threads"])
    device, size, batch = torch.device(task["device"]), task["img_size"], task["batch_size"]
    images = torch.randn(batch, 1, size, size, device=device)
    labels = torch.arange(batch, device=device) % 3
    start = peak_memory(device)
    model = create_model(task["model"], size).to(device)
    network: Any = torch.compile(model) if task["compile"] else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def autocast() -> Any:
        return torch.autocast(device.type, torch.bfloat16, enabled=task["precision"] == "bf16")

    def forward() -> None:
        with torch.no_grad(), autocast():
            network(images)

    def step() -> None:
        with autocast():
            loss = F.cross_entropy(network(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    model.eval()
    seconds, forward_memory = (
        timed(forward, device, task["seconds"] / 2),
        peak_memory(device) - start,
    )
    model.train()
    step_seconds, train_memory = (
        timed(step, device, task["seconds"] / 2),
        peak_memory(device) - start,
    )
    return {
        "parameters": count_parameters(model),
        "forward": batch / seconds,
        "train": batch / step_seconds,
        "forward_memory": forward_memory,
        "train_memory": train_memory,
    }


def timed(work: Callable[[], None], device: Any, budget: float) -> float:
    """The median seconds of a call, after one that is not counted, within a budget of seconds but for at least one call."""
    import torch

    def once() -> float:
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    end = time.perf_counter() + budget
    once()
    durations = [once()]
    while time.perf_counter() < end and len(durations) < 200:
        durations.append(once())
    return statistics.median(durations)


def peak_memory(device: Any) -> float:
    """The most bytes so far: of the process, or of the tensors on a GPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def hardware(device: str, threads: int) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            x.partition(":")[2].strip()
            for x in cpuinfo.read_text().splitlines()
            if x.startswith("model name")
        ]
        name = names[0] if names else name
    return f"{name}, {threads} threads of {os.cpu_count()} cores"


def read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def write(rows: list[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for file, text in (
        (path, "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"),
        (path.with_suffix(".md"), markdown(rows)),
    ):
        part = file.with_name(file.name + ".part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, file)


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table per setting, in the order of the registry."""
    lines = [
        "# Speed and memory of the models",
        "",
        "Images of one channel; training is forward, backward and an AdamW step. ×: relative to ResNet-18 in the same run.",
        "Memory is what building and running the model added to the process (on a GPU: the peak of its tensors).",
        "Made by `python benchmarks/models.py`.",
        "",
    ]
    for setting in dict.fromkeys(setting_of(row) for row in rows):
        mine = [row for row in rows if setting_of(row) == setting]
        lines += [f"## {setting}", "", f"{mine[0]['versions']}.", ""]
        lines += [
            "| model | family | M parameters | forward/s | × | training/s | × | MB forward | MB training |"
        ]
        lines += ["|---|---|---:|---:|---:|---:|---:|---:|---:|"]
        for row in mine:
            if "error" in row:
                lines.append(
                    f"| `{row['model']}` | {row['family']} | {one_line(row['error'])} | | | | | | |"
                )
                continue
            speeds = (f"{row[key]:.4g} | {relative(row, key)}" for key in ("forward", "train"))
            memory = (f"{row[key] / 1e6:.0f}" for key in ("forward_memory", "train_memory"))
            cells = [
                f"`{row['model']}`",
                row["family"],
                f"{row['parameters'] / 1e6:.2f}",
                *speeds,
                *memory,
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def relative(row: dict[str, Any], key: str) -> str:
    reference = row.get("reference") or {}
    return f"{row[key] / reference[key]:.2f}" if key in reference else "–"


def setting_of(row: dict[str, Any]) -> str:
    compiled = ", compiled" if row["compile"] else ""
    side = f"{row['img_size']}×{row['img_size']} pixels"
    return f"{side}, {row['hardware']}, batch {row['batch_size']}, {PRECISIONS[row['precision']]}{compiled}"


def main(options: argparse.Namespace) -> None:
    import torch

    from haloformer.models import find_model, list_models

    infos = [find_model(name) for name in options.models] if options.models else list_models()
    infos = [
        i for i in infos if options.size in (None, i.size) and options.family in (None, i.family)
    ]
    order = {info.name: number for number, info in enumerate(list_models())}
    devices = (
        [options.device]
        if options.device
        else ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    )
    rows = read(options.out)
    for device in devices:
        precisions = (
            [options.precision]
            if options.precision
            else ["32", *(["bf16"] if device != "cpu" else [])]
        )
        for precision, size in ((p, s) for p in precisions for s in options.image_sizes):
            task = {
                "device": device, "precision": precision, "img_size": size, "batch_size": options.batch_size,
                "compile": options.compile, "threads": options.threads, "seconds": options.seconds,
            }  # fmt: skip
            common = {**task, "hardware": hardware(device, options.threads), "versions": versions()}
            done = {
                row["model"]
                for row in rows
                if setting_of(row) == setting_of(common) and not options.again
            }
            waiting = [info for info in infos if info.name not in done]
            if not waiting:
                continue
            # The first call compiles; a slow model may need longer than its share for one step.
            limit = 60 + (10 if options.compile else 4) * options.seconds
            reference = run_isolated(__file__, {**task, "model": REFERENCE}, limit)
            print(f"{setting_of(common)}\n  {REFERENCE}: {told(reference)}", flush=True)
            for number, info in enumerate(waiting, start=1):
                if info.name == REFERENCE:
                    result = reference
                else:
                    result = run_isolated(__file__, {**task, "model": info.name}, limit)
                print(f"  {number}/{len(waiting)} {info.name}: {told(result)}", flush=True)
                row = {
                    "model": info.name,
                    "family": info.family,
                    **common,
                    **result,
                    "reference": reference,
                }
                same = (
                    r for r in rows if (r["model"], setting_of(r)) != (info.name, setting_of(row))
                )
                rows = sorted(
                    [*same, row], key=lambda r: (setting_of(r), order.get(r["model"], len(order)))
                )
                write(rows, options.out)
    print(f"wrote {options.out.with_suffix('.md')}")


def told(result: dict[str, Any]) -> str:
    if "error" in result:
        return result["error"]
    return f"{result['forward']:.1f} forward/s, {result['train']:.1f} training/s, {result['train_memory'] / 1e6:.0f} MB"


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        print(json.dumps(measure(json.loads(sys.argv[2]))))
        sys.exit()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--size", choices=["nano", "tiny", "paper", "other"])
    parser.add_argument("--family")
    parser.add_argument("--image-sizes", nargs="+", type=int, default=[64, 150])
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1; by default the CPU, and a GPU if there is one"
    )
    parser.add_argument(
        "--precision", choices=list(PRECISIONS), help="by default 32, on GPUs also bf16"
    )
    parser.add_argument(
        "--compile", action="store_true", help="measure what torch.compile makes of the models"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--seconds", type=float, default=10, help="time for each model and setting (default 10)"
    )
    parser.add_argument("--again", action="store_true", help="measure again what is there already")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="JSON file; the table goes beside it"
    )
    main(parser.parse_args())
