"""YAML files of studies and searches: those that come with the package, and the copy in the folder of each."""

from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import yaml

from haloformer.errors import InputError, reason_of
from haloformer.io.writing import check_parents, write_text
from haloformer.training.config import read_options
from haloformer.vocabulary import unknown_name


@dataclass(frozen=True)
class Shipped:
    """The shipped YAML files of one kind.

    Attributes:
        kind: What one file describes, such as ``study``.
        folder: Their folder in ``haloformer/configs``.
    """

    kind: str
    folder: str

    def summaries(self, key: str) -> dict[str, str]:
        """Returns name → what the file says under a key."""
        return {name: str(_content(file).get(key, "")) for name, file in self._files().items()}

    def read(self, name: str) -> tuple[dict[str, object], str]:
        """Returns what a shipped or a user's file holds, and how error messages call it.

        Args:
            name: Of a shipped file, or the path of a YAML file.

        Raises:
            InputError: There is none, or it does not hold a mapping.
        """
        path = Path(name)
        if path.suffix.lower() in (".yaml", ".yml"):
            return read_options(path), str(path)
        shipped = self._files()
        spelling = name.replace("isation", "ization")
        if spelling not in shipped:
            raise unknown_name(self.kind, name, shipped)
        return _content(shipped[spelling]), f"{self.kind} {spelling}"

    def _files(self) -> dict[str, Traversable]:
        entries = resources.files("haloformer").joinpath("configs", self.folder).iterdir()
        found = {
            entry.name.removesuffix(".yaml"): entry
            for entry in entries
            if entry.name.endswith(".yaml")
        }
        return dict(sorted(found.items()))


def _content(file: Traversable) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content


def described(content: dict[str, object], command: str) -> str:
    """Returns a study or search as YAML, below the command that made it."""
    return f"# {command}\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}"


def command_in(file: Path) -> str:
    """Returns the command in the first line of what :func:`described` wrote."""
    return file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def check_folder(file: Path, kind: str) -> None:
    """Refuses a folder that holds something else than a study or search; writes nothing.

    Args:
        file: The description in it.
        kind: ``study`` or ``search``, for the message.

    Raises:
        InputError: Says so.
    """
    folder = file.parent
    check_parents(folder)
    if folder.exists() and not file.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not the folder of a {kind}: choose another out")


def prepare_folder(file: Path, kind: str, text: str, *, keep: bool = False) -> None:
    """Makes the folder of a study or search, and writes its description.

    Args:
        file: The description, in the folder that is made.
        kind: ``study`` or ``search``, for the message.
        text: What the file shall hold.
        keep: Leave a description that is already there as it is.

    Raises:
        InputError: The folder holds something else, or cannot be written.
    """
    check_folder(file, kind)
    folder = file.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (keep and file.exists()):
            write_text(file, text)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {reason_of(error)}") from error
