"""Types of command-line values, for argparse: each takes the text and gives the value, or says what is wanted."""

import argparse

from dreamdrive.utils import stages


def positive(text: str) -> int:
    """An integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not possible: it must be 1 or more")
    return value


def port(text: str) -> int:
    """A TCP port."""
    value = int(text)
    if not 1 <= value < 1 << 16:
        raise argparse.ArgumentTypeError(f"{value} is not possible: a port is 1 to {(1 << 16) - 1}")
    return value


def natural(text: str) -> int:
    """An integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is not possible: it must be 0 or more")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is not possible: it must be a finite number above 0")
    return value


def natural_float(text: str) -> float:
    """A finite number of at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is not possible: it must be a finite number of 0 or more")
    return value


def number(text: str) -> float:
    """A number, or infinity, but not NaN."""
    value = float(text)
    if value != value:
        raise argparse.ArgumentTypeError(f"{text} is no number")
    return value


def share(text: str) -> float:
    """0 up to 1, which is excluded."""
    value = natural_float(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"must be 0 or more and less than 1, not {text}")
    return value


def fraction(text: str) -> float:
    """0 to 1, both of them included."""
    value = natural_float(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be 0 to 1, not {text}")
    return value


def learning_rate(text: str) -> float:
    """Above 0, and at most 1, where Adam's steps are as large as weights are."""
    value = positive_float(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{value} is not possible: it must be at most 1")
    return value


ALL = 1 << 30  # of whatever is counted


def count_or_all(text: str) -> int:
    """An integer of at least 0, or `all`."""
    return ALL if text == "all" else natural(text)


def controller_name(text: str) -> str:
    """What a controller may be called."""
    wrong = stages.wrong_name(text)
    if wrong:
        raise argparse.ArgumentTypeError(wrong)
    return text


def controller(text: str) -> str:
    """A controller of a run, as its folder is called."""
    if not stages.is_controller(text):
        raise argparse.ArgumentTypeError(
            f'"{text}" is no controller: give ctrl or bc, or one that has a name, as bc-NAME'
        )
    return text
