"""Converts training state to DeepSpeed's universal checkpoints, which any number of ranks can load."""

from pathlib import Path
from types import SimpleNamespace


def count_saved_ranks(state: Path) -> int:
    """Number of ranks that wrote shards of a saved state; 0 without ZeRO, whose state any number of ranks can load."""
    return len(list(state.glob("*_optim_states.pt")))


def write_universal(state: Path, output: Path) -> None:
    """Write a saved state as a universal checkpoint, with one file per parameter and optimizer moment.

    It needs as much disk space as the state itself. One process converts it, one tensor at a time.
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
            # Metadata that only DeepSpeed's tensor parallelism writes; without it, it must be created, and is empty.
            inject_missing_state=True,
        )
    )
