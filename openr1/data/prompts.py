"""Prompt datasets: rendered and tokenized rows, and an endless, resumable stream of them."""

from collections import Counter
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from openr1.data.chat import PromptFormat, naming, render
from openr1.data.columns import RowSchema
from openr1.data.difficulty import Judge, Verdict
from openr1.data.order import epoch_order
from openr1.data.rows import PROMPTS, read_rows
from openr1.errors import ConfigError, DatasetExhausted
from openr1.types import Prompt

SKIPS: tuple[Verdict, ...] = ("easy", "hard", "off_target")
"""Why a prompt is skipped."""


def load_prompts(
    path: Path,
    tokenizer: PreTrainedTokenizerBase,
    prompt_max_len: int,
    prompt_format: PromptFormat,
    schema: RowSchema = PROMPTS,
) -> list[Prompt]:
    """Read, render and tokenize a dataset.

    Raises:
        MissingError: The dataset cannot be read.
        ConfigError: A row is malformed, an id occurs twice, a prompt has two labels, or a prompt is longer than
            `prompt_max_len` tokens.
    """
    prompts: dict[str, Prompt] = {}
    labels: dict[tuple[str, str], tuple[str, str]] = {}
    for location, row in read_rows(path, schema):
        with naming(location):
            text, prefix = render(row, tokenizer, prompt_format)
        token_ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        if len(token_ids) > prompt_max_len:
            raise ConfigError(
                f"{location}: the prompt has {len(token_ids)} tokens, more than data.prompt_max_len {prompt_max_len}; "
                "raise the limit or remove the row (prompts are never cut)"
            )
        if row["id"] in prompts:
            raise ConfigError(f"{location}: duplicate id {row['id']!r}; ids must be unique in a dataset")
        label, first = labels.setdefault((text, row["task"]), (row["label"], location))
        if label != row["label"]:
            raise ConfigError(
                f"{location}: the same prompt as {first}, but with another label; remove one of the rows (`python -m "
                "cli data prepare` finds all of them)"
            )
        meta = row.get("meta", {})
        prompts[row["id"]] = Prompt(row["id"], text, token_ids, row["label"], row["task"], prefix, meta)
    return list(prompts.values())


class PromptStream:
    """Endless stream of prompts. Each epoch is shuffled by (seed, epoch), so two numbers describe the position.

    With a judge, what it skips is counted in the position, too.
    """

    def __init__(self, prompts: list[Prompt], seed: int | str, judge: Judge | None = None) -> None:
        """Start at the beginning of epoch 0.

        Args:
            prompts: The dataset.
            seed: Seed of the shuffles.
            judge: Asked about each prompt when its turn comes (`data.difficulty`); None takes all.
        """
        self._judge = judge
        self._prompts = prompts
        self._seed = seed
        self._epoch = 0
        self._cursor = 0
        self._skipped: Counter[Verdict] = Counter()
        self._order = self._shuffled()

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts, all distinct.

        If the rest of the epoch has fewer than `count`, it is discarded and the batch is taken from the next epoch. If
        a whole epoch has fewer, those off the target come last in the batch.

        Raises:
            DatasetExhausted: A whole epoch has fewer than `count` prompts that are neither too easy nor too hard.
        """
        taken: list[Prompt] = []
        off_target: list[Prompt] = []
        first_epoch = self._epoch
        while len(taken) < count:
            if self._cursor == len(self._prompts):
                if self._epoch > first_epoch:
                    return self._filled_up(taken, off_target, count)
                self._epoch += 1
                self._cursor = 0
                self._order = self._shuffled()
                taken, off_target = [], []
            prompt = self._prompts[self._order[self._cursor]]
            self._cursor += 1
            verdict = "take" if self._judge is None else self._judge(prompt.id, self._epoch)
            if verdict == "take":
                taken.append(prompt)
                continue
            self._skipped[verdict] += 1
            if verdict == "off_target":
                off_target.append(prompt)
        return taken

    def state(self) -> dict[str, int]:
        """Position after the prompts taken so far, for `restore`; with a judge also what it has skipped, and why."""
        position = {"epoch": self._epoch, "cursor": self._cursor}
        if self._judge is None:
            return position
        return position | {f"skipped_{verdict}": self._skipped[verdict] for verdict in SKIPS}

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a position returned by `state`, of the same dataset and seed; skips not in it begin at 0.

        Raises:
            ConfigError: The position is behind the end of the dataset.
        """
        if state["cursor"] > len(self._prompts):
            raise ConfigError(
                f"the run is at prompt {state['cursor']} of data.train, which has {len(self._prompts)}: changed since; "
                "give it as it was, or start a new run"
            )
        if state["epoch"] != self._epoch:
            self._epoch = state["epoch"]
            self._order = self._shuffled()
        self._cursor = state["cursor"]
        self._skipped = Counter({verdict: state.get(f"skipped_{verdict}", 0) for verdict in SKIPS})

    def _filled_up(self, taken: list[Prompt], off_target: list[Prompt], count: int) -> list[Prompt]:
        missing = count - len(taken)
        if missing > len(off_target):
            raise DatasetExhausted(
                f"only {len(taken) + len(off_target)} of {len(self._prompts)} prompts are within data.min_pass_rate "
                f"and data.max_pass_rate, and a step takes {count}; give others, or widen the limits"
            )
        self._skipped["off_target"] -= missing
        return taken + off_target[:missing]

    def _shuffled(self) -> list[int]:
        return epoch_order(len(self._prompts), self._seed, self._epoch)
