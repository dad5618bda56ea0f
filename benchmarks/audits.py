"""Have the shipped surveys shortcuts, and how much is there to find? Audits and limits of all of them, and the tables of docs/audit.md.

    python benchmarks/audits.py run            # hours: 15,000 test images of each survey; goes on where it stopped
    python benchmarks/audits.py run hst        # of one survey
    python benchmarks/audits.py limits         # an hour: how well the classes of the fair ones can be told apart at all
    python benchmarks/audits.py report         # the tables, and what model cards say, from results/audits and results/limits
    python benchmarks/audits.py why rubin      # by how much each class shifts the moments of one lens

An audit is ``haloformer audit --survey NAME --n 15000``; its ``audit.json`` and ``audit.md`` lie in ``results/audits/NAME``.
Limits are ``haloformer limits NAME``; they lie in ``results/limits/NAME``.
"""

import argparse
import json
from pathlib import Path

from haloformer.audit.fairness import audit_survey
from haloformer.audit.shortcut import MOMENTS, image_moments
from haloformer.io.writing import write_text
from haloformer.oracle.command import limits
from haloformer.simulation import Simulator, list_surveys

ROOT = Path(__file__).resolve().parents[1]
RESULTS, LIMITS = ROOT / "results" / "audits", ROOT / "results" / "limits"
DOCUMENT = ROOT / "docs" / "audit.md"
FINDINGS = ROOT / "src" / "haloformer" / "prediction" / "survey_audits.json"
N, SEED = 15_000, 1000
FAITHFUL = ("model_i", "model_ii", "model_iii", "model_iv")
OLDER = ("alexander_2020_a", "alexander_2020_b", "common_task")
TESTS = ("moments", "macro", "blurred", "permuted", "smooth")


def fair_surveys() -> list[str]:
    """Returns the shipped surveys that are to have no shortcut."""
    old = (*FAITHFUL, *OLDER)
    ladder = ["model_i_fair", *sorted(n for n in list_surveys(composed=True) if n.startswith("ladder_")), "hst"]  # fmt: skip
    others = [n for n in list_surveys(composed=True) if n not in (*old, *ladder)]
    return ladder + sorted(others)


def cell(test: dict[str, float] | None) -> str:
    """Returns an AUC and its interval, bold where the interval lies above 0.5."""
    if test is None:
        return ""
    text = f"{test['auc']:.3f} ({test['low']:.3f}–{test['high']:.3f})"
    return f"**{text}**" if test["low"] > 0.5 else text


def table() -> str:
    """Returns the table of the audits in ``results/audits``."""
    lines = ["| survey | " + " | ".join(TESTS) + " |", "|---" * (len(TESTS) + 1) + "|"]
    for name in (*FAITHFUL, *OLDER, *fair_surveys()):
        path = RESULTS / name / "audit.json"
        if path.exists():
            tests = json.loads(path.read_text(encoding="utf-8"))["tests"]
            lines.append(f"| `{name}` | " + " | ".join(cell(tests.get(t)) for t in TESTS) + " |")
    return "\n".join(lines)


def limits_table() -> str:
    """Returns the table of the limits in ``results/limits``."""
    lines = [
        "| survey | axion: signal / noise | cdm: signal / noise | reached, lens and source known | reached | bound |",
        "|---" * 6 + "|",
    ]
    for name in fair_surveys():
        path = LIMITS / name / "limits.json"
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            first, last = found["levels"]["known"], found["levels"][found["limit"]]
            signals = [last["signal"][kind] for kind in ("axion", "cdm")]
            cells = [f"{s['p50']:.2g} ({s['p16']:.2g}–{s['p84']:.2g})" for s in signals]
            for level in (first, last):
                reached = (level["reached"][k] for k in ("value", "low", "high"))
                cells.append("{:.3f} ({:.3f}–{:.3f})".format(*reached))
            lines.append(f"| `{name}` | {' | '.join(cells)} | {last['bound']:.3f} |")
    return "\n".join(lines)


def findings() -> dict[str, dict[str, object]]:
    """Returns what model cards say of the surveys: how well moments alone tell the classes apart."""
    found = {}
    for name in (*FAITHFUL, *OLDER, *fair_surveys()):
        path = RESULTS / name / "audit.json"
        if path.exists():
            audit = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {
                **{key: audit[key] for key in ("n", "seed", "date", "hardware", "code_version")},
                "moments": audit["tests"]["moments"],
            }
    return found


def report() -> None:
    """Writes the tables into the document, between their markers."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for kind, made in (("audits", table()), ("limits", limits_table())):
        begin, end = f"<!-- {kind}: begin -->", f"<!-- {kind}: end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"{DOCUMENT}: needs one pair of {begin} and {end}")
        before, after = text.split(begin)[0], text.split(end)[1]
        text = f"{before}{begin}\n\n{made}\n\n{end}{after}"
        print(made)
    write_text(DOCUMENT, text)
    write_text(FINDINGS, json.dumps(findings(), indent=1) + "\n")


def why(name: str, lenses: int = 300) -> None:
    """Prints the mean change of each moment by a class's substructure, in units of the moment's spread; noise-free, one lens in all classes."""
    simulator = Simulator(name, seed=5, paired=True, noise="none")
    names, empty = simulator.class_names, simulator.class_names.index("no_sub")
    images = simulator.batch(range(len(names) * lenses)).images.float()
    found = image_moments(images).reshape(lenses, len(names), -1)
    spread = found[:, empty].std(0)
    print(f"| class | {' | '.join(MOMENTS)} |\n" + "|---" * (len(MOMENTS) + 1) + "|")
    for k, class_name in enumerate(names):
        if k != empty:
            shift = (found[:, k] - found[:, empty]).mean(0) / spread
            print(f"| {class_name} | {' | '.join(f'{value:+.3f}' for value in shift)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "limits", "report", "why"))
    parser.add_argument("surveys", nargs="*", help="all that lack an audit if none is named")
    options = parser.parse_args()
    if options.what == "report":
        report()
        return
    if options.what == "why":
        for name in options.surveys:
            why(name)
        return
    if options.what == "limits":
        for name in options.surveys or fair_surveys():
            if not (LIMITS / name / "limits.json").exists():
                limits(name, out=str(LIMITS / name))
        return
    for name in options.surveys or (*FAITHFUL, *OLDER, *fair_surveys()):
        if not (RESULTS / name / "audit.json").exists():
            audit_survey(name, str(RESULTS / name), n=N, seed=SEED, overwrite=False, progress=None)
            print(f"audited {name}", flush=True)


if __name__ == "__main__":
    main()
