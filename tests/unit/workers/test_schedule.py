"""The learning-rate schedule on resuming, without DeepSpeed's part."""

import pytest
import torch

from openr1.config.sections import OptimizerConfig
from openr1.workers.deepspeed.backend import apply_schedule, build_scheduler

SETTINGS = OptimizerConfig(learning_rate=1.0, lr_scheduler="linear", lr_warmup_steps=2)


def make(total_updates: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """An optimizer of one parameter, and its schedule: up for two updates, then down to 0 at the last."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=SETTINGS.learning_rate)
    return optimizer, build_scheduler(optimizer, SETTINGS, total_updates)


@pytest.mark.parametrize(("total_updates", "rate"), [(6, 0.25), (10, 0.625), (5, 0.0)])
def test_resumed_schedule_of_another_length(total_updates: int, rate: float) -> None:
    """Catches a first update at the rate of the old schedule, far below the new one's where that is longer."""
    saved_optimizer, saved = make(6)
    for _ in range(5):
        saved_optimizer.step()
        saved.step()
    # One of the four updates down is left.
    assert saved_optimizer.param_groups[0]["lr"] == 0.25
    optimizer, scheduler = make(total_updates)
    optimizer.load_state_dict(saved_optimizer.state_dict())
    scheduler.load_state_dict(saved.state_dict())
    apply_schedule(scheduler)
    # (total - 5) / (total - 2): 1/4, 5/8, 0.
    assert optimizer.param_groups[0]["lr"] == rate
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == max(0.0, (total_updates - 6) / (total_updates - 2))
