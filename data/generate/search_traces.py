"""Depth-first searches over + - * / with dead ends and backtracking, written out as reasoning traces.

A state is the list of remaining numbers. A move replaces two of them by their sum, difference, product or quotient.
The search succeeds when one number is left and equals the target. All values are exact: integers or fractions.

    Numbers: 4, 2, 6, 3. Target: 24.
    2 + 6 = 8, left: 4, 3, 8
    4 + 8 = 12, left: 3, 12
    3 + 12 = 15, left: 15. Not 24. Back to: 3, 12
    3 * 12 = 36, left: 36. Not 24. Back to: 4, 2, 6, 3
    4 * 3 = 12, left: 2, 6, 12
    2 * 6 = 12, left: 12, 12
    12 + 12 = 24, left: 24. Target reached.

A dead end is a state with one number that is not the target. The search may backtrack from a state before it has tried
all moves, but only if the target is unreachable from there: no branch with a solution is abandoned. No state is visited
twice.
"""

import random
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import combinations

from data.generate.countdown import Problem

Value = int | Fraction
"""An exact number; integers are usually plain `int`, which makes the search several times faster."""

ABLATIONS = ("full", "no-dead-ends", "answer-only", "shuffled-steps")
"""What a trace shows: the whole search, only the moves of the solution, nothing, or all lines in random order."""

MAX_DEFERRED_DEAD_ENDS = 3
"""Dead ends that may be reserved for each later state; two numbers have up to four wrong results."""

FRACTION_DELAY = 0.8
"""How late moves that produce a fraction are tried: 0 like other moves, 1 after all of them.

Up to two in five of all moves produce a fraction, and few solutions need one.
"""


@dataclass(frozen=True)
class SearchStyle:
    """Range of the number of dead ends of a trace, inclusive; the number is sampled uniformly."""

    min_dead_ends: int
    max_dead_ends: int


STYLES = {"short": SearchStyle(0, 1), "medium": SearchStyle(2, 5), "long": SearchStyle(6, 15)}


@dataclass(frozen=True)
class Number:
    """A remaining number, and the expression of given numbers that produced it."""

    value: Value
    expression: str

    def __str__(self) -> str:
        # Fractions are always written in parentheses: 8 / 1/3 would be a different number.
        return str(self.value) if self.value.denominator == 1 else f"({self.value})"


State = tuple[Number, ...]
"""Remaining numbers in display order; the result of a move comes last."""


@dataclass(frozen=True)
class Move:
    """One step, such as `4 * 3 = 12`, from one state to the next."""

    before: State
    step: str
    after: State


@dataclass(frozen=True)
class Trace:
    """A successful search: all moves in order, and the `path` of moves that led to the target."""

    problem: Problem
    moves: tuple[Move, ...]
    path: tuple[Move, ...]

    @property
    def dead_ends(self) -> int:
        """Number of dead ends."""
        return _count_leaves(self.moves) - 1

    @property
    def answer(self) -> str:
        """The solution as one expression of the given numbers, without enclosing parentheses."""
        return self.path[-1].after[0].expression[1:-1]

    def without_dead_ends(self) -> "Trace":
        """Return a trace that contains only the moves of the solution."""
        return Trace(self.problem, self.path, self.path)

    def lines(self) -> list[str]:
        """Return the reasoning: the numbers and the target, then one line per move."""
        target = self.problem.target
        lines = [f"Numbers: {', '.join(map(str, self.problem.numbers))}. Target: {target}."]
        for index, move in enumerate(self.moves):
            line = f"{move.step}, left: {_format_state(move.after)}"
            if len(move.after) == 1:
                if move.after[0].value == target:
                    line += ". Target reached."
                else:
                    line += f". Not {target}. Back to: {_format_state(self.moves[index + 1].before)}"
            lines.append(line)
        return lines

    def response(self, ablation: str, rng: random.Random) -> str:
        """Return the response for one of `ABLATIONS`; `rng` shuffles the lines of `shuffled-steps`."""
        lines = [] if ablation == "answer-only" else self.lines()
        if ablation == "shuffled-steps":
            rng.shuffle(lines)
        return "<think>" + "\n".join(lines) + f"</think>\n<answer>{self.answer}</answer>"


def combine(x: Value, y: Value) -> list[tuple[str, bool, Value]]:
    """Return all results of two non-negative numbers: operator, whether y is the left operand, and value.

    Only the non-negative difference is included. This loses no solution: if an expression has the value v, another
    expression of the same numbers without negative parts has the value |v|, because |a + b| and |a - b| are each a sum
    or a difference of |a| and |b|.
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
    """Return whether the numbers, each used once, can make the target, by exhaustive search.

    Args:
        values: Non-negative numbers in ascending order.
        target: A non-negative number.
    """
    if len(values) == 1:
        return values[0] == target
    if len(values) == 2:
        return any(value == target for _, _, value in combine(*values))
    return _search_exhaustively(values, target)


@lru_cache(maxsize=500_000)
def _search_exhaustively(values: tuple[Value, ...], target: int) -> bool:
    for first, second in combinations(range(len(values)), 2):
        rest = values[:first] + values[first + 1 : second] + values[second + 1 :]
        for _, _, value in combine(values[first], values[second]):
            if can_reach(tuple(sorted((*rest, value))), target):
                return True
    return False


def draw_trace(problem: Problem, dead_ends: int, rng: random.Random) -> Trace:
    """Generate a search for a random solution with `dead_ends` dead ends, or fewer if the problem has fewer.

    Dead ends are explored from the states on the path to the solution, most of them from the initial state.

    Args:
        problem: A solvable problem.
        dead_ends: 0 or more.
        rng: Samples the solution, the dead ends and their positions.
    """
    state: State = tuple(Number(number, str(number)) for number in problem.numbers)
    moves: list[Move] = []
    path: list[Move] = []
    tried: set[tuple[Value, ...]] = set()
    while len(state) > 1:
        budget = dead_ends - _count_leaves(moves)
        deferred = rng.randint(0, min(budget, MAX_DEFERRED_DEAD_ENDS * (len(state) - 2)))
        moves += _draw_dead_ends(state, problem.target, budget - deferred, tried, rng)
        move = next(move for move in _draw_moves(state, rng) if can_reach(_values(move.after), problem.target))
        moves.append(move)
        path.append(move)
        state = move.after
    return Trace(problem, tuple(moves), tuple(path))


def _draw_dead_ends(
    state: State, target: int, budget: int, tried: set[tuple[Value, ...]], rng: random.Random
) -> list[Move]:
    """Return moves from a state into at most `budget` dead ends, depth first; visited states are added to `tried`."""
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
            left -= _count_leaves(below)
    return moves


def _draw_moves(state: State, rng: random.Random) -> list[Move]:
    """Return all moves from a state in random order, fractions mostly last; one move per resulting set of numbers."""
    moves: dict[tuple[Value, ...], Move] = {}
    candidates = []
    for first, second in combinations(range(len(state)), 2):
        x, y = state[first], state[second]
        rest = state[:first] + state[first + 1 : second] + state[second + 1 :]
        for operator, y_first, value in combine(x.value, y.value):
            left, right = (y, x) if y_first else (x, y)
            candidates.append((left, operator, right, rest, value))
    candidates.sort(key=lambda candidate: rng.random() + FRACTION_DELAY * (candidate[-1].denominator != 1))
    for left, operator, right, rest, value in candidates:
        result = Number(value, f"({left.expression} {operator} {right.expression})")
        after = (*rest, result)
        moves.setdefault(_values(after), Move(state, f"{left} {operator} {right} = {result}", after))
    return list(moves.values())


def _divide(x: Value, y: Value) -> Value:
    return x // y if x % y == 0 else Fraction(x, y)


def _values(state: State) -> tuple[Value, ...]:
    """Return the values in ascending order, which identify a state."""
    return tuple(sorted(number.value for number in state))


def _format_state(state: State) -> str:
    return ", ".join(map(str, state))


def _count_leaves(moves: list[Move] | tuple[Move, ...]) -> int:
    return sum(len(move.after) == 1 for move in moves)
