"""What is said of work that several processes share."""


def time_left(began: float, now: float, finished: int, waiting: int) -> str:
    """Returns how long the rest takes, for a line of progress; empty below a second.

    Args:
        began: When the first began, in seconds.
        now: The time now, in seconds.
        finished: How many are done.
        waiting: How many there are in all.
    """
    seconds = (now - began) / finished * (waiting - finished)
    if seconds < 1:
        return ""
    return (
        f"; about {seconds / 60:.0f} min left" if seconds >= 90 else f"; about {seconds:.0f} s left"
    )
