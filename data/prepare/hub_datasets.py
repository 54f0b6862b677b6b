"""Public datasets that `data download` knows: where they are on the Hugging Face hub, and how many rows they have."""

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
    """Files of a split, in order, and how many rows they have together; None: not known, so not checked."""

    files: tuple[str, ...]
    rows: int | None


@dataclass(frozen=True)
class Source:
    """A dataset repository of the hub: its splits, by the name of the file they become, its format and its task."""

    repository: str
    splits: Mapping[str, Split]
    format: str
    task: str = "math"


def _parquet(folder: str, name: str) -> str:
    return f"{folder}/{name}-00000-of-00001.parquet"


def _math(split: str) -> tuple[str, ...]:
    return tuple(_parquet(subject, split) for subject in MATH_SUBJECTS)


SOURCES = {
    "math": Source(
        "EleutherAI/hendrycks_math",
        {"train": Split(_math("train"), 7_500), "test": Split(_math("test"), 5_000)},
        "problem",
    ),
    "gsm8k": Source(
        "openai/gsm8k",
        {"train": Split((_parquet("main", "train"),), 7_473), "test": Split((_parquet("main", "test"),), 1_319)},
        "question",
    ),
    "amc23": Source("math-ai/amc23", {"test": Split(("test-00000-of-00001.parquet",), 40)}, "question"),
    "olympiadbench": Source(
        "Hothan/OlympiadBench",
        {"test": Split(("OlympiadBench/OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet",), 674)},
        "question",
    ),
    "math500": Source("HuggingFaceH4/MATH-500", {"test": Split(("test.jsonl",), 500)}, "problem"),
    "countdown-3to4": Source(
        "Jiayi-Pan/Countdown-Tasks-3to4",
        {"train": Split((_parquet("data", "train"),), 490_364)},
        "countdown",
        "countdown",
    ),
    "numina-tir": Source(
        "AI-MO/NuminaMath-TIR",
        {"train": Split((_parquet("data", "train"),), 72_441), "test": Split((_parquet("data", "test"),), None)},
        "problem",
        "numina",
    ),
    "gsm8k-zh": Source(
        "swulling/gsm8k_chinese",
        {"train": Split((_parquet("data", "train"),), 7_473), "test": Split((_parquet("data", "test"),), None)},
        "gsm8k-zh",
        "gsm8k_zh",
    ),
}
"""OlympiadBench: its mathematical competition problems in English that are text only and have a known answer."""
