"""The docs say what the code says, and lead somewhere."""

import json
import re
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from openr1.config.dpo import DpoConfig
from openr1.config.load import describe_fields
from openr1.config.sft import SftConfig
from openr1.config.train import TrainConfig
from openr1.data.examples import Example
from openr1.data.prompts import PromptStream
from openr1.offline import sft
from openr1.rollout.producer import ExperienceProducer
from openr1.training.trainer import Trainer
from tests.fakes import FakeCritic, FakePolicy, make_config, make_prompt, make_stages

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
NAMED_FILE = re.compile(r"`([A-Za-z0-9_.-]+/[A-Za-z0-9_./-]*\.(?:py|sh|md|yaml))`")
"""A path in backticks; one that contains NAME is a pattern."""
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture
def make_reference() -> Callable[..., int]:
    """`main` of docs/make_config_reference.py."""
    script: dict[str, Any] = runpy.run_path(str(ROOT / "docs/make_config_reference.py"))
    return script["main"]


def relative_links(page: Path) -> list[str]:
    """Targets of the page's links to other files, without anchors; what stands in code blocks is no link."""
    targets = LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8")))
    return [target.partition("#")[0] for target in targets if not re.match(r"#|[a-z]+:", target)]


def test_config_reference_is_fresh(make_reference: Callable[..., int]) -> None:
    """Catches a key, default, range or description that changed in openr1/config/train.py and not in docs/config.md."""
    assert make_reference(["--check"]) == 0, "run: python docs/make_config_reference.py"


@pytest.mark.parametrize(("command", "kind"), [("train", TrainConfig), ("sft", SftConfig), ("dpo", DpoConfig)])
def test_config_reference_has_every_key(command: str, kind: type[BaseModel]) -> None:
    """Catches a generator that loses a section, which the check against itself cannot see."""
    text = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    rows = text.split(f"## Keys of `{command}`")[1].split("\n## ")[0]
    for key, description in describe_fields(kind):
        assert re.search(rf"^\| `{re.escape(key)}` \|.*\| {re.escape(description)} \|$", rows, re.MULTILINE), key


def test_stale_config_reference_is_noticed(make_reference: Callable[..., int], tmp_path: Path) -> None:
    """Catches a check that passes whatever the page says, and one that rewrites the page."""
    page = tmp_path / "config.md"
    fresh = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    row = "| `rollout.temperature` | number >= 0.01, <= 2 | `1.0` |"
    stale = fresh.replace(row, "| `rollout.temperature` | | `0.9` |")
    assert stale != fresh
    page.write_text(stale, encoding="utf-8")
    assert make_reference(["--check"], page=page) == 1
    assert page.read_text(encoding="utf-8") == stale
    assert make_reference([], page=page) == 0
    assert page.read_text(encoding="utf-8") == fresh


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files(page: Path) -> None:
    """Catches a page that was renamed or never written, and a link that is relative to the wrong folder."""
    missing = [target for target in relative_links(page) if not (page.parent / target).exists()]
    assert missing == []


def test_links_are_found(tmp_path: Path) -> None:
    """Catches a pattern that finds no links, with which the test above would pass on any page."""
    page = tmp_path / "page.md"
    page.write_text("[a](b.md#c) [d](https://e.org) [f](#g)\n```\n[h](i.md)\n```\n[`j`](../k/l.yaml)\n")
    assert relative_links(page) == ["b.md", "../k/l.yaml"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    """Catches the path of a file that was moved, which no link check sees: from the root, the page or `openr1/`."""
    names = NAMED_FILE.findall(page.read_text(encoding="utf-8"))
    missing = [
        name
        for name in names
        if "NAME" not in name and not any((base / name).exists() for base in (ROOT, page.parent, ROOT / "openr1"))
    ]
    assert missing == []


def test_named_files_are_found() -> None:
    """Catches a pattern that finds nothing, with which the test above would pass on any page."""
    assert NAMED_FILE.findall("in `a/b.py`, `c.py`, `d/e:f` and `g/NAME.yaml`") == ["a/b.py", "g/NAME.yaml"]


def rl_metrics(folder: Path) -> list[str]:
    """Names of all metrics that a step can have: with a critic, an evaluation, and prompts that may be skipped."""
    config = make_config(folder, algorithm={"advantage_estimator": "gae"})
    stages = make_stages(config, critic=FakeCritic())
    prompts = PromptStream([make_prompt(number) for number in range(4)], 0, judge=lambda prompt_id, epoch: "take")
    interrupts = stages.interrupts
    producer = ExperienceProducer(config, prompts, stages.rollout, stages.rewards, stages.reference, interrupts)
    trainer = Trainer(
        config, producer, stages.estimate_advantages, stages.policy, stages.critic, stages.memory, interrupts
    )
    return [*trainer.step().metrics, "eval/accuracy"]


def sft_metrics(folder: Path) -> list[str]:
    """The same of `sft`."""
    return [*sft.train_step(FakePolicy(), [Example([1], [2])], z_loss_coef=0.0), "eval/loss"]


@pytest.mark.parametrize("metrics", [rl_metrics, sft_metrics], ids=["train", "sft"])
def test_metrics_page_has_every_metric(metrics: Callable[[Path], list[str]], tmp_path: Path) -> None:
    """Catches a metric that a step writes and docs/metrics.md does not explain."""
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    missing = [name for name in metrics(tmp_path) if f"`{name}`" not in text]
    assert missing == []


CURL = re.compile(r"^```\n\$ (curl .*?)^```\n(?:.*?^```\n(.*?)^```)?", re.MULTILINE | re.DOTALL)
CHANGING = {"ms", "request_id"}


def without_changing(value: Any) -> Any:
    """JSON without what differs from call to call."""
    if isinstance(value, dict):
        return {key: without_changing(entry) for key, entry in value.items() if key not in CHANGING}
    return [without_changing(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize("page", ["README.md", "docs/reward_server.md"])
def test_curl_examples_answer_as_printed(page: str, reward_url: str) -> None:
    """Catches an example that does not work, or whose answer is another by now."""
    examples = CURL.findall((ROOT / page).read_text(encoding="utf-8"))
    assert examples
    for command, printed in examples:
        command = command.replace("http://127.0.0.1:5000", reward_url)
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
        assert without_changing(json.loads(done.stdout)) == without_changing(json.loads(printed)), command
