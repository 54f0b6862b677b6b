"""Datasets of prompts: what is refused and where, how prompts are rendered, and a shuffled stream that can resume."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from openr1.data.chat import PromptFormat, end_token_ids, render
from openr1.data.prompts import PromptStream, load_prompts
from openr1.data.tokenizer import load_tokenizer
from openr1.errors import ConfigError, DatasetExhausted, MissingError
from openr1.types import Prompt
from tests.fakes import make_prompt


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Callable[[bool], Path]) -> PreTrainedTokenizerBase:
    """The tiny model's."""
    return load_tokenizer(tiny_model(True))


def make_row(name: str = "a", **columns: Any) -> dict[str, Any]:
    """A row that is well formed unless `columns` say otherwise; a column of None is left out."""
    row = {"id": name, "prompt": "1+1?", "label": "2", "task": "countdown"} | columns
    return {key: value for key, value in row.items() if value is not None}


def write(folder: Path, *rows: Any) -> Path:
    """A JSONL file; rows that are text stand in it as they are."""
    path = folder / "set.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def load(
    path: Path, tokenizer: PreTrainedTokenizerBase, limit: int = 1000, system: str | None = None, prefix: str = ""
) -> list[Prompt]:
    """`load_prompts` with a limit that is out of the way."""
    return load_prompts(path, tokenizer, limit, PromptFormat(system, prefix))


# Rows


def test_prompt_as_the_model_sees_it(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a chat template that is applied twice or not at all, and columns that get lost."""
    path = write(tmp_path, make_row("甲", prompt="几加几？", meta={"source": 1}), "", "  ", make_row("b", label="{}"))
    first, second = load(path, tokenizer)
    assert first.text == "<|im_start|>user\n几加几？<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(first.token_ids) == first.text
    assert (first.id, first.label, first.task, first.prefix, first.meta) == ("甲", "2", "countdown", "", {"source": 1})
    assert (second.id, second.label, second.meta) == ("b", "{}", {})


def test_a_prefix_is_continued(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a prefix that is closed like a finished turn, is kept from the grader, or overrides a row's own."""
    path = write(tmp_path, make_row("a"), make_row("b", prefix="好,<think>"), make_row("c", prefix=""))
    first, second, third = load(path, tokenizer, prefix="Let me see.\n<think>")
    assert first.text.endswith("<|im_end|>\n<|im_start|>assistant\nLet me see.\n<think>")
    assert (first.prefix, tokenizer.decode(first.token_ids)) == ("Let me see.\n<think>", first.text)
    assert second.text.endswith("<|im_start|>assistant\n好,<think>")
    assert second.prefix == "好,<think>"
    assert third.text.endswith("<|im_start|>assistant\n")


def test_a_prefix_follows_any_generation_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a prefix that is refused, trimmed or preceded by a thought as the template does to finished turns."""
    changing = copy.deepcopy(tokenizer)
    changing.chat_template = tokenizer.chat_template.replace(
        "message['content']",
        "('<think></think>' if message['role'] == 'assistant' else '') + message['content'] | trim",
    )
    text, prefix = render(make_row("a", prefix=" <think>\n"), changing, PromptFormat())
    assert text.endswith("<|im_start|>assistant\n <think>\n")
    assert prefix == " <think>\n"


def test_a_template_that_refuses_a_prompt(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """Catches a traceback, and a message that does not say which row was refused."""
    refusing = copy.deepcopy(tokenizer)
    refusing.chat_template = "{{ raise_exception('no, never') }}"
    with pytest.raises(ConfigError, match=r"set\.jsonl:1: the chat template refuses a prompt: no, never"):
        load(write(tmp_path, make_row("a")), refusing, system="Be brief.")


@pytest.mark.parametrize(
    ("end", "prefix"), [("<think>\\n", "<think>\n"), ("<think>", "<think>"), ("<think>\\n\\n</think>\\n\\n", "")]
)
def test_a_thought_that_the_template_opens(
    end: str, prefix: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Catches a tag that is kept from the grader, whose format reward then is 0 for every response."""
    opening = copy.deepcopy(tokenizer)
    opening.chat_template = tokenizer.chat_template + f"{{% if add_generation_prompt %}}{{{{ '{end}' }}}}{{% endif %}}"
    (prompt,) = load(write(tmp_path, make_row("a")), opening)
    assert prompt.text.endswith("<|im_start|>assistant\n" + end.replace("\\n", "\n"))
    assert prompt.prefix == prefix


def test_a_thought_that_the_user_writes_about(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a tag of the question, or a thought before the end, that is taken for the response's beginning."""
    (prompt,) = load(write(tmp_path, make_row("a", prompt="What is <think>")), tokenizer)
    assert prompt.prefix == ""


def test_end_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a base model whose template ends a turn by another token than the tokenizer's own end of text."""
    turn, text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert end_token_ids(tokenizer) == [turn]
    base = copy.deepcopy(tokenizer)
    base.eos_token = "<|endoftext|>"
    assert end_token_ids(base) == [turn, text]
    base.chat_template = base.chat_template.replace("<|im_end|>", "\nUser: ")
    assert end_token_ids(base) == [text]


def test_system_prompt_and_messages(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a system prompt put before messages that have their own, or missing before plain prompts."""
    messages = [{"role": "system", "content": "own"}, {"role": "user", "content": "hello"}]
    path = write(tmp_path, make_row("a"), make_row("b", prompt=None, messages=messages))
    plain, chat = load(path, tokenizer, system="Be brief.")
    assert plain.text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>")
    assert chat.text.startswith("<|im_start|>system\nown<|im_end|>\n<|im_start|>user\nhello<|im_end|>")
    assert "Be brief" not in chat.text


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object, found list"),
        ("null", "expected an object, found NoneType"),
        (make_row(id=True), "`id` must be a string or an integer, found true"),
        (make_row(label=None), "no column `label`; the file has id, prompt, task"),
        (make_row(label={"target": 3}), '`label` must be a string or a number, found {"target": 3}'),
        (make_row(task=None), "no column `task`; the file has id, prompt, label"),
        (make_row(prompt=None), "no column `prompt`; the file has id, label, task"),
        (make_row(prompt=["a"]), "`prompt` must be a string"),
        (make_row(messages=[]), "exactly one of `prompt`"),
        (make_row("good"), "duplicate id 'good'"),
    ],
)
def test_malformed_row_is_named(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, row: Any, part: str) -> None:
    """Catches a message without the line's number, one that is off by a blank line, and a row that is skipped."""
    path = write(tmp_path, make_row("good"), "", row, make_row("z"))
    with pytest.raises(ConfigError) as caught:
        load(path, tokenizer)
    message = str(caught.value)
    assert message.startswith(f"{path}:3: ")
    assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": None, "messages": []},
        {"prompt": None, "messages": ["hello"]},
        {"prompt": None, "messages": [{"role": "user"}]},
        {"meta": ["source"]},
        {"meta": "source"},
    ],
)
def test_malformed_messages_and_meta_are_named(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, columns: dict[str, Any]
) -> None:
    """Catches a KeyError, a template's error, or a fault that shows first when the reward server is asked."""
    path = write(tmp_path, make_row("good"), make_row("bad", **columns))
    with pytest.raises(ConfigError) as caught:
        load(path, tokenizer)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_one_prompt_in_several_rows(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches rows of one text that become one group, and a question of which one of two answers must be wrong."""
    rows = [make_row("a"), make_row("b"), make_row("c", task="math", label="two"), make_row("d", prefix="<think>")]
    first, second, *others = load(write(tmp_path, *rows), tokenizer)
    assert (first.text, first.id, second.id) == (second.text, "a", "b")
    assert [prompt.id for prompt in others] == ["c", "d"]
    path = write(tmp_path, *rows, make_row("e", label="3"))
    with pytest.raises(ConfigError, match=f"{path}:5: the same prompt as {path}:1, but with another label"):
        load(path, tokenizer)


def test_prompt_that_is_too_long(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a prompt that is cut without a word, and a limit that leaves the chat template out of the count."""
    path = write(tmp_path, make_row("a", prompt="1"), make_row("b", prompt="1 1"))
    short, long = (len(prompt.token_ids) for prompt in load(path, tokenizer))
    assert long > short
    assert len(load(path, tokenizer, limit=long)) == 2
    with pytest.raises(ConfigError) as caught:
        load(path, tokenizer, limit=long - 1)
    assert str(caught.value).startswith(f"{path}:2: the prompt has {long} tokens, more than")
    assert f"prompt_max_len {long - 1}" in str(caught.value)


# Files


@pytest.mark.parametrize("text", ["", "\n\n", "  \n"])
def test_empty_dataset(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Catches a run over no prompts, which ends far from here."""
    path = tmp_path / "set.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match="no rows"):
        load(path, tokenizer)


def test_files_that_cannot_be_read(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a traceback for a path that is missing or is a folder."""
    for path, reason in ((tmp_path / "absent.jsonl", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(MissingError, match=reason) as caught:
            load(path, tokenizer)
        assert caught.value.exit_code == 3
        assert str(path) in str(caught.value)


def test_file_that_is_not_utf8(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a traceback, or replacement characters in the prompts, for a file in another encoding."""
    path = tmp_path / "set.jsonl"
    path.write_bytes(json.dumps(make_row("a")).encode() + b"\n" + "题".encode("gb18030"))
    with pytest.raises(ConfigError, match="not UTF-8 at byte"):
        load(path, tokenizer)


def test_file_with_a_byte_order_mark(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches a traceback, or an invisible character in a name, for a file that was saved by a Windows editor."""
    path = tmp_path / "set.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(make_row("a")).encode())
    with pytest.raises(ConfigError, match=rf"{path}:1: not JSON: Unexpected UTF-8 BOM"):
        load(path, tokenizer)


def test_line_separators_inside_of_text(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Catches `splitlines`, which cuts a row at U+2028 though JSON lets it stand in a string; and Windows line ends."""
    path = tmp_path / "set.jsonl"
    rows = [make_row("a", prompt="one\u2028two\u0085three"), make_row("b")]
    path.write_bytes("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    first, second = load(path, tokenizer)
    assert "one\u2028two\u0085three" in first.text
    assert second.id == "b"


# Tokenizers


def test_model_folder_that_is_missing(tmp_path: Path) -> None:
    """Catches a path that is taken for a name on a hub, which is then asked over the network."""
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(MissingError, match=r"no config\.json there") as caught:
            load_tokenizer(path)
        assert caught.value.exit_code == 3


@pytest.mark.parametrize("forgotten", [["tokenizer.json"], ["tokenizer.json", "tokenizer_config.json"]])
def test_model_folder_without_tokenizer(
    tmp_path: Path, tiny_model: Callable[[bool], Path], forgotten: list[str]
) -> None:
    """Catches a file that was forgotten in a copy: the tokenizer then knows no text, and every prompt has 0 tokens."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model(True), folder, ignore=shutil.ignore_patterns(*forgotten))
    with pytest.raises(MissingError):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
    ],
)
def test_tokenizer_that_is_broken(tmp_path: Path, tiny_model: Callable[[bool], Path], text: str) -> None:
    """Catches a traceback of another library for a file that was cut short."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model(True), folder)
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(MissingError, match="no usable tokenizer"):
        load_tokenizer(folder)


def test_tokenizer_without_chat_template(tmp_path: Path, tiny_model: Callable[[bool], Path]) -> None:
    """Catches a base model's tokenizer, which would fail at the first prompt."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model(True), folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="no chat template"):
        load_tokenizer(folder)


def test_tokenizer_without_end_token(tmp_path: Path, tiny_model: Callable[[bool], Path]) -> None:
    """Catches responses that cannot end."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model(True), folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": None}))
    with pytest.raises(ConfigError, match="no eos token"):
        load_tokenizer(folder)


# The stream


def take_ids(stream: PromptStream, count: int, batches: int) -> list[list[str]]:
    """The ids of so many batches."""
    return [[prompt.id for prompt in stream.take(count)] for _ in range(batches)]


def take_epoch(stream: PromptStream) -> list[str]:
    """The ids of one epoch of PROMPTS, taken in batches of 4."""
    return [prompt_id for batch in take_ids(stream, 4, 3) for prompt_id in batch]


PROMPTS = [make_prompt(number) for number in range(12)]
ALL_IDS = sorted(prompt.id for prompt in PROMPTS)


def test_every_epoch_is_a_permutation() -> None:
    """Catches prompts that are drawn with repetition, and epochs that all have the same order."""
    stream = PromptStream(PROMPTS, 0)
    orders = [take_epoch(stream) for _ in range(5)]
    assert all(sorted(order) == ALL_IDS for order in orders)
    assert len({tuple(order) for order in orders}) == 5
    assert ALL_IDS not in orders


def test_batch_never_repeats_a_prompt() -> None:
    """Catches a batch over the end of an epoch with the same prompt twice: two groups would share one id."""
    stream = PromptStream(PROMPTS, 3)
    for batch in take_ids(stream, 5, 50):
        assert len(set(batch)) == 5


@pytest.mark.parametrize("before", [0, 1, 2, 3, 5])
def test_restored_stream_goes_on_the_same(before: int) -> None:
    """Catches a resumed run that sees prompts again or skips some, at the end of an epoch too (5 x 5 > 2 x 12)."""
    stream = PromptStream(PROMPTS, 1)
    take_ids(stream, 5, before)
    state = json.loads(json.dumps(stream.state()))
    expected = take_ids(stream, 5, 6)
    other = PromptStream(PROMPTS, 1)
    take_ids(other, 4, 2)
    other.restore(state)
    assert take_ids(other, 5, 6) == expected


def test_seed_decides_the_order() -> None:
    """Catches an order that is the same for every seed, or that is not determined by it."""
    orders = [take_ids(PromptStream(PROMPTS, seed), 12, 2) for seed in (0, 1, 0)]
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]


def test_prompts_are_passed_over_when_their_turn_comes() -> None:
    """Catches a skip that is asked once for all, that shortens a batch, or that shows a prompt twice."""
    skipped: set[str] = set()
    stream = PromptStream(PROMPTS, 0, lambda prompt_id, epoch: "easy" if prompt_id in skipped else "take")
    whole = take_ids(PromptStream(PROMPTS, 0), 12, 2)
    assert take_ids(stream, 4, 1) == [whole[0][:4]]
    skipped |= {whole[0][5], whole[0][1]}
    assert take_ids(stream, 4, 1) == [[whole[0][4], *whole[0][6:9]]]
    # Three are left of the epoch, too few: the next one begins, without those that are skipped.
    left = [prompt_id for prompt_id in whole[1] if prompt_id not in skipped]
    assert take_ids(stream, 4, 2) == [left[:4], left[4:8]]


def test_too_few_prompts_left_end_the_run() -> None:
    """Catches an endless search for prompts when all are solved."""
    kept = PROMPTS[0].id
    stream = PromptStream(PROMPTS, 0, lambda prompt_id, epoch: "take" if prompt_id == kept else "easy")
    assert take_ids(stream, 1, 3) == [[kept]] * 3
    with pytest.raises(DatasetExhausted, match=r"only 1 of 12 prompts are within .*data\.max_pass_rate, .* takes 2"):
        stream.take(2)
