"""Exports answer as the model does, without haloformer; mistakes get one line."""

import functools
import json
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import haloformer
from haloformer.artefact.read import shipped_models
from haloformer.cli import main
from haloformer.errors import InputError
from haloformer.evaluation.exported import check_export
from haloformer.fitting import behind
from haloformer.fitting.convergence import SETTLED
from haloformer.fitting.linear import _eliminate
from haloformer.fitting.parametric import SmoothFitter
from haloformer.models import create_model
from haloformer.prediction.card import model_card
from haloformer.prediction.export import EndToEnd, export_model
from haloformer.reporting.interval import format_value
from haloformer.simulation import simulate

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"depth": 1, "embed_dim": 32, "num_heads": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An untrained network with all that can be asked of an export: classes, a target, intervals, a temperature, a crop, a new size."""
    run = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    save_file(
        create_model("vit_nano", img_size=32, num_classes=5, **SMALL).state_dict(),
        run / "weights.safetensors",
    )
    names = ["axion", "cdm", "no_sub"]
    artefact = {
        "format": 1,
        "model": {
            "name": "vit_nano",
            "img_size": 32,
            "in_chans": 1,
            "num_classes": 5,
            "kwargs": SMALL,
        },
        "class_names": names,
        "outputs": {
            "class_names": names,
            "targets": ["log10_m_axion"],
            "loss": "beta_nll",
            "coverage": 0.9,
            "scaling": {"mean": [-23.0], "std": [0.5]},
        },
        "conformal": {"factors": [1.7], "coverage": 0.9, "n": 100, "loss": "beta_nll"},
        "framing": {"img_size": 32, "fit": "resize", "channels": None, "crop": 48},
        "normalization": {
            "kind": "asinh",
            "statistics": {"scale": [0.1], "mean": [0.2], "std": [0.5]},
        },
        "image_shape": [1, 64, 64],
        "survey": "model_ii",
        "calibration": {"temperature": 2.0},
        "training": {},
    }
    (run / "artefact.json").write_text(json.dumps(artefact))
    return run


@pytest.fixture(scope="module")
def onnx_file(run, tmp_path_factory):
    pytest.importorskip("onnxscript")
    return export_model(str(run), tmp_path_factory.mktemp("onnx") / "x.onnx")


@pytest.fixture(scope="module")
def images():
    return simulate("model_ii", 7, seed=41).images


def _session(path):
    return pytest.importorskip("onnxruntime").InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("n", [1, 7])
def test_onnx_runtime_answers_as_the_model_does_for_any_number_of_raw_images(
    onnx_file, run, images, n
):
    found = dict(
        zip(
            onnx_file.outputs,
            _session(onnx_file.out).run(None, {"images": images[:n].numpy()}),
            strict=True,
        )
    )
    predictor = haloformer.load(run, "cpu")
    wanted = predictor.estimates(images[:n], raw=True) | {
        "probabilities": predictor.probabilities(images[:n])
    }
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert np.abs(found[name] - value.numpy()).max() < 1e-5, name


def test_the_file_says_what_it_is(onnx_file, run):
    facts = _session(onnx_file.out).get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == ["axion", "cdm", "no_sub"]
    assert json.loads(facts["image_shape"]) == [1, 64, 64]
    assert json.loads(facts["artefact"]) == haloformer.load(run, "cpu").artefact
    assert str(ROOT).encode() not in onnx_file.out.read_bytes()


def test_the_example_needs_neither_torch_nor_haloformer(onnx_file, run, images, tmp_path):
    from astropy.io import fits

    np.save(tmp_path / "a.npy", images[0, 0].numpy())
    fits.writeto(tmp_path / "b.fits", images[1, 0].numpy())
    code = f"""
import runpy, sys
sys.modules.update(torch=None, haloformer=None)
sys.argv = ["x", {str(onnx_file.out)!r}, "a.npy", "b.fits"]
runpy.run_path({str(ROOT / "examples" / "onnx_inference.py")!r}, run_name="__main__")
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    wanted = haloformer.load(run, "cpu").probabilities(images[:2])
    for line, name, p in zip(
        result.stdout.splitlines(), ("a.npy", "b.fits"), wanted.tolist(), strict=True
    ):
        assert line.startswith(name)
        assert f"p_axion {p[0]:.4f}" in line


def test_a_quantised_network_is_smaller_and_its_cost_is_measured(onnx_file, run, tmp_path):
    small = export_model(str(run), tmp_path / "small.onnx", precision="int8")
    assert small.n_bytes < onnx_file.n_bytes
    check = check_export(str(run), small, n=30)
    assert check.n == 30
    assert 0 < check.differences.max() < 5e-2
    assert check.after.value == pytest.approx(check.before.value, abs=0.2)
    assert check_export(str(run), onnx_file, n=30).differences.max() < 1e-5


def test_half_precision_is_of_the_network_alone_and_of_a_copy(run, images):
    predictor = haloformer.load(run, "cpu")
    wanted = predictor.probabilities(images)
    with torch.no_grad():
        found = EndToEnd(predictor, "fp16")(images)[0]
    assert found.dtype == torch.float32
    assert 0 < (found - wanted).abs().max() < 5e-3
    assert torch.equal(predictor.probabilities(images), wanted)


def test_a_program_of_torch_export_answers_without_haloformer(run, images, tmp_path):
    done = export_model(str(run), tmp_path / "x.pt2", format="torch_export")
    np.save(tmp_path / "images.npy", images.numpy())
    code = """
import sys
sys.modules["haloformer"] = None
import numpy, torch
facts = {"haloformer.json": ""}
answers = torch.export.load("x.pt2", extra_files=facts).module()(torch.from_numpy(numpy.load("images.npy")))
numpy.savez("found.npz", *[a.detach().numpy() for a in answers], facts=facts["haloformer.json"])
"""
    # A process that never knew haloformer: what it has registered with torch must not be needed.
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    found = np.load(tmp_path / "found.npz")
    predictor = haloformer.load(run, "cpu")
    wanted = {
        "probabilities": predictor.probabilities(images),
        **predictor.estimates(images, raw=True),
    }
    for k, name in enumerate(done.outputs):
        assert np.abs(found[f"arr_{k}"] - wanted[name].numpy()).max() < 1e-5, name
    assert (
        json.loads(json.loads(str(found["facts"]))["temperature"]) == predictor.temperature == 2.0
    )


def test_elimination_solves_and_what_has_no_solution_is_not_finite():
    root = torch.randn(20, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix, right = root @ root.transpose(1, 2) + 0.1 * torch.eye(4), root[:, 0]
    assert torch.allclose(_eliminate(matrix, right), torch.linalg.solve(matrix, right))
    assert not torch.isfinite(_eliminate(torch.zeros(1, 4, 4), torch.ones(1, 4))).any()


def test_the_fit_that_is_traced_is_the_fit_of_prediction():
    predictor = haloformer.load("model_i", "cpu")
    images = simulate("model_i", 24, seed=42).images
    ours = predictor.residual(images)
    traced, _ = predictor.residual._fitter.prepare().residual(ours[:, :1], detail=True)
    traced = traced.clamp(-8, 8)
    apart = (ours[:, 1:] - traced).abs().amax((1, 2, 3))  # standard deviations of the noise
    # Where a further step is just about what it takes to be made, one of the two may make it.
    assert apart.max() < SETTLED
    assert (apart < 1e-4).double().mean() > 0.75


@pytest.fixture
def quick_load(monkeypatch):
    """PyTorch asks for the type hints of a few classes once for every value that it reads: half of the time."""
    asked, known = typing.get_type_hints, {}

    def hints(kind, **options):
        if kind not in known:
            known[kind] = asked(kind, **options)
        return known[kind]

    monkeypatch.setattr(typing, "get_type_hints", hints)


def test_a_graph_with_the_fit_inside_takes_any_number_of_images(monkeypatch, tmp_path, quick_load):
    # One step of eight: the graph is as long as they are many.
    monkeypatch.setattr(
        SmoothFitter, "residual", functools.partialmethod(SmoothFitter.residual, steps=1)
    )
    predictor = haloformer.load("model_i", "cpu")
    done = export_model(predictor, tmp_path / "x.pt2", format="torch_export")
    images = simulate("model_i", 5, seed=43).images
    monkeypatch.setattr(behind, "has_numba", lambda: False)  # a graph has no kernel
    with torch.no_grad():
        found = torch.export.load(done.out).module()(images)
        fitted, _ = predictor.residual._fitter.residual(images[..., 27:123, 27:123], detail=True)
        fitted = fitted.clamp(-8, 8)
    monkeypatch.setattr(
        type(predictor.residual),
        "__call__",
        lambda _, x: torch.cat([x[..., 27:123, 27:123], fitted], 1),
    )
    wanted = EndToEnd(predictor)(images)
    assert len(found) == len(wanted) > 1  # classes, and the mass
    for have, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(have, want, atol=1e-5, rtol=1e-5)


def test_a_hub_folder_loads_again_and_tells_what_was_measured(tmp_path):
    done = export_model("model_i", tmp_path / "hub", format="hub")
    assert {file.name for file in done.out.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    again, before = haloformer.load(done.out, "cpu"), haloformer.load("model_i", "cpu")
    images = simulate("model_i", 4, seed=44).images
    assert torch.equal(again.probabilities(images), before.probabilities(images))
    assert torch.equal(again.ood(images).score, before.ood(images).score)
    card = (done.out / "README.md").read_text(encoding="utf-8")
    import yaml

    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "mit"
    measured = before.artefact["measured"]["macro_auc"]
    numbers = [format_value(measured[key]) for key in ("value", "low", "high")]
    assert "| macro AUC | {} | {} – {} |".format(*numbers) in card
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == measured["value"]


def test_a_card_without_measurements_says_so(run):
    card = model_card(haloformer.load(run, "cpu"))
    assert "Nothing was measured" in card
    assert "`log10_m_axion`" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite", "out": "x"}, "unknown export format 'tflite'"),
        ({"precision": "fp8", "out": "x.onnx"}, "unknown precision 'fp8'"),
        ({"precision": "int8", "format": "torch_export", "out": "x.pt2"}, "for the format onnx"),
        ({"out": "x.pt2"}, "written as .onnx"),
        ({"out": "there.onnx"}, "exists already"),
        ({"format": "hub", "out": "there"}, "holds something else than a"),
        ({"format": "hub", "out": "there.txt"}, "is a file"),
        ({"format": "hub", "out": "x.onnx"}, "the format hub writes a folder"),
        ({"format": "hub", "out": "x.pt2"}, "the format hub writes a folder"),
    ],
)
def test_mistakes_end_before_the_work(options, message, tmp_path):
    (tmp_path / "there.onnx").touch()
    (tmp_path / "there.txt").touch()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").touch()
    out = tmp_path / options.pop("out")
    with pytest.raises(InputError, match=message):
        export_model("no such model", out, **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there", "there.onnx", "there.txt"]


def test_a_missing_package_is_named_with_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"onnxscript: pip install '\.\[export\]'"):
        export_model(shipped_models()[0], tmp_path / "x.onnx")


def test_the_command_exports_checks_and_fails_in_one_line(run, tmp_path, capsys):
    out = tmp_path / "x.pt2"
    arguments = ["export", str(run), "--format", "torch_export", "--out", str(out)]
    assert main([*arguments, "--check", "12"]) == 0
    shown = capsys.readouterr().out
    assert "largest |Δp|" in shown
    assert "macro AUC" in shown
    assert main([*arguments, "--check", "1", "--overwrite"]) == 0
    assert "checked on 1 " in capsys.readouterr().out
    assert main([*arguments, "--seed", "3", "--overwrite"]) == 2
    assert "give check" in capsys.readouterr().err
    assert main(arguments) == 2
    assert main([*arguments[:3], "tflite", *arguments[4:]]) == 2
    assert all(len(line) > 20 for line in capsys.readouterr().err.splitlines())


def test_a_value_inside_the_graph_may_not_have_an_outputs_name():
    """The trace calls a mean over tokens 'mean', which is also the name of an estimate."""
    from onnx import TensorProto, checker, helper

    from haloformer.prediction.export import _OURS, _name_outputs

    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Exp", ["mean"], [f"{_OURS}mean"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 4])
    output = helper.make_tensor_value_info(f"{_OURS}mean", TensorProto.FLOAT, [])
    graph = helper.make_graph(nodes, "g", [images], [output])
    _name_outputs(graph, ["mean"])
    assert [value.name for value in graph.output] == ["mean"]
    assert graph.node[1].output[0] == "mean"
    assert graph.node[0].output[0] == graph.node[1].input[0] != "mean"
    checker.check_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
