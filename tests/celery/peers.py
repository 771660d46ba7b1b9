"""The same tasks for Celery and for Umbel: `WHICH` says whose worker has this module as its app."""

from __future__ import annotations

import importlib
import os
import time
from pathlib import Path
from typing import Any

import redis

WHICH = os.environ.get("INTEROP_PEER", "umbel")
URL = os.environ.get("INTEROP_URL", "redis://127.0.0.1:6379/13")


def make_app(which: str, url: str) -> Any:
    """An app of one of the two, with the tasks."""
    kind = getattr(importlib.import_module(which), "App" if which == "umbel" else "Celery")
    app = kind("interop", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        accept_content=["json", "pickle", "yaml", "msgpack"],
        task_default_queue="interop",
        result_extended=True,
    )

    @app.task(shared=False, name="interop.who")
    def who(*args: Any, **kwargs: Any) -> list[Any]:
        return [which, args, kwargs]

    @app.task(shared=False, name="interop.fail")
    def fail(*args: Any) -> None:
        raise ValueError(*args)

    @app.task(shared=False, name="interop.again", bind=True, max_retries=5)
    def again(self: Any, times: int) -> list[Any]:
        if self.request.retries < times:
            raise self.retry(countdown=0.2)
        return [which, self.request.retries, self.request.id]

    @app.task(shared=False, name="interop.about", bind=True)
    def about(self: Any) -> dict[str, Any]:
        request = self.request
        return {
            "who": which, "id": request.id, "root_id": request.root_id,
            "parent_id": request.parent_id, "correlation_id": request.correlation_id,
            "queue": request.delivery_info["routing_key"], "retries": request.retries,
            "expires": request.expires, "eta": request.eta, "argsrepr": request.argsrepr,
            "timelimit": request.timelimit, "lang": "py",
        }  # fmt: skip

    @app.task(shared=False, name="interop.step")
    def step(*args: Any, seconds: float = 0.0) -> str:
        *given, name = args
        time.sleep(seconds)
        return f"{name}@{which}({','.join(map(str, given))})"

    @app.task(shared=False, name="interop.errback")
    def errback(id: str) -> None:
        with redis.Redis.from_url(url) as client:
            client.rpush("errbacks", f"{which} {id}")

    @app.task(shared=False, name="interop.note")
    def note(values: list[str], number: int) -> int:
        with redis.Redis.from_url(url) as client:
            client.rpush("notes", number)
        return len(values)

    add_slow_tasks(app, which)
    return app


def add_slow_tasks(app: Any, which: str) -> None:
    """Tasks that wait for something, and note that they ran."""

    @app.task(shared=False, name="interop.wait", acks_late=True)
    def wait(until: str, ran: str) -> str:
        Path(ran).touch()
        for _ in range(6000):
            if Path(until).exists():
                break
            time.sleep(0.01)
        return which

    def note(log: str, id: str) -> str:
        with Path(log).open("a") as file:
            file.write(f"{id}\n")
        return "done"

    @app.task(shared=False, name="interop.noted", bind=True)
    def noted(self: Any, log: str) -> str:
        return note(log, self.request.id)

    @app.task(shared=False, name="interop.noted_again", bind=True, max_retries=5)
    def noted_again(self: Any, log: str) -> str:
        if self.request.retries < 2:
            raise self.retry(countdown=1)
        return note(log, self.request.id)


app = make_app(WHICH, URL) if "INTEROP_PEER" in os.environ else None
