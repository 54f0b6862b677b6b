"""What openr1 adds to vLLM's worker processes (`worker_extension_cls`). They import it before they load a model."""

from typing import TYPE_CHECKING, Any

from vllm.config import set_current_vllm_config

from openr1.weight_sync import gloo, shm

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
        """Give up an update in any phase, by ending it: layers that were not loaded are put back as they were.

        Others have new weights, or a part of them; the engine must not compute before the next update, which could not
        begin if this one were left open.
        """
        receiver = self.weight_transfer_engine
        with set_current_vllm_config(self.vllm_config):
            receiver.finish_weight_update()
        receiver.reset_weight_update_target()
        self._weight_update_active = False
