"""The reward server's own configuration file: what it changes, and what it refuses. Expected values are by hand."""

from pathlib import Path

import pytest

from reward_server.config import ServerConfig
from reward_server.config_file import ConfigFileError, read_config
from reward_server.scoring import get_score
from reward_server.tasks import BUILT_IN, Tasks

LABEL = '{"numbers": [3, 5, 7], "target": 22}'
RESPONSE = f"<think>{'3' * 1001}</think>\n<answer>3*5+7</answer>"


def write(folder: Path, text: str | bytes) -> Path:
    """A file with this content."""
    path = folder / "server.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def reward(tasks: Tasks) -> float | None:
    """What a countdown response earns that has all three components at 1."""
    return get_score(tasks["countdown"], RESPONSE, LABEL).reward


def test_weights_change_the_reward(tmp_path: Path) -> None:
    """Catches weights that are read and ignored, that replace those not named, or that change the tasks everywhere."""
    path = write(tmp_path, "tasks: {countdown: {weights: {format: 1, thought: 1.5}}}")
    _, tasks = read_config(path)
    assert reward(tasks) == 3.5  # 1 * 1 + 1 * 1 + 1.5 * 1, where the equation keeps its weight of 1
    assert reward(BUILT_IN) == 1.1  # 0.1 * 1 + 1 * 1 + 0 * 1
    assert {name: task for name, task in tasks.items() if name != "countdown"} == {
        name: task for name, task in BUILT_IN.items() if name != "countdown"
    }


def test_a_weight_may_be_zero_or_negative(tmp_path: Path) -> None:
    """Catches a weight of 0 that counts as not given, and penalties that are refused."""
    _, tasks = read_config(write(tmp_path, "tasks: {countdown: {weights: {equation: 0, format: -0.5}}}"))
    graded = get_score(tasks["countdown"], RESPONSE, LABEL)
    assert (graded.reward, graded.score, graded.verdict) == (-0.5, 1.0, "correct")


@pytest.mark.parametrize(("text", "expected"), [("failed_reward: -1", -1.0), ("failed_reward: 0", 0.0), ("{}", 0.0)])
def test_reward_of_failed_items(tmp_path: Path, text: str, expected: float) -> None:
    """Catches a failed_reward that is ignored, and one that leaks into what a gradable item earns."""
    _, tasks = read_config(write(tmp_path, f"tasks:\n  countdown:\n    {text}\n"))
    assert (tasks["countdown"].failed_reward, reward(tasks)) == (expected, 1.1)
    assert get_score(tasks["countdown"], RESPONSE, "no label").reward is None


def test_settings_that_are_not_named_keep_their_defaults(tmp_path: Path) -> None:
    """Catches limits that are read and ignored."""
    config, tasks = read_config(write(tmp_path, "settings: {max_items: 7, batch_seconds: 2.5}"))
    assert config == ServerConfig(max_items=7, batch_seconds=2.5)
    assert tasks == BUILT_IN


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}", "tasks: {}"])
def test_a_file_without_content_changes_nothing(tmp_path: Path, text: str) -> None:
    """Catches an empty file that is an error, or that means something else than no file."""
    assert read_config(write(tmp_path, text)) == (ServerConfig(), BUILT_IN)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tasks: {countdwn: {}}", "unknown task 'countdwn'; known tasks: code, countdown, "),
        ("tasks: {countdown: {weights: {equatoin: 1}}}", "'equatoin'; its components: format, equation, thought"),
        ("tasks: {countdown: {weight: {equation: 1}}}", "tasks.countdown.weight: Extra inputs"),
        ("task: {countdown: {}}", "task: Extra inputs"),
        ("settings: {max_itmes: 7}", "settings.max_itmes: "),
        ("settings: {max_items: many}", "settings.max_items: "),
        ("tasks: {countdown: {weights: {equation: much}}}", "tasks.countdown.weights.equation: "),
        ("tasks: {countdown: {weights: {equation: .nan}}}", "tasks.countdown.weights.equation: "),
        ("tasks: {countdown: {weights: {equation: .inf}}}", "tasks.countdown.weights.equation: "),
        ("tasks: {countdown: {failed_reward: .nan}}", "tasks.countdown.failed_reward: "),
        ("tasks: {countdown: }", "tasks.countdown: "),
        ("tasks: [countdown]", "tasks: "),
        ("- countdown", "dictionary"),
        ("countdown", "dictionary"),
        ("tasks: {countdown: [", "not YAML: "),
        ("tasks:\n\tcountdown: 1", "not YAML: "),
        ("tasks: !!python/object:os.system {}", "not YAML: "),
        ("tasks: 2024-13-45", "not YAML: month"),
        (b"tasks: \xff", "not YAML: "),
        ("tasks: \x00", "not YAML: "),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str | bytes, told: str) -> None:
    """Catches a typo that starts a server with other rewards than meant, and a traceback in place of one line."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigFileError) as caught:
        read_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert told in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Catches a wrong path that starts a server with the defaults, or ends in a traceback."""
    for path, reason in ((tmp_path / "missing.yaml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigFileError) as caught:
            read_config(path)
        assert str(caught.value) == f"{path}: {reason}"


@pytest.mark.parametrize("setting", ["workers: 0", "max_items: -1", "max_items: true", "worker_seconds: 0", "cores: 2"])
def test_settings_out_of_range_are_refused(setting: str, tmp_path: Path) -> None:
    """Catches a server that starts with a limit at which nothing can be graded."""
    with pytest.raises(ConfigFileError, match=f"settings.{setting.partition(':')[0]}: "):
        read_config(write(tmp_path, f"settings: {{{setting}}}"))
