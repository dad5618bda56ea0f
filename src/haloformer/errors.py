"""The one exception for what a user can put right, and the one warning.

Raise it where the input enters. The message is one line that says what was wrong, where, and what would be right; the
command line prints it and ends with exit code 2, without a traceback.
"""

LONGEST = 300
"""Characters of a message that is shown; what strangers' files hold may be of any length."""


def brief(message: object) -> str:
    """Returns a message on one line of at most `LONGEST` characters: its beginning, and its end, which says what would be right."""
    text = " ".join(str(message).split())
    if len(text) <= LONGEST:
        return text
    end = LONGEST // 3
    return f"{text[: LONGEST - end - 3]} … {text[-end:]}"


class InputError(ValueError):
    """Something the user gave (a file, a name, a number, a path) cannot be used."""


class InputWarning(UserWarning):
    """Something the user gave is used otherwise than they may think; the command line prints it in one line."""
