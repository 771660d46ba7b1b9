"""Publishing from an event loop: one background thread that coalesces concurrent calls."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final

from umbel.engines.broker import Broker, Message
from umbel.engines.waiting import Call, answer

BATCH: Final = 500
"""Most messages that one publish carries."""


class Sender:
    """Publishes for coroutines without blocking their event loop."""

    def __init__(self, broker: Callable[[], Broker]) -> None:
        self._broker = broker
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue[tuple[Sequence[Message], float, Call] | None]
        self._calls = queue.SimpleQueue()
        self._running = False

    async def publish(self, messages: Sequence[Message], timeout: float) -> None:
        """Return once the messages are safe; raises what `Broker.publish` raises."""
        if self._pid != os.getpid():
            self._start_afresh()  # the parent's thread is not in a forked process
        loop = asyncio.get_running_loop()
        call = (loop, loop.create_future())
        self._calls.put((messages, timeout, call))
        with self._lock:
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="umbel-sender", daemon=True).start()
        await call[1]

    def close(self) -> None:
        """Let the thread end once it has published what was handed in."""
        with self._lock:
            if self._running and self._pid == os.getpid():
                self._calls.put(None)
                self._running = False

    def _run(self) -> None:
        calls = self._calls
        while (first := calls.get()) is not None:
            batch = [first]
            count = len(batch[0][0])
            while count < BATCH and not calls.empty():
                if (more := calls.get_nowait()) is None:
                    calls.put(None)
                    break
                batch.append(more)
                count += len(more[0])
            for timeout in {timeout for _, timeout, _ in batch}:
                self._publish([call for call in batch if call[1] == timeout], timeout)

    def _publish(self, batch: list[tuple[Sequence[Message], float, Call]], timeout: float) -> None:
        error: BaseException | None = None
        try:
            messages = [message for messages, _, _ in batch for message in messages]
            self._broker().publish(messages, timeout=timeout)
        except Exception as failure:  # noqa: BLE001  (handed to each caller)
            error = failure
        for _, _, call in batch:
            answer(call, error)
