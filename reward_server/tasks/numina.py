"""NuminaMath: reasoning in think tags, then a boxed answer in answer tags. Rewards format and accuracy."""

from reward_server.components.tags import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, find_answer
from reward_server.grading.extraction import find_boxed
from reward_server.tasks.math import parse_label
from reward_server.tasks.task import Comparison, Example, GradingContext, RewardComponent, Task


def find_boxed_answer(text: str) -> str | None:
    """The last box in the answer tags, or their whole content if there is no box."""
    answer = find_answer(text)
    return None if answer is None else find_boxed(answer) or answer


def format_reward(context: GradingContext[str]) -> float:
    """0 unless both pairs of tags are complete and in order; then 1 with a box in the answer tags, 0.5 without."""
    position = 0
    for tag in (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE):
        position = context.text.find(tag, position)
        if position < 0:
            return 0.0
        position += len(tag)
    answer = find_answer(context.text)
    return 1.0 if answer is not None and find_boxed(answer) is not None else 0.5


def accuracy_reward(context: GradingContext[str]) -> float:
    """1 if the answer is mathematically equal to the gold."""
    return float(context.answer is not None and context.compare(Comparison(context.answer, context.gold)))


NUMINA = Task(
    name="numina",
    version="4",
    summary=r"\boxed{...} in answer tags equals the gold answer",
    parse_label=parse_label,
    find_answer=find_boxed_answer,
    components={"format": RewardComponent(1.0, format_reward), "accuracy": RewardComponent(1.0, accuracy_reward)},
    accuracy="accuracy",
    example=Example(r"<think>Half of one.</think><answer>\boxed{\frac{1}{2}}</answer>", "0.5", "What is half of 1?"),
)
