"""What a vLLM worker process imports before it loads a model (`worker_extension_cls`)."""

from openr1.weight_sync import shm

shm.register()


class WeightSyncWorker:
    """Adds nothing to the worker: importing this module registers the backend, in whichever process the worker runs."""
