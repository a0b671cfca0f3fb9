"""Makes text safe to show in a terminal or a log, whoever wrote it."""

from __future__ import annotations

import re

_USER_INFO = re.compile(r"(?<=//)[^\s/]*@")


def printable(value: object) -> str:
    r"""Return the value as one line of printable text.

    Anybody who may write to the table or send to a queue can put escape sequences there, which move the cursor, rename
    the window or set the clipboard of the person who reads them, and Unicode's bidirectional controls, which reorder
    what is shown. White space of every kind becomes a space. Any other character that is not printable becomes its
    Python escape, such as `\x1b` or `\u202e`. The user name and password of a URL are left out.
    """
    text = _USER_INFO.sub("…@", value if isinstance(value, str) else repr(value))
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape").decode()
