"""Samples of the posterior of a real lens by nested sampling: the mass and the source's smoothness, source and lens light integrated over.

dynesty (Speagle 2020, arXiv:1904.02180) does the sampling. The prior times the evidence is divided otherwise than usual between "prior" and
"likelihood": what is drawn from is a Gaussian of Laplace's covariance, several times as wide, and the rest is the likelihood. Their product, and
with it posterior and evidence, stays, and far fewer evaluations are needed (Chen, Hobson, Das & Gelderblom 2019, arXiv:1808.04635).
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from haloformer.errors import InputError, how_to_install
from haloformer.fitting.reallens.hyperparameters import extents_of
from haloformer.fitting.reallens.optimise import Fit, Report, fit_at
from haloformer.fitting.reallens.perturbers import prior_volume
from haloformer.fitting.reallens.stages import Stages
from haloformer.fitting.reallens.start import lengths_of

SAMPLERS = ("nested",)
SMOOTHNESS = ("source_amplitude", "source_length", "source_faint", "source_extent")
"""Names of the source's hyper-parameters among samples; their logarithms are sampled, with a normal prior of width 1 about the best: without one,
light that is too faint to be seen could be fainter without end."""

_WIDER = 1.8  # than Laplace's covariance, of what is drawn from
_ROOM = 1.25  # by which the volume of ellipsoids exceeds that of the live points' own
_NOWHERE = -1e100  # ln likelihood beyond the bounds
_LEFT = 0.2  # ln evidence that may be left when sampling ends
_KEPT_EVERY = 60.0  # seconds
_SEED = 1


@dataclass(frozen=True, eq=False)
class Samples:
    """Draws from a posterior, of equal weight.

    Attributes:
        names: The parameters: those of the mass model, and :data:`SMOOTHNESS`.
        values: (S, K) their values.
        evidence: −2 ln evidence with all parameters integrated over, comparable between models of one image and source grid.
        evidence_error: Its standard deviation.
        evaluations: How often the evidence of given parameters was computed.
        effective: Number of independent draws that the samples are worth.
        seconds: Of CPU time.
    """

    names: tuple[str, ...]
    values: np.ndarray
    evidence: float
    evidence_error: float
    evaluations: int
    effective: float
    seconds: float

    def of(self, name: str) -> np.ndarray | None:
        """Returns the draws (S,) of a parameter, axis ratios and the strength of the shear among them; None if it was not sampled."""
        if name in self.names:
            found: np.ndarray = self.values[:, self.names.index(name)]
            return found
        pair = {"axis_ratio": ("e1", "e2"), "shear": ("gamma1", "gamma2")}.get(name)
        if pair is None:
            return None
        size = np.hypot(*(self.values[:, self.names.index(each)] for each in pair))
        shown: np.ndarray = (1 - size) / (1 + size) if name == "axis_ratio" else size
        return shown

    def percentiles(self, name: str, factor: float = 1.0) -> dict[str, float]:
        """Returns ``median``, ``p16`` and ``p84`` of a parameter times a factor; nothing if it was not sampled."""
        draws = self.of(name)
        if draws is None:
            return {}
        low, middle, high = (float(q) for q in factor * np.percentile(draws, [16, 50, 84]))
        return {"median": middle, "p16": low, "p84": high}


def check_sampler(name: str | None) -> None:
    """Raises InputError for a sampler that is not known or not installed."""
    if name is None:
        return
    if name not in SAMPLERS:
        raise InputError(f"sample is '{name}': known is {', '.join(SAMPLERS)}")
    try:
        import dynesty  # noqa: F401
    except ImportError as error:
        raise InputError(f"nested sampling needs dynesty: {how_to_install('sample')}") from error


def sample(
    fit: Fit,
    covariance: np.ndarray,
    name: str,
    stages: Stages,
    *,
    live: int = 100,
    places: float | None = None,
    report: Report | None = None,
) -> Samples:
    """Samples the posterior about a best fit by nested sampling.

    What was evaluated is kept in the stages: as draws depend on the seed alone, a second call finds its way without evaluating it again.

    Args:
        fit: The best fit; its source's grid stays.
        covariance: (K, K) of its parameters, by Laplace's approximation.
        name: Of the stage.
        stages: Keep what has been done.
        live: Live points: more make the evidence better and take longer.
        places: Area in arcsec² over which a perturber's place is uniform before; None: there is none.
        report: Called with what is being done and −2 ln evidence, from time to time.
    """
    import dynesty

    began = time.process_time()
    posterior = _Posterior(fit, covariance, name, stages)
    size = posterior.size
    points = max(live, 2 * size + 2)
    try:
        with np.errstate(all="ignore"):
            sampler = dynesty.NestedSampler(
                posterior, posterior.drawn, size, nlive=points, bound="multi", sample="unif" if size < 13 else "rwalk",
                rstate=np.random.default_rng(_SEED), bootstrap=0, enlarge=_ROOM,
            )  # fmt: skip
            for k, step in enumerate(sampler.sample(dlogz=_LEFT)):
                posterior.go_on()
                if report is not None and k % 10 == 0:
                    left = float(step.delta_logz)
                    what = (
                        f"sampling, {posterior.evaluations} evaluations, ln evidence to {left:.2g}"
                    )
                    report(what, fit.evidence)
            for _ in sampler.add_live_points():
                pass
            found = sampler.results
    finally:
        posterior.keep()
        posterior.go_on()
    weights = found.importance_weights()
    draws = found.samples_equal(rstate=np.random.default_rng(_SEED))
    values = np.array([posterior.parameters(z) for z in draws])
    hyper = len(posterior.names)
    values[:, -hyper:] = np.exp(values[:, -hyper:])
    return Samples(
        names=(*fit.problem.mass.names, *posterior.names),
        values=values,
        evidence=-2 * float(found.logz[-1]) + 2 * prior_volume(fit, places),
        evidence_error=2 * _error(float(found.logzerr[-1]), float(found.information[-1]), points),
        evaluations=posterior.evaluations,
        effective=float(1 / (weights**2).sum()),
        seconds=time.process_time() - began,
    )


def _error(estimated: float, information: float, live: int) -> float:
    """Returns the standard deviation of ln evidence: dynesty's, or √(H/N) (Skilling 2006) where that has none, as with few points."""
    if np.isfinite(estimated):
        return estimated
    return float(np.sqrt(max(information, 1.0) / live))


class _Posterior:
    """The posterior in coordinates z in which Laplace's is a standard normal distribution."""

    def __init__(self, fit: Fit, covariance: np.ndarray, name: str, stages: Stages) -> None:
        self._fit, self._name, self._stages = fit, name, stages
        own = fit.smoothness
        logs = np.log([own.amplitude, own.length, own.faint, own.extent])
        logs = logs[np.isfinite(logs)]
        self.names = SMOOTHNESS[: len(logs)]
        self._middle = np.concatenate([fit.vector, logs])
        self.size = len(self._middle)
        self._root = np.zeros((self.size, self.size))
        n = len(fit.vector)
        self._root[:n, :n] = np.linalg.cholesky(covariance)
        widths = next(iter(stages.rows(f"{name}_widths")), None)
        if widths is None or len(widths) != len(
            logs
        ):  # kept, as sums of many threads round otherwise
            widths = self._widths(logs)
            stages.keep_rows(f"{name}_widths", [widths])
        self._root[n:, n:] = np.diag(widths)
        self._volume = float(np.log(np.diag(self._root)).sum())
        self._known = {tuple(row[:-1]): row[-1] for row in stages.rows(name)}
        self._kept = time.monotonic()
        self._ended: BaseException | None = None
        self.evaluations = 0

    def drawn(self, u: np.ndarray) -> np.ndarray:
        """Returns z (K,) of a point of the unit cube."""
        z: np.ndarray = _WIDER * special.ndtri(np.clip(u, 1e-12, 1 - 1e-12))
        return z

    def parameters(self, z: np.ndarray) -> np.ndarray:
        """Returns the parameters (K,) of a point, the smoothness by its logarithms."""
        found: np.ndarray = self._middle + self._root @ z
        return found

    def __call__(self, z: np.ndarray) -> float:
        """Returns ln of the evidence times the prior, over the density that is drawn from."""
        self.evaluations += 1
        key = tuple(float(each) for each in z)
        if self._ended is not None:
            return -_NOWHERE
        if key not in self._known:
            try:
                self._known[key] = self._evaluated(z)
            except BaseException as ended:
                # dynesty would print a traceback of an end by a key or a signal: it gets a point that it takes, and go_on raises.
                self._ended = ended
                return -_NOWHERE
            if time.monotonic() - self._kept > _KEPT_EVERY:
                self.keep()
        return self._known[key]

    def go_on(self) -> None:
        """Raises what ended an evaluation, if anything did."""
        if self._ended is not None:
            raise self._ended

    def keep(self) -> None:
        """Keeps what was evaluated, for a call that goes on."""
        self._stages.keep_rows(self._name, [[*z, value] for z, value in self._known.items()])
        self._kept = time.monotonic()

    def _evaluated(self, z: np.ndarray) -> float:
        values = self.parameters(z)
        vector, logs = values[: -len(self.names)], values[-len(self.names) :]
        low, high = self._fit.problem.mass.bounds()
        # The best one may lie on its bound.
        inside = ((vector >= low) & (vector <= high)).all()
        for log, bounds in zip(logs[1::2], (lengths_of, extents_of)):
            shortest, longest = np.log(bounds(self._fit.source)) + np.array([-1e-9, 1e-9])
            inside &= shortest <= log <= longest
        if not inside:
            return _NOWHERE
        drawn = -0.5 * float(z @ z) / _WIDER**2 - self._volume
        drawn -= self.size * float(np.log(_WIDER * np.sqrt(2 * np.pi)))
        try:
            return -0.5 * self._evidence(vector, logs) - drawn
        except (InputError, np.linalg.LinAlgError):
            return _NOWHERE

    def _evidence(self, vector: np.ndarray, logs: Sequence[float] | np.ndarray) -> float:
        values = {
            name.removeprefix("source_"): float(each)
            for name, each in zip(self.names, np.exp(logs))
        }
        smoothness = dataclasses.replace(self._fit.smoothness, **values)  # its place and shape stay
        own = self._middle[-len(self.names) :]
        prior = float(((np.asarray(logs) - own) ** 2).sum())
        return fit_at(self._fit.problem, self._fit.source, vector, smoothness).evidence + prior

    def _widths(self, logs: np.ndarray) -> list[float]:
        """Standard deviations (S,) of the logarithms of the smoothness, by the evidence's curvature along each."""
        step, found = 0.2, []
        for k in range(len(logs)):
            ends = []
            for way in (-step, step):
                moved = logs.copy()
                moved[k] += way
                ends.append(self._evidence(self._fit.vector, moved))
            curvature = (ends[0] + ends[1] - 2 * self._fit.evidence) / step**2 / 2
            found.append(float(1 / np.sqrt(max(curvature, 1.0))))
        return found
