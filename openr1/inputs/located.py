"""Models that a config names as on a hub, found on this machine."""

from typing import Any, TypeVar

from openr1.config.dpo import DpoConfig
from openr1.config.sft import SftConfig
from openr1.config.train import TrainConfig

AnyRunConfig = TypeVar("AnyRunConfig", TrainConfig, SftConfig, DpoConfig)


def located(config: AnyRunConfig) -> AnyRunConfig:
    """The config with folders on this machine in place of the names of models on a hub.

    Raises:
        MissingError: A named model is not in the hub's cache.
    """
    # Imported late: the hub's client takes half a second, which --help has not.
    from openr1.data.hub import local_model

    model = config.model.model_copy(update={"path": local_model(config.model.path)})
    updates: dict[str, Any] = {"model": model}
    if isinstance(config, TrainConfig):
        for name, section in (("critic", config.critic), ("reference", config.reference)):
            if section.path is not None:
                updates[name] = section.model_copy(update={"path": local_model(section.path)})
    return config.model_copy(update=updates)
