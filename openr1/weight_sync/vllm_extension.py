"""What openr1 adds to vLLM's worker processes (`worker_extension_cls`). They import it before they load a model."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vllm.config import set_current_vllm_config

from openr1.weight_sync import gloo, shm
from openr1.weight_sync.adapters import Adapters
from openr1.weight_sync.adapters_on_cpu import use_one_adapter

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.weight_transfer.base import WeightTransferEngine

shm.register()
gloo.register()
use_one_adapter()


class WeightSyncWorker:
    """Methods that vLLM's worker gets. Importing this module registers the transfers in the worker's process."""

    vllm_config: "VllmConfig"
    weight_transfer_engine: "WeightTransferEngine[Any, Any]"
    model_runner: Any
    finish_weight_update: Callable[[], None]
    _adapters: Adapters | None = None

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

    def receive_adapters(self, adapter_id: int) -> None:
        """From now on, updates bring the adapters with this number; until the first one they are zero."""
        receiver = self.weight_transfer_engine
        self._adapters = Adapters(self.model_runner.lora_manager._adapter_manager, adapter_id)
        # The second one is what vLLM sets the first one to after an update.
        receiver.model = receiver._default_model = self._adapters
        self._adapters.begin()

    def complete_weight_update(self) -> None:
        """Put what was loaded into service."""
        self.finish_weight_update()
        # Only now: vLLM drops all adapters at the end of an update, which it takes for one of the weights below them.
        if self._adapters is not None:
            self._adapters.put_into_service()

    def abort_weight_update(self) -> None:
        """Give up an update in any phase, by ending it: layers that were not loaded are put back as they were.

        Others have new weights, or a part of them; the engine must not compute before the next update, which could not
        begin if this one were left open.
        """
        receiver = self.weight_transfer_engine
        with set_current_vllm_config(self.vllm_config):
            receiver.finish_weight_update()
        receiver.reset_weight_update_target()
        if self._adapters is not None:
            self._adapters.discard()
        self._weight_update_active = False
