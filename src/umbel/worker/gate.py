"""From a claimed delivery to a decision: run it, or settle it at once."""

from __future__ import annotations

import logging
from typing import Final, Literal

import msgspec

from umbel import clock
from umbel.app import App
from umbel.app.execution.outcome import Outcome
from umbel.app.security import signer_of
from umbel.engines.broker import Delivery, Settlement
from umbel.exceptions import DecodeError, NotRegistered, SecurityError
from umbel.message import task as task_message
from umbel.message.signing import verify
from umbel.message.task import Headers
from umbel.worker.notices import tell_received, tell_rejected, tell_revoked, tell_unknown
from umbel.worker.settle import Settler

logger: logging.Logger = logging.getLogger("umbel.worker")
arrivals: logging.Logger = logging.getLogger("umbel.worker.strategy")
"""Celery's name for the logger of the line that people silence first."""

REVOKED: Final = 1000
"""Revoked ids that a worker may mirror without looking which of them have run out."""
TOLD: Final = 1000
"""Names of unknown tasks that a worker remembers to have warned of."""
RETURNED: Final = 1000
"""Attempts that went back, kept in mind so that they are told of once if they come again."""
NEVER: Final = float("inf")
UNKNOWN_TRIES: Final = 6
"""How often a message with an unknown task is looked at before its time is up."""


class Held(msgspec.Struct, gc=False):
    """A delivery that this worker will run, with what the supervisor needs to know of it."""

    delivery: Delivery
    headers: Headers
    hard: float | None
    soft: float | None
    early: bool
    """To be acknowledged before it starts."""
    cost: float = 0.0
    """Estimated run time in seconds."""
    share: float = 0.0
    """The same, at most what a slot's share of read-ahead is."""
    since: float = 0.0
    """Monotonic time since which it waits for a slot."""
    look: float = NEVER
    """Monotonic time at which to look whether a limit has passed."""
    soft_at: float = 0.0
    """Monotonic time at which it was told to end, at its limit or on request; 0: it was not."""
    signal: int = 0
    """The signal by which somebody wants it ended while it runs; 0: nobody does."""
    received: bool = False
    """It was told that it arrived."""
    disowned: bool = False
    """Its claim was lost with the lease: whatever its end, nothing of it is settled."""


class Gate:
    """Decides what becomes of each claimed delivery."""

    def __init__(self, app: App, settler: Settler, hard: float | None, soft: float | None) -> None:
        self._app = app
        self._settler = settler
        self._node = settler.node
        self._hard = app.conf.task_time_limit if hard is None else hard
        self._soft = app.conf.task_soft_time_limit if soft is None else soft
        self.revoked: dict[str, int] = {}
        """What the store holds, and at most as much again that has run out since; with each the
        signal by which it is to be ended where it runs, 0 for none."""
        self._most_revoked = REVOKED
        self._told: set[str] = set()
        self._version = 0
        self._signer = signer_of(app.conf)
        self._returned: set[tuple[str, int, int]] = set()
        """Attempts that were told of here and went back to the store."""

    def learn_revocations(self, version: int) -> dict[str, int]:
        """Mirror the set of revoked ids up to a version, if that is new; what was not known."""
        if version <= self._version:
            return {}
        return self.look_for_revocations()

    def look_for_revocations(self) -> dict[str, int]:
        """Mirror the set of revoked ids; what was not known."""
        # Revocations run out, which only the store sees: after enough news it is read anew.
        whole = len(self.revoked) >= self._most_revoked
        self._version, ids = self._app.engine.state.revocations(0 if whole else self._version)
        if whole:
            self.revoked.clear()
            self._most_revoked = max(REVOKED, 2 * len(ids))
        self.revoked.update(ids)
        return ids

    def decide(self, delivery: Delivery) -> Held | Settlement:
        """What to do with a delivery: run it, or this settlement instead."""
        try:
            headers = task_message.decode_headers(delivery.payload)
            expires = task_message.parse_time(headers.expires)
            eta = task_message.parse_time(headers.eta)
        except DecodeError as error:
            tell_rejected(delivery, self._node, error)
            return self._settler.undecodable(delivery, str(error))
        if self._signer is not None:
            try:
                verify(delivery.payload, delivery.queue, self._signer)
            except SecurityError as error:
                tell_rejected(delivery, self._node, error)
                return self._settler.untrusted(delivery, headers, str(error))
        if headers.id in self.revoked:
            return self.drop(delivery, headers, "revoked")
        if expires is not None and expires <= clock.time():
            return self.drop(delivery, headers, "expired")
        if eta is not None and eta > clock.time():  # a Celery client leaves the waiting to us
            return self._settler.put_back(delivery, due=eta)
        task = self._app.tasks.get(headers.task)
        if task is None:
            return self.unknown(delivery, headers)
        hard, soft = headers.timelimit or (None, None)
        return Held(
            delivery,
            headers,
            hard or vars(task).get("time_limit") or self._hard,
            soft or vars(task).get("soft_time_limit") or self._soft,
            not task.acks_late,
            received=bool(self._returned) and _attempt(delivery, headers) in self._returned,
        )

    def receive(self, held: Held) -> None:
        """A delivery gets a slot: tell of it, once for each attempt."""
        if held.received:
            return
        held.received = True
        delivery, headers = held.delivery, held.headers
        if arrivals.isEnabledFor(logging.INFO):
            data = {"id": headers.id, "name": headers.shown_name}
            arrivals.info("Task %(name)s[%(id)s] received", data, extra={"data": data})
        tell_received(self._app, delivery, headers, self._node)

    def give_up(self, held: Held) -> Settlement:
        """Put back what found no slot here: another worker may have one."""
        if held.received:
            if len(self._returned) >= RETURNED:
                self._returned.clear()
            self._returned.add(_attempt(held.delivery, held.headers))
        return self._settler.put_back(held.delivery)

    def drop(
        self, delivery: Delivery, headers: Headers, why: Literal["revoked", "expired"]
    ) -> Settlement:
        """Settle what was revoked or has expired before it ran."""
        logger.info("Discarding revoked task: %s[%s] (%s)", headers.shown_name, headers.id, why)
        tell_revoked(self._app, delivery, headers, self._node, expired=why == "expired")
        return self._settler.revoked(delivery, headers, why)

    def terminate(self, held: Held) -> Settlement:
        """Settle what runs and is being ended on request."""
        delivery, headers, number = held.delivery, held.headers, held.signal
        tell_revoked(self._app, delivery, headers, self._node, expired=False, signum=number)
        return self._settler.revoked(delivery, headers, "terminated")

    def ended(self, held: Held, outcome: Outcome) -> Settlement:
        """What follows from how a delivery ended where it ran."""
        if outcome.ending in {"undecodable", "disallowed", "untrusted"}:
            tell_rejected(held.delivery, self._node, DecodeError(outcome.error or ""))
        if outcome.ending == "undecodable":
            return self._settler.undecodable(held.delivery, outcome.error or "", held.headers)
        if outcome.ending == "disallowed":
            return self._settler.disallowed(held.delivery, outcome.error or "", held.headers)
        if outcome.ending == "untrusted":
            return self._settler.untrusted(held.delivery, held.headers, outcome.error or "")
        if outcome.ending == "unknown":
            return self.unknown(held.delivery, held.headers)
        return self._settler.ended(held.delivery, held.headers, outcome)

    def unknown(self, delivery: Delivery, headers: Headers) -> Settlement:
        """Put it back for another worker that knows the task; after its time, bury it."""
        now = clock.time()
        timeout = self._app.conf.task_unknown_timeout
        since = delivery.unknown_since or now
        if headers.task not in self._told:
            if len(self._told) >= TOLD:  # whoever sends can make up any number
                self._told.clear()
            self._told.add(headers.task)
            logger.warning(
                "No task %r is registered here; its messages go back for a worker that knows it, "
                "and after %g s become dead letters (umbel dead)",
                headers.task,
                timeout,
            )
        if delivery.unknown_since is None:
            error = NotRegistered(f"No task {headers.task!r} is registered here.")
            tell_unknown(delivery, headers, self._node, error)
        if now - since >= timeout:
            return self._settler.unknown(delivery, headers)
        rest = timeout - (now - since)
        return self._settler.put_back(
            delivery, due=now + min(timeout / UNKNOWN_TRIES, rest), unknown_since=since
        )


def _attempt(delivery: Delivery, headers: Headers) -> tuple[str, int, int]:
    return headers.id, headers.retries or 0, delivery.deliveries
