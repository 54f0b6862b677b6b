"""Training state that was saved by another number of ranks, by way of DeepSpeed's universal checkpoints."""

from pathlib import Path
from types import SimpleNamespace


def count_saved_ranks(state: Path) -> int:
    """How many ranks wrote the shards of a saved state; 0 without ZeRO: there are none, and any number may load it."""
    return len(list(state.glob("*_optim_states.pt")))


def write_universal(state: Path, output: Path) -> None:
    """Write a saved state once more, with a file for each parameter and moment, which any number of ranks can load.

    It takes as much room as the state, and is made by one process, a tensor at a time.
    """
    from deepspeed.checkpoint.ds_to_universal import main

    main(
        SimpleNamespace(
            input_folder=str(state),
            output_folder=str(output),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            # Only DeepSpeed's tensor parallelism writes that part by itself; here it is empty.
            inject_missing_state=True,
        )
    )
