"""The size of a push, read from the headers of a model's files."""

from collections.abc import Callable
from pathlib import Path

from transformers import AutoModelForCausalLM

from openr1.config.sections import ModelConfig
from openr1.workers.model import weights_bytes


def test_size_is_that_of_the_parameters(tiny_model: Callable[[bool], Path], tmp_path: Path) -> None:
    """Catches bytes of the file's type instead of the run's, a tied head that counts twice, and a folder without
    safetensors files, which must not end the run here.
    """
    for tied in (True, False):
        lm = AutoModelForCausalLM.from_pretrained(tiny_model(tied))
        count = sum(parameter.numel() for parameter in lm.parameters())
        assert weights_bytes(ModelConfig(path=tiny_model(tied), dtype="float32")) == 4 * count
        assert weights_bytes(ModelConfig(path=tiny_model(tied), dtype="bfloat16")) == 2 * count
    assert weights_bytes(ModelConfig(path=tmp_path)) == 0
