"""Text on a terminal is text: it shows what would be obeyed, by rich or by the terminal itself, and obeys nothing."""

import unicodedata

from rich.console import Console

# Some scripts, and families of emoji, join letters with these.
JOINERS = "\u200c\u200d"


def visible(text: object) -> str:
    """One line in which control characters, marks of direction and lone surrogates are escaped, as `\\u202e`."""
    return "".join(each if _is_shown(each) else each.encode("unicode_escape").decode() for each in str(text))


def console(*, stderr: bool = False) -> Console:
    """A console for text from anywhere: brackets and colons in it mean themselves. `visible` is for its controls."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def _is_shown(character: str) -> bool:
    return character.isprintable() or character in JOINERS or unicodedata.category(character) == "Zs"
