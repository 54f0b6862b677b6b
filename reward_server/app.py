"""The HTTP routes that grade: what a request may be, and how each answer looks."""

import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from reward_server.auth_and_concurrency import AuthAndConcurrencyMiddleware
from reward_server.body_limit import BodyLimitMiddleware
from reward_server.compat.openrlhf import RewardReply, RewardRequest, grade_texts, to_reply
from reward_server.schema import (
    GraderName,
    ScoreItem,
    ScoreReply,
    ScoreRequest,
    ScoreResult,
    SingleRequest,
    describe_problems,
)
from reward_server.scoring import GradingResult
from reward_server.service import Service
from reward_server.status import add_status_routes
from reward_server.tasks import UnknownTask, find_task
from reward_server.tasks.task import Task
from reward_server.version import VERSION


def create_app(service: Service) -> FastAPI:
    """The application, ready for any ASGI server; the caller closes the service."""
    app = FastAPI(title="openr1 reward server", version=VERSION)
    app.add_middleware(BodyLimitMiddleware, config=service.config)
    app.add_middleware(
        AuthAndConcurrencyMiddleware,
        token=service.token,
        max_requests=service.config.max_requests,
        metrics=service.grader.metrics,
    )
    app.add_exception_handler(RequestValidationError, _refuse_malformed)
    add_status_routes(app, service)

    # Not async: the framework runs these in threads, so that a long batch does not hold up the other routes.
    @app.post("/get_score")
    def get_score(request: ScoreRequest) -> ScoreReply:
        """Grade a batch of responses of one task."""
        task = _named_task(service, request.task)
        _check_count(len(request.items), service)
        limit = None if request.deadline_ms is None else request.deadline_ms / 1000
        graded = service.grader.grade(task, request.items, limit)
        return ScoreReply(
            results=[to_result(item.id, *score) for item, score in zip(request.items, graded, strict=True)],
            grader=GraderName(name=task.name, version=task.version),
            request_id=uuid.uuid4().hex,
        )

    @app.post("/get_reward")
    def get_reward(request: RewardRequest) -> RewardReply:
        """Grade whole texts of the server's own task, for OpenRLHF's clients, which take numbers only."""
        task = service.tasks[service.default_task]
        _check_count(len(request.query), service)
        return _grade_texts(service, task, request)

    @app.post("/score")
    def score_one(request: SingleRequest) -> float:
        """Grade one item, for slime's client: the body of the answer is the reward."""
        task = _named_task(service, request.task or service.default_task)
        item = ScoreItem(id="0", response=request.response, label=request.label)
        ((score, _),) = service.grader.grade(task, [item])
        _check_workers(service, [score])
        return task.failed_reward if score.reward is None else score.reward

    return app


def to_result(item_id: str, score: GradingResult, seconds: float) -> ScoreResult:
    """A grading as it goes over the wire."""
    return ScoreResult(
        id=item_id,
        reward=score.reward,
        score=score.score,
        components=dict(score.components),
        extracted=score.extracted,
        verdict=score.verdict,
        error=score.error,
        ms=round(seconds * 1000, 3),
    )


def _grade_texts(service: Service, task: Task[Any], request: RewardRequest) -> RewardReply:
    scores = grade_texts(service.grader, task, request, service.prompts)
    _check_workers(service, scores)
    return to_reply(task, scores)


def _check_workers(service: Service, scores: Sequence[GradingResult]) -> None:
    """Answer 503, not numbers for failures, where the workers are down: a retry may help.

    One failed item is its own fault; where all fail it may be the server's.
    """
    if scores and all(score.verdict in ("timeout", "error") for score in scores):
        fault = service.grader.self_test()
        if fault is not None:
            raise HTTPException(503, f"nothing can be graded: {fault}")


def _named_task(service: Service, name: str) -> Task[Any]:
    try:
        return find_task(name, service.tasks)
    except UnknownTask as error:
        raise HTTPException(422, f"task: {error}") from error


def _check_count(count: int, service: Service) -> None:
    if count > service.config.max_items:
        raise HTTPException(413, f"items: {count} items, the limit is {service.config.max_items}")


async def _refuse_malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    is_json = request.headers.get("content-type", "").startswith("application/json")
    detail = _describe_malformed(error) if is_json else "the header content-type must be application/json"
    return JSONResponse({"detail": detail}, 422)


def _describe_malformed(error: RequestValidationError) -> str:
    problems = error.errors()
    if problems[0]["type"] == "json_invalid":
        return f"the body is not JSON: {problems[0]['ctx']['error']} at character {problems[0]['loc'][-1]}"
    # Every location starts with "body", which says nothing to somebody who wrote that body.
    return describe_problems([{**problem, "loc": problem["loc"][1:] or problem["loc"]} for problem in problems])
