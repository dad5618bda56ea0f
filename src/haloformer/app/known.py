"""The models that a visitor may choose: those that come with the package, and one that was given."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from haloformer.artefact.read import artefact_files, shipped_models
from haloformer.io.strict_json import read_json
from haloformer.prediction.predictor import Predictor
from haloformer.vocabulary import unknown_name

MOST_LOADED = 3


@dataclass(frozen=True)
class Facts:
    """What is known of a model that need not be loaded.

    Attributes:
        path: What `haloformer.load` takes.
        survey: That it was trained on; None if it was none.
        noise: Of its images.
    """

    path: str
    survey: str | None
    noise: str | None


class Models:
    """Models by name, loaded when one is asked for; the last few are kept.

    Attributes:
        first: The name of the one that was given.
        facts: Name → what is known of it; the given one first.
    """

    def __init__(self, given: str, device: str = "auto", most_loaded: int = MOST_LOADED) -> None:
        """Loads the given model, so that what is wrong with it is told at once.

        Args:
            given: Name of a shipped model, or a run folder.
            device: ``"auto"`` takes a GPU if there is one.
            most_loaded: How many are kept at a time.

        Raises:
            InputError: There is no such model, or something in its files is wrong.
        """
        self._device, self._most = device, most_loaded
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, Predictor] = OrderedDict()
        shipped = shipped_models()
        self.first = given
        if given not in shipped:
            name = Path(given).name
            self.first = f"{name} (given)" if name in shipped else name
        paths = {self.first: given} | {name: name for name in shipped}
        self.facts = {name: _facts(path) for name, path in paths.items()}
        self.get(self.first)

    def get(self, name: object) -> Predictor:
        """Returns a model; raises InputError for an unknown name."""
        if not isinstance(name, str) or name not in self.facts:
            raise unknown_name("model", str(name)[:60], tuple(self.facts))
        with self._lock:
            if name not in self._loaded:
                path = self.facts[name].path
                self._loaded[name] = Predictor.from_run(path, self._device)
                while len(self._loaded) > self._most:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(name)
            return self._loaded[name]

    def of_survey(
        self, survey: str, noise: str | None = None, preferred: str | None = None
    ) -> str | None:
        """Returns the name of a model of a survey; None if there is none.

        Args:
            survey: Its name.
            noise: Of the images; None: not known.
            preferred: The name of the one that is taken if it fits.
        """
        order = list(self.facts)
        if preferred is not None and preferred in self.facts:
            order.insert(0, preferred)
        for name in order:
            facts = self.facts[name]
            if facts.survey == survey and noise in (None, facts.noise):
                return name
        return None


def _facts(path: str) -> Facts:
    described = read_json(artefact_files(Path(path))[0])
    survey, noise = described.get("survey"), described.get("noise")
    return Facts(
        path,
        survey if isinstance(survey, str) else None,
        noise if isinstance(noise, str) else None,
    )
