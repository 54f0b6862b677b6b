"""A position in a sequence of tokens, and what any reader does with it."""

from collections.abc import Sequence

from reward_server.reading.tokens import Token, Unreadable

_END = Token("sign", "")


class TokenReader:
    """Looks at tokens and takes them, one after another. Beyond the end there are blank signs."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        """Begin at the first token."""
        self._tokens = tokens
        self._position = 0

    @property
    def done(self) -> bool:
        """Whether every token was read."""
        return self._position >= len(self._tokens)

    def peek(self, offset: int = 0) -> Token:
        """The token that comes next, or after `offset` more; a blank sign at the end."""
        index = self._position + offset
        return self._tokens[index] if 0 <= index < len(self._tokens) else _END

    def take(self) -> Token:
        """Read one token."""
        token = self.peek()
        self._position += 1
        return token

    def accept(self, *texts: str) -> bool:
        """Read the next tokens if they are these signs or commands."""
        for offset, text in enumerate(texts):
            token = self.peek(offset)
            if token.text != text or token.kind == "words":
                return False
        self._position += len(texts)
        return True

    def expect(self, text: str) -> None:
        """Read one token, which must be this sign or command.

        Raises:
            Unreadable: It is another.
        """
        if not self.accept(text):
            raise Unreadable(f"{self.peek().text!r} instead of {text!r}")

    def subscript(self) -> str:
        """The text of an index: a group in braces, or a single token."""
        if not self.accept("{"):
            return self.take().text.lstrip("\\")
        texts: list[str] = []
        depth = 1
        while not self.done:
            token = self.take()
            depth += (token.text == "{") - (token.text == "}")
            if depth == 0:
                return "".join(texts)
            texts.append(token.text.lstrip("\\"))
        raise Unreadable("an index that is never closed")

    def points(self) -> list[str]:
        """Names of points in a row, `ABC` or `A_1B'C`, in braces or not; none, with nothing read, for other tokens."""
        start, found = self._position, list[str]()
        braces = self.accept("{")
        while self.peek().kind in ("letter", "run") and self.peek().text.isupper():
            found += self.take().text
            while self.accept("'"):
                found[-1] += "'"
            if self.accept("_"):
                found[-1] += f"_{self.subscript()}"
        if not found or (braces and not self.accept("}")):
            self._position = start
            return []
        return found
