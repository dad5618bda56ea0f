"""The command that comes next, with names of files that are there."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from haloformer.errors import InputError

Step = Sequence[object] | None
Options = Mapping[str, Any]


def next_step(
    name: str, keywords: Options, result: Any, arguments: Sequence[str] = ()
) -> str | None:
    """Returns a command line to go on with after a command; None if there is none.

    Args:
        name: The command that has ended well.
        keywords: Its options.
        result: What it returned.
        arguments: As they were given on the command line.
    """
    if name == "prepare":
        step: Step = _after_prepare(arguments, keywords)
    else:
        try:
            step = _STEPS[name](keywords, result) if name in _STEPS else None
        except InputError:  # what the hint would need is not there; the command has ended well
            step = None
    return None if step is None else shlex.join(["haloformer", *map(str, step)])


def _train_on(path: object) -> Step:
    return ["train", "--data", path, "--out", f"runs/{Path(str(path)).stem}"]


def _after_simulate(keywords: Options, result: Any) -> Step:
    out = Path(keywords["out"])
    if keywords.get("format") == "deeplense":
        noise = keywords.get("noise") or "original"
        other = [] if noise == "original" else ["--noise", noise]
        return ["convert", out, "--survey", keywords["survey"], *other, "--out", f"{out}.h5"]
    if keywords.get("format") == "fits":
        return ["inspect", next(iter(sorted(out.glob("*/*.fits"))), out)]
    return ["inspect", next(iter(sorted(out.glob("*.h5"))), out) if out.is_dir() else out]


def _after_prepare(arguments: Sequence[str], keywords: Options) -> Step:
    """Returns the training with the same options."""
    kept: list[str] = []
    own = {"n", "n_test", "test_seed", "quiet", "verbose", "json", "out"}
    skipping = False
    for argument in arguments:
        if argument.startswith("--"):
            skipping = argument.removeprefix("--").partition("=")[0].replace("-", "_") in own
        if not skipping:
            kept.append(argument)
    out = keywords.get("options", {}).get("out")
    return ["train", *kept, "--out", out or "runs/prepared"]


def _after_train(keywords: Options, result: Any) -> Step:
    """Returns the test; its images are those of the survey, where that is known."""
    from haloformer.io.strict_json import read_json
    from haloformer.simulation import list_surveys

    described, data = result.out / "artefact" / "artefact.json", keywords["options"].get("data")
    known = not described.is_file() or read_json(described).get("survey") in list_surveys()
    if known or data is None:
        return ["evaluate", result.out]
    if str(data).endswith((".yaml", ".yml")):
        return ["evaluate", result.out, "--data", data]
    return ["explain", result.out, data, "--out", "why"]


def _is_of_survey(run: object) -> bool:
    """Tells whether a model's lenses can be simulated; of models that come along they can."""
    from haloformer.evaluation.exported import survey_of

    return not Path(str(run)).exists() or survey_of(str(run)) is not None


def _audit(run: object) -> Step:
    name = Path(str(run)).name
    return ["audit", run, "--out", f"audits/{name}"] if _is_of_survey(run) else None


def _after_study(keywords: Options, result: Any) -> Step:
    best = _best_run(result)
    return None if best is None else _audit(best)


def _best_run(result: Any) -> Path | None:
    """Returns the run folder of the variant with the largest AUC, if it is there."""
    comparable = [row for row in result.rows if not row.get("not_compared")]
    ranked = sorted(comparable, key=lambda row: -(row.get("macro_auc") or 0))
    for row in ranked:
        for folder in sorted((result.out / "runs").glob(f"{row['variant']}-seed*")):
            if (folder / "artefact" / "artefact.json").is_file():
                return Path(folder)
    return None


def _after_tune(keywords: Options, result: Any) -> Step:
    from haloformer.tuning.report import training_of_best

    return training_of_best(result.out) if (result.out / "best.yaml").is_file() else None


def _after_evaluate(keywords: Options, result: Any) -> Step:
    run, data = keywords["run"], keywords.get("data")
    return _audit(run) or (None if data is None else ["explain", run, data, "--out", "why"])


def _after_calibrate(keywords: Options, result: Any) -> Step:
    return ["evaluate", keywords["run"]] if _is_of_survey(keywords["run"]) else None


def _train_on_survey(survey: str) -> Step:
    return ["train", "--data", survey, "--out", f"runs/{Path(survey).stem}"]


def _after_audit(keywords: Options, result: Any) -> Step:
    if (run := keywords.get("run")) is None:
        return _train_on_survey(keywords["survey"])
    return ["calibrate", run] if Path(run).exists() else None


def _after_compare(keywords: Options, result: Any) -> Step:
    best = max(result["models"], key=lambda model: model["macro_auc"]["value"])
    runs = [run for run in keywords["runs"] if Path(run).name == best["name"]]
    return _audit(runs[0]) if runs else None


def _after_predict(keywords: Options, result: Any) -> Step:
    special = ("hdu", "band", "pixel_scale", "catalog", "size")
    if any(keywords.get(key) is not None for key in special) or result.n_errors:
        return None
    return ["explain", keywords["run"], *keywords["images"], "--out", "why"]


def _after_export(keywords: Options, result: Any) -> Step:
    if keywords.get("format") == "hub":
        return ["evaluate", keywords["out"]] if _is_of_survey(keywords["out"]) else None
    from haloformer.evaluation.exported import survey_of

    if keywords.get("check") or survey_of(keywords["model"]) is None:
        return None
    options = {key: keywords[key] for key in ("format", "precision") if keywords.get(key)}
    given = [word for key, value in options.items() for word in (f"--{key}", value)]
    return ["export", keywords["model"], "--out", keywords["out"], *given, "--check", 300, "--overwrite"]  # fmt: skip


def _after_fit(keywords: Options, result: Any) -> Step:
    if keywords.get("survey") is not None or keywords.get("perturber"):
        return None
    from haloformer.fitting.command import changed

    kept = (
        *("psf", "psf_scale", "noise_map", "neighbour_correlation", "mask", "radius", "z_lens", "z_source", "like", "hdu", "band"),
        *("pixel_scale", "lens_light", "multipoles", "supersampling", "source_prior", "start"),
    )  # fmt: skip
    given = [
        word for key in changed(keywords, kept) for word in (f"--{key}", str(keywords[key]).lower() if isinstance(keywords[key], bool) else keywords[key])
    ]  # fmt: skip
    return ["fit", *keywords["images"], *given, "--perturber", "--out", f"{keywords['out']}-subhalo"]  # fmt: skip


def _after_explain(keywords: Options, result: Any) -> Step:
    return _audit(keywords["run"])


_STEPS: dict[str, Callable[[Options, Any], Step]] = {
    "simulate": _after_simulate,
    "convert": lambda keywords, result: _train_on(keywords["out"]),
    "inspect": lambda keywords, result: (
        _train_on(keywords["data"]) if str(keywords["data"]).endswith((".h5", ".hdf5")) else None
    ),
    "train": _after_train,
    "study": _after_study,
    "benchmark": _after_study,
    "tune": _after_tune,
    "evaluate": _after_evaluate,
    "calibrate": _after_calibrate,
    "audit": _after_audit,
    "limits": lambda keywords, result: _train_on_survey(keywords["survey"]),
    "compare": _after_compare,
    "predict": _after_predict,
    "export": _after_export,
    "fit": _after_fit,
    "explain": _after_explain,
    "doctor": lambda keywords, result: ["try"],
}
