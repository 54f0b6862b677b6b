"""Routes that report the state of the server and what it can grade."""

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse

from reward_server.schema import TaskExample, TaskInfo, VersionInfo
from reward_server.service import Service
from reward_server.tasks import AnyTask
from reward_server.tasks.worker_task import WorkerTask
from reward_server.version import VERSION, parser_version


def add_status_routes(app: FastAPI, service: Service) -> None:
    """Add `/health`, `/ready`, `/metrics`, `/version` and `/tasks`."""

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Liveness probe: 200 while the process is up, also under load."""
        return {"status": "ok"}

    # Not async: the self-test blocks on a worker, so FastAPI must run it in a thread and not on the event loop.
    @app.get("/ready")
    def ready() -> JSONResponse:
        """Readiness probe: 200 if a worker grades a known right and a known wrong answer as such, else 503."""
        draining = service.draining.is_set()
        reason = "the server is shutting down" if draining else service.grader.self_test()
        return JSONResponse({"ready": reason is None, "reason": reason}, 200 if reason is None else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Metrics in the Prometheus text format."""
        return Response(service.grader.metrics.render(), media_type="text/plain; version=0.0.4")

    @app.get("/version")
    async def version() -> VersionInfo:
        """Versions of everything that a grading result depends on."""
        return VersionInfo(
            openr1=VERSION,
            parser=parser_version(),
            tasks={name: task.version for name, task in service.tasks.items()},
        )

    @app.get("/tasks")
    async def tasks() -> dict[str, TaskInfo]:
        """All tasks with their component weights and an example each."""
        return {name: describe_task(task) for name, task in service.tasks.items()}


def describe_task(task: AnyTask) -> TaskInfo:
    """The public description of a task."""
    if isinstance(task, WorkerTask):
        weights, accuracy = dict.fromkeys(task.components, 1.0), "accuracy"
    else:
        weights, accuracy = {name: one.weight for name, one in task.components.items()}, task.accuracy
    return TaskInfo(
        summary=task.summary,
        version=task.version,
        weights=weights,
        accuracy=accuracy,
        failed_reward=task.failed_reward,
        example=None if task.example is None else TaskExample(**vars(task.example)),
    )
