"""Publishing from an event loop: one background thread that coalesces concurrent calls."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final

from umbel.engines.broker import Broker, Message
from umbel.engines.waiting import Call, answer, renew_in_children
from umbel.exceptions import OperationalError

BATCH: Final = 500
"""Most messages that one publish carries."""
Handed = tuple[Sequence[Message], float, Call]
"""Messages, the timeout of their publish, and who waits for it."""


class Sender:
    """Publishes for coroutines without blocking their event loop."""

    def __init__(self, broker: Callable[[], Broker]) -> None:
        self._broker = broker
        self.start_afresh()
        renew_in_children(self)

    def start_afresh(self) -> None:
        """Nobody sends, and no thread runs."""
        self._lock = threading.RLock()  # a signal handler may interrupt who holds it
        self._calls: queue.SimpleQueue[Handed | None] = queue.SimpleQueue()
        self._running = False

    async def publish(self, messages: Sequence[Message], timeout: float) -> None:
        """Return once the messages are safe; raises what `Broker.publish` raises."""
        loop = asyncio.get_running_loop()
        call = (loop, loop.create_future())
        with self._lock:
            if not self._running:
                threading.Thread(target=self._run, name="umbel-sender", daemon=True).start()
                self._running = True
            self._calls.put((messages, timeout, call))
        await call[1]

    def close(self) -> None:
        """Let the thread end once it has published what was handed in."""
        with self._lock:
            if self._running:
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
            by_timeout: dict[float, list[Handed]] = {}
            for handed in batch:
                by_timeout.setdefault(handed[1], []).append(handed)
            for timeout, those in by_timeout.items():
                self._publish(those, timeout)

    def _publish(self, batch: list[Handed], timeout: float) -> None:
        error: BaseException | None = None
        try:
            messages = [message for messages, _, _ in batch for message in messages]
            self._broker().publish(messages, timeout=timeout)
        except Exception as failure:  # noqa: BLE001  (handed to each caller)
            if len(batch) > 1 and not isinstance(failure, OperationalError):
                # One of the messages cannot be stored; a tag that is stored twice is there once.
                for handed in batch:
                    self._publish([handed], timeout)
                return
            error = failure
        for _, _, call in batch:
            answer(call, error)
