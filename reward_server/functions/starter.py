"""Rewards of my own. Every public function with a parameter `response` is a task, by its name.

Try it:    openr1 score --module THIS_FILE --label 4 --response "2 + 2 is 4"
Train:     openr1 train --config CONFIG --reward.module THIS_FILE
"""


def reward(prompt: str, response: str, label: str, meta: dict[str, object]) -> dict[str, float]:
    """1 if the last word of the response is the label, and 0.1 more if the response is short.

    Return a number, or a dict of numbers, which are added up and logged by their names. `accuracy` is special: it is
    what evaluations report, from 0 to 1. An exception means that the response cannot be graded; it is never a 0.
    """
    words = response.split()
    correct = bool(words) and words[-1].strip(".") == label
    return {"accuracy": float(correct), "brevity": 0.1 * (len(response) < 1000)}
