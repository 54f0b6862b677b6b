"""The ASGI application: the routes that grade, the checks on their requests, and the form of their responses."""

import uuid
from collections.abc import Sequence

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from reward_server.auth_and_concurrency import AuthAndConcurrencyMiddleware
from reward_server.body_limit import BodyLimitMiddleware
from reward_server.compat.openrlhf import RewardReply, RewardRequest, grade_texts, to_reply
from reward_server.components.tags import opened_thought
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
from reward_server.tasks import AnyTask, UnknownTask, find_task
from reward_server.version import VERSION


def create_app(service: Service) -> FastAPI:
    """Build the application, for any ASGI server. The caller closes the service's grader."""
    app = FastAPI(title="openr1 reward server", version=VERSION)
    # Middleware added last runs first: requests are authenticated before their bodies are buffered.
    app.add_middleware(BodyLimitMiddleware, config=service.config)
    app.add_middleware(
        AuthAndConcurrencyMiddleware,
        token=service.token,
        max_requests=service.config.max_requests,
        metrics=service.grader.metrics,
    )
    app.add_exception_handler(RequestValidationError, _answer_malformed)
    add_status_routes(app, service)

    # Not async: FastAPI runs these routes in a thread pool, so that a long batch does not block the event loop.
    @app.post("/get_score")
    def get_score(request: ScoreRequest) -> ScoreReply:
        """Grade a batch of responses of one task."""
        task = _require_task(service, request.task)
        _check_count(len(request.items), service)
        limit = None if request.deadline_ms is None else request.deadline_ms / 1000
        graded = service.grader.grade(task, request.items, limit)
        return ScoreReply(
            results=[
                to_score_result(item.id, result, seconds)
                for item, (result, seconds) in zip(request.items, graded, strict=True)
            ],
            grader=GraderName(name=task.name, version=task.version),
            request_id=uuid.uuid4().hex,
        )

    @app.post("/get_reward")
    def get_reward(request: RewardRequest) -> RewardReply:
        """Grade whole texts (prompt and response) of the server's default task, for OpenRLHF's clients."""
        task = service.tasks[service.default_task]
        _check_count(len(request.query), service)
        results = grade_texts(service.grader, task, request, service.prompts)
        _check_workers(service, results)
        return to_reply(task, results)

    @app.post("/score")
    def score_one(request: SingleRequest) -> float:
        """Grade one item, for slime's client: the body of the response is the reward, a single number."""
        task = _require_task(service, request.task or service.default_task)
        prefix = opened_thought(request.prompt) if isinstance(request.prompt, str) else ""
        item = ScoreItem(id="0", response=request.response, label=request.label, prefix=prefix)
        ((result, _),) = service.grader.grade(task, [item])
        _check_workers(service, [result])
        return task.failed_reward if result.reward is None else result.reward

    return app


def to_score_result(item_id: str, result: GradingResult, seconds: float) -> ScoreResult:
    """Convert a grading result to its JSON form."""
    return ScoreResult(
        id=item_id,
        reward=result.reward,
        score=result.score,
        components=dict(result.components),
        extracted=result.extracted,
        verdict=result.verdict,
        error=result.error,
        reason=result.reason,
        ms=round(seconds * 1000, 3),
    )


def _check_workers(service: Service, results: Sequence[GradingResult]) -> None:
    """Answer 503 if the workers are down, for clients that cannot tell a failure from a reward: a retry may help.

    A single failed item is usually the item's fault. Only if all items failed is it worth the time to test the workers.
    """
    if results and all(result.verdict in ("timeout", "error") for result in results):
        fault = service.grader.self_test()
        if fault is not None:
            raise HTTPException(503, f"nothing can be graded: {fault}")


def _require_task(service: Service, name: str) -> AnyTask:
    try:
        return find_task(name, service.tasks)
    except UnknownTask as error:
        raise HTTPException(422, f"task: {error}") from error


def _check_count(count: int, service: Service) -> None:
    if count > service.config.max_items:
        raise HTTPException(413, f"items: {count} items, the limit is {service.config.max_items}")


async def _answer_malformed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    is_json = request.headers.get("content-type", "").startswith("application/json")
    detail = _describe_malformed(error) if is_json else "the header content-type must be application/json"
    return JSONResponse({"detail": detail}, 422)


def _describe_malformed(error: RequestValidationError) -> str:
    problems = error.errors()
    if problems[0]["type"] == "json_invalid":
        return f"the body is not JSON: {problems[0]['ctx']['error']} at character {problems[0]['loc'][-1]}"
    # Every location starts with "body", which tells the author of the body nothing.
    return describe_problems([{**problem, "loc": problem["loc"][1:] or problem["loc"]} for problem in problems])
