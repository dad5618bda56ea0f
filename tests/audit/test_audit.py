"""`haloformer audit`: what each part measures, the folder, going on, and what is refused."""

import dataclasses
import json
import shutil
import types

import numpy as np
import pytest
import torch
import yaml

from haloformer.audit import (
    audit,
    audited,
    geometry,
    noise,
    out_of_distribution,
    report,
    shortcut,
    symmetry,
)
from haloformer.audit.audited import Condition, at_camera, audited_model, brightness_of
from haloformer.audit.part import Inputs
from haloformer.audit.parts import PARTS
from haloformer.audit.run import asked_for
from haloformer.audit.shortcut import image_moments
from haloformer.audit.symmetry import keeps_survey
from haloformer.cli import main
from haloformer.data.augment import transform
from haloformer.errors import InputError
from haloformer.evaluation import calibrate
from haloformer.prediction import load
from haloformer.simulation import Simulator, draw_scenes, get_any_survey, get_survey, simulate
from small_survey import SMALL, small

N = 30


class Half(torch.nn.Module):
    """A classifier of the light in the image's left part: it knows left from right and nothing of up and down."""

    def __init__(self, columns):
        super().__init__()
        self.columns = columns

    def forward(self, images):
        light = images[..., : self.columns].mean((1, 2, 3))
        return torch.stack([light, -light, torch.zeros_like(light)], dim=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_untrained_run):
    folder = tmp_path_factory.mktemp("audit") / "run"
    return str(write_untrained_run(folder, 1, {"kind": "image_max", "statistics": {}}, "original"))


@pytest.fixture(scope="module")
def predictor(run):
    return load(run, "cpu")


def prepared(predictor, n=N, **changes):
    found = audited_model(
        predictor, "x", survey=None, n=n, seed=None, batch_size=256, progress=False
    )
    return dataclasses.replace(found, **changes)


@pytest.fixture(scope="module")
def finished(run, save_png, tmp_path_factory):
    """An audit of all parts but the long ones, and its folder."""
    out = tmp_path_factory.mktemp("audits") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("haloformer.reporting.style.save", save_png)
        return audit(run, out=str(out), n=N, progress=False, device="cpu"), out


def test_an_audit_writes_page_text_numbers_and_figures(finished):
    result, out = finished
    written = json.loads((out / "audit.json").read_text())
    assert set(written["parts"]) == set(PARTS)
    assert written["verdict"] == result["verdict"]
    page, text = (out / "audit.html").read_text(), (out / "audit.md").read_text()
    value = f"{written['parts']['shortcut']['model']['original']['macro_auc']['value']:.3f}"
    for document in (result["verdict"], page, text):
        assert value in document
    assert page.count("<svg") == 7
    assert "http://" not in page.replace("http://www.w3.org", "")
    for name in ("shortcut", "noise", "shift", "matrix", "symmetry", "ood"):
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"figures/{name}.png" in text
    assert sorted(path.name for path in out.iterdir()) == [
        "audit.html",
        "audit.json",
        "audit.md",
        "figures",
        "parts",
    ]
    # Seeds 0 (all of it), 10 and 11 are those of the training
    assert written["protocol"]["seed"] == 12


def test_what_is_measured_is_not_measured_again_and_new_parts_are_added(
    run, tmp_path, monkeypatch, capsys
):
    def measure_noise_by(function):
        part = dataclasses.replace(PARTS["noise"], measure=function)
        monkeypatch.setitem(PARTS, "noise", part)

    monkeypatch.setattr("haloformer.audit.report.draw", lambda result: {})  # the slow part
    arguments = [
        "audit",
        run,
        "--out",
        str(tmp_path / "a"),
        "--n",
        "30",
        "--device",
        "cpu",
        "--parts",
    ]
    assert main([*arguments, "noise"]) == 0
    first = json.loads((tmp_path / "a" / "audit.json").read_text())["parts"]["noise"]
    measure_noise_by(lambda *_: pytest.fail("measured twice"))
    assert main([*arguments, "noise,symmetry"]) == 0
    parts = json.loads((tmp_path / "a" / "audit.json").read_text())["parts"]
    assert list(parts) == ["noise", "symmetry"]
    assert parts["noise"] == first
    assert "report: " in " ".join(capsys.readouterr().out.split())
    arguments[5] = "31"
    assert main([*arguments, "noise"]) == 2
    assert "with another model or other options" in capsys.readouterr().err
    measure_noise_by(lambda *_: first)
    assert main([*arguments, "noise", "--overwrite"]) == 0


def test_what_was_measured_of_a_survey_that_has_changed_is_not_taken(
    train_once, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("haloformer.audit.report.draw", lambda result: {})
    survey = tmp_path / "mine.yaml"
    short = "base: model_ii\ninstrument: {base: euclid_vis, exposure_time: 300}\n"
    survey.write_text(short)
    small = {"model": "resnet_nano", "epochs": 1, "epoch_size": 32, "batch_size": 16}
    run = train_once(data=str(survey), **small, val_size=24, device="cpu", progress=False)
    arguments = ["audit", str(run.out), "--survey", str(survey), "--out", str(tmp_path / "a")]
    arguments += ["--n", "30", "--device", "cpu", "--parts", "symmetry"]
    assert main(arguments) == 0
    survey.write_text("# as it was\n" + short)
    assert main(arguments) == 0
    survey.write_text(short.replace("300", "3000"))
    capsys.readouterr()
    assert main(arguments) == 2
    assert "with another model or other options" in capsys.readouterr().err


def keys_of(run, tmp_path, **options):
    """What decides each part's result."""
    given = {"parts": None, "survey": None, "compare": None, "real": None, "galaxies": None}
    given |= {"n": N, "seed": None, "batch_size": 64, "device": "cpu", "overwrite": False}
    return asked_for(str(run), out=str(tmp_path / "a"), progress=False, **given | options).keys


def test_what_was_measured_of_a_model_before_it_was_calibrated_is_not_taken(run, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(run, mine)
    before = keys_of(mine, tmp_path)
    calibrate(str(mine), data="model_ii", seed=9, n=60, progress=False, device="cpu")
    after = keys_of(mine, tmp_path, seed=before["noise"]["seed"])
    # Probabilities, flags and limits are of the calibration; AUCs are not.
    assert {name for name in PARTS if before[name] != after[name]} == {"geometry", "ood"}


def test_what_was_measured_beside_other_weights_or_images_is_not_taken(
    run, write_untrained_run, tmp_path
):
    other, real = tmp_path / "other", tmp_path / "real" / "deeper"
    real.mkdir(parents=True)

    def keys(seed):
        shutil.rmtree(other, ignore_errors=True)
        write_untrained_run(other, seed, {"kind": "image_max", "statistics": {}}, "original")
        np.save(real / "one.npy", np.full((64, 64), float(seed)))
        return keys_of(run, tmp_path, compare=str(other), real=str(tmp_path / "real"), seed=7)

    first, second = keys(2), keys(3)
    assert {name for name in PARTS if first[name] != second[name]} == {"shift", "ood"}
    assert keys(3) == second


def test_scenes_are_new_to_all_models_and_it_is_said_where_they_are_not(
    write_untrained_run, tmp_path, monkeypatch
):
    runs = []
    for name, seed in (("one", 0), ("two", 1)):
        run = write_untrained_run(
            tmp_path / name, seed, {"kind": "image_max", "statistics": {}}, "original"
        )
        path = next(tmp_path.glob(f"{name}/**/artefact.json"))
        described = json.loads(path.read_text())
        described["training"] = {"seed": seed, "train_seed": seed, "val_seed": 2**40 + seed}
        path.write_text(json.dumps(described))
        runs.append(str(run))
    assert keys_of(runs[0], tmp_path)["noise"]["seed"] == 1
    assert keys_of(runs[0], tmp_path, compare=runs[1])["noise"]["seed"] == 2
    monkeypatch.setattr("haloformer.audit.report.draw", lambda result: {})
    part = dataclasses.replace(
        PARTS["noise"], measure=lambda *_: {}, sentences=lambda _: "", tables=lambda *_: []
    )
    monkeypatch.setitem(PARTS, "noise", part)
    told = audit(
        runs[0],
        out=str(tmp_path / "told"),
        parts="noise",
        compare=runs[1],
        seed=1,
        n=N,
        progress=False,
        device="cpu",
    )
    assert told["protocol"]["compared_seen_in_training"] == [runs[1]]
    assert not told["protocol"]["seen_in_training"]
    assert f"on these very scenes: {runs[1]}" in told["verdict"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": "noises"}, "did you mean 'noise'"),
        ({"n": 3}, "at least 30"),
        ({"real": "nowhere"}, "nowhere does not exist"),
        ({"compare": "nowhere"}, "no such run folder"),
        ({"survey": "model_i"}, "64×64, but those of model_i have 150×150"),
    ],
)
def test_mistakes_are_named_before_anything_is_measured(
    run, options, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(audited.AuditedModel, "predictions", lambda *args: pytest.fail("measured"))
    with pytest.raises(InputError, match=message):
        audit(run, out=str(tmp_path / "a"), **{"progress": False, **options})
    assert not (tmp_path / "a").exists()


def test_a_folder_of_something_else_is_not_touched(run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="something else than an audit"):
        audit(run, out=str(tmp_path), n=N, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_regression_alone_is_refused():
    regression = types.SimpleNamespace(
        class_names=(), outputs=types.SimpleNamespace(targets=("log10_m_axion",))
    )
    with pytest.raises(InputError, match="estimates log10_m_axion and knows no classes"):
        prepared(regression)


def test_moments_of_a_ring_are_its_radius_width_and_place():
    axis = torch.arange(64.0) - 31.5
    r = torch.hypot(axis[None, :] - 3, axis[:, None])
    moments = dict(
        zip(shortcut.MOMENTS, image_moments(torch.exp(-0.5 * ((r - 12) / 1.0) ** 2)[None, None])[0])
    )
    assert moments["x"] == pytest.approx(3, abs=0.05)
    assert moments["y"] == pytest.approx(0, abs=0.05)
    assert moments["xx"] == pytest.approx(moments["yy"], rel=0.02)
    assert moments["ring radius"] == pytest.approx(12, abs=0.3)


def test_moments_see_the_mass_that_substructure_adds_until_it_is_matched(predictor):
    part = shortcut.measure(prepared(predictor, n=150, noise="none"), Inputs())
    named = {
        kind: rows["logistic regression"]["macro_auc"] for kind, rows in part["moments"].items()
    }
    assert named["original"]["low"] > 0.8
    assert named["matched"]["value"] < named["original"]["value"] - 0.1


def test_longer_exposures_have_more_signal_over_noise_and_the_same_lenses(predictor):
    model = prepared(predictor, n=6)
    plain = {
        "background_rms": 0.01,
        "sky_brightness": None,
    }  # read noise per exposure would not fall with the time
    instrument = dataclasses.replace(model.survey.instrument, **plain)
    model = dataclasses.replace(
        model, survey=dataclasses.replace(model.survey, instrument=instrument)
    )
    images = {}
    for factor in (1.0, 100.0):
        point = Condition(noise._exposed(model.survey, factor), "instrument")
        images[factor] = next(model.images(point))[0]
    clean = simulate("model_ii", 6, seed=model.seed, noise="none").images
    errors = [float((images[factor] - clean).square().mean().sqrt()) for factor in (1.0, 100.0)]
    assert errors[0] == pytest.approx(10 * errors[1], rel=0.1)
    snr = [
        noise._peak_snr(model, Condition(noise._exposed(model.survey, f), "instrument"))
        for f in (1, 4)
    ]
    assert snr[1] == pytest.approx(2 * snr[0], rel=0.05)


def test_symmetry_tells_a_model_that_knows_left_from_one_that_does_not(predictor):
    rows = {}
    for columns in (64, 30):
        half = dataclasses.replace(predictor, model=Half(columns))
        rows[columns] = {
            row["name"]: row for row in symmetry.measure(prepared(half), Inputs())["elements"]
        }
    assert max(row["mean_abs_delta_logit"] for row in rows[64].values()) < 1e-5
    assert rows[30]["mirrored up-down"]["mean_abs_delta_logit"] < 1e-5
    assert rows[30]["mirrored left-right"]["mean_abs_delta_logit"] > 1e-3


def test_a_survey_is_kept_by_the_half_turn_alone_as_its_images_say():
    survey = get_survey("model_ii")
    assert [code for code in range(8) if keeps_survey(survey, code)] == [0, 2]
    numbers = np.arange(3)
    scenes = draw_scenes(survey, numbers % 3, numbers // 3, 1, survey.class_names)[
        np.array([2])
    ]  # no_sub
    simulator = Simulator(survey, noise="none")
    turned = dataclasses.replace(scenes, source_x=-scenes.source_x, source_y=-scenes.source_y)
    image, other = simulator.images(scenes)[:, None], simulator.images(turned)[:, None]
    assert torch.allclose(transform(image, np.array([2])), other, atol=1e-4 * float(image.max()))
    round_lens = dataclasses.replace(survey.deflector, e1=0.0, gamma1=0.0)
    round_source = dataclasses.replace(survey.source, e1=0.0, e2=0.0)
    assert all(
        keeps_survey(dataclasses.replace(survey, deflector=round_lens, source=round_source), k)
        for k in range(8)
    )


def test_another_surveys_lens_keeps_its_size_in_arcsec_and_comes_to_the_models_brightness(
    predictor,
):
    model = prepared(predictor)
    survey = get_survey("model_iii")  # 64 pixels of 0.08″ into 64 of 0.101″
    bring = at_camera(model, survey, "none")
    original = simulate(survey, 6, noise="none").images
    brought = bring(original)
    assert brought.shape == original.shape
    radius = [
        image_moments(images)[:, -2] * scale
        for images, scale in ((original, 0.08), (brought, 0.101))
    ]
    assert radius[1] == pytest.approx(radius[0], rel=0.03)
    points = {"": Condition(survey, "none", prepare=bring)}
    theirs = torch.cat([images for images, _, _ in model.images(points[""])])
    assert brightness_of(theirs) == pytest.approx(brightness_of(model.reference), rel=1e-3)


def test_foreign_images_are_counted_by_flag_and_at_one_per_cent(predictor, tmp_path):
    class Bright(type(predictor)):
        """Finds bright images unusual."""

        def ood(self, images):
            score = images.flatten(1).amax(1)
            return types.SimpleNamespace(score=score, flag=score > 1e9, reasons=[""] * len(images))

    np.save(tmp_path / "lens.npy", simulate("model_iii", 1).images[0, 0].numpy())
    fields = {field.name: getattr(predictor, field.name) for field in dataclasses.fields(predictor)}
    model = prepared(Bright(**fields), n=60)
    part = out_of_distribution.measure(model, Inputs(real=[str(tmp_path)]))
    rows = {row["name"]: row for row in part["sets"]}
    assert part["available"]
    assert {row["flagged"]["value"] for row in rows.values()} == {0.0}
    assert rows["as trained"]["n"] == 60
    assert rows["as trained"]["flagged_at_threshold"]["value"] <= 0.01
    assert rows["blank"]["flagged_at_threshold"]["value"] == 0
    assert rows["galaxies without a lens, simulated"]["n"] == 30
    assert rows["real lenses"]["n"] == 1


def test_without_statistics_the_part_says_so(finished, predictor):
    part = finished[0]["parts"]["ood"]
    if part["available"]:
        pytest.skip("this artefact has them")
    assert part["why"]
    assert part["why"] in finished[0]["verdict"]


def test_names_from_outside_are_text_on_the_page(finished):
    hostile = "<script>alert(1)</script> {{ 7*7 }}"
    result = json.loads(json.dumps(finished[0]))
    result["protocol"] |= {"run": hostile, "survey": hostile, "noise": hostile}
    matrix = result["parts"]["shift"]["matrix"]
    matrix["models"] = [hostile]
    result["parts"]["ood"]["sets"][1]["name"] = hostile
    page = report.to_html(result, {})
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; {{ 7*7 }}") >= 6


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """A survey of components whose images are as large as the run's, as a file."""
    camera = {**SMALL["instrument"], "num_pix": 64, "pixel_scale": 0.08}
    path = tmp_path_factory.mktemp("composed") / "own.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "name": "own", "instrument": camera}))
    return path


def test_a_model_of_a_composed_survey_is_audited_but_for_masses_and_exposures(
    run, composed, tmp_path, save_png, monkeypatch
):
    monkeypatch.setattr("haloformer.reporting.style.save", save_png)
    options = {"survey": str(composed), "n": N, "progress": False, "device": "cpu"}
    found = audit(run, out=str(tmp_path / "a"), **options)
    assert list(found["parts"]) == ["geometry", "shift", "symmetry", "ood"]
    tried = [row["name"] for row in found["parts"]["geometry"]["rows"]]
    assert "moved by 2, 1 pixels" in tried
    assert "moved by 0.25, 0.25 pixels" not in tried
    foreign = [row["name"] for row in found["parts"]["ood"]["sets"]]
    assert {"sky without a source", "lenses of model_ii"} <= set(foreign)
    assert "Audit of" in (tmp_path / "a/audit.html").read_text()
    with pytest.raises(InputError, match=r"part noise: .* says haloformer audit --survey own"):
        audit(run, out=str(tmp_path / "b"), parts="noise", **options)
    assert not (tmp_path / "b").exists()


def test_lenses_of_a_composed_survey_are_moved_by_pixels_and_sources_taken_away(
    predictor, composed
):
    survey = get_any_survey(str(composed))
    model = prepared(predictor, n=3, survey=survey, noise="none")
    conditions = geometry.conditions(model)

    def images(condition):
        return torch.cat([batch for batch, _, _ in model.images(condition)])

    usual = images(dataclasses.replace(model.plain, n=3))
    moved = images(conditions["moved by 2, 1 pixels"])
    # More of the arcs is within the larger image, by which their signal to noise is counted.
    few = 0.01 * float(usual.amax())
    assert float((moved[..., 1:, 2:] - usual[..., :-1, :-2]).abs().amax()) < few
    assert float((moved - usual).abs().amax()) > 10 * few
    dark = images(Condition(out_of_distribution.without_source(survey), "none", n=3))
    assert float(dark.amax()) < 1e-4 * float(usual.amax())


def test_a_composed_survey_looks_alike_from_all_sides_if_all_of_it_is_drawn_so():
    even = {"normal": [0, 0.05]}
    lens, shear = SMALL["lens"]
    turned = [{**lens, "e2": {"normal": [0, 0.1]}}, {**shear, "gamma1": even, "gamma2": even}]
    assert all(keeps_survey(small(lens=turned), code) for code in range(8))
    assert not keeps_survey(small(), 1)  # its shear has a direction
    for light in (
        {"kind": "sersic", "e1": 0.3},
        {"kind": "sersic", "q": 0.5, "angle": {"uniform": [0, 1]}},
    ):
        source = {**SMALL["source"], "light": [light]}
        assert not keeps_survey(small(lens=turned, source=source), 1)
    assert keeps_survey(get_any_survey("hst"), 5)
    assert not keeps_survey(get_any_survey("common_task"), 5)
