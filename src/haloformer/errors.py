"""The one exception for what a user can put right, and the one warning.

Raise it where the input enters. The message is one line that says what was wrong, where, and what would be right; the
command line prints it and ends with exit code 2, without a traceback.
"""


class InputError(ValueError):
    """Something the user gave (a file, a name, a number, a path) cannot be used."""


class InputWarning(UserWarning):
    """Something the user gave is used otherwise than they may think; the command line prints it in one line."""
