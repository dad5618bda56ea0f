"""An audit in words, tables and figures; everything is computed from the content of ``audit.json``."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from haloformer.audit.bench import SURE
from haloformer.audit.noise import draw_noise, noise_says, noise_tables
from haloformer.audit.out_of_distribution import draw_ood, ood_says, ood_tables
from haloformer.audit.shift import draw_matrix, draw_shift, shift_says, shift_tables
from haloformer.audit.shortcut import MOMENTS, draw_shortcut, shortcut_says, shortcut_tables
from haloformer.audit.symmetry import draw_symmetry, symmetry_says, symmetry_tables
from haloformer.reporting import html
from haloformer.reporting.markdown import cell, markdown_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_TITLES = {
    "shortcut": "Shortcuts",
    "noise": "Noise",
    "shift": "Another camera, another survey",
    "symmetry": "Symmetry",
    "ood": "Images that it should not answer",
}


_WHAT = {
    "shortcut": (
        "In the DeepLense surveys substructure is added to a lens of fixed mass, so the ring grows with it, and the class can be read from the ring's size. "
        "Two classifiers get {n_moments} numbers of each image and nothing else ({moments}), from {n_train:,} images of another seed. Then the main lens of every scene "
        "is made lighter by what its substructure brings, so that all classes have the same mass within the same Einstein radius: the same scenes, seen by the model "
        "as it is, and by moment classifiers that are trained anew on such images."
    ),
    "noise": (
        "The same scenes with exposures from a tenth to ten times as long. SNR is that of the brightest pixel, the median over images; the background falls as "
        "sky and read noise do, or with the square root of the time where the survey gives it as one number."
    ),
    "shift": (
        "The same scenes through another PSF, or with another pixel scale and the same number of pixels; the model is not told. In the table of surveys, images of other surveys have "
        "the noise that is named and are brought to the model's camera: resampled to its pixel scale (bilinear, antialiased), cut or framed with zeros to its size, and "
        "multiplied by one number for all, so that the 99 % quantile of the pixels has the same median over images."
    ),
    "symmetry": (
        "The eight symmetries of the square. Physics does not care how a lens lies on the detector; a survey whose lenses all lie alike does. "
        "Δ logit is the mean of |change| over classes and images, after the mean over the classes is taken off; 'changed' is the share of images that get another class."
    ),
    "ood": (
        "What the model says of images that are not of its survey. 'Sure' is the share that gets a class with probability of at least {sure:g}. "
        "Files are cut to their central part (enlarged, if smaller than the model's images), their median is taken off, and their brightness is brought to that of the survey's images. "
        "'At 1 % false alarms': the score is above the one that 1 % of {n:,} images as trained exceed."
    ),
}


def verdict(result: dict[str, Any]) -> str:
    """Returns one paragraph about the parts that were measured."""
    return " ".join(_paragraphs(result))


def _paragraphs(result: dict[str, Any]) -> list[str]:
    says = {
        "shortcut": shortcut_says,
        "noise": noise_says,
        "shift": shift_says,
        "symmetry": symmetry_says,
        "ood": ood_says,
    }
    sentences = [says[name](part) for name, part in result["parts"].items()]
    if result["protocol"]["seen_in_training"]:
        sentences.insert(
            0,
            "The model was trained or selected on these very scenes, so all that follows flatters it.",
        )
    return sentences


@dataclass
class _Section:
    """One part as both texts show it."""

    name: str
    what: str
    tables: list[tuple[list[str], list[list[str]]]]


def _sections(result: dict[str, Any]) -> list[_Section]:
    tables = {
        "shortcut": shortcut_tables,
        "noise": noise_tables,
        "shift": shift_tables,
        "symmetry": symmetry_tables,
        "ood": ood_tables,
    }
    protocol = result["protocol"]
    found = []
    for name, part in result["parts"].items():
        what = _WHAT[name].format(
            n_moments=len(MOMENTS),
            moments=", ".join(MOMENTS),
            n_train=part.get("n_train", 0),
            sure=SURE,
            n=protocol["n"],
        )
        found.append(_Section(name, what, tables[name](part, protocol["class_names"])))
    return found


def _title(result: dict[str, Any]) -> str:
    return f"Audit of {result['protocol']['run']}"


def _subject(result: dict[str, Any]) -> str:
    protocol = result["protocol"]
    return (
        f"{protocol['model']}{' with the residual of a smooth fit' if protocol['residual'] else ''}, trained on {protocol['survey']} (noise: {protocol['noise']}). "
        f"{protocol['n']:,} images per point ({protocol['n_fewer']:,} where each is seen many times), seed {protocol['seed']}; intervals are 95 %, over test images; "
        f"haloformer {protocol['code_version']}, {protocol['date']}."
    )


def to_markdown(result: dict[str, Any], figures: dict[str, str]) -> str:
    """Returns the audit as Markdown.

    Args:
        result: The content of ``audit.json``.
        figures: Name of each figure and its path relative to the text.
    """
    lines = [
        f"# {cell(_title(result))}",
        "",
        cell(result["verdict"]),
        "",
        f"*{cell(_subject(result))}*",
        "",
    ]
    for section in _sections(result):
        lines += [f"## {_TITLES[section.name]}", "", cell(section.what), ""]
        for header, rows in section.tables:
            lines += [*markdown_table([cell(name) for name in header], rows), ""]
        for name in _FIGURES[section.name]:
            if name in figures:
                lines += [f"![{cell(_CAPTIONS[name])}]({figures[name]})", ""]
    return "\n".join(lines)


def to_html(result: dict[str, Any], figures: dict[str, Markup]) -> str:
    """Returns the audit as one self-contained page.

    Args:
        result: The content of ``audit.json``.
        figures: Name of each figure and its ``<svg>`` element, of `reporting.style.inline_svg`.
    """
    sections = []
    for section in _sections(result):
        tables = [html.table(*table) for table in section.tables]
        shown = [
            html.figure(name, figures[name], _CAPTIONS[name])
            for name in _FIGURES[section.name]
            if name in figures
        ]
        sections.append(html.section(_TITLES[section.name], html.paragraph(section.what), *tables))
        sections += html.figures_section(shown)
    sections.append(html.section("Protocol", html.paragraph(_subject(result))))
    lead = [html.paragraph(text) for text in _paragraphs(result)]
    return html.page("audit", _title(result), lead, sections)


_FIGURES = {
    "shortcut": ("shortcut",),
    "noise": ("noise",),
    "shift": ("shift", "matrix"),
    "symmetry": ("symmetry",),
    "ood": ("ood",),
}


_CAPTIONS = {
    "shortcut": "Macro AUC of the model and of classifiers that see a few moments only, on the survey as it is and with matched masses.",
    "noise": "Macro AUC against the SNR of the brightest pixel, for the same scenes exposed for longer and shorter.",
    "shift": "Macro AUC through another PSF and with another pixel scale.",
    "matrix": "Macro AUC of models (rows) on surveys (columns).",
    "symmetry": "Macro AUC and share of changed decisions under the symmetries of the square.",
    "ood": "Share of images that get a sure answer, and that are flagged.",
}


def draw(result: dict[str, Any]) -> "dict[str, Figure]":
    """Returns the figures of the parts that were measured, by name."""
    drawers: dict[str, Any] = {
        "shortcut": lambda part: {"shortcut": draw_shortcut(part)},
        "noise": lambda part: {"noise": draw_noise(part)},
        "shift": lambda part: {"shift": draw_shift(part), "matrix": draw_matrix(part["matrix"])},
        "symmetry": lambda part: {"symmetry": draw_symmetry(part)},
        "ood": lambda part: {"ood": draw_ood(part)},
    }
    return {
        name: figure
        for part, measured in result["parts"].items()
        for name, figure in drawers[part](measured).items()
    }
