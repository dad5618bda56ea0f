"""Exports: a trained model for programs that have no haloformer, as ONNX or as a ``torch.export`` program, and as a folder for a hub.

The graph takes raw images. All that `Predictor` does around its network is inside: cropping, the smooth fit where the network sees its
residual, normalisation, softmax at the model's temperature; of a regression, the calibrated interval.
"""

import contextlib
import copy
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from haloformer._version import code_version
from haloformer.artefact.read import artefact_files, shipped_models
from haloformer.artefact.schema import HUB_FILES
from haloformer.artefact.write import write_artefact
from haloformer.errors import InputError, how_to_install
from haloformer.files import as_name
from haloformer.io.folders import refuse_existing
from haloformer.io.progress import tell
from haloformer.io.writing import check_parents, free_file, write_bytes, write_text
from haloformer.prediction.card import model_card
from haloformer.prediction.predictor import A_MODEL, Predictor, load
from haloformer.vocabulary import unknown_name

FORMATS = {
    "onnx": "one .onnx file for ONNX Runtime, in any language",
    "torch_export": "one .pt2 file for torch.export.load, without haloformer",
    "hub": "a folder as the Hugging Face hub has them: config.json, model.safetensors, model card",
}
"""The formats, each with what it is."""

PRECISIONS = ("fp32", "fp16", "int8")
_SUFFIX = {"onnx": ".onnx", "torch_export": ".pt2"}
_OPSET = 20  # the first with Gelu, and IsNaN and IsInf as the fit needs them; ONNX Runtime 1.17 and later
_NETWORK = "network"
_DETECTOR = "ood.safetensors"


@dataclass(frozen=True)
class Export:
    """What was exported: the path, its format and precision, its size in bytes, the names of the outputs."""

    out: Path
    format: str
    precision: str
    n_bytes: int
    outputs: tuple[str, ...]


class EndToEnd(nn.Module):
    """All of a `Predictor` in one module that ``torch.export`` can follow: raw images in, answers out.

    The order of the outputs is :attr:`outputs`: ``probabilities`` (B, K) where there are classes; ``mean``, ``sigma``, ``low`` and ``high``
    (B, T) where there are targets.
    """

    def __init__(self, predictor: Predictor, precision: str = "fp32") -> None:
        """Takes the predictor; with ``fp16`` its network, and nothing else, computes in half precision."""
        super().__init__()
        self.half_precision = precision == "fp16"
        network = copy.deepcopy(predictor.model) if self.half_precision else predictor.model
        self.network = network.half() if self.half_precision else network
        self.predictor = predictor
        self.temperature = predictor.temperature
        self.outputs: tuple[str, ...] = (("probabilities",) if predictor.class_names else ()) + (
            ("mean", "sigma", "low", "high") if predictor.outputs.targets else ()
        )
        if predictor.residual is not None:
            predictor.residual.prepare(predictor.device)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Answers for raw images (B, C, H, W) float32."""
        predictor = self.predictor
        batch = predictor.prepared_unchecked(images)
        numbers = self.network(batch.half()).float() if self.half_precision else self.network(batch)
        logits = predictor.outputs.split(numbers)[0]
        answers: tuple[Tensor, ...] = (
            () if logits is None else ((logits / self.temperature).softmax(dim=1),)
        )
        if predictor.outputs.targets:
            estimates = predictor.estimates_of(numbers)
            answers += tuple(estimates[name] for name in ("mean", "sigma", "low", "high"))
        return answers


def export_model(
    model: str | os.PathLike[str] | Predictor,
    out: str | os.PathLike[str],
    *,
    format: Literal["onnx", "torch_export", "hub"] = "onnx",
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    overwrite: bool = False,
    progress: bool | None = None,
) -> Export:
    """Exports a trained model.

    Args:
        model: Run folder, artefact folder or name of a shipped model; for ``onnx`` and ``torch_export`` also a loaded one, on the CPU.
        out: File to write, ``.onnx`` or ``.pt2``; for ``hub`` a folder.
        format: One of :data:`FORMATS`.
        precision: Of an ONNX network: ``fp32``; ``fp16`` halves its weights; ``int8`` quantises the weights of its matrix products, and
            what goes into them batch by batch. The rest of the graph stays float32.
        overwrite: Replace what is there.
        progress: Say on standard error what is being done; by default when that is a terminal.

    Returns:
        What was exported.

    Raises:
        InputError: A target that exists, another suffix, a missing package, or a network that cannot be traced.
    """
    if format not in FORMATS:
        raise unknown_name("export format", format, FORMATS)
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    if precision != "fp32" and format != "onnx":
        raise InputError(f"precision {precision} is for the format onnx, not for {format}")
    path = _checked_target(Path(out), format, overwrite)
    if format == "onnx":
        _require_onnx()
    if format == "hub":
        if isinstance(model, Predictor):
            raise InputError(
                "a hub folder is made of a run folder or an artefact folder, not of a loaded model"
            )
        return _export_hub(as_name(model, "model", A_MODEL), path)
    predictor = model if isinstance(model, Predictor) else load(model, "cpu")
    module = EndToEnd(predictor, precision).eval()
    told = sys.stderr.isatty() if progress is None else progress
    if told:
        tell("export: the network is traced")
    program = _traced(module, predictor)
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "torch_export":
        stream = BytesIO()
        torch.export.save(
            program,
            stream,
            extra_files={"haloformer.json": json.dumps(describe_export(predictor, precision))},
        )
        write_bytes(path, stream.getvalue())
    else:
        if told:
            tell(
                "export: it becomes ONNX, which takes some minutes where the smooth fit belongs to it"
            )
        _write_onnx(program, module, predictor, precision, path)
    return Export(path, format, precision, path.stat().st_size, module.outputs)


def describe_export(predictor: Predictor, precision: str) -> dict[str, str]:
    """What a program has to know of a model, as texts: those that are no plain text are JSON."""
    artefact = predictor.artefact
    return {
        "haloformer_version": code_version(),
        "class_names": json.dumps(predictor.class_names),
        "targets": json.dumps(predictor.outputs.targets),
        "coverage": json.dumps(predictor.outputs.coverage if predictor.outputs.targets else None),
        "image_shape": json.dumps(predictor.image_shape),
        "pixel_scale": json.dumps(artefact.get("pixel_scale")),
        "survey": json.dumps(artefact.get("survey")),
        "noise": json.dumps(artefact.get("noise")),
        "temperature": json.dumps(predictor.temperature),
        "precision": precision,
        "artefact": json.dumps(artefact),  # all of the provenance
    }


# --- the graph --------------------------------------------------------------------------------------------------------


def _traced(module: EndToEnd, predictor: Predictor) -> torch.export.ExportedProgram:
    # Three images: 0 and 1 are sizes that a trace takes for constants.
    example = torch.rand(3, *predictor.image_shape)
    try:
        with torch.no_grad(), _quiet(), _plain_attention(module):
            return torch.export.export(
                module,
                (example,),
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                strict=False,
            )
    except (InputError, MemoryError):
        raise
    except Exception as error:  # whatever a network's code may do that cannot be traced
        name = predictor.artefact.get("model", {}).get("name", type(predictor.model).__name__)
        raise InputError(f"{name} cannot be exported: {_reason(error)}") from error


@contextlib.contextmanager
def _plain_attention(module: nn.Module) -> Iterator[None]:
    """With timm's attention as products and a softmax: ONNX has the fused one for four dimensions only, and Twins uses five."""
    fused = [part for part in module.modules() if getattr(part, "fused_attn", False) is True]
    for part in fused:
        part.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for part in fused:
            part.fused_attn = True  # type: ignore[assignment]


def _write_onnx(
    program: torch.export.ExportedProgram,
    module: EndToEnd,
    predictor: Predictor,
    precision: str,
    path: Path,
) -> None:
    import onnx

    try:
        with _quiet():
            converted = torch.onnx.export(
                program, dynamo=True, opset_version=_OPSET, input_names=["images"],
                output_names=[_OURS + name for name in module.outputs], verbose=False, optimize=False,
            )  # fmt: skip
            assert converted is not None
            _simplify(converted.model)
        graph = converted.model_proto
        _name_outputs(graph.graph, list(module.outputs))
    except Exception as error:
        raise InputError(f"this network cannot become ONNX: {_reason(error)}") from error
    if precision == "int8":
        graph = _quantised(graph)
    for node in graph.graph.node:
        del node.metadata_props[:]  # lines of our code, and paths on this machine
        node.doc_string = ""
    graph.producer_name, graph.producer_version = "haloformer", code_version()
    onnx.helper.set_model_props(graph, describe_export(predictor, precision))
    onnx.checker.check_model(graph)
    write_bytes(path, graph.SerializeToString())


def _simplify(model: Any) -> None:
    """Computes what is constant in a graph, and everything once.

    The exporter's own way (``optimize=True``) also looks at each node for each of its many patterns, which takes minutes for the thousands
    of nodes of the smooth fit, and leaves a larger file.
    """
    from onnx_ir.passes import common
    from onnxscript import optimizer

    common.InlinePass()(model)
    optimizer.fold_constants(model, onnx_shape_inference=False)
    common.RemoveUnusedNodesPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.OutputFixPass()(model)
    common.NameFixPass()(model)


_OURS = "haloformer."


def _name_outputs(graph: Any, names: list[str]) -> None:
    """Gives the outputs their names; a value inside the graph that has one already, as a torch function's 'mean', gets another."""
    new = {name: f"{name}.inside" for name in names} | {_OURS + name: name for name in names}
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
    for value in (*graph.value_info, *graph.output, *graph.initializer):
        value.name = new.get(value.name, value.name)


def _quantised(graph: Any) -> Any:
    """Quantises the products by constant matrices of the network; the fit beside it stays as it is."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    weights = {item.name for item in graph.graph.initializer}
    # The exporter says of each node in which submodule it was: 'namespace' is ': …EndToEnd/network: …Haloformer/…'.
    chosen = [
        node.name
        for node in graph.graph.node
        if node.op_type == "MatMul"
        and node.input[1] in weights
        and any(p.key == "namespace" and f"/{_NETWORK}: " in p.value for p in node.metadata_props)
    ]
    if not chosen:
        raise InputError(
            "precision int8 quantises products with weight matrices, and this network has none (convolutions stay as they are): use fp16"
        )
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        # Shapes that the exporter noted are inferred anew: those of torch before 2.11 name one batch size.
        del graph.graph.value_info[:]
        onnx.save(graph, source)
        quantize_dynamic(
            source, target, op_types_to_quantize=["MatMul"], nodes_to_quantize=chosen, per_channel=True, weight_type=QuantType.QInt8
        )  # fmt: skip
        return onnx.load(target)


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"format onnx needs {error.name}: {how_to_install('export')}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks, which are about their own inside."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> str:
    """The innermost reason: the exporters wrap it in advice for their developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [
        type(error).__name__
    ]
    return lines[0][:300]


# --- the folder -------------------------------------------------------------------------------------------------------


def _export_hub(model: str, folder: Path) -> Export:
    from safetensors.torch import load_file

    predictor = load(model, "cpu")  # whatever is exported was checked
    check_parents(folder)
    description, weights = artefact_files(Path(model))
    config = {
        "library_name": "haloformer",
        "architectures": [predictor.artefact["model"]["name"]],
        **predictor.artefact,
    }
    write_artefact(folder, load_file(weights), config, names=HUB_FILES)
    if predictor.detector is not None:  # nothing that the predictor has not read
        write_bytes(folder / _DETECTOR, (description.parent / _DETECTOR).read_bytes())
    write_text(folder / "README.md", model_card(predictor, _called(model)))
    n_bytes = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return Export(folder, "hub", "fp32", n_bytes, ())


def _called(model: str) -> str | None:
    """Returns what a shipped model is called; None for others, which have no name but their network's."""
    shipped = model in shipped_models() and not Path(model).exists()
    return f"haloformer {model}" if shipped else None


def _checked_target(path: Path, format: str, overwrite: bool) -> Path:
    suffix = _SUFFIX.get(format)
    if suffix is None:
        if path.suffix.lower() in _SUFFIX.values():
            raise InputError(
                f"{path}: the format hub writes a folder; what ends in {path.suffix} is a file of another format"
            )
        if path.is_file():
            raise InputError(f"{path}: is a file; the format hub writes a folder")
        refuse_existing(path, overwrite, HUB_FILES, "export for a hub")
        return path
    if path.suffix.lower() != suffix:
        other = next((name for name, end in _SUFFIX.items() if end == path.suffix.lower()), None)
        hint = f"; --format {other} writes {path.suffix}" if other else ""
        if not path.suffix:
            hint = f": give the name of a file, {path}{suffix}; --format hub writes a folder"
        ending = f", not '{path.suffix}'" if path.suffix else ""
        raise InputError(f"{path}: the format {format} is written as {suffix}{ending}{hint}")
    return free_file(path, overwrite)
