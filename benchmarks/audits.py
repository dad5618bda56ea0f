"""Have the shipped surveys shortcuts? The audits of all of them, and the table of docs/audit.md.

    python benchmarks/audits.py run            # hours: 15,000 test images of each survey; goes on where it stopped
    python benchmarks/audits.py run hst        # of one survey
    python benchmarks/audits.py report         # the table, and what model cards say, from results/audits
    python benchmarks/audits.py why rubin      # by how much each class shifts the moments of one lens

An audit is ``haloformer audit --survey NAME --n 15000``; its ``audit.json`` and ``audit.md`` lie in ``results/audits/NAME``.
"""

import argparse
import json
import re
from pathlib import Path

from haloformer.audit.fairness import audit_survey
from haloformer.audit.shortcut import MOMENTS, image_moments
from haloformer.io.writing import write_text
from haloformer.simulation import Simulator, list_surveys

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "audits"
DOCUMENT = ROOT / "docs" / "audit.md"
FINDINGS = ROOT / "src" / "haloformer" / "prediction" / "survey_audits.json"
N, SEED = 15_000, 1000
FAITHFUL = ("model_i", "model_ii", "model_iii", "model_iv")
TESTS = ("moments", "macro", "blurred", "permuted", "smooth")
BEGIN, END = "<!-- audits: begin -->", "<!-- audits: end -->"


def fair_surveys() -> list[str]:
    """Returns the shipped surveys that are to have no shortcut."""
    old = (*FAITHFUL, "alexander_2020_a", "alexander_2020_b", "common_task")
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
    for name in (*FAITHFUL, *fair_surveys()):
        path = RESULTS / name / "audit.json"
        if path.exists():
            tests = json.loads(path.read_text(encoding="utf-8"))["tests"]
            lines.append(f"| `{name}` | " + " | ".join(cell(tests.get(t)) for t in TESTS) + " |")
    return "\n".join(lines)


def findings() -> dict[str, dict[str, object]]:
    """Returns what model cards say of the surveys: how well moments alone tell the classes apart."""
    found = {}
    for name in (*FAITHFUL, *fair_surveys()):
        path = RESULTS / name / "audit.json"
        if path.exists():
            audit = json.loads(path.read_text(encoding="utf-8"))
            found[name] = {
                **{key: audit[key] for key in ("n", "seed", "date", "hardware", "code_version")},
                "moments": audit["tests"]["moments"],
            }
    return found


def report() -> None:
    """Writes the table into the document, between its markers."""
    text = DOCUMENT.read_text(encoding="utf-8")
    part = f"{BEGIN}\n\n{table()}\n\n{END}"
    new, times = re.subn(
        re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: part, text, flags=re.DOTALL
    )
    if times != 1:
        raise SystemExit(f"{DOCUMENT}: needs one pair of {BEGIN} and {END}")
    write_text(DOCUMENT, new)
    write_text(FINDINGS, json.dumps(findings(), indent=1) + "\n")
    print(table())


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
    parser.add_argument("what", choices=("run", "report", "why"))
    parser.add_argument("surveys", nargs="*", help="all that lack an audit if none is named")
    options = parser.parse_args()
    if options.what == "report":
        report()
        return
    if options.what == "why":
        for name in options.surveys:
            why(name)
        return
    for name in options.surveys or (*FAITHFUL, *fair_surveys()):
        if not (RESULTS / name / "audit.json").exists():
            audit_survey(name, str(RESULTS / name), n=N, seed=SEED, overwrite=False, progress=None)
            print(f"audited {name}", flush=True)


if __name__ == "__main__":
    main()
