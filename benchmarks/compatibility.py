"""Tries torch.export, torch.compile and bf16 autocast on the models, and writes down which fail and why.

    python benchmarks/compatibility.py                  nano and tiny models that were not tried yet
    python benchmarks/compatibility.py --models vit_nano --backend inductor
    python benchmarks/compatibility.py --sizes paper

Each model is tried at 64×64 pixels, in a process of its own. What fails is kept in the table that ``haloformer models``
shows (src/haloformer/models/table.json) and listed in results/measurements/compatibility.md.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isolated import CHILD, one_line, run_isolated, versions
from model_table import read, write

DOCUMENT = Path(__file__).parents[1] / "results" / "measurements" / "compatibility.md"
CHECKS = ("torch.export", "torch.compile", "bf16 autocast")


def check(task: dict[str, Any]) -> dict[str, Any]:
    """Returns why each check fails, for those that do; runs in the child."""
    import torch

    from haloformer.models import create_model

    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))

    def built() -> torch.nn.Module:
        torch.manual_seed(0)
        return create_model(task["model"], 64)

    def backward(model: Any) -> None:
        model(images).float().square().sum().backward()

    def export() -> None:
        model = built().eval()
        with torch.no_grad():
            expected = model(images)
            close(torch.export.export(model, (images,)).module()(images), expected)

    def compiled() -> None:
        model = built()
        compiled_model = torch.compile(model, fullgraph=True, backend=task["backend"])
        model.eval()
        with torch.no_grad():
            close(compiled_model(images), model(images))
        model.train()
        backward(compiled_model)

    def bf16() -> None:
        model = built().train()
        with torch.autocast("cpu", torch.bfloat16):
            backward(model)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                raise ValueError(f"the gradient of {name} is not finite")

    def close(got: Any, expected: Any) -> None:
        scale = float(expected.abs().max())
        if not torch.allclose(got, expected, atol=1e-4 * max(scale, 1e-3), rtol=0):
            raise ValueError(
                f"other logits, by {float((got - expected).abs().max()):.2g} of {scale:.2g}"
            )

    return {
        "exceptions": [
            said
            for name, work in zip(CHECKS, (export, compiled, bf16))
            if (said := reason(name, work))
        ]
    }


def reason(name: str, work: Callable[[], None]) -> str | None:
    """Why a check fails, as ``name: message``."""
    import torch

    torch._dynamo.reset()
    try:
        work()
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "no message")
        return f"{name}: {type(error).__name__}: {one_line(first)}"
    return None


def document(rows: list[dict[str, Any]], backend: str) -> str:
    """The page: how many work, and a line for each thing that does not."""
    tried = [row for row in rows if row["exceptions"] is not None]
    failing = [row for row in tried if row["exceptions"]]
    lines = [
        "# torch.compile, torch.export, bf16",
        "",
        f"Tried at 64×64 pixels with one channel, on a CPU: `torch.export` of the model in evaluation mode, `torch.compile` (fullgraph, backend {backend})",
        "forward, and backward in training mode, and forward and backward under bf16 autocast. Exported and compiled models give the same logits.",
        f"Made by `python benchmarks/compatibility.py` ({versions()}).",
        "",
        f"**{len(tried) - len(failing)} of the {len(tried)} models that were tried pass all three.**"
        + (" The exceptions:" if failing else ""),
        "",
    ]
    if failing:
        lines += ["| model | what | reason |", "|---|---|---|"]
    for row in failing:
        for said in row["exceptions"]:
            what, _, why = said.partition(": ")
            lines.append(f"| `{row['name']}` | {what} | {why} |")
    return "\n".join(lines).rstrip() + "\n"


def main(options: argparse.Namespace) -> None:
    rows = read()
    chosen = [
        row
        for row in rows.values()
        if (row["name"] in options.models if options.models else row["size"] in options.sizes)
        and (row["exceptions"] is None or options.again or options.models)
    ]
    for number, row in enumerate(chosen, start=1):
        began = time.perf_counter()
        result = run_isolated(
            __file__, {"model": row["name"], "backend": options.backend}, options.timeout
        )
        row["exceptions"] = result.get("exceptions", [f"all: {result.get('error')}"])
        said = "; ".join(row["exceptions"]) or "all work"
        print(
            f"{number}/{len(chosen)} {row['name']}: {said} ({time.perf_counter() - began:.0f} s)",
            flush=True,
        )
        # Another process may have added rows meanwhile.
        current = read()
        current[row["name"]]["exceptions"] = row["exceptions"]
        write(current)
    DOCUMENT.write_text(document(list(read().values()), options.backend), encoding="utf-8")
    print(f"wrote {DOCUMENT.name}")


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        print(json.dumps(check(json.loads(sys.argv[2]))))
        sys.exit()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", default=[], help="only these, tried or not"
    )
    parser.add_argument(
        "--sizes", nargs="+", choices=["nano", "tiny", "paper", "other"], default=["nano", "tiny"]
    )
    parser.add_argument(
        "--backend", default="aot_eager", help="of torch.compile: aot_eager (quick) or inductor"
    )
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one model")
    parser.add_argument("--again", action="store_true", help="try again what was tried")
    main(parser.parse_args())
