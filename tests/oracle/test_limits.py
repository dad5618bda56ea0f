"""How well classes can be told apart: against theory where it is known, and against images that the simulator made."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import linalg, stats

from haloformer.cli import main
from haloformer.evaluation.metrics import log_odds, macro_auc
from haloformer.oracle.freedoms import marginal, source_columns, spread_of, survey_columns
from haloformer.oracle.kept import Found, Kept
from haloformer.oracle.likelihood import Seen, answers, known, observe
from haloformer.oracle.scene import Lens
from haloformer.simulation import Simulator, get_any_survey
from haloformer.simulation.composed import ComposedRenderer
from haloformer.simulation.surveys import describe_survey

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SEED = 5


def _auc(first, second):
    return stats.mannwhitneyu(first, second).statistic / (len(first) * len(second))


@pytest.fixture(scope="module")
def hst():
    """A lens of hst, whose camera has fewer pixels."""
    return Lens.of(get_any_survey("hst").with_camera(num_pix=56), SEED, 3)


@pytest.fixture(scope="module")
def columns(hst):
    return survey_columns(hst)


@pytest.mark.parametrize("name", ["hst", "model_i_fair"])
def test_the_noise_of_simulated_images_is_made_white(name):
    survey = get_any_survey(name)
    found = []
    for number in range(4):
        lens = Lens.of(survey, SEED, number)
        noisy = Simulator(survey, classes=["no_sub"], seed=SEED, paired=True).batch([number])
        image = noisy.images[0, 0].double().numpy()
        here = lens._moments(lens.image[None])
        shown = here.mean[0].numpy() - lens.unseen  # neither survey has a sky
        off = (image - shown) / lens._sigma(here)[0]
        found.append(lens._decorrelated(off[None])[0] * lens.kept)
    white = np.stack(found)
    used = np.stack([white[:, 1:-1, 1:-1], white[:, 1:-1, 2:], white[:, 2:, 1:-1]])
    used = used.reshape(3, -1)
    used = used[:, (used != 0).all(0)]
    n = used.shape[1]
    assert n > 15_000
    assert used[0].mean() == pytest.approx(0, abs=4 / np.sqrt(n))
    assert used[0].var() == pytest.approx(1, abs=0.06)
    for neighbour in used[1:]:
        assert np.corrcoef(used[0], neighbour)[0, 1] == pytest.approx(0, abs=4 / np.sqrt(n))


def test_realisations_are_those_of_the_survey_s_images(hst):
    simulator = Simulator(hst.survey, classes=["cdm"], seed=SEED, noise="none", paired=True)
    image = simulator.batch([3]).images[0].double().numpy()
    (signal,) = hst.signals("cdm", 1)
    np.testing.assert_allclose(signal, hst.white(image), atol=2e-3)
    assert np.abs(signal).max() > 0.1


def test_realisations_of_one_lens_differ_in_their_dark_matter_alone(hst):
    (signals,) = hst.signals("axion", 5)
    assert signals.shape == (5, hst.image.size)
    assert np.unique((signals**2).sum(1).round(9)).size == 5


@pytest.mark.parametrize("name", ["lens_theta_E", "lens_gamma", "gamma1", "multipoles_a4_cos", "source_x"])  # fmt: skip
def test_a_change_of_the_lens_is_explained_by_it(hst, columns, name):
    changed = {key: values.copy() for key, values in hst.parameters.items()}
    changed[name] += 1e-3
    images = ComposedRenderer(hst.survey, torch.float64).images(changed).images.numpy()
    signal = hst.white(images)
    left = np.linalg.norm(marginal(signal, columns))
    # Who knows the survey's prior, of width w, keeps 1e-3 / w of it at most.
    allowed = 1e-3 / spread_of(hst.survey)[name, 0]
    assert left < 1.1 * allowed + 0.1 * np.linalg.norm(signal)
    assert np.linalg.norm(signal) > 3 * left


def test_a_clump_of_the_source_is_explained_by_its_structure_alone(hst, columns):
    parameters = {key: values.copy() for key, values in hst.parameters.items()}
    name = "source_clumpy_clump_flux"
    number = np.flatnonzero(np.isfinite(parameters[name][0]))[0]
    parameters[name][0, number] *= 1.1
    images = ComposedRenderer(hst.survey, torch.float64).images(parameters).images.numpy()
    signal = hst.white(images)
    by_lens = np.linalg.norm(marginal(signal, columns))
    both = np.concatenate([columns, source_columns(hst)])
    assert np.linalg.norm(marginal(signal, both)) < 0.7 * by_lens


@pytest.fixture(scope="module")
def banded():
    """A lens of a survey of three bands, whose camera has fewer pixels and whose lens galaxy's magnitude varies in one."""
    fields = describe_survey(get_any_survey("model_iv_fair").with_camera(num_pix=32))
    fields["bands"]["r"]["lens_light_magnitudes"] = [{"normal": [18, 0.3]}, 28]
    return Lens.of(get_any_survey(fields), SEED, 2)


def test_each_band_has_noise_of_its_own(banded):
    noisy = Simulator(banded.survey, classes=["no_sub"], seed=SEED, noise="instrument", paired=True)
    image = noisy.batch([2]).images.double().numpy()
    off = banded.white(image)[0].reshape(3, -1)
    assert off.shape == (3, 32 * 32)
    for band in off:
        assert band.mean() == pytest.approx(0, abs=4 / 32)
        assert band.var() == pytest.approx(1, abs=0.2)
    assert np.abs(np.corrcoef(off) - np.eye(3)).max() < 4 / 32


def test_flux_and_lens_light_of_a_band_are_free_in_that_band_alone(banded):
    spread = spread_of(banded.survey)
    varied = [place for place in spread if place[0].startswith("lens_light")]
    assert varied == [("lens_light_sersic_flux", 1)]
    seen = survey_columns(banded).reshape(-1, 3, 32 * 32)
    shown = np.abs(seen).max(2) > 0
    assert shown[:-3].sum(1).tolist() == [1 if place in varied else 3 for place in spread]
    np.testing.assert_array_equal(shown[-3:], np.eye(3, dtype=bool))  # the source's flux


def test_bands_that_show_the_same_galaxy_differ_alike_in_its_structure(banded):
    columns = source_columns(banded).reshape(-1, 3, 32 * 32)
    in_counts = columns * banded._sigma(banded._moments(banded.image[None])).reshape(1, 3, -1)
    flux = banded.parameters["source_flux"][0]
    per_flux = in_counts / flux[:, None]
    np.testing.assert_allclose(per_flux[:, 1], per_flux[:, 2], atol=1e-4 * np.abs(per_flux).max())


def test_three_bands_tell_more_than_one(banded):
    fields = describe_survey(banded.survey)
    fields["bands"] = {"i": fields["bands"]["i"]}
    alone = Lens.of(get_any_survey(fields), SEED, 2)
    (three,), (one,) = (lens.signals("cdm", 1) for lens in (banded, alone))
    np.testing.assert_allclose(three.reshape(3, -1)[2], one[0], atol=1e-3 * np.abs(one).max())
    assert (three**2).sum() > (one**2).sum()


def test_limits_of_a_survey_with_bands(tmp_path, banded):
    survey = tmp_path / "mine.yaml"
    survey.write_text(yaml.safe_dump(describe_survey(banded.survey)))
    out = tmp_path / "limits"
    assert main(["limits", str(survey), "--lenses", "2", "--realisations", "20", "--out", str(out)]) == 0  # fmt: skip
    found = json.loads((out / "limits.json").read_text())
    assert list(found["levels"]) == ["known", "survey", "source"]
    assert all(0.4 < level["bound"] <= 1 for level in found["levels"].values())


def test_what_is_left_has_the_covariance_of_noise_and_freedoms_together():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(4, 30)) * np.array([0.1, 1.0, 10.0, 100.0])[:, None]
    expected = linalg.inv(linalg.sqrtm(np.eye(30) + columns.T @ columns))
    signals = rng.normal(size=(7, 30))
    np.testing.assert_allclose(marginal(signals, columns), signals @ expected, atol=2e-5)


@pytest.mark.parametrize("distance", [0.3, 1.0, 3.0])
def test_who_knows_both_signals_reaches_the_auc_of_theory(distance):
    first = np.zeros((20_000, 3))
    first[:, 1] = distance
    found = _auc(*known(first, np.zeros_like(first), np.random.default_rng(1)))
    assert found == pytest.approx(stats.norm.cdf(distance / np.sqrt(2)), abs=0.01)


def test_who_learns_from_realisations_comes_near_the_best_answer_and_never_beyond():
    rng = np.random.default_rng(2)
    size = np.zeros(200)
    size[:4] = 2.5
    learned, tested, best = [], [], []
    for _ in range(10):
        signals = rng.normal(size=(400, 200)) * size
        one, other = observe({"cdm": signals.astype(np.float32)}, ("cdm", "no_sub"), rng)
        learned.append(one)
        tested.append(other)
        seen = [rng.normal(size=(300, 200)) * np.sqrt(1 + s**2) for s in (size, 0 * size)]
        weights = size**2 / (1 + size**2)
        best.append([(s**2) @ weights for s in seen])
    labels = np.concatenate([seen.labels for seen in tested])
    reached = macro_auc(labels, log_odds(np.concatenate(answers(learned, tested))))
    limit = _auc(*(np.concatenate([b[k] for b in best]) for k in (0, 1)))
    assert limit - 0.03 < reached.value < limit + 0.02


def test_classes_without_signal_are_told_apart_by_chance_alone():
    rng = np.random.default_rng(3)
    weak = {name: 1e-3 * rng.normal(size=(100, 50)).astype(np.float32) for name in ("axion", "cdm")}
    pairs = [observe(weak, ("axion", "cdm", "no_sub"), rng) for _ in range(6)]
    learned, tested = zip(*pairs)
    labels = np.concatenate([seen.labels for seen in tested])
    auc = macro_auc(labels, log_odds(np.concatenate(answers(learned, tested))))
    assert auc.value == pytest.approx(0.5, abs=0.06)


@pytest.fixture(scope="module")
def limits(tmp_path_factory):
    out = tmp_path_factory.mktemp("limits") / "ladder"
    arguments = ["limits", "ladder_1_camera", "--lenses", "2", "--realisations", "20"]
    assert main([*arguments, "--out", str(out), "--quiet"]) == 0
    return out


def test_the_command_writes_what_it_found(limits):
    found = json.loads((limits / "limits.json").read_text())
    assert found["limit"] == "survey"
    assert list(found["levels"]) == ["known", "survey"]
    for level in found["levels"].values():
        reached = level["reached"]
        assert reached["low"] <= reached["value"] <= reached["high"]
        assert 0.4 < level["bound"] <= 1
    sizes = [level["signal"]["cdm"]["p50"] for level in found["levels"].values()]
    assert sizes == sorted(sizes, reverse=True)
    assert "haloformer limits ladder_1_camera --lenses 2" in (limits / "limits.md").read_text()
    assert "of 2 lenses: its interval is too narrow" in (limits / "limits.md").read_text()
    assert (limits / "limits.png").stat().st_size > 10_000


def test_a_call_that_was_ended_goes_on_where_it_was(limits, tmp_path, monkeypatch, capsys):
    out = tmp_path / "ladder"
    arguments = ["limits", "ladder_1_camera", "--lenses", "2", "--realisations", "20", "--out", str(out)]  # fmt: skip
    drawn, of = [], Lens.of

    def lens(survey, seed, number):
        drawn.append(number)
        if drawn == [0, 1]:
            raise KeyboardInterrupt
        return of(survey, seed, number)

    monkeypatch.setattr(Lens, "of", lens)
    assert main(arguments) == 130
    assert [path.name for path in out.iterdir()] == ["lenses"]
    capsys.readouterr()
    assert main(arguments) == 0
    assert drawn == [0, 1, 1]
    assert "1 of 2 lenses are known from an earlier call" in capsys.readouterr().err
    assert {path.name for path in out.iterdir()} == {path.name for path in limits.iterdir()}
    once, twice = (json.loads((folder / "limits.json").read_text()) for folder in (limits, out))
    assert once["levels"] == twice["levels"]


def test_what_is_kept_of_other_draws_or_damaged_is_not_taken(tmp_path, hst):
    rng = np.random.default_rng(4)
    seen = Seen(np.arange(3), rng.normal(size=(3, 2)))
    ends = rng.normal(size=(2, 4))
    one = Found(seen, seen, {("cdm", "no_sub"): (ends[0], ends[1])}, {"cdm": ends[0]})
    kept = Kept(tmp_path, hst.survey, 1, 20)
    kept.write(7, {"known": one})
    again = kept.read(7)["known"]
    np.testing.assert_array_equal(again.tested.ratios, seen.ratios)
    np.testing.assert_array_equal(again.pairs["cdm", "no_sub"][1], ends[1])
    np.testing.assert_array_equal(again.sizes["cdm"], ends[0])
    assert Kept(tmp_path, hst.survey, 2, 20).read(7) is None
    assert Kept(tmp_path, hst.survey, 1, 30).read(7) is None
    (file,) = kept.folder.iterdir()
    file.write_bytes(file.read_bytes()[:400])
    assert kept.read(7) is None


def test_limits_that_are_there_are_not_replaced_unasked(limits, capsys):
    before = (limits / "limits.json").read_bytes()
    assert main(["limits", "ladder_1_camera", "--out", str(limits)]) == 2
    assert "overwrite the limits (--overwrite" in capsys.readouterr().err
    assert (limits / "limits.json").read_bytes() == before


@pytest.mark.parametrize(("name", "words"), [("file", "is not a folder"), ("folder", "holds something else than limits")])  # fmt: skip
def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, name, words):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    out = tmp_path / name
    assert main(["limits", "ladder_1_camera", "--out", str(out), "--overwrite"]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert len(message.splitlines()) == 1
    assert (tmp_path / "folder" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("survey", "options", "words"),
    [
        ("model_i", [], "its lens is always the same"),
        (
            str(EXAMPLES / "own_survey.yaml"),
            [],
            "it is not composed; limits are of composed surveys",
        ),
        ("model_iv", [], "its classes have different lenses"),
        ("hstt", [], "hst"),
        ("hst", ["--lenses", "1"], "lenses is 1: must be at least 2"),
        ("hst", ["--realisations", "5"], "realisations is 5: must be at least 20"),
    ],
)
def test_what_has_no_limits_is_refused_in_one_line(tmp_path, capsys, survey, options, words):
    out = tmp_path / "out"
    assert main(["limits", survey, "--out", str(out), *options]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert len(message.splitlines()) == 1
    assert not out.exists()


def test_a_survey_without_a_smooth_class_is_refused(tmp_path):
    from haloformer.errors import InputError
    from haloformer.oracle.scene import smooth_class

    survey = get_any_survey("hst")
    classes = {name: parts for name, parts in survey.substructure.items() if parts}
    with pytest.raises(InputError, match="needs an empty list"):
        smooth_class(dataclasses.replace(survey, substructure=classes))


@pytest.mark.parametrize("classes", [{"a": [], "b": []}, {"no_sub": []}])
def test_a_survey_without_substructure_is_refused_before_the_work(tmp_path, capsys, classes):
    path = tmp_path / "smooth.yaml"
    path.write_text(yaml.safe_dump({"base": "ladder_1_camera", "substructure": classes}))
    assert main(["limits", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "none of its classes has substructure" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
