"""Prepare a training set from files: convert, deduplicate, filter, mix, sample and split, deterministically."""

import dataclasses
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.prepare.decontaminate import load_benchmarks
from data.prepare.filtering import FilterReport
from data.prepare.formats import FORMATS, ReadOptions, SourceRow, find_difficulty, read_source_rows
from data.prepare.readers import BadRowError, BadRowHandler
from data.prepare.score_files import load_pass_rates
from openr1.errors import ConfigError
from openr1.runtime.console import say
from openr1.runtime.files import write_objects, write_whole

DropReason = Callable[[SourceRow], str | None]
"""Returns why a row is dropped, as a short text shared by many rows, or None to keep it."""


@dataclass(frozen=True)
class PrepareConfig:
    """The flags of `python -m cli data prepare`, documented in docs/data.md. None and () disable a stage."""

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
        """Check that the flags are valid together.

        Raises:
            ConfigError: They are not; the message names the flags.
        """
        if self.format is not None and self.format not in FORMATS:
            raise ConfigError(f"unknown --format {self.format!r}; expected one of {', '.join(FORMATS)}")
        if (self.model is None) != (self.prompt_max_len is None):
            raise ConfigError(
                "--model and --prompt-max-len must be given together: the model's tokenizer counts the tokens"
            )
        bounded = (self.pass_rate_min, self.pass_rate_max) != (0.0, 1.0)
        if (bounded or self.keep_unmeasured) and not self.pass_rates:
            raise ConfigError("--pass-rate-min, --pass-rate-max and --keep-unmeasured require --pass-rates FILE")
        if self.pass_rates and not bounded:
            raise ConfigError("--pass-rates has no effect without --pass-rate-min or --pass-rate-max")
        if self.pass_rate_min > self.pass_rate_max:
            raise ConfigError("--pass-rate-min is greater than --pass-rate-max")
        if self.weights and len(self.weights) != len(self.files):
            raise ConfigError(f"{len(self.weights)} --weights for {len(self.files)} files; give one per file")
        if self.weights and self.count is None:
            raise ConfigError("--weights requires --count, the number of rows of the mixture")
        if len(set(self.files)) < len(self.files):
            raise ConfigError("a file is given twice; name each file once")
        for path in self.files:
            if path.resolve() in {self.output.resolve() / name for name in OUTPUTS}:
                raise ConfigError(f"{path}: would be overwritten; choose another --output")

    def arguments(self) -> dict[str, Any]:
        """Return all settings, defaults included, as JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return plain


OUTPUTS = ("train.jsonl", "held_out.jsonl", "prepare.json")


def prepare(config: PrepareConfig) -> FilterReport:
    """Write train.jsonl, held_out.jsonl if rows are held out, and prepare.json.

    The same configuration and input files give the same bytes.

    Raises:
        MissingError: A file or the model cannot be read.
        ConfigError: The flags are invalid together, a row is bad, or too few rows are left. Nothing is written.
    """
    config.check()
    report = FilterReport()
    rows = _read(config, report)
    for name, drop_reason in _filters(config):
        rows = report.filter(name, rows, drop_reason)
    rows = _sample(config, rows, report)
    train, held_out = _split(rows, config.held_out, config.seed)
    _write(config, report, train, held_out)
    return report


def _read(config: PrepareConfig, report: FilterReport) -> list[SourceRow]:
    """Read the rows of all files in order, and keep each question once."""
    options = ReadOptions(config.format, config.task, config.wording)
    bad_rows = BadRowHandler(config.skip_bad)
    rows = [row for path in config.files for row in read_source_rows(path, options, bad_rows)]
    report.record("read", len(rows) + bad_rows.counts.total(), bad_rows.counts)
    bad_rows = BadRowHandler(config.skip_bad)
    unique = _drop_duplicates(rows, bad_rows)
    num_duplicates = len(rows) - len(unique) - bad_rows.counts.total()
    report.record("questions", len(rows), {"asked again": num_duplicates, **bad_rows.counts})
    return [_apply_prompt_options(row, config) for row in unique]


def _drop_duplicates(rows: Sequence[SourceRow], bad_rows: BadRowHandler) -> list[SourceRow]:
    """Keep the first row of each question.

    All rows of a question with conflicting answers are bad; of rows with the same id, all but the first are bad.
    """
    first: dict[str, SourceRow] = {}
    conflicting: set[str] = set()
    for row in rows:
        other = first.setdefault(row.key, row)
        if not other.same_answer(row):
            conflicting.add(row.key)
            detail = f"same question as {other.location} with a different answer; correct one of them or use --skip-bad"
            bad_rows.add(BadRowError(row.location, "two answers", detail))
    ids: dict[str, SourceRow] = {}
    kept = []
    for row in rows:
        if row.key in conflicting:
            continue
        if first[row.key] is row:
            other = ids.setdefault(row.columns["id"], row)
            if other is row:
                kept.append(row)
            else:
                detail = f"id {row.columns['id']!r} is already used at {other.location}"
                bad_rows.add(BadRowError(row.location, "id twice", detail))
    bad_rows.counts["two answers"] = sum(row.key in conflicting for row in rows)
    return kept


def _apply_prompt_options(row: SourceRow, config: PrepareConfig) -> SourceRow:
    """Add the system prompt and the response prefix of the configuration.

    Raises:
        ConfigError: A system prompt is to be added, and the row already has a system message.
    """
    columns = dict(row.columns)
    if config.system_prompt is not None:
        messages = columns.pop("messages", None) or [{"role": "user", "content": columns.pop("prompt")}]
        if messages[0]["role"] == "system":
            raise ConfigError(f"{row.location}: already has a system message; remove --system-prompt")
        columns["messages"] = [{"role": "system", "content": config.system_prompt}, *messages]
    if config.prefix is not None:
        columns["prefix"] = config.prefix
    return dataclasses.replace(row, columns=columns)


def _filters(config: PrepareConfig) -> list[tuple[str, DropReason]]:
    """Return the enabled per-row filters, in order."""
    filters: list[tuple[str, DropReason]] = []
    if config.difficulty:
        filters.append(("difficulty", lambda row: _check_difficulty(row, config.difficulty)))
    if config.pass_rates:
        rates = load_pass_rates(config.pass_rates)
        filters.append(("pass rate", lambda row: _check_pass_rate(rates.get(row.columns["id"]), config)))
    if config.benchmarks:
        benchmarks = load_benchmarks(config.benchmarks, config.ngram)

        def check_contamination(row: SourceRow) -> str | None:
            name = benchmarks.find(row.columns, row.key)
            return name and f"in {name}"

        filters.append(("benchmarks", check_contamination))
    if config.model is not None and config.prompt_max_len is not None:
        filters.append(("prompt length", _length_filter(config.model, config.prompt_max_len)))
    return filters


def _check_difficulty(row: SourceRow, allowed: Sequence[str]) -> str | None:
    difficulty = find_difficulty(row.columns.get("meta", {}))
    if difficulty is None:
        return "without difficulty"
    return None if difficulty in allowed else difficulty


def _check_pass_rate(rate: float | None, config: PrepareConfig) -> str | None:
    if rate is None:
        return None if config.keep_unmeasured else "not measured"
    if rate < config.pass_rate_min:
        return f"below {config.pass_rate_min:g}"
    return f"above {config.pass_rate_max:g}" if rate > config.pass_rate_max else None


def _length_filter(model: Path, max_tokens: int) -> DropReason:
    from openr1.data.chat import PromptFormat, render
    from openr1.data.hub import local_model
    from openr1.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(local_model(model))

    def check_length(row: SourceRow) -> str | None:
        text, _ = render(row.columns, tokenizer, PromptFormat())
        too_long = len(tokenizer.encode(text, add_special_tokens=False)) > max_tokens
        return f"over {max_tokens} tokens" if too_long else None

    return check_length


def quotas(weights: Sequence[float], count: int) -> list[int]:
    """Split `count` in proportion to the weights by the largest remainder method.

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


def _sample(config: PrepareConfig, rows: list[SourceRow], report: FilterReport) -> list[SourceRow]:
    """Sample the requested number of rows without replacement, in random order; without --count return all rows.

    Raises:
        ConfigError: A file has fewer rows left than its quota.
    """
    if config.count is None:
        return rows
    sources, counts = {"all files together": rows}, [config.count]
    if config.weights:
        sources = {str(path): [row for row in rows if row.file == path] for path in config.files}
        counts = quotas(config.weights, config.count)
    rng = random.Random(f"{config.seed}/draw")
    sampled: list[SourceRow] = []
    for (name, source), number in zip(sources.items(), counts, strict=True):
        if number > len(source):
            raise ConfigError(
                f"{name}: {len(source)} rows are left, {number} are required; reduce --count or the weight"
            )
        sampled += rng.sample(source, number)
    rng.shuffle(sampled)
    report.record("draw", len(rows), {"not drawn": len(rows) - len(sampled)})
    return sampled


def _split(rows: list[SourceRow], fraction: float | None, seed: int) -> tuple[list[SourceRow], list[SourceRow]]:
    """Return train and held-out rows, each in their original order; held-out rows are sampled at random.

    Raises:
        ConfigError: One of the two would be empty.
    """
    if fraction is None:
        return rows, []
    number = round(len(rows) * fraction)
    if not 0 < number < len(rows):
        raise ConfigError(f"--held-out {fraction:g} of {len(rows)} rows leaves one of the two files empty")
    chosen = set(random.Random(f"{seed}/held-out").sample(range(len(rows)), number))
    train = [row for index, row in enumerate(rows) if index not in chosen]
    return train, [rows[index] for index in sorted(chosen)]


def _write(config: PrepareConfig, report: FilterReport, train: list[SourceRow], held_out: list[SourceRow]) -> None:
    """Write all output files, and remove a stale held_out.jsonl of an earlier run."""
    parts = {OUTPUTS[0]: train, OUTPUTS[1]: held_out}
    summary = {
        "arguments": config.arguments(),
        "steps": [stage.to_object() for stage in report.stages],
        "rows": {"train": len(train), "held_out": len(held_out)},
    }
    for name, part in parts.items():
        if part:
            write_objects(config.output / name, [row.columns for row in part])
        else:
            (config.output / name).unlink(missing_ok=True)
    write_whole(config.output / OUTPUTS[-1], json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    say(
        f"{config.output / OUTPUTS[0]}: {len(train)} rows"
        + (f"; {OUTPUTS[1]}: {len(held_out)} rows" if held_out else "")
    )
