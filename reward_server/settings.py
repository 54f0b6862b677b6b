"""Limits of the reward server, each with its unit and the effect of raising it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What one server accepts. The defaults hold any sensible group of responses and bound memory and time."""

    max_body_bytes: int = 64 * 2**20
    """Bytes of one request's body, counted as they arrive; more is refused with status 413. A request holds several
    times this much memory while it is graded."""

    max_items: int = 1024
    """Items in one request; more is refused with status 413. Raising it makes one request hold a thread for longer."""

    max_response_chars: int = 4_000_000
    """Characters of one response together with its prefix. A longer one fails alone (verdict `error`), because a
    policy, not the caller, decides how long it gets. The default fits 32,000 tokens of 125 characters."""

    drain_seconds: int = 10
    """Seconds that running requests get to finish after SIGTERM or SIGINT, before they are cancelled."""
