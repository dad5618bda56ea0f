"""Estimates the mass of the axion from images of vortices, with intervals that hold what they promise.

python examples/mass.py runs/mass
"""

import sys

import haloformer


def main(
    out: str = "runs/mass",
    model: str = "hybrid_nano",
    images: int = 1500,
    epochs: int = 3,
    n_test: int = 300,
) -> None:
    haloformer.train(
        "model_ii",
        model,
        out,
        preset="mass,noise_free",
        epoch_size=images,
        epochs=epochs,
        val_size=300,
        ema=0.0,  # an average over so few steps would still remember the first
        progress=False,
    )
    tested = haloformer.evaluate(out, "model_ii", n=n_test, overwrite=True)["regression"][
        "log10_m_axion"
    ]
    mae, coverage = tested["mae"]["value"], tested["coverage"]["value"]
    print(f"mean error {mae:.3f} dex; always saying the mean: {tested['mae_of_mean']:.3f}")
    print(
        f"{coverage:.0%} of the true masses lie in their {tested['nominal_coverage']:.0%} intervals"
    )


if __name__ == "__main__":
    main(*sys.argv[1:2])
