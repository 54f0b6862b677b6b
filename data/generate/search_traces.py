"""Searches over + - * / with dead ends and back-tracking, written out as the reasoning of a supervised row.

A state is the numbers at hand. A move takes two of them and puts their sum, difference, product or quotient in their
place; a search ends when one number is left and it is the target. Every result is exact: a whole number or a fraction.

    Numbers: 4, 2, 6, 3. Target: 24.
    2 + 6 = 8, left: 4, 3, 8
    4 + 8 = 12, left: 3, 12
    3 + 12 = 15, left: 15. Not 24. Back to: 3, 12
    3 * 12 = 36, left: 36. Not 24. Back to: 4, 2, 6, 3
    4 * 3 = 12, left: 2, 6, 12
    2 * 6 = 12, left: 12, 12
    12 + 12 = 24, left: 24. Target reached.

A dead end is a last number that is not the target. The search turns back before everything below a state was tried,
but only where nothing below it can succeed: no branch with a solution is given up, and no state is entered twice.
"""

import random
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import combinations

from data.generate.countdown import Problem

Value = int | Fraction
"""An exact number; whole ones are usually plain integers, with which the search is several times faster."""

ABLATIONS = ("full", "no-dead-ends", "answer-only", "shuffled-steps")
"""What is shown of a search: all of it, the moves to the solution alone, nothing, all lines in random order."""

KEPT_FOR_LATER = 3
"""Dead ends that may be kept for each smaller state on the way; two numbers have up to four wrong results."""

FRACTION_DELAY = 0.8
"""How far back moves that make a fraction stand among those from a state: 0 as the others, 1 behind them all.

Up to two in five of all moves make one, and few solutions need it.
"""


@dataclass(frozen=True)
class Style:
    """How many dead ends a trace has: one of `least` to `most`, ends included, each equally likely."""

    least: int
    most: int


STYLES = {"short": Style(0, 1), "medium": Style(2, 5), "long": Style(6, 15)}


@dataclass(frozen=True)
class Number:
    """A number at hand, and how it was made from the given ones."""

    value: Value
    expression: str

    def __str__(self) -> str:
        # One spelling wherever it stands. Without brackets, 8 / 1/3 would be another number.
        return str(self.value) if self.value.denominator == 1 else f"({self.value})"


State = tuple[Number, ...]
"""Numbers at hand, in the order shown: what a move makes comes last."""


@dataclass(frozen=True)
class Move:
    """One step, such as `4 * 3 = 12`, from one state to the next."""

    before: State
    step: str
    after: State


@dataclass(frozen=True)
class Trace:
    """A search that succeeded: all its moves in order, and the `path` of those that led to the target."""

    problem: Problem
    moves: tuple[Move, ...]
    path: tuple[Move, ...]

    @property
    def dead_ends(self) -> int:
        """How often one number was left that is not the target."""
        return _count_ends(self.moves) - 1

    @property
    def answer(self) -> str:
        """The solution as one expression of the given numbers, without brackets around the whole."""
        return self.path[-1].after[0].expression[1:-1]

    def without_dead_ends(self) -> "Trace":
        """The same solution, found at once."""
        return Trace(self.problem, self.path, self.path)

    def lines(self) -> list[str]:
        """The reasoning: the numbers and the target, then one line for each move."""
        target = self.problem.target
        lines = [f"Numbers: {', '.join(map(str, self.problem.numbers))}. Target: {target}."]
        for index, move in enumerate(self.moves):
            line = f"{move.step}, left: {_spell(move.after)}"
            if len(move.after) == 1:
                if move.after[0].value == target:
                    line += ". Target reached."
                else:
                    line += f". Not {target}. Back to: {_spell(self.moves[index + 1].before)}"
            lines.append(line)
        return lines

    def response(self, ablation: str, rng: random.Random) -> str:
        """The whole response in one of `ABLATIONS`; `rng` puts the lines of `shuffled-steps` in order."""
        lines = [] if ablation == "answer-only" else self.lines()
        if ablation == "shuffled-steps":
            rng.shuffle(lines)
        return "<think>" + "\n".join(lines) + f"</think>\n<answer>{self.answer}</answer>"


def combine(x: Value, y: Value) -> list[tuple[str, bool, Value]]:
    """Results of two numbers, neither negative: the sign, whether y comes first, and the value.

    Of the two differences only the one that is not negative. Nothing is lost: if an expression has the value v, then
    one of the same numbers without negative parts has the value |v|, since |a + b| and |a - b| are each a sum or a
    difference of |a| and |b|.
    """
    results: list[tuple[str, bool, Value]] = [
        ("+", False, x + y),
        ("-", x < y, y - x if x < y else x - y),
        ("*", False, x * y),
    ]
    if y:
        results.append(("/", False, _divide(x, y)))
    if x:
        results.append(("/", True, _divide(y, x)))
    return results


def can_reach(values: tuple[Value, ...], target: int) -> bool:
    """Whether all the numbers, each used once, make the target; decided by trying everything.

    Args:
        values: In ascending order, none negative.
        target: Not negative.
    """
    if len(values) == 1:
        return values[0] == target
    if len(values) == 2:
        return any(value == target for _, _, value in combine(*values))
    return _try_everything(values, target)


@lru_cache(maxsize=500_000)
def _try_everything(values: tuple[Value, ...], target: int) -> bool:
    for first, second in combinations(range(len(values)), 2):
        rest = values[:first] + values[first + 1 : second] + values[second + 1 :]
        for _, _, value in combine(values[first], values[second]):
            if can_reach(tuple(sorted((*rest, value))), target):
                return True
    return False


def draw_trace(problem: Problem, dead_ends: int, rng: random.Random) -> Trace:
    """Search the problem's solution, with as many dead ends as asked for, or fewer where it does not have so many.

    Every state on the way to the solution, which is drawn among all of them, is left into some dead ends first, most
    often the state of all numbers.

    Args:
        problem: A solvable one.
        dead_ends: 0 or more.
        rng: Draws the solution, the dead ends and where they stand.
    """
    state: State = tuple(Number(number, str(number)) for number in problem.numbers)
    moves: list[Move] = []
    path: list[Move] = []
    tried: set[tuple[Value, ...]] = set()
    while len(state) > 1:
        budget = dead_ends - _count_ends(moves)
        kept = rng.randint(0, min(budget, KEPT_FOR_LATER * (len(state) - 2)))
        moves += _draw_dead_ends(state, problem.target, budget - kept, tried, rng)
        move = next(move for move in _draw_moves(state, rng) if can_reach(_values(move.after), problem.target))
        moves.append(move)
        path.append(move)
        state = move.after
    return Trace(problem, tuple(moves), tuple(path))


def _draw_dead_ends(
    state: State, target: int, budget: int, tried: set[tuple[Value, ...]], rng: random.Random
) -> list[Move]:
    """Moves from a state into at most `budget` dead ends, depth first; states that are entered are added to `tried`."""
    moves: list[Move] = []
    left = budget
    for move in _draw_moves(state, rng):
        values = _values(move.after)
        if left == 0:
            break
        if values in tried or can_reach(values, target):
            continue
        if len(values) == 1:
            moves.append(move)
            left -= 1
            continue
        below = _draw_dead_ends(move.after, target, rng.randint(1, left), tried, rng)
        if below:
            tried.add(values)
            moves += [move, *below]
            left -= _count_ends(below)
    return moves


def _draw_moves(state: State, rng: random.Random) -> list[Move]:
    """All moves from a state in random order, most fractions late; of those that lead to the same numbers, one."""
    moves: dict[tuple[Value, ...], Move] = {}
    candidates = []
    for first, second in combinations(range(len(state)), 2):
        x, y = state[first], state[second]
        rest = state[:first] + state[first + 1 : second] + state[second + 1 :]
        for sign, y_first, value in combine(x.value, y.value):
            left, right = (y, x) if y_first else (x, y)
            candidates.append((left, sign, right, rest, value))
    candidates.sort(key=lambda candidate: rng.random() + FRACTION_DELAY * (candidate[-1].denominator != 1))
    for left, sign, right, rest, value in candidates:
        made = Number(value, f"({left.expression} {sign} {right.expression})")
        after = (*rest, made)
        moves.setdefault(_values(after), Move(state, f"{left} {sign} {right} = {made}", after))
    return list(moves.values())


def _divide(x: Value, y: Value) -> Value:
    return x // y if x % y == 0 else Fraction(x, y)


def _values(state: State) -> tuple[Value, ...]:
    """What makes two states the same: their values in ascending order."""
    return tuple(sorted(number.value for number in state))


def _spell(state: State) -> str:
    return ", ".join(map(str, state))


def _count_ends(moves: list[Move] | tuple[Move, ...]) -> int:
    return sum(len(move.after) == 1 for move in moves)
