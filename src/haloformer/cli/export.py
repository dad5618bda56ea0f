"""``haloformer export``."""

from typing import TYPE_CHECKING, Literal

from haloformer.cli.present import print_table, say, with_interval
from haloformer.cli.registry import Command
from haloformer.errors import InputError

if TYPE_CHECKING:
    from haloformer.evaluation.exported import ExportCheck
    from haloformer.prediction.export import Export


def present(result: "tuple[Export, ExportCheck | None]") -> None:
    """Prints what was written, and how far the export's answers are from the network's."""
    done, check = result
    outputs = f": {', '.join(done.outputs)}" if done.outputs else ""
    size = f"{done.n_bytes / 2**20:.1f} MiB"
    say(f"wrote {done.out} ({done.format}, {done.precision}, {size}){outputs}")
    if check is not None:
        _print_check(check)


def as_json(result: "tuple[Export, ExportCheck | None]") -> object:
    """Returns what was written, and of the check the largest difference and the AUCs."""
    from haloformer.cli.as_json import as_document

    done, check = result
    found: dict[str, object] = {"export": as_document(done), "check": None}
    if check is not None:
        found["check"] = {
            "n": check.n,
            "images": check.images,
            "what": check.what,
            "largest_difference": float(check.differences.max())
            if check.differences.size
            else None,
            "macro_auc_before": as_document(check.before),
            "macro_auc_after": as_document(check.after),
        }
    return found


COMMAND = Command(
    "export a trained network: ONNX, torch.export, or a folder for a hub",
    positional=("model",),
    present=present,
    as_json=as_json,
    examples=(
        "haloformer export model_i --out model_i.onnx --check 300",
        "haloformer export runs/x --out small.onnx --precision int8 --check 3000",
        "haloformer export runs/x --format torch_export --out x.pt2",
        "haloformer export runs/x --format hub --out x-hub",
    ),
)


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
) -> "tuple[Export, ExportCheck | None]":
    """Exports a trained network with all its preprocessing: from raw images to probabilities.

    The export runs without haloformer. With --check it and the network answer the same newly
    simulated images, and the difference is printed.

    Args:
        model: Run folder or artefact folder of a trained model, or the name of a shipped one, such
            as model_i.
        out: File to write, .onnx or .pt2; for hub a folder.
        format: onnx: for ONNX Runtime; torch_export: for torch.export.load; hub: a folder as the
            Hugging Face hub has them, which haloformer reads again.
        precision: Of an ONNX network. fp16 halves its weights, int8 quantises those of its matrix
            products; fit and normalisation stay fp32.
        check: Number of images of the model's survey to simulate and compare the export on; 0 for
            none.
        seed: Seed of these images; by default one that training did not use.
        overwrite: Replace ``out`` if it exists.
        progress: Say what is being done, and show a bar of the check; by default when standard error is a terminal.
    """
    from haloformer.prediction.export import export_model

    if check < 0:
        raise InputError(f"check is {check}: a number of images, or 0 for none")
    if seed is not None and not check:
        raise InputError("seed is of the images of a check: give check, how many")
    if check:
        from haloformer.evaluation.exported import check_has_survey

        check_has_survey(model)
    done = export_model(
        model, out, format=format, precision=precision, overwrite=overwrite, progress=progress
    )
    if not check:
        return done, None
    from haloformer.evaluation.exported import check_export

    return done, check_export(model, done, n=check, seed=seed, progress=progress)


def _print_check(result: "ExportCheck") -> None:
    """Prints how far the export's answers are from the network's."""
    say(f"checked on {result.n} {result.images}")
    if result.differences.size:
        shares = ", ".join(
            f"{share:.1%} of images below {result.below(share):.1e}" for share in (0.99, 0.999)
        )
        say(f"largest |Δ{result.what}| {result.differences.max():.1e}; {shares}")
    if result.before is not None and result.after is not None:
        rows = [
            [name, *with_interval(vars(auc))]
            for name, auc in (("before", result.before), ("after", result.after))
        ]
        print_table("macro AUC", ["", "AUC", "95 % interval"], rows)
