"""Make a training set of files: convert, clean, filter, mix, draw and split, the same every time."""

import dataclasses
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.prepare.decontaminate import load_benchmarks
from data.prepare.filtering import Steps
from data.prepare.formats import FORMATS, Reading, Record, find_difficulty, read_records
from data.prepare.readers import BadRow, BadRows
from data.prepare.score_files import load_pass_rates
from openr1.console import say
from openr1.errors import ConfigError
from openr1.files import write_objects, write_whole

Reason = Callable[[Record], str | None]
"""Why a record is dropped, in a few words that many share; None: it stays."""


@dataclass(frozen=True)
class Plan:
    """What to do; the flags of `python -m cli data prepare`, whose page is docs/data.md. None and () mean: not done."""

    files: tuple[Path, ...]
    output: Path
    format: str | None = None
    task: str | None = None
    wording: str = "en"
    skip_bad: bool = False
    system_prompt: str | None = None
    prefix: str | None = None
    model: Path | None = None
    prompt_max_len: int | None = None
    difficulty: tuple[str, ...] = ()
    pass_rates: tuple[Path, ...] = ()
    pass_rate_min: float = 0.0
    pass_rate_max: float = 1.0
    keep_unmeasured: bool = False
    benchmarks: tuple[Path, ...] = ()
    ngram: int = 10
    weights: tuple[float, ...] = ()
    count: int | None = None
    seed: int = 0
    held_out: float | None = None

    def check(self) -> None:
        """Refuse what does not fit together.

        Raises:
            ConfigError: The message names the flags.
        """
        if self.format is not None and self.format not in FORMATS:
            raise ConfigError(f"unknown --format {self.format!r}; one of {', '.join(FORMATS)}")
        if (self.model is None) != (self.prompt_max_len is None):
            raise ConfigError(
                "--model and --prompt-max-len need each other: tokens are counted by the model's tokenizer"
            )
        bounded = (self.pass_rate_min, self.pass_rate_max) != (0.0, 1.0)
        if (bounded or self.keep_unmeasured) and not self.pass_rates:
            raise ConfigError("--pass-rate-min, --pass-rate-max and --keep-unmeasured need --pass-rates, the files")
        if self.pass_rates and not bounded:
            raise ConfigError("--pass-rates alone drops nothing; give --pass-rate-min or --pass-rate-max")
        if self.pass_rate_min > self.pass_rate_max:
            raise ConfigError("--pass-rate-min is above --pass-rate-max")
        if self.weights and len(self.weights) != len(self.files):
            raise ConfigError(f"{len(self.weights)} --weights for {len(self.files)} files; give one for each")
        if self.weights and self.count is None:
            raise ConfigError("--weights need --count, the number of rows of the mixture")
        if len(set(self.files)) < len(self.files):
            raise ConfigError("one file is given twice; name each once")
        for path in self.files:
            if path.resolve() in {self.output.resolve() / name for name in OUTPUTS}:
                raise ConfigError(f"{path}: would be overwritten; choose another --output")

    def arguments(self) -> dict[str, Any]:
        """For JSON, defaults too."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return plain


OUTPUTS = ("train.jsonl", "held_out.jsonl", "prepare.json")


def prepare(plan: Plan) -> Steps:
    """Write train.jsonl, held_out.jsonl if rows are held out, and prepare.json; the same plan gives the same bytes.

    Raises:
        MissingError: A file or the model cannot be read.
        ConfigError: The plan does not fit together, a row is bad, or too few rows are left. Nothing is written.
    """
    plan.check()
    steps = Steps()
    records = _read(plan, steps)
    for name, reason in _filters(plan):
        records = steps.sift(name, records, reason)
    records = _draw(plan, records, steps)
    train, held_out = _split(records, plan.held_out, plan.seed)
    _write(plan, steps, train, held_out)
    return steps


def _read(plan: Plan, steps: Steps) -> list[Record]:
    """Records of all files, in order, each question once."""
    reading = Reading(plan.format, plan.task, plan.wording)
    bad = BadRows(plan.skip_bad)
    records = [record for path in plan.files for record in read_records(path, reading, bad)]
    steps.note("read", len(records) + bad.counts.total(), bad.counts)
    bad = BadRows(plan.skip_bad)
    unique = _drop_repeated(records, bad)
    again = len(records) - len(unique) - bad.counts.total()
    steps.note("questions", len(records), {"asked again": again, **bad.counts})
    return [_dress(record, plan) for record in unique]


def _drop_repeated(records: Sequence[Record], bad: BadRows) -> list[Record]:
    """The first record of each question. A question with two answers is bad wherever it stands, an id only again."""
    first: dict[str, Record] = {}
    disputed: set[str] = set()
    for record in records:
        other = first.setdefault(record.key, record)
        if not other.same_answer(record):
            disputed.add(record.key)
            detail = f"the same question as {other.place}, with another answer; find the right one, or use --skip-bad"
            bad.add(BadRow(record.place, "two answers", detail))
    ids: dict[str, Record] = {}
    kept = []
    for record in records:
        if record.key in disputed:
            continue
        if first[record.key] is record:
            other = ids.setdefault(record.row["id"], record)
            if other is record:
                kept.append(record)
            else:
                bad.add(BadRow(record.place, "id twice", f"id {record.row['id']!r} stands at {other.place}, too"))
    bad.counts["two answers"] = sum(record.key in disputed for record in records)
    return kept


def _dress(record: Record, plan: Plan) -> Record:
    """With the system prompt and the prefix that the plan gives.

    Raises:
        ConfigError: The row has a system message of its own.
    """
    row = dict(record.row)
    if plan.system_prompt is not None:
        messages = row.pop("messages", None) or [{"role": "user", "content": row.pop("prompt")}]
        if messages[0]["role"] == "system":
            raise ConfigError(f"{record.place}: has a system message already; leave out --system-prompt")
        row["messages"] = [{"role": "system", "content": plan.system_prompt}, *messages]
    if plan.prefix is not None:
        row["prefix"] = plan.prefix
    return dataclasses.replace(record, row=row)


def _filters(plan: Plan) -> list[tuple[str, Reason]]:
    """Steps that look at one record at a time, in order."""
    filters: list[tuple[str, Reason]] = []
    if plan.difficulty:
        filters.append(("difficulty", lambda record: _wrong_difficulty(record, plan.difficulty)))
    if plan.pass_rates:
        rates = load_pass_rates(plan.pass_rates)
        filters.append(("pass rate", lambda record: _wrong_pass_rate(rates.get(record.row["id"]), plan)))
    if plan.benchmarks:
        benchmarks = load_benchmarks(plan.benchmarks, plan.ngram)

        def contaminated(record: Record) -> str | None:
            name = benchmarks.find(record.row, record.key)
            return name and f"in {name}"

        filters.append(("benchmarks", contaminated))
    if plan.model is not None and plan.prompt_max_len is not None:
        filters.append(("prompt length", _too_long(plan.model, plan.prompt_max_len)))
    return filters


def _wrong_difficulty(record: Record, wanted: Sequence[str]) -> str | None:
    difficulty = find_difficulty(record.row.get("meta", {}))
    if difficulty is None:
        return "without difficulty"
    return None if difficulty in wanted else difficulty


def _wrong_pass_rate(rate: float | None, plan: Plan) -> str | None:
    if rate is None:
        return None if plan.keep_unmeasured else "not measured"
    if rate < plan.pass_rate_min:
        return f"below {plan.pass_rate_min:g}"
    return f"above {plan.pass_rate_max:g}" if rate > plan.pass_rate_max else None


def _too_long(model: Path, limit: int) -> Reason:
    from openr1.prompts import Wording, load_tokenizer, render

    tokenizer = load_tokenizer(model)

    def reason(record: Record) -> str | None:
        text, _ = render(record.row, tokenizer, Wording())
        too_long = len(tokenizer.encode(text, add_special_tokens=False)) > limit
        return f"over {limit} tokens" if too_long else None

    return reason


def quotas(weights: Sequence[float], count: int) -> list[int]:
    """Whole numbers in proportion to the weights, `count` in sum: rounded down, the rest to the largest remainders.

    Example:
        >>> quotas([1.0, 1.0, 2.0], 10)
        [3, 2, 5]
    """
    shares = [count * weight / sum(weights) for weight in weights]
    whole = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda index: whole[index] - shares[index])
    for index in by_remainder[: count - sum(whole)]:
        whole[index] += 1
    return whole


def _draw(plan: Plan, records: list[Record], steps: Steps) -> list[Record]:
    """The rows asked for, in random order; without --count all rows, in their own.

    Raises:
        ConfigError: A source has fewer rows than it is to give.
    """
    if plan.count is None:
        return records
    sources, wanted = {"all files together": records}, [plan.count]
    if plan.weights:
        sources = {str(path): [record for record in records if record.file == path] for path in plan.files}
        wanted = quotas(plan.weights, plan.count)
    rng = random.Random(f"{plan.seed}/draw")
    drawn: list[Record] = []
    for (name, source), number in zip(sources.items(), wanted, strict=True):
        if number > len(source):
            raise ConfigError(
                f"{name}: {len(source)} rows are left, {number} are to be drawn; lower --count or the weight"
            )
        drawn += rng.sample(source, number)
    rng.shuffle(drawn)
    steps.note("draw", len(records), {"not drawn": len(records) - len(drawn)})
    return drawn


def _split(records: list[Record], fraction: float | None, seed: int) -> tuple[list[Record], list[Record]]:
    """Train and held-out records, each in their order.

    Raises:
        ConfigError: One side would be empty.
    """
    if fraction is None:
        return records, []
    number = round(len(records) * fraction)
    if not 0 < number < len(records):
        raise ConfigError(f"--held-out {fraction:g} of {len(records)} rows leaves one side empty")
    chosen = set(random.Random(f"{seed}/held-out").sample(range(len(records)), number))
    train = [record for index, record in enumerate(records) if index not in chosen]
    return train, [records[index] for index in sorted(chosen)]


def _write(plan: Plan, steps: Steps, train: list[Record], held_out: list[Record]) -> None:
    """All files; one of an earlier preparation that this one does not make is removed."""
    parts = {OUTPUTS[0]: train, OUTPUTS[1]: held_out}
    report = {
        "arguments": plan.arguments(),
        "steps": [step.to_object() for step in steps.done],
        "rows": {"train": len(train), "held_out": len(held_out)},
    }
    for name, part in parts.items():
        if part:
            write_objects(plan.output / name, [record.row for record in part])
        else:
            (plan.output / name).unlink(missing_ok=True)
    write_whole(plan.output / OUTPUTS[-1], json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    say(
        f"{plan.output / OUTPUTS[0]}: {len(train)} rows" + (f"; {OUTPUTS[1]}: {len(held_out)} rows" if held_out else "")
    )
