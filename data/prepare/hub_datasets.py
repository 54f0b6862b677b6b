"""Public datasets that `data download` supports: their repositories on the Hugging Face Hub and expected row counts."""

from collections.abc import Mapping
from dataclasses import dataclass

MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


@dataclass(frozen=True)
class Split:
    """Files of a split, in order, and their total number of rows. `rows` is None if unknown; it is then not checked."""

    files: tuple[str, ...]
    rows: int | None


@dataclass(frozen=True)
class HubDataset:
    """A dataset repository on the hub.

    Attributes:
        repository: `owner/name`.
        splits: Splits by the name of the output file, `train` or `test`.
        format: A key of `data.prepare.formats.FORMATS`.
        task: The reward task of all rows.
    """

    repository: str
    splits: Mapping[str, Split]
    format: str
    task: str = "math"


def _parquet(folder: str, name: str) -> str:
    return f"{folder}/{name}-00000-of-00001.parquet"


def _math(split: str) -> tuple[str, ...]:
    return tuple(_parquet(subject, split) for subject in MATH_SUBJECTS)


HUB_DATASETS = {
    "math": HubDataset(
        "EleutherAI/hendrycks_math",
        {"train": Split(_math("train"), 7_500), "test": Split(_math("test"), 5_000)},
        "problem",
    ),
    "gsm8k": HubDataset(
        "openai/gsm8k",
        {"train": Split((_parquet("main", "train"),), 7_473), "test": Split((_parquet("main", "test"),), 1_319)},
        "question",
    ),
    "amc23": HubDataset("math-ai/amc23", {"test": Split(("test-00000-of-00001.parquet",), 40)}, "question"),
    # English, text-only competition problems in mathematics with a known answer.
    "olympiadbench": HubDataset(
        "Hothan/OlympiadBench",
        {"test": Split(("OlympiadBench/OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet",), 674)},
        "question",
    ),
    "math500": HubDataset("HuggingFaceH4/MATH-500", {"test": Split(("test.jsonl",), 500)}, "problem"),
    "countdown-3to4": HubDataset(
        "Jiayi-Pan/Countdown-Tasks-3to4",
        {"train": Split((_parquet("data", "train"),), 490_364)},
        "countdown",
        "countdown",
    ),
    "numina-tir": HubDataset(
        "AI-MO/NuminaMath-TIR",
        {"train": Split((_parquet("data", "train"),), 72_441), "test": Split((_parquet("data", "test"),), None)},
        "problem",
        "numina",
    ),
    "gsm8k-zh": HubDataset(
        "swulling/gsm8k_chinese",
        {"train": Split((_parquet("data", "train"),), 7_473), "test": Split((_parquet("data", "test"),), None)},
        "gsm8k-zh",
        "gsm8k_zh",
    ),
}
