"""The routes that say how the server is and what it can do."""

from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from reward_server.schema import TaskExample, TaskInfo, VersionInfo
from reward_server.service import Service
from reward_server.tasks.task import Task
from reward_server.version import VERSION, parser_version


def add_status_routes(app: FastAPI, service: Service) -> None:
    """Add `/health`, `/ready`, `/metrics`, `/version` and `/tasks`."""

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process is up."""
        return {"status": "ok"}

    @app.get("/ready")
    def ready() -> JSONResponse:
        """A right and a wrong answer get their verdicts from a worker, and the server is not about to stop."""
        leaving = service.draining.is_set()
        reason = "the server is shutting down" if leaving else service.grader.self_test()
        return JSONResponse({"ready": reason is None, "reason": reason}, 200 if reason is None else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters in the text format of Prometheus."""
        return Response(service.grader.metrics.render(), media_type="text/plain; version=0.0.4")

    @app.get("/version")
    async def version() -> VersionInfo:
        """Versions of everything that a grading depends on."""
        return VersionInfo(
            openr1=VERSION,
            parser=parser_version(),
            tasks={name: task.version for name, task in service.tasks.items()},
        )

    @app.get("/tasks")
    async def tasks() -> dict[str, TaskInfo]:
        """What can be graded, how it adds up, and an example for each."""
        return {name: describe_task(task) for name, task in service.tasks.items()}


def describe_task(task: Task[Any]) -> TaskInfo:
    """A task as it is shown to users."""
    example = TaskExample(prompt=task.example.prompt, response=task.example.response, label=task.example.label)
    return TaskInfo(
        summary=task.summary,
        version=task.version,
        weights={name: component.weight for name, component in task.components.items()},
        accuracy=task.accuracy,
        failed_reward=task.failed_reward,
        example=example,
    )
