"""What ``skip_bad`` leaves out: how many images, and why, for as many as a person reads."""

from dataclasses import dataclass, field

from haloformer.errors import InputError, brief

MAX_NOTES = 20
"""Reasons that are kept; the others are only counted."""


@dataclass
class LeftOut:
    """Images that could not be read and are left out.

    Attributes:
        n: How many.
        reasons: Why, each with the file's name, of the first `MAX_NOTES`.
    """

    n: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, reason: object) -> None:
        """Counts an image, whose name is in the reason."""
        self.n += 1
        if len(self.reasons) < MAX_NOTES:
            self.reasons.append(brief(reason))

    @property
    def notes(self) -> list[str]:
        """The count in one line, then the reasons; nothing where nothing was left out."""
        if not self.n:
            return []
        more = [f"and {self.n - MAX_NOTES} more"] if self.n > MAX_NOTES else []
        return [self.line, *self.reasons, *more]

    @property
    def line(self) -> str:
        """The count in one line."""
        return f"left out {self.n} {'image' if self.n == 1 else 'images'} that cannot be read"

    def refuse_if_all(self, n_read: int) -> None:
        """Raises InputError if nothing was read."""
        if self.n and not n_read:
            raise InputError(f"none of {self.n} images can be read: {self.reasons[0]}")
