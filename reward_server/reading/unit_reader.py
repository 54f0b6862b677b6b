"""What stands behind an expression and is no factor: units, and words for large numbers."""

from collections.abc import Sequence

from reward_server.reading.token_groups import is_end
from reward_server.reading.token_reader import TokenReader
from reward_server.reading.tokens import Token, Unreadable
from reward_server.vocabulary import BARE_UNITS, SCALES, UPRIGHT_UNITS, changes_number, plain_words

_TIMES = frozenset({"h", "s"})
"""Letters that are a unit of time behind another unit and a slash: `km/h`."""


class UnitReader(TokenReader):
    """A position in a sequence of tokens, at which there may be a unit."""

    def __init__(self, tokens: Sequence[Token], units: bool) -> None:
        """Begin at the first token; `units` takes a letter or run behind a number for a unit where it can be one."""
        super().__init__(tokens)
        self._units = units

    def at_scale(self) -> bool:
        r"""Whether a word for a large number is next: `2\text{ million}`, or `2 million`."""
        token = self.peek()
        words = plain_words(token.text) if token.kind == "words" or (token.kind == "run" and token.spaced) else []
        return words[:1] != [] and words[0] in SCALES

    def at_unit(self, offset: int = 0) -> bool:
        """Whether the next token can only be a unit, or can be one and is to be read so.

        Raises:
            Unreadable: It is a text that may change the number before it.
        """
        token = self.peek(offset)
        if token.kind == "words":
            if changes_number(token.text):
                raise Unreadable(f"{token.text!r} behind an expression")
            return True
        if not self._units:
            return False
        if token.kind == "run":
            return token.text.lower() in BARE_UNITS
        return token.kind == "letter" and token.upright and token.text in UPRIGHT_UNITS

    def skip_unit(self) -> None:
        """Read units, with their powers and the signs between them."""
        while self.at_unit():
            self.take()
            self.accept("^", "{", "2", "}") or self.accept("^", "{", "3", "}") or self.accept("^", "2")
            self.accept("^", "3")
            if self.peek().text in ("/", "*") and self.at_unit(1):
                self.take()
            elif self.peek().text == "/" and self.peek(1).text in _TIMES and is_end(self.peek(2)):
                self.take()
                self.take()
