r"""Reads an expression from tokens by recursive descent: every token gets a place in the tree, or nothing is read.

Two readings are sensible for a letter behind a number: a factor (`6m`), or a unit (`6\text{ m}`). The caller chooses.
"""

from collections.abc import Sequence
from fractions import Fraction

from reward_server.algebra.nodes import (
    Call,
    Degrees,
    Difference,
    Items,
    Matrix,
    Node,
    Number,
    Percent,
    Power,
    Product,
    Sum,
    Symbol,
    Union,
    negative,
    quotient,
)
from reward_server.reading.numerals import base_of, exact_number, hexadecimal, in_base, mixed, repeating
from reward_server.reading.token_groups import is_end
from reward_server.reading.tokens import COMMAND_ENDS, DEGREE, FUNCTIONS, Token, Unreadable, tokenize
from reward_server.reading.unit_reader import UnitReader
from reward_server.vocabulary import GREEK, SCALES, changes_number, plain_words

MAX_DEPTH = 40
_ACCENTS = frozenset({r"\vec", r"\hat", r"\tilde", r"\overline", r"\widehat", r"\widetilde", r"\dot", r"\underline"})
_FENCES = {r"\lfloor": (r"\rfloor", "floor"), r"\lceil": (r"\rceil", "ceil"), "|": ("|", "abs")}
_CLOSING = {"(": (")", "]"), "[": ("]", ")"), r"\{": (r"\}",), "{": ("}",), r"\langle": (r"\rangle",)}
_APPLIED = frozenset({"f", "g"})
"""Letters that are functions if a bracket follows; other letters are factors."""
_OF_ANGLES = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
MATRICES = frozenset({"pmatrix", "bmatrix", "matrix", "smallmatrix", "array", "Bmatrix"})


class Parser(UnitReader):
    """Reads nodes from a sequence of tokens, and remembers how far it has come."""

    def __init__(self, tokens: Sequence[Token], units: bool) -> None:
        """Begin at the first token; `units` reads a letter behind a number as a unit where it can be one."""
        super().__init__(tokens, units)
        self._depth = 0
        self._bars = 0

    def element(self) -> Node:
        r"""One expression with its unit, or several that `\cup` joins.

        Raises:
            Unreadable: The tokens are no such expression.
        """
        parts = [self._with_unit(self.sum())]
        while self.accept(r"\cup"):
            parts.append(self.sum())
        whole = parts[0] if len(parts) == 1 else Union(tuple(parts))
        return Difference(whole, self.sum()) if self.accept(r"\setminus") else whole

    def _with_unit(self, node: Node) -> Node:
        """Read the unit behind an expression, which changes nothing but for a percent sign and degrees."""
        token = self.peek()
        if self.at_scale():
            return self._with_unit(self._scaled(node))
        if isinstance(node, Degrees) and token.text in ("C", "F", "K") and is_end(self.peek(1)):
            self.take()
        if self.accept(r"\pmod") or self.accept(r"\bmod"):
            node = Call("mod", (_no_items(node), _no_items(self._argument())))
        self.skip_unit()
        return node

    def _scaled(self, node: Node) -> Node:
        first, *rest = plain_words(self.take().text)
        if rest and rest[0] in SCALES:
            raise Unreadable("two number words")
        if changes_number(" ".join(rest)):
            raise Unreadable(f"{' '.join(rest)!r} behind a number")
        scale = Number(Fraction(SCALES[first]))
        if not isinstance(node, Sum):
            return Product((node, scale))
        if self.peek(-2).text == ")":
            raise Unreadable("a number word behind a sum")
        return Sum((*node.terms[:-1], Product((node.terms[-1], scale))))

    def sum(self) -> Node:
        """Terms joined by plus and minus."""
        terms: list[Node] = []
        while True:
            token = self.peek()
            sign = token.text if token.kind in ("sign", "command") else ""
            if sign in ("+", "-", r"\pm", r"\mp"):
                self.take()
            elif terms:
                break
            term = self._product()
            if sign in (r"\pm", r"\mp"):
                term = Call("pm" if sign == r"\pm" else "mp", (term,))
            terms.append(negative(term) if sign == "-" else term)
            if self.peek().text not in ("+", "-", r"\pm", r"\mp") or self.peek().kind == "words":
                break
        return terms[0] if len(terms) == 1 else Sum(tuple(_no_items(term) for term in terms))

    def _product(self) -> Node:
        factors = [self._signed()]
        while True:
            if self.accept("*"):
                factors.append(self._signed())
            elif self.accept("/"):
                factors.append(Power(_no_items(self._signed()), Number(Fraction(-1))))
            elif self._at_factor():
                factors.append(self._next_factor())
            else:
                break
        return factors[0] if len(factors) == 1 else Product(tuple(_no_items(factor) for factor in factors))

    def _signed(self) -> Node:
        minus = self.accept("-")
        if not minus:
            self.accept("+")
        if self.peek().text in ("+", "-"):
            raise Unreadable("several signs in a row")
        factor = self._power()
        return negative(_no_items(factor)) if minus else factor

    def _at_factor(self) -> bool:
        token = self.peek()
        if token.kind in ("number", "letter", "run"):
            return not self.at_unit() and not self.at_scale()
        if token.kind == "command":
            return token.text not in COMMAND_ENDS and not token.text.startswith(r"\end")
        if token.text == "|":
            return self._bars == 0
        return token.kind == "sign" and token.text in ("(", "[", "{", r"\{")

    def _next_factor(self) -> Node:
        if self.peek().kind == self.peek(-1).kind == "number" and self.peek(-2).text != "^":
            raise Unreadable("two numbers side by side")
        return self._power()

    def _power(self) -> Node:
        base = self._postfix(self._primary())
        if not self.accept("^"):
            return base
        exponent = self._script()
        return self._postfix(Power(_no_items(base), _no_items(exponent)))

    def _script(self) -> Node:
        """An exponent: a group, or a single token."""
        if self.accept("-"):
            return negative(self._script()) if self.peek().text != "-" else self._primary()
        if self.peek().kind == "number":
            node: Node = Number(exact_number(self.take().text))
        else:
            node = Symbol(self.take().text) if self.peek().kind == "letter" else self._argument()
        if self.peek().text == "^":
            raise Unreadable("an exponent of an exponent without braces")
        return node

    def _postfix(self, node: Node) -> Node:
        while True:
            if self.accept("!"):
                if self.peek().text == "!":
                    raise Unreadable("a double factorial")
                node = Call("factorial", (_no_items(node),))
            elif isinstance(node, Percent | Degrees):
                return node
            elif self.accept("%"):
                node = Percent(_no_items(node))
            elif self.accept(DEGREE):
                node = Degrees(_no_items(node))
            elif self.peek().text == "_" and isinstance(node, Number):
                self.take()
                node = Number(in_base(self._tokens, self._position - 2, base_of(self.subscript())))
            else:
                return node

    def _primary(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable("brackets or commands are nested too deep")
        node = self._begin()
        self._depth -= 1
        return node

    def _begin(self) -> Node:
        token = self.peek()
        if token.kind == "number":
            return self._number()
        if token.kind == "letter":
            return self._letter()
        if token.kind == "run":
            return self._number() if hexadecimal(self._tokens, self._position) else self._run()
        if token.kind == "words":
            raise Unreadable(f"{token.text!r} inside of an expression")
        if token.text in _FENCES:
            return self._fenced(*_FENCES[token.text])
        if token.text in _CLOSING:
            return self._brackets()
        if token.kind == "command":
            return self._command()
        raise Unreadable(f"{token.text!r} begins no expression")

    def _number(self) -> Node:
        start = self._position
        length = hexadecimal(self._tokens, start)
        if length:
            self._position += length + 1
            return Number(in_base(self._tokens, start + length - 1, base_of(self.subscript()), start))
        number = mixed(self._tokens, start) or repeating(self._tokens, start)
        self._position += number.length
        return number.node

    def _letter(self) -> Node:
        name = self.take().text
        if name in _APPLIED and self.peek().text == "(" and not self.peek().spaced:
            arguments = self._brackets()
            return Call(name, arguments.elements if isinstance(arguments, Items) else (arguments,))
        return self._symbol(name)

    def _symbol(self, name: str) -> Node:
        while self.accept("'") or self.accept("^", r"\prime"):
            name += "'"
        return Symbol(f"{name}_{self.subscript()}") if self.accept("_") else Symbol(name)

    def _run(self) -> Node:
        """A product of letters, the last of which may have an index or an exponent."""
        run = self.take().text
        factors: list[Node] = [Symbol(letter) for letter in run[:-1]]
        last = self._symbol(run[-1])
        if self.accept("^"):
            last = Power(last, self._script())
        return Product((*factors, last))

    def _fenced(self, closing: str, name: str) -> Node:
        self.take()
        self._bars += name == "abs"
        inner = self.sum()
        self._bars -= name == "abs"
        self.expect(closing)
        return Call(name, (_no_items(inner),))

    def _brackets(self) -> Node:
        """A group; or a tuple, interval, list or set."""
        opening = self.take().text
        bars, self._bars = self._bars, 0
        elements: list[Node] = []
        while self.peek().text not in _CLOSING[opening] or self.peek().kind == "words":
            elements.append(self.element())
            if not (self.accept(",") or self.accept(";")):
                break
        closing = self.take().text
        if closing not in _CLOSING[opening]:
            raise Unreadable(f"{closing!r} closes {opening!r}")
        self._bars = bars
        opening, closing = ("(", ")") if opening == r"\langle" else (opening, closing)
        if opening == "{" and len(elements) > 1:
            opening, closing = r"\{", r"\}"  # a set without backslashes
        if len(elements) == 1 and opening != r"\{" and closing == _CLOSING[opening][0]:
            return elements[0]
        if opening in ("{", "(", "[") and len(elements) < 2:
            raise Unreadable("empty brackets" if not elements else "an interval with one end")
        return Items(opening, closing, tuple(elements))

    def _command(self) -> Node:
        command = self.take().text
        name = command.removeprefix("\\")
        if command == r"\emptyset":
            return Items(r"\{", r"\}", ())
        if command in GREEK:
            return self._symbol(command)
        if command == r"\frac":
            return quotient(_no_items(self._argument()), _no_items(self._argument()))
        if command == r"\binom":
            return Call("binom", (_no_items(self._argument()), _no_items(self._argument())))
        if command == r"\sqrt":
            index: Node = Number(Fraction(2))
            if self.accept("["):
                index = self.sum()
                self.expect("]")
            return Power(_no_items(self._argument()), Power(index, Number(Fraction(-1))))
        if name in FUNCTIONS:
            return self._function(name)
        if command in _ACCENTS:
            return self._accent(command)
        if command.startswith(r"\begin{"):
            return self._matrix(command[len(r"\begin{") : -1])
        if command in (r"\triangle", r"\angle"):
            points = self.points()
            points = sorted(points) if command == r"\triangle" else min(points, points[::-1])  # ABC is CBA, but not BAC
            return Symbol(f"{command} {' '.join(points)}") if points else self._symbol(command)
        raise Unreadable(f"the command {command}")

    def _argument(self) -> Node:
        r"""An argument of a command: a group, or the next digit, letter or command."""
        token = self.peek()
        if token.kind not in ("number", "run"):
            return self._primary()
        if "." in token.text:
            raise Unreadable("a decimal as an argument without braces")
        # `\frac12` has two arguments of one digit; the rest of the number is the next token, or several: `\frac1e2`.
        first, rest = token.text[0], token.text[1:]
        if token.kind == "number":
            behind: list[Token] = tokenize(rest)
            node: Node = Number(Fraction(first))
        else:
            behind, node = [Token("run" if len(rest) > 1 else "letter", rest)][: len(rest)], Symbol(first)
        self._tokens = [*self._tokens[: self._position], *behind, *self._tokens[self._position + 1 :]]
        return node

    def _function(self, name: str) -> Node:
        exponent: Node | None = None
        base: Node | None = None
        while self.peek().text in ("^", "_"):
            if self.accept("_"):
                ten = self.peek().kind == "number" and self.peek().text.startswith("1")  # there is no base 1
                base = self._number() if ten else self._argument()
            else:
                self.take()
                exponent = self._script()
        if exponent == Number(Fraction(-1)):
            name, exponent = f"arc{name}", None
        if self.peek().text == "(":
            inside = self._brackets()
            arguments = inside.elements if isinstance(inside, Items) else (inside,)
        else:
            arguments = (self._bare_argument(name),)
        if base is not None:
            arguments = (*arguments, base)
        call = Call(name, tuple(_no_items(argument) for argument in arguments))
        return call if exponent is None else Power(call, exponent)

    def _bare_argument(self, name: str) -> Node:
        r"""The argument of a function without brackets: the factors up to the next sign, bracket or function.

        A slash ends it, so that `\ln 3/\ln 2` is a quotient; but not that of an angle with pi: `\sin\pi/3`.
        """
        start = self._position
        factors = [self._signed()]
        while self._at_factor():
            token = self.peek()
            if token.text in ("(", "[") or token.text.removeprefix("\\") in FUNCTIONS:
                break
            factors.append(self._next_factor())
        angle = any(token.text == r"\pi" for token in self._tokens[start : self._position])
        if name in _OF_ANGLES and angle and self.accept("/"):
            factors.append(Power(self._signed(), Number(Fraction(-1))))
        return factors[0] if len(factors) == 1 else Product(tuple(_no_items(factor) for factor in factors))

    def _accent(self, command: str) -> Node:
        return self._symbol(f"{command}{{{self.subscript()}}}")

    def _matrix(self, environment: str) -> Node:
        if environment == "array" and self.peek().text == "{":
            self.subscript()
        if environment not in MATRICES:
            raise Unreadable(f"the environment {environment}")
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        end = rf"\end{{{environment}}}"
        while not self.accept(end):
            row.append(_no_items(self.sum()))
            if self.accept("&"):
                continue
            rows.append(tuple(row))
            row = []
            if not self.accept("\\\\") and self.peek().text != end:
                raise Unreadable("a matrix that is never closed")
        if not rows or any(len(one) != len(rows[0]) for one in rows):
            raise Unreadable("rows of different lengths")
        return Matrix(tuple(rows))


def _no_items(node: Node) -> Node:
    """The node, which must have a value to calculate with.

    Raises:
        Unreadable: It is a tuple, set or interval.
    """
    if isinstance(node, Items | Union | Difference | Matrix):
        raise Unreadable("a sign between tuples, sets or matrices")
    return node
