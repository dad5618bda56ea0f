"""How well does the shipped model of the applicants' task answer where the original images may differ from those it was trained on?

    python benchmarks/scaled.py                 # two minutes: 900 images of each variant
    python benchmarks/scaled.py --model runs/x  # another model of common_task

Each variant changes one thing of the survey common_task; nothing is chosen by the result.
"""

import argparse
import datetime
import tempfile
from pathlib import Path
from typing import Any

import yaml

from haloformer import evaluate
from simulation import hardware, table

N, SEED = 900, 4000
_SOURCE: dict[str, Any] = {
    "light": [
        {
            "kind": "sersic",
            "R_sersic": 0.5,
            "n_sersic": 1.5,
            "q": {"uniform": [0.7, 1]},
            "angle": {"uniform": [0, 0.10966]},
        }
    ],
    "radius": {"uniform": [0, 0.5]},
}
_ANYHOW = {"uniform": [0, 6.283185307179586]}
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "sources brighter by a fifth": {"source": {**_SOURCE, "amp": 144}},
    "a sky brighter by two thirds": {"instrument": {"base": "alexander_2020", "sky": 0.05}},
    "a point-spread function narrower by a quarter": {
        "instrument": {"base": "alexander_2020", "sky": 0.03, "psf_fwhm": 0.177}
    },
    "a point-spread function wider by a tenth": {
        "instrument": {"base": "alexander_2020", "sky": 0.03, "psf_fwhm": 0.259}
    },
    "pixels larger by 1.5 %": {
        "instrument": {"base": "alexander_2020", "sky": 0.03, "pixel_scale": 0.05075}
    },
    "heavier substructure, its mass taken from the lens": {
        "substructure": {
            "axion": [{"kind": "vortex", "n_masses": 25, "mass": {"uniform": [3.0e10, 5.5e10]}, "length": 1}],
            "cdm": [{"kind": "point_masses", "mass": {"power_law": [1.0e6, 1.0e10, -0.9]}}],
            "no_sub": [],
        },
        "matching": "mass",
    },
    "rings that lie anyhow": {
        "lens": [
            {"kind": "epl", "mass": 1.0e12, "gamma": 2},
            {"kind": "shear", "gamma": {"uniform": [0, 0.3]}, "angle": _ANYHOW},
        ]
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="common_task")
    model = parser.parse_args().model
    print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {hardware()}, seed {SEED}")
    rows = [["images", "macro AUC", "95 % interval", "accuracy"]]
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, changes) in enumerate(VARIANTS.items()):
            path = Path(folder) / f"variant_{number}.yaml"
            path.write_text(yaml.safe_dump({"base": "common_task", **changes}), encoding="utf-8")
            found = evaluate(model, str(path), out=f"{folder}/{number}", n=N, seed=SEED)
            auc = found["macro_auc"]
            interval = f"{auc['low']:.3f} – {auc['high']:.3f}"
            rows.append([name, f"{auc['value']:.3f}", interval, f"{found['accuracy']['value']:.3f}"])  # fmt: skip
    print(table(rows))


if __name__ == "__main__":
    main()
