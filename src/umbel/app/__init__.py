"""What a producer needs: the app, its settings and tasks, and the road to the broker."""

from __future__ import annotations

from umbel.app.app import App
from umbel.app.task import AsyncTask, Task

__all__ = ["App", "AsyncTask", "Task"]
