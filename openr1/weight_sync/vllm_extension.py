"""What openr1 adds to vLLM's worker processes (`worker_extension_cls`). They import it before they load a model."""

from typing import TYPE_CHECKING, Any

from vllm.config import set_current_vllm_config

from openr1.weight_sync import gloo, shm
from openr1.weight_sync.reload import forget_loaded

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.weight_transfer.base import WeightTransferEngine

shm.register()
gloo.register()


class WeightSyncWorker:
    """Methods that vLLM's worker gets. Importing this module registers the transfers in the worker's process."""

    vllm_config: "VllmConfig"
    weight_transfer_engine: "WeightTransferEngine[Any, Any]"

    def attempt(self, method: str, *arguments: Any) -> str | None:
        """Call a method of the worker; answers the error as text, or None.

        An engine of several processes takes the first exception for the answer of them all, and the other answers for
        those of its next call.
        """
        try:
            getattr(self, method)(*arguments)
        except Exception as error:  # noqa: BLE001 (raised again where all answers are known)
            return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return None

    def abort_weight_update(self) -> None:
        """Give up an update in any phase: layers that were not loaded are put back as they were.

        A layer that was loaded has its new weights; the engine must not compute before they all have.
        """
        receiver = self.weight_transfer_engine
        forget_loaded(receiver.model)
        with set_current_vllm_config(self.vllm_config):
            receiver.finish_weight_update()
        receiver.reset_weight_update_target()
        self._weight_update_active = False
