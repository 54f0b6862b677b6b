"""Text from models and files, made safe to show: a terminal takes control characters for commands."""

import re

_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and line break; and those that show text in another order than it has."""


def printable(text: str) -> str:
    r"""The text with every control character spelled out: ESC becomes the six characters `\u001b`.

    That is JSON's own spelling, so a line of JSON keeps its value. Tabs and line breaks stay.
    """
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
