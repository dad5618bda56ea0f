"""``haloformer calibrate``."""

from collections.abc import Mapping
from typing import Any

from haloformer.cli.present import say
from haloformer.cli.registry import Command


def present(result: Mapping[str, Any]) -> None:
    """Prints the temperature, the thresholds of the out-of-distribution detector, and the file."""
    say(f"calibrated on {result['data']}")
    if (found := result["calibration"]) is not None:
        say(
            f"temperature {found['temperature']:.3f}: negative log-likelihood "
            f"{found['nll_before']:.4f} before, {found['nll_after']:.4f} after"
        )
    if (detector := result["ood"]) is not None:
        say(
            f"out-of-distribution images are detected by {', '.join(detector['thresholds'])}; "
            f"{100 * detector['alarm_rate']:.2g} % of images like these are flagged, too"
        )
    say(f"wrote {result['out']}")


COMMAND = Command(
    "calibrate a trained network's probabilities, and fit its out-of-distribution detector",
    positional=("run",),
    present=present,
    examples=("haloformer calibrate runs/x", "haloformer calibrate runs/x --data held_out.h5"),
)
