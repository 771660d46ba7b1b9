"""What the end of a delivery causes, as one settlement."""

from __future__ import annotations

import logging
from typing import Final

import msgspec
from msgspec import UNSET

from umbel import clock, states
from umbel.app import App
from umbel.app.execution.following import ERRBACK, after_failure, follows, read
from umbel.app.execution.outcome import FollowUp, Outcome
from umbel.app.execution.steps import acks_on
from umbel.app.sending.payload import seal
from umbel.app.sending.workflow import shelf_of
from umbel.engines.broker import (
    Acknowledge,
    Bury,
    Delivery,
    HistoryEntry,
    Message,
    PutBack,
    Settlement,
    StoredResult,
    Workflow,
)
from umbel.exceptions import (
    ContentDisallowed,
    DecodeError,
    NotRegistered,
    TaskRevokedError,
    WorkerLostError,
)
from umbel.message import result as result_message
from umbel.message import task as task_message
from umbel.message.result import ErrorRecord, Extended
from umbel.message.task import Headers
from umbel.result.expiry import expiry
from umbel.worker.notices import Notices

logger: logging.Logger = logging.getLogger("umbel.worker.request")

STATES = {
    "success": states.SUCCESS,
    "failure": states.FAILURE,
    "retry": states.RETRY,
    "ignored": states.IGNORED,
    "rejected": states.FAILURE,
    "requeued": states.REJECTED,
}
MANY: Final = 100_000
"""More deliveries than one worker ever holds."""
REQUEUE_DELAY: Final = 1.0
"""Seconds before a message that its task has rejected with `requeue=True` runs again."""


class Settler:
    """Builds settlements for one worker; it names the node in the history."""

    def __init__(self, app: App, node: str, notices: Notices | None = None) -> None:
        self._app = app
        self._conf = app.conf
        self.node = node
        self._notices = notices

    def ended(self, delivery: Delivery, headers: Headers, outcome: Outcome) -> Settlement:
        """The task's function has come to an end in a child."""
        now = clock.time()
        state = STATES[outcome.ending]
        result = None
        if outcome.result is not None:
            result = StoredResult(headers.id, state, outcome.result, expiry(self._conf, state, now))
        follow_ups = tuple([self._message(delivery, headers, one) for one in outcome.follow_ups])
        if outcome.sent:
            follow_ups += outcome.sent
        history = HistoryEntry(
            headers.id, headers.task, delivery.queue, state, now, outcome.runtime, self.node,
            headers.retries or 0, outcome.error, *_standing(headers),
        )  # fmt: skip
        end: Acknowledge | PutBack | Bury = Acknowledge()
        if outcome.ending == "requeued":
            end = PutBack(now + REQUEUE_DELAY)
        elif outcome.ending == "rejected":
            end = Bury(headers.id, headers.task, "rejected", outcome.error or "")
        return Settlement(
            delivery.number, delivery.worker, delivery.attempt, end, result, follow_ups, history,
            outcome.workflow,
        )  # fmt: skip

    def _message(self, delivery: Delivery, headers: Headers, follow_up: FollowUp) -> Message:
        queue = delivery.queue if follow_up.queue is None else follow_up.queue
        priority = delivery.priority if follow_up.priority is None else follow_up.priority
        payload = seal(self._conf, follow_up.payload, queue)
        private = headers.join is not UNSET or headers.task == ERRBACK
        return Message(
            follow_up.tag, headers.id, queue, payload, priority, follow_up.due, private
        )  # fmt: skip

    def failed(
        self, delivery: Delivery, headers: Headers, error: Exception, stacks: str = ""
    ) -> Settlement:
        """The supervisor ended the task, at a limit or because its process died."""
        self._note(delivery, headers, error, stacks)
        return self._close(delivery, headers, Acknowledge(), states.FAILURE, error, stacks)

    def lost(self, delivery: Delivery, headers: Headers, cause: str, stacks: str) -> Settlement:
        """The task's process died under it: charge the attempt; at the limit, bury the message.

        Acknowledged early, it must not run again and fails at once.
        """
        error = WorkerLostError(f"The process that ran {headers.task} was lost: {cause}")
        task = self._app.tasks.get(headers.task)
        if task is not None and task.retry_on_worker_lost:
            limit = task.max_retries
            if limit is None or (headers.retries or 0) < limit:
                return self._retried(delivery, headers, error, stacks, task.default_retry_delay)
            return self.failed(delivery, headers, error, stacks)
        if delivery.early or (task is not None and task.reject_on_worker_lost is False):
            return self.failed(delivery, headers, error, stacks)
        charged = delivery.deliveries + 1
        end: PutBack | Bury
        if charged < self._conf.task_max_deliveries:
            end = PutBack(deliveries=charged, suspect=True)
            entry = self._entry(delivery, headers, "LOST", cause)
            return Settlement(
                delivery.number, delivery.worker, delivery.attempt, end, history=entry
            )
        detail = f"{charged} attempts killed their process; the last one: {cause}\n{stacks}"
        end = self._bury(headers, "lost", detail, charged)
        self._note(delivery, headers, error, stacks)
        return self._close(delivery, headers, end, states.FAILURE, error, stacks)

    def interrupted(
        self, delivery: Delivery, headers: Headers, cause: str, *, suspect: bool | None
    ) -> Settlement:
        """Its process was lost, and it is not known to be to blame: put it back uncharged.

        What must not run twice fails.
        """
        task = self._app.tasks.get(headers.task)
        if not delivery.early and (task is None or task.reject_on_worker_lost is not False):
            return self.put_back(delivery, suspect=suspect)
        error = WorkerLostError(f"The process that ran {headers.task} was lost: {cause}")
        return self.failed(delivery, headers, error)

    def timed_out(
        self, delivery: Delivery, headers: Headers, error: Exception, stacks: str
    ) -> Settlement:
        """The supervisor killed the task at a limit."""
        task = self._app.tasks.get(headers.task)
        if task is None or delivery.early or acks_on(task, "timeout"):
            return self.failed(delivery, headers, error, stacks)
        return self.lost(delivery, headers, f"killed for {error!r}", stacks)

    def _retried(
        self, delivery: Delivery, headers: Headers, error: Exception, stacks: str, delay: float
    ) -> Settlement:
        """The same as if the task had called `retry` (`retry_on_worker_lost`)."""
        due = clock.time() + delay
        retries = (headers.retries or 0) + 1
        sent = msgspec.json.decode(delivery.payload).get("properties") or {}
        tag = task_message.retry_tag(headers.id, sent.get("delivery_tag"), retries)
        payload = task_message.encode_retry(delivery.payload, tag=tag, retries=retries, due=due)
        meta = None
        if not self._ignores(headers):
            record = result_message.describe_exception(error)
            meta = result_message.encode_failure(
                headers.id, record, None, stacks or None, status=states.RETRY,
                parent_id=headers.parent_id, form=self._app.result_format,
            )  # fmt: skip
        self._note(delivery, headers, error, stacks, states.RETRY)
        next_one = FollowUp(tag, due, payload)
        outcome = Outcome(
            delivery.number,
            "retry",
            result=meta,
            follow_ups=(next_one,),
            error=_summary(error),
        )
        return self.ended(delivery, headers, outcome)

    def _note(
        self, delivery: Delivery, headers: Headers, error: Exception, stacks: str,
        state: str = states.FAILURE,
    ) -> None:  # fmt: skip
        if self._notices is not None:
            self._notices.add(delivery, headers, error, stacks, state=state)

    def revoked(self, delivery: Delivery, headers: Headers, why: str) -> Settlement:
        """It was revoked or has expired before it ran, or was terminated."""
        error = TaskRevokedError(why)
        return self._close(delivery, headers, Acknowledge(), states.REVOKED, error)

    def unknown(self, delivery: Delivery, headers: Headers) -> Settlement:
        """No worker has known its task for long enough."""
        try:
            self._app.lookup(headers.task)
        except NotRegistered as error:
            end = self._bury(headers, "unknown", str(error))
            return self._close(delivery, headers, end, states.FAILURE, error)
        return self.put_back(delivery)  # registered meanwhile

    def undecodable(
        self, delivery: Delivery, why: str, headers: Headers | None = None
    ) -> Settlement:
        """It is not a message that can be run."""
        if headers is None:
            logger.error(
                "A message of the queue %r is a dead letter (undecodable): %s. %s",
                delivery.queue,
                why,
                self._advice("list"),
            )
            end = Bury("", "", "undecodable", why)
            return Settlement(delivery.number, delivery.worker, delivery.attempt, end)
        end = self._bury(headers, "undecodable", why)
        return self._close(delivery, headers, end, states.FAILURE, DecodeError(why))

    def unstorable(self, refused: Settlement, cause: Exception) -> Settlement:
        """Its end cannot be stored, and no second try helps: too large for the store, say."""
        held = self._app.engine.state.claims(refused.worker, MANY)
        delivery = next((one for one in held if one.number == refused.number), None)
        if delivery is None:
            return refused  # no longer this worker's: the store refuses it before it looks
        headers = task_message.decode_headers(delivery.payload)
        error = ValueError(f"{headers.task} has ended, and its end cannot be stored: {cause}")
        end = self._bury(headers, "unstorable", str(error))
        return self._close(delivery, headers, end, states.FAILURE, error)

    def disallowed(self, delivery: Delivery, why: str, headers: Headers) -> Settlement:
        """Its content is of a type that is not accepted, so it was not decoded."""
        end = self._bury(headers, "disallowed", why)
        return self._close(delivery, headers, end, states.FAILURE, ContentDisallowed(why))

    def untrusted(self, delivery: Delivery, headers: Headers, why: str) -> Settlement:
        """Its signature is not good.

        Nothing is stored under its id: that too is only what the message says of itself.
        """
        logger.error("Refused a message of task %s[%s]: %s", headers.task, headers.id, why)
        end = Bury(headers.id, headers.task, "untrusted", why)
        return Settlement(delivery.number, delivery.worker, delivery.attempt, end)

    def _bury(self, headers: Headers, reason: str, detail: str, charged: int | None = None) -> Bury:
        """Make a dead letter of it, and say so: it will not run unless somebody replays it."""
        logger.error(
            "Task %s[%s] is a dead letter (%s): %s. %s",
            headers.task, headers.id, reason, detail.partition("\n")[0].rstrip("."),
            self._advice("show", headers.id),
        )  # fmt: skip
        return Bury(headers.id, headers.task, reason, detail, charged)

    def _advice(self, *words: str) -> str:
        app = f"-A {self._app.module} " if self._app.module else ""
        return f"See it: umbel {app}dead {' '.join(words)}"

    def put_back(
        self,
        delivery: Delivery,
        *,
        due: float | None = None,
        suspect: bool | None = None,
        unknown_since: float | None = None,
    ) -> Settlement:
        """It has not run here: hand it back uncharged."""
        end = PutBack(due, None, suspect, unknown_since)
        return Settlement(delivery.number, delivery.worker, delivery.attempt, end)

    def _close(
        self,
        delivery: Delivery,
        headers: Headers,
        end: Acknowledge | Bury,
        state: str,
        error: Exception,
        stacks: str | None = None,
    ) -> Settlement:
        """The end of a task that no child could tell; with `stacks` there is a traceback."""
        now = clock.time()
        result = None
        record = result_message.describe_exception(error)
        traceback = None
        if stacks is not None:
            traceback = f"{stacks}{record['exc_module']}.{record['exc_type']}: {error}\n"
        if not self._ignores(headers):
            meta = result_message.encode_failure(
                headers.id,
                record,
                now,
                traceback,
                status=state,
                parent_id=headers.parent_id,
                extended=self._describe(delivery, headers) if self._conf.result_extended else None,
                form=self._app.result_format,
            )
            result = StoredResult(headers.id, state, meta, expiry(self._conf, state, now))
        entry = self._entry(delivery, headers, state, _summary(error))
        sent, workflow = self._follow(
            delivery, headers, record, traceback, state, buried=isinstance(end, Bury)
        )
        return Settlement(
            delivery.number, delivery.worker, delivery.attempt, end, result, sent, entry, workflow
        )

    def _follow(
        self, delivery: Delivery, headers: Headers, record: ErrorRecord, traceback: str | None,
        state: str, *, buried: bool,
    ) -> tuple[tuple[Message, ...], Workflow | None]:  # fmt: skip
        """What the end leads to in the task's workflow."""
        _, message = read(self._app, delivery.payload)
        if headers.chord is UNSET and (message is None or not follows(message)):
            return (), None
        outline = after_failure(
            self._app, shelf_of(self._app), headers, message, delivery.payload, record, traceback,
            state, buried=buried,
        )  # fmt: skip
        return tuple(outline.messages), outline.workflow

    def _describe(self, delivery: Delivery, headers: Headers) -> Extended:
        """What `result_extended` stores; the arguments are never read here."""
        return {
            "name": headers.task, "args": None, "kwargs": None, "worker": self.node,
            "retries": headers.retries or 0, "queue": delivery.queue,
        }  # fmt: skip

    def _ignores(self, headers: Headers) -> bool:
        if not self._app.keeps_results:
            return True
        task = self._app.tasks.get(headers.task)
        return (
            bool(headers.ignore_result)
            if task is None
            else task.ignores_result(headers.ignore_result)
        )

    def _entry(self, delivery: Delivery, headers: Headers, state: str, error: str) -> HistoryEntry:
        return HistoryEntry(
            headers.id, headers.task, delivery.queue, state, clock.time(), None, self.node,
            headers.retries or 0, error[:500], *_standing(headers),
        )  # fmt: skip


Standing = tuple[str | None, str | None, str | None, str | None]


def _standing(headers: Headers) -> Standing:
    """Where in a workflow a task stands, for the history: root, parent, group, joins."""
    root = headers.root_id
    return (
        None if root == headers.id else root,
        headers.parent_id,
        headers.group if headers.chord is UNSET else headers.chord[0],
        None if headers.join is UNSET else headers.join[0],
    )


def _summary(error: Exception) -> str:
    """An error in one line of the history, as a child writes it."""
    return f"{type(error).__name__}: {error}"
