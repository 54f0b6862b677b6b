"""The HTTP routes of the reward server: what a request may be, and how each answer looks."""

import threading
import time
import uuid

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from reward_server.body_limit import BodyLimit
from reward_server.schema import Grader, ScoreItem, ScoreReply, ScoreRequest, ScoreResult, describe_problems
from reward_server.scoring import Score, UnknownTask, find_task, get_score
from reward_server.settings import Settings

_PUZZLE = '{"numbers": [3, 5, 7], "target": 22}'
_RIGHT = "<think>15 and 7</think>\n<answer>3 * 5 + 7</answer>"
_WRONG = "<think>15 less 7</think>\n<answer>3 * 5 - 7</answer>"


def create_app(settings: Settings, draining: threading.Event | None = None) -> FastAPI:
    """The application, ready for any ASGI server.

    Args:
        settings: Limits of a request.
        draining: Set by the owner once the process is about to exit; from then on `/ready` answers 503.
    """
    app = FastAPI(title="openr1 reward server")
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    leaving = draining or threading.Event()

    @app.exception_handler(RequestValidationError)
    async def refuse_malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        is_json = request.headers.get("content-type", "").startswith("application/json")
        detail = _describe_malformed(error) if is_json else "the header content-type must be application/json"
        return JSONResponse({"detail": detail}, 422)

    # Not async: the framework runs it in a thread, so that a long batch does not hold up the other routes.
    @app.post("/get_score")
    def score_batch(request: ScoreRequest) -> ScoreReply:
        return grade_batch(request, settings)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        reason = "the server is shutting down" if leaving.is_set() else find_fault()
        return JSONResponse({"ready": reason is None, "reason": reason}, 200 if reason is None else 503)

    return app


def grade_batch(request: ScoreRequest, settings: Settings) -> ScoreReply:
    """Grade every item in order, within the request's own deadline.

    Raises:
        HTTPException: 422 for an unknown task, 413 for more items than the settings allow.
    """
    received = time.monotonic()
    if len(request.items) > settings.max_items:
        raise HTTPException(413, f"items: {len(request.items)} items, the limit is {settings.max_items}")
    try:
        task = find_task(request.task)
    except UnknownTask as error:
        raise HTTPException(422, f"task: {error}") from error
    results = []
    for item in request.items:
        started = time.monotonic()
        if request.deadline_ms is not None and (started - received) * 1000 >= request.deadline_ms:
            score = Score("timeout", error=f"timeout: deadline_ms of {request.deadline_ms} passed before this item")
        else:
            score = _grade_item(request.task, item, settings)
        results.append(_to_result(item.id, score, time.monotonic() - started))
    return ScoreReply(results=results, grader=Grader(name=task.name, version=task.version), request_id=uuid.uuid4().hex)


def find_fault() -> str | None:
    """Grade a right and a wrong answer whose verdicts are known; the reason not to trust this grader, or None."""
    for response, expected in ((_RIGHT, "correct"), (_WRONG, "wrong")):
        score = get_score("countdown", response, _PUZZLE)
        if score.verdict != expected:
            return f"self-test: an answer that is {expected} was graded {score.verdict} ({score.error})"
    return None


def _describe_malformed(error: RequestValidationError) -> str:
    problems = error.errors()
    if problems[0]["type"] == "json_invalid":
        return f"the body is not JSON: {problems[0]['ctx']['error']} at character {problems[0]['loc'][-1]}"
    # Every location starts with "body", which says nothing to somebody who wrote that body.
    return describe_problems([{**problem, "loc": problem["loc"][1:] or problem["loc"]} for problem in problems])


def _grade_item(task: str, item: ScoreItem, settings: Settings) -> Score:
    length = len(item.prefix) + len(item.response)
    if length > settings.max_response_chars:
        return Score("error", error=f"too_long: {length} characters, the limit is {settings.max_response_chars}")
    return get_score(
        task,
        item.response,
        item.label,
        prompt=item.prompt,
        prefix=item.prefix,
        meta=item.meta,
        finish_reason=item.finish_reason,
    )


def _to_result(item_id: str, score: Score, seconds: float) -> ScoreResult:
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
