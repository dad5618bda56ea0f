"""What a model that knows one survey's smooth lens does when the smooth lens is another: AUC ± 95 % and the fit's chi².

    python benchmarks/robustness.py model_i                          # the shipped model, a few minutes on one core
    python benchmarks/robustness.py model_i runs/dropout --n 3000 --out table.md

Each row changes one thing of Model I, for all three classes, and leaves model and fit as they are. The images of all rows are the same scenes.
"""

import argparse
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from haloformer import load
from haloformer._version import code_version
from haloformer.data.framing import Framing
from haloformer.evaluation.metrics import log_odds, macro_auc
from haloformer.reporting.interval import format_interval, wilson
from haloformer.simulation import Simulator
from simulation import hardware, table

SEED = 52

CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "PSF 10 % wider": {"instrument": {"base": "deeplense_150", "psf_fwhm": 0.0957}},
    "PSF 50 % wider": {"instrument": {"base": "deeplense_150", "psf_fwhm": 0.1305}},
    "source 20 % larger": {"source": {"base": "disc_amp20", "R_sersic": 0.30}},
    "source's Sérsic index 1.5, not 1": {"source": {"base": "disc_amp20", "n_sersic": 1.5}},
    "source turned by 45°": {"source": {"base": "disc_amp20", "e1": 0.1, "e2": 0.1}},
    "shear 0.06, not 0.05": {"deflector": {"base": "sie_1e12", "gamma1": 0.06}},
    "shear 0.10, not 0.05": {"deflector": {"base": "sie_1e12", "gamma1": 0.10}},
    "deflector's e1 0.15, not 0.10": {"deflector": {"base": "sie_1e12", "e1": 0.15}},
    "deflector off by 0.05″": {"deflector": {"base": "sie_1e12", "x": 0.05}},
    "lens light, 5 % of the flux": {"light": 0.05},
    "lens light, 50 % of the flux": {"light": 0.50},
}


def simulator(change: dict[str, Any]) -> Simulator:
    fields = {key: value for key, value in change.items() if key != "light"}
    return Simulator({"base": "model_i", "name": "model_i", **fields}, seed=SEED)


def lens_light(side: int, pixel_scale: float) -> torch.Tensor:
    """Returns the light of a round de Vaucouleurs galaxy of half-light radius 0.6″ in the middle, (H, W), of total 1."""
    at = (np.arange(side) - (side - 1) / 2) * pixel_scale
    radius = np.hypot(*np.meshgrid(at, at))
    b = 7.669  # b_n of n = 4
    light = np.exp(-b * ((radius + pixel_scale / 4) / 0.6) ** 0.25)
    return torch.from_numpy(light / light.sum())


def answers(
    change: dict[str, Any], models: list[Any], n: int
) -> tuple[np.ndarray, list[np.ndarray], list[float]]:
    source = simulator(change)
    light = lens_light(source.image_shape[-1], source.survey.instrument.pixel_scale)
    random = torch.Generator().manual_seed(SEED)
    labels, logits, chi2 = [], [[] for _ in models], []
    for start in range(0, n, 250):
        batch = source.batch(range(start, min(start + 250, n)))
        images = batch.images
        if share := change.get("light"):
            total = images.clamp_min(0).sum((1, 2, 3), keepdim=True)
            images = images + torch.poisson(share * total * light, generator=random).float()
        labels.append(batch.labels.numpy())
        for kept, model in zip(logits, models):
            kept.append(model.predict_logits(images).numpy())
        fitter = models[0].residual._fitter
        smooth = batch.labels == batch.class_names.index("no_sub")
        chi2 += fitter(Framing(crop=fitter.size)(images[smooth].float())).chi2.tolist()
    return np.concatenate(labels), [np.concatenate(kept) for kept in logits], chi2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="run folders or names of shipped models")
    parser.add_argument("--n", type=int, default=1500, help="images per row")
    parser.add_argument("--out", type=Path, help="write the table there, too")
    options = parser.parse_args()
    models = [load(name, "cpu") for name in options.models]
    rows = [
        [
            "what is different",
            "chi² of no_sub, median",
            *(
                f"{Path(name).name}: {what}"
                for name in options.models
                for what in ("macro AUC (95 %)", "accuracy")
            ),
        ]
    ]
    for name, change in CHANGES.items():
        labels, found, chi2 = answers(change, models, options.n)
        row = [name, f"{np.median(chi2):.2f}"]
        for logits in found:
            accuracy = wilson(int((logits.argmax(1) == labels).sum()), len(labels))
            row += [format_interval(macro_auc(labels, log_odds(logits))), f"{accuracy.value:.3f}"]
        rows.append(row)
        print(*row, sep="  ", flush=True)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    text = f"{options.n:,} images per row, seed {SEED}; {date}, {hardware()}, one thread; haloformer {code_version()}.\n\n{table(rows)}\n"
    print(f"\n{text}")
    if options.out:
        options.out.write_text(f"# When the smooth lens is another\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
