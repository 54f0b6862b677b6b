"""Imported by every vLLM worker process before it loads a model (`worker_extension_cls`)."""

from openr1.weight_sync import shm

shm.register()


class WeightSyncWorker:
    """Empty extension of the vLLM worker. Importing this module registers the backend in the worker's process."""
