"""Limits of the reward server, each with its unit and the effect of raising it."""

import os

from pydantic import BaseModel, ConfigDict, Field


class ServerConfig(BaseModel):
    """Limits on what one server accepts and on what grading may cost; `settings` in its config file.

    The defaults fit any group of responses that training produces.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_body_bytes: int = Field(default=64 * 2**20, gt=0)
    """Maximum size of one request's body in bytes, counted as they arrive; larger bodies get status 413. While it is
    graded, a request takes several times this much memory."""

    max_total_body_bytes: int = Field(default=2**30, gt=0)
    """Maximum size in bytes of the bodies of all requests in flight; a request that would exceed it gets status 429."""

    body_seconds: float = Field(default=60.0, gt=0)
    """Maximum time in seconds for a body to arrive; slower ones get status 408."""

    max_items: int = Field(default=1024, gt=0)
    """Maximum number of items in one request; more get status 413. With a higher limit, one request can occupy a thread
    for longer."""

    max_response_chars: int = Field(default=4_000_000, gt=0)
    """Maximum length of one response including its prefix, in characters. Only the item that exceeds it fails (verdict
    `error`), because the policy decides how long a response is, not the caller. The default fits 32,000 tokens of 125
    characters."""

    max_requests: int = Field(default=4096, gt=0)
    """Maximum number of requests in flight (being graded or waiting); more get status 429 with `Retry-After`. The
    default accepts all samples of a large step as single requests, as OpenRLHF sends them: its client retries for only
    five seconds."""

    threads: int = Field(default=256, gt=0)
    """Number of requests graded concurrently; the others wait. A request occupies its thread while it waits for
    workers."""

    batch_seconds: float = Field(default=60.0, gt=0)
    """Deadline in seconds for one request, unless the request sets a shorter one; unfinished items time out."""

    workers: int = Field(default=min(8, os.cpu_count() or 1), gt=0)
    """Number of worker processes that compare expressions. One more, of low priority, compares those that look
    expensive."""

    worker_seconds: float = Field(default=3.0, gt=0)
    """Maximum CPU time in seconds for one comparison. A worker that exceeds it is killed and replaced, and the item
    times out."""

    function_seconds: float = Field(default=10.0, gt=0)
    """Maximum CPU time in seconds for one call of a reward function of `--module`, without the import of the module. A
    worker that exceeds it is killed and replaced, and the items of the call time out."""

    worker_memory_bytes: int = Field(default=2 * 2**30, gt=0)
    """Maximum address space of one worker, in bytes."""

    drain_seconds: int = Field(default=10, gt=0)
    """Time in seconds for running requests to finish after SIGTERM or SIGINT, before they are cancelled."""
