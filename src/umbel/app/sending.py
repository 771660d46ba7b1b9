"""Publishing from an event loop: one background thread that coalesces concurrent calls."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable
from typing import Final

from umbel.engines.broker import Broker, Message
from umbel.engines.waiting import Call, answer

BATCH: Final = 500
"""Most messages that one publish carries."""


class Sender:
    """Publishes for coroutines without blocking their event loop."""

    def __init__(self, broker: Callable[[], Broker], timeout: float) -> None:
        self._broker = broker
        self._timeout = timeout
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue[tuple[Message, Call]] = queue.SimpleQueue()
        self._running = False

    async def publish(self, message: Message) -> None:
        """Return once the message is safe; raises what `Broker.publish` raises."""
        if self._pid != os.getpid():
            self._start_afresh()  # the parent's thread is not in a forked process
        loop = asyncio.get_running_loop()
        call = (loop, loop.create_future())
        self._calls.put((message, call))
        with self._lock:
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="umbel-sender", daemon=True).start()
        await call[1]

    def _run(self) -> None:
        calls = self._calls
        while True:
            batch = [calls.get()]
            while len(batch) < BATCH and not calls.empty():
                batch.append(calls.get_nowait())
            error: BaseException | None = None
            try:
                messages = [message for message, _ in batch]
                self._broker().publish(messages, timeout=self._timeout)
            except Exception as failure:  # noqa: BLE001  (handed to each caller)
                error = failure
            for _, call in batch:
                answer(call, error)
