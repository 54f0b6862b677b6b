"""Limits of the reward server, each with its unit and the effect of raising it."""

import os

from pydantic import BaseModel, ConfigDict, Field


class ServerConfig(BaseModel):
    """What one server accepts, and what grading may cost. The defaults hold any sensible group of responses."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_body_bytes: int = Field(default=64 * 2**20, gt=0)
    """Bytes of one request's body, counted as they arrive; more is refused with status 413. A request holds several
    times this much memory while it is graded."""

    max_total_body_bytes: int = Field(default=2**30, gt=0)
    """Bytes of the bodies of all requests in flight; a request beyond it is refused with status 429."""

    body_seconds: float = Field(default=60.0, gt=0)
    """Seconds for a body to arrive; a slower one is refused with status 408."""

    max_items: int = Field(default=1024, gt=0)
    """Items in one request; more is refused with status 413. Raising it makes one request hold a thread for longer."""

    max_response_chars: int = Field(default=4_000_000, gt=0)
    """Characters of one response together with its prefix. A longer one fails alone (verdict `error`), because a
    policy, not the caller, decides how long it gets. The default fits 32,000 tokens of 125 characters."""

    max_requests: int = Field(default=4096, gt=0)
    """Requests graded or waiting at one time; more are refused with status 429 and `Retry-After`. The default takes the
    samples of a large step one by one, as OpenRLHF sends them: its client retries for five seconds only."""

    threads: int = Field(default=256, gt=0)
    """Requests graded at one time; the others wait. Those that wait for a worker hold their thread."""

    batch_seconds: float = Field(default=60.0, gt=0)
    """Seconds for one request, unless its own deadline is shorter; items that are not done then have timed out."""

    workers: int = Field(default=min(8, os.cpu_count() or 1), gt=0)
    """Processes that compare expressions; one more, of low priority, takes those that look expensive."""

    worker_seconds: float = Field(default=3.0, gt=0)
    """Seconds of processor time for one comparison; a worker that takes longer is killed and replaced, and the item has
    timed out."""

    worker_memory_bytes: int = Field(default=2 * 2**30, gt=0)
    """Address space of one worker."""

    drain_seconds: int = Field(default=10, gt=0)
    """Seconds that running requests get to finish after SIGTERM or SIGINT, before they are cancelled."""
