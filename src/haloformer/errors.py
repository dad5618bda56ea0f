"""The one exception for what a user can put right, and the one warning.

Raise it where the input enters. The message is one line that says what was wrong, where, and what would be right; the
command line prints it and ends with exit code 2, without a traceback.
"""

LONGEST = 300
"""Characters of a message that is shown; what strangers' files hold may be of any length."""


def brief(message: object) -> str:
    """Returns a message on one line of at most `LONGEST` characters that a terminal only prints.

    Of a longer one its beginning, and its end, which says what would be right. What is not
    printable (a terminal may obey it, a file may not hold it) becomes "?".
    """
    text = " ".join(str(message).split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    if len(text) <= LONGEST:
        return text
    end = LONGEST // 3
    return f"{text[: LONGEST - end - 3]} … {text[-end:]}"


def reason_of(error: BaseException, most: int = 200) -> str:
    """Returns the first line of what an exception of other code says; its kind where it says nothing."""
    text = getattr(error, "strerror", None) or str(error)
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    return " ".join((lines or [type(error).__name__])[0].split())[:most]


def kind_and_reason(error: BaseException, most: int = 300) -> str:
    """Returns the kind of an exception, and what it says, if it says anything."""
    kind, said = type(error).__name__, reason_of(error, most)
    return kind if said == kind else f"{kind}: {said}"[:most]


def how_to_install(extra: str) -> str:
    """Returns the command that installs an optional part, such as ``app``; to be run in the checkout.

    The package is on no index: pip finds it as ``.`` there, and under its name nowhere.
    """
    return f"pip install '.[{extra}]' (in haloformer's checkout)"


def exists_already(path: object, what: str = "it") -> "InputError":
    """Returns the error that something is there, and was not to be overwritten; ``what`` is overwritten, such as ``an evaluation``."""
    return InputError(
        f"{path} exists already: choose another name, or overwrite {what} (--overwrite; in Python overwrite=True)"
    )


class InputError(ValueError):
    """Something the user gave (a file, a name, a number, a path) cannot be used.

    Its text is `brief`; ``args[0]`` is all of the message.
    """

    def __str__(self) -> str:
        return brief(super().__str__())


class InputWarning(UserWarning):
    """Something the user gave is used otherwise than they may think; the command line prints it in one line."""
