"""What ``--dry_run`` tells of the commands that measure: ``audit``, ``limits`` and ``fit``."""

import dataclasses
import inspect
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from haloformer.cli.planning import Plan, by, seconds_each

_TRIED = 120  # images of each of a survey's audit's sets, by which its time is estimated
_FIGURE = 400_000  # bytes that a report with its pictures has


def limits(**options: Any) -> Plan:
    """Plans `haloformer limits`."""
    from haloformer.oracle.command import limits as command
    from haloformer.oracle.run import LEAST_REALISATIONS, Asked, of_lens
    from haloformer.oracle.scene import Lens

    given = _all_of(command, options)
    asked = Asked.of(**{name: value for name, value in given.items() if name != "progress"})
    lenses, realisations, seed = (given[name] for name in ("lenses", "realisations", "seed"))
    there = sum(asked.kept.read(number) is not None for number in range(lenses))
    classes, few = asked.classes(), LEAST_REALISATIONS
    lens = Lens.of(asked.survey, seed, 0)

    def simulated(n: int) -> float:
        began = time.perf_counter()
        for name in classes:
            for _ in lens.signals(name, n):
                pass
        return time.perf_counter() - began

    simulated(few)  # compiles what is compiled
    simulating, began = simulated(few), time.perf_counter()
    of_lens(asked.survey, classes, asked.levels, seed, 0, few, lambda n: None)
    whole = time.perf_counter() - began
    seconds = (lenses - there) * (max(whole - simulating, 0) + simulating * realisations / few)
    facts = {
        "lenses": f"{lenses}" + (f", of which {there} are known from an earlier call" if there else ""),
        "realisations": f"{realisations} of each of {len(classes)} classes in each lens",
    }  # fmt: skip
    measured = f"{few} realisations in one lens"
    what = f"measure the limits of {asked.survey.name}"
    return Plan(what, facts, seconds, _FIGURE, given["out"], measured)


def audit(**options: Any) -> Plan:
    """Plans `haloformer audit`."""
    from haloformer.audit.command import audit as command
    from haloformer.audit.run import asked_for

    given = _all_of(command, options)
    if given["run"] is None:
        return _audit_of_survey(given)
    asked = asked_for(**{**given, "progress": False})
    model = dataclasses.replace(asked.audited, progress=False)

    def answered(numbers: range) -> None:
        model.predictions({"plain": dataclasses.replace(model.plain, n=len(numbers))}, "")

    each, measured = seconds_each(answered)
    facts = {
        "parts": ", ".join(asked.missing) or "none: all are there",
        "images": f"{given['n']:,} per condition",
        "an image": f"{each * 1e3:.1f} ms to simulate and classify",
    }
    notes = ["How often the model sees each image depends on the part; each shows its progress."]
    return Plan(f"audit {given['run']}", facts, None, _FIGURE, given["out"], measured, notes)


def _audit_of_survey(given: dict[str, Any]) -> Plan:
    from haloformer.audit.command import SURVEY_SEED, named_survey
    from haloformer.audit.fairness import carried_out, checked

    others = ("parts", "compare", "real", "galaxies")
    name = named_survey(given["survey"], **{other: given[other] for other in others})
    n, out = given["n"], given["out"]
    seed = SURVEY_SEED if given["seed"] is None else given["seed"]
    simulator, _ = checked(name, out, n=n, seed=seed, overwrite=given["overwrite"])
    simulator.batch(range(8))  # compiles what is compiled
    began = time.perf_counter()
    carried_out(name, simulator, _TRIED, seed, lambda done: None)
    seconds = (time.perf_counter() - began) / _TRIED * n
    facts = {"test images": f"{n:,}, and as many to train each classifier"}
    measured = f"all of it with {_TRIED} test images"
    return Plan(f"audit the survey {name}", facts, seconds, 20_000, out, measured)


def fit(**options: Any) -> Plan:
    """Plans `haloformer fit`."""
    from haloformer.fitting.command import fit as command

    given = _all_of(command, options)
    return _fit_of_lens(given) if given["survey"] is None else _fit_of_survey(given)


def _fit_of_survey(given: dict[str, Any]) -> Plan:
    from haloformer.data.reader import check_choices
    from haloformer.fitting.command import reading_of
    from haloformer.fitting.to_table import N_USUAL, Asked
    from haloformer.simulation import Simulator

    check_choices(given["on_error"], given["batch_size"])
    shown = given["out"] == "-"
    if shown:
        given["out"] = str(Path(tempfile.gettempdir()) / f"haloformer-{os.getpid()}.csv")
    names = ("images", "survey", "out", "noise", "figure", "overwrite", "on_error")
    asked = Asked.of(reading=reading_of(given), **{name: given[name] for name in names})
    simulator = Simulator(asked.survey, noise=given["noise"])
    each, measured = seconds_each(lambda numbers: asked.fitter(simulator.batch(numbers).images))
    facts = {
        "images": f"{asked.n:,}, and {N_USUAL} simulated ones that tell which χ² are usual",
        "free": ", ".join(asked.fitter.names),
    }
    n_bytes = asked.n * (2 * len(asked.fitter.names) + 4) * 12
    what = f"fit {asked.n:,} images of {asked.survey.name}"
    out = "standard output" if shown else str(asked.target)
    return Plan(what, facts, (asked.n + N_USUAL) * each, n_bytes, out, f"{measured} and fitted")


def _fit_of_lens(given: dict[str, Any]) -> Plan:
    from haloformer.fitting.command import lens_of, options_of, reading_of
    from haloformer.fitting.reallens.files import asked_for

    files, reading, options = lens_of(given), reading_of(given), options_of(given)
    target = Path(given["out"])
    seen, _ = asked_for(files, reading, target, given["like"], given["overwrite"])
    stages = [
        "smooth lens",
        *(["perturber"] if options.perturber else []),
        *(["samples"] if options.sample else []),
    ]
    facts = {
        "image": f"{by(seen.image.shape)} pixels of {seen.pixel_scale:.4g}″, {int(seen.mask.sum()):,} of which count",
        "noise": "measured in the corners" if seen.noise_measured else "as the map says",
        "stages": ", ".join(stages),
    }  # fmt: skip
    measured = "the size of such folders; how long a lens takes, its arcs decide"
    return Plan(f"fit the lens {seen.name}", facts, None, _FIGURE, str(target), measured)


def _all_of(command: Callable[..., object], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all arguments of a command's function: those that are given, and the others' defaults."""
    bound = inspect.signature(command).bind(**options)
    bound.apply_defaults()
    return dict(bound.arguments)
