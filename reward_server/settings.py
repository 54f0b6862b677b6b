"""Limits of the reward server, each with its unit and the effect of raising it."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What one server accepts, and what grading may cost. The defaults hold any sensible group of responses."""

    max_body_bytes: int = 64 * 2**20
    """Bytes of one request's body, counted as they arrive; more is refused with status 413. A request holds several
    times this much memory while it is graded."""

    max_items: int = 1024
    """Items in one request; more is refused with status 413. Raising it makes one request hold a thread for longer."""

    max_response_chars: int = 4_000_000
    """Characters of one response together with its prefix. A longer one fails alone (verdict `error`), because a
    policy, not the caller, decides how long it gets. The default fits 32,000 tokens of 125 characters."""

    max_requests: int = 256
    """Requests graded or waiting at one time; more are refused with status 429 and `Retry-After`."""

    batch_seconds: float = 60.0
    """Seconds for one request, unless its own deadline is shorter; items that are not done then have timed out."""

    workers: int = min(8, os.cpu_count() or 1)
    """Processes that compare expressions; one more, of low priority, takes those that look expensive."""

    worker_seconds: float = 3.0
    """Seconds for one comparison; a worker that takes longer is killed and replaced, and the item has timed out."""

    worker_memory_bytes: int = 2 * 2**30
    """Address space of one worker."""

    drain_seconds: int = 10
    """Seconds that running requests get to finish after SIGTERM or SIGINT, before they are cancelled."""
