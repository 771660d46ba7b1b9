"""An app whose schedulers are killed: what they have sent is noted in a log outside the store."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from umbel import App

app = App(
    "ticking",
    backend="disabled://",
    broker_transport_options=json.loads(os.environ["TICKING_OPTIONS"]),
)
app.conf.beat_schedule = json.loads(Path("schedule.json").read_text())


@app.task(bind=True, name="ticking.note")
def note(self: Any) -> None:
    """Append who sent this tick, and when it was due, in one write."""
    request = self.request
    line = (
        f"{request.periodic_task_name} {request.periodic_task_due} {request.origin} {request.id}\n"
    )
    log = os.open(os.environ["TICKING_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(log, line.encode())
    os.close(log)
