"""Names of weight-transfer backends, importable without vLLM."""

WEIGHT_TRANSFER_BACKEND = "openr1_shm"
"""Shared memory: engines and policy on one machine, with or without GPUs."""
