"""Generated problems and traces are true, solvable and split for good; the tiny model's tokenizer loses nothing."""

import ast
import json
import operator
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from data.generate.countdown import (
    WORDINGS,
    ProblemSpace,
    TraceStyle,
    draw_problems,
    draw_traces,
    main,
    problem_row,
    render_prompt,
)
from data.generate.tiny_model import build_model, build_tokenizer
from reward_server.scoring import get_score
from reward_server.tasks.countdown import COUNTDOWN

OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
NODES = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
SPACE = ProblemSpace(counts=(3, 4), smallest=1, largest=20, target_smallest=1, target_largest=60)
SKILL, BLUR = TraceStyle(hit=0.5, give_up=0.0), TraceStyle(hit=0.3, give_up=0.4)


@cache
def reachable(numbers: tuple[Fraction, ...]) -> frozenset[Fraction]:
    """Every value that all the numbers make with + - * /, each used once; by trying everything."""
    if len(numbers) == 1:
        return frozenset(numbers)
    values: set[Fraction] = set()
    for first, second in combinations(range(len(numbers)), 2):
        x, y = numbers[first], numbers[second]
        rest = [number for index, number in enumerate(numbers) if index not in (first, second)]
        results = {x + y, x - y, y - x, x * y} | {a / b for a, b in ((x, y), (y, x)) if b}
        for result in results:
            values |= reachable(tuple(sorted([*rest, result])))
    return frozenset(values)


def evaluate(expression: str) -> Fraction:
    """Exact value of an expression over whole numbers."""

    def value_of(node: ast.AST) -> Fraction:
        if isinstance(node, ast.BinOp):
            return OPERATIONS[NODES[type(node.op)]](value_of(node.left), value_of(node.right))
        assert isinstance(node, ast.Constant)
        assert isinstance(node.value, int)
        return Fraction(node.value)

    return value_of(ast.parse(expression, mode="eval").body)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def problem_of(row: dict[str, Any]) -> tuple[tuple[int, ...], int]:
    """Numbers in ascending order, and the target: what makes two problems the same."""
    label = json.loads(row["label"])
    return tuple(sorted(label["numbers"])), label["target"]


def write_problems(folder: Path, seed: int, *options: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of train and held-out problems that the command writes."""
    sizes = ["--train", "60", "--held-out", "20", "--largest", "20", "--target-largest", "40"]
    assert main(["problems", "--output", str(folder), "--seed", str(seed), *sizes, *options]) == 0
    return read_rows(folder / "train.jsonl"), read_rows(folder / "held_out.jsonl")


def make_traces(count: int, wording: str = "en", seed: int = 0) -> list[dict[str, Any]]:
    """Traces, half of them in each style."""
    return list(draw_traces(SPACE, count, 0.5, SKILL, BLUR, random.Random(seed), wording))


def exit_code(argv: list[str]) -> int:
    """What the command ends with, whether it returns or the argument parser exits."""
    try:
        return main(argv)
    except SystemExit as exited:
        return exited.code if isinstance(exited.code, int) else 1


# Problems


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    """Catches problems that depend on the hash seed, the time or the order of a set, and a seed that is not used."""
    write_problems(tmp_path / "a", 3)
    write_problems(tmp_path / "b", 3)
    write_problems(tmp_path / "c", 4)
    for name in ("train.jsonl", "held_out.jsonl"):
        first, again, other = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert first == again
        assert first != other


def test_train_and_held_out_share_no_problem_whatever_the_seed(tmp_path: Path) -> None:
    """Catches a split by drawing: with another seed it would put held-out problems into training, reordered perhaps."""
    sides = [write_problems(tmp_path / str(seed), seed) for seed in range(5)]
    train = {problem_of(row) for rows, _ in sides for row in rows}
    held_out = {problem_of(row) for _, rows in sides for row in rows}
    assert not train & held_out
    for rows in (rows for side in sides for rows in side):
        assert len({problem_of(row) for row in rows}) == len(rows)
        assert len({row["id"] for row in rows}) == len(rows)


def test_every_problem_is_solvable_and_inside_its_space(tmp_path: Path) -> None:
    """Catches a target that cannot be reached, which would be scored as the model's failure."""
    train, held_out = write_problems(tmp_path, 0, "--smallest", "2", "--target-smallest", "12")
    for row in train + held_out:
        numbers, target = problem_of(row)
        assert target in reachable(tuple(map(Fraction, numbers)))
        assert len(numbers) in (3, 4)
        assert 2 <= numbers[0] <= numbers[-1] <= 20
        assert 12 <= target <= 40
    assert {len(problem_of(row)[0]) for row in train} == {3, 4}


def test_rows_are_what_prompts_and_grader_read(tmp_path: Path) -> None:
    """Catches a label that the grader cannot read, and a prompt that tells other numbers than the label."""
    train, _ = write_problems(tmp_path, 0)
    for row in train:
        assert (row["task"], row["meta"]["wording"]) == ("countdown", "en")
        assert get_score(COUNTDOWN, "", row["label"]).verdict == "no_answer"
        label = json.loads(row["label"])
        in_prompt = [int(number) for number in re.findall(r"\d+", row["prompt"])]
        assert in_prompt == [*label["numbers"], label["target"]]


@pytest.mark.parametrize("wording", sorted(WORDINGS))
def test_prompt_of_every_wording(wording: str) -> None:
    """Catches a wording without the numbers or the target, or with a placeholder left in it."""
    (problem,) = draw_problems(SPACE, 1, held_out=False, rng=random.Random(0))
    prompt = render_prompt(problem, wording)
    assert ", ".join(map(str, problem.numbers)) in prompt
    assert str(problem.target) in re.findall(r"\d+", prompt)
    assert "{" not in prompt
    if wording != "short":
        assert all(tag in prompt for tag in ("<think>", "</think>", "<answer>", "</answer>"))


def test_english_and_chinese_wording(tmp_path: Path) -> None:
    """Catches the wrong language, and Chinese written as escapes that nobody can read in the file."""
    english, _ = write_problems(tmp_path / "en", 0)
    chinese, _ = write_problems(tmp_path / "zh", 0, "--wording", "zh")
    assert english[0]["prompt"].isascii()
    assert "请用数字" in chinese[0]["prompt"]
    assert "请用数字" in (tmp_path / "zh/train.jsonl").read_text(encoding="utf-8")
    assert [row["label"] for row in english] == [row["label"] for row in chinese]


@pytest.mark.parametrize(
    "sizes",
    [
        ["--train", "500", "--held-out", "0"],
        ["--train", "1", "--held-out", "500"],
    ],
)
def test_space_that_is_too_small(tmp_path: Path, capsys: pytest.CaptureFixture[str], sizes: list[str]) -> None:
    """Catches an endless search for new problems, fewer rows than asked for, and half of a dataset left behind."""
    # Two numbers of 1 to 3 make 6 pairs; the targets 2 to 6 leave fewer than 500 problems.
    space = ["--counts", "2", "--largest", "3", "--target-smallest", "2", "--target-largest", "6"]
    assert exit_code(["problems", "--output", str(tmp_path), *space, *sizes]) == 2
    assert "distinct problems of 500 requested" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# Traces


def parse_trace(response: str) -> tuple[list[tuple[list[str], str]], str]:
    """The attempts, each its steps and its mark, and the answer."""
    match = re.fullmatch(r"<think>(.*)</think>\n<answer>(.*)</answer>", response, re.DOTALL)
    assert match is not None
    attempts = []
    for line in match[1].split("\n"):
        chain, _, mark = line.partition(" ")
        attempts.append((chain.split(","), mark))
    return attempts, match[2]


def follow(steps: list[str], numbers: list[int]) -> int:
    """Check each step's arithmetic and that it uses what is there; returns what is left in the end."""
    pool = Counter(numbers)
    for step in steps:
        match = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", step)
        assert match is not None, step
        x, y, value = int(match[1]), int(match[3]), int(match[4])
        assert OPERATIONS[match[2]](Fraction(x), Fraction(y)) == value, step
        pool.subtract([x, y])
        assert min(pool.values()) >= 0, step
        pool[value] += 1
    (left,) = pool.elements()
    return left


@pytest.mark.parametrize("wording", ["en", "zh"])
def test_traces_are_true(wording: str) -> None:
    """Catches false arithmetic, a number used twice, an answer other than the last attempt, and a wrong yes or no."""
    found = 0
    for row in make_traces(300, wording):
        label = json.loads(row["label"])
        numbers, target = label["numbers"], label["target"]
        attempts, answer = parse_trace(row["response"])
        values = [follow(steps, numbers) for steps, _ in attempts]
        assert [mark for _, mark in attempts] == ["yes" if value == target else "no" for value in values]
        # The search ends at the first hit, and no attempt is made twice.
        assert target not in values[:-1]
        assert len({",".join(steps) for steps, _ in attempts}) == len(attempts)
        assert len(attempts) <= BLUR.max_attempts
        assert evaluate(answer) == values[-1]
        assert Counter(map(int, re.findall(r"\d+", answer))) == Counter(numbers)
        found += values[-1] == target
    # Both kinds of ending stand in the data, and all of the first half's are right.
    assert 150 <= found < 300


def test_grader_agrees_with_the_traces() -> None:
    """Catches a format that the grader does not take: the model would be taught to lose."""
    verdicts = set()
    for row in make_traces(100):
        attempts, _ = parse_trace(row["response"])
        score = get_score(COUNTDOWN, row["response"], row["label"])
        found = attempts[-1][1] == "yes"
        assert score.components == {"format": 1.0, "equation": float(found), "thought": 0.0}
        verdicts.add(score.verdict)
    assert verdicts == {"correct", "wrong"}


def test_no_trace_is_of_a_held_out_problem() -> None:
    """Catches a base model that was taught the problems on which it is measured."""
    space = ProblemSpace(counts=(2,), largest=9, target_largest=20)
    held_out = {problem_of(problem_row(p, "en")) for p in draw_problems(space, 5, held_out=True, rng=random.Random(1))}
    traced = {problem_of(row) for row in draw_traces(space, 2000, 1.0, SKILL, BLUR, random.Random(0), "en")}
    # The space has some hundred problems, so that without the filter 2000 draws would meet nearly all of them.
    assert len(traced) > 80
    assert not traced & held_out


def test_styles_stand_in_their_order() -> None:
    """Catches a mixture where a curriculum is meant: the first share never gives up."""
    rows = list(draw_traces(SPACE, 40, 0.25, TraceStyle(1.0, 0.0), TraceStyle(0.0, 1.0), random.Random(0), "en"))
    attempts = [parse_trace(str(row["response"]))[0] for row in rows]
    # hit = 1: one attempt, a right one. hit = 0 and give_up = 1: one random attempt, and seldom a right one.
    assert [len(lines) for lines in attempts] == [1] * 40
    assert [lines[0][1] for lines in attempts[:10]] == ["yes"] * 10
    assert [lines[0][1] for lines in attempts[10:]].count("no") > 15
    assert [row["id"] for row in rows[:2]] == ["trace-0", "trace-1"]


def test_traces_command_is_repeatable(tmp_path: Path) -> None:
    """Catches traces that differ from call to call, so that the tiny base cannot be made again."""
    contents = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        options = [
            "--output",
            str(tmp_path / name),
            "--count",
            "20",
            "--seed",
            seed,
            "--counts",
            "3",
            "--largest",
            "15",
        ]
        assert main(["traces", *options]) == 0
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1] != contents[2]
    assert len(read_rows(tmp_path / "a")) == 20


# The tiny model


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Callable[[bool], Path]) -> PreTrainedTokenizerBase:
    """The tiny model's tokenizer, as it is loaded from disk."""
    return AutoTokenizer.from_pretrained(tiny_model(True))


@settings(deadline=None)
@given(st.one_of(st.text(), st.text("你好，算式 \n\t\r019+-*/()=.,'</think>\u3000\u00a0")))
def test_tokenizer_loses_nothing(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Catches white space that is dropped or cleaned up, and characters that become unknown.

    In normal form C, which Qwen2's tokenizer brings every text into.
    """
    text = unicodedata.normalize("NFC", text)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer"])
def test_written_tokenizer_is_the_one_that_is_loaded(tiny_model: Callable[[bool], Path], part: str) -> None:
    """Catches a tokenizer.json that splits text otherwise than the trainer and the engine do, which load by name."""
    written = json.loads((tiny_model(True) / "tokenizer.json").read_text(encoding="utf-8"))
    loaded = AutoTokenizer.from_pretrained(tiny_model(True))
    assert json.loads(loaded.backend_tokenizer.to_str())[part] == written[part]


def test_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches padding that looks like the end of a response, tags cut into pieces, and numbers with many spellings."""
    assert tokenizer.pad_token_id is not None
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.decode([tokenizer.eos_token_id]) == "<|im_end|>"
    for text in ("<think>", "</think>", "<answer>", "</answer>", *"0123456789"):
        assert len(tokenizer.encode(text, add_special_tokens=False)) == 1
    assert len(tokenizer.encode("1234", add_special_tokens=False)) == 4


def test_chat_template_by_hand(tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a missing end of turn, a turn of the assistant that is not opened, and white space that differs."""
    messages = [{"role": "system", "content": "S 一"}, {"role": "user", "content": "U"}]
    expected = "<|im_start|>system\nS 一<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == expected
    with_prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert with_prompt == expected + "<|im_start|>assistant\n"
    ids = tokenizer.encode(with_prompt, add_special_tokens=False)
    assert ids.count(tokenizer.eos_token_id) == 2
    assert tokenizer.decode(ids) == with_prompt


@pytest.mark.parametrize("tied", [True, False])
def test_tiny_model_fits_the_engine(tiny_model: Callable[[bool], Path], tied: bool) -> None:
    """Catches a head size that vLLM's CPU attention refuses, and a head that is tied although it should not be."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model(tied))
    attention = model.model.layers[0].self_attn
    config = model.config
    assert attention.head_dim == 32
    assert attention.q_proj.weight.shape == (config.num_attention_heads * 32, config.hidden_size)
    assert attention.k_proj.weight.shape == (config.num_key_value_heads * 32, config.hidden_size)
    shared = model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert shared is tied
    assert config.tie_word_embeddings is tied
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(tied))
    assert config.vocab_size == len(tokenizer)
    assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_tiny_model_is_repeatable(tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a vocabulary or weights that differ from one making to the next, and a seed that is not used."""
    again = build_tokenizer()
    assert again.get_vocab() == tokenizer.get_vocab()
    first, same, other = (build_model(again, 64, 1, True, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_odd_hidden_size_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    """Catches a model of heads of another size than was promised: 96 is three heads of 32, which two cannot share."""
    with pytest.raises(ValueError, match="hidden_size is 96"):
        build_model(tokenizer, 96, 1, True, 0)
