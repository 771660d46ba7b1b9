"""The contract of a broker: messages in, claims out, settlements back.

A message is *ready*, *delayed* (its due time lies ahead) or *claimed* by one worker incarnation.
A claim ends by a settlement, which names the claim it ends: if the claim is no longer that
incarnation's, the settlement is refused as a whole (the fence), so a stale worker can neither
store a result nor publish a follow-up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import msgspec

DEFAULT_PRIORITY = 0
MAX_CLAIM = 500
"""Most messages that one claim may ask for."""
MAX_PRIORITY = 9
"""9 is the most urgent, 0 the least, on every engine."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """One task message on its way into a queue."""

    tag: str
    """`<id>:<nonce>`, no colon in the nonce; unique to this message.

    Publishing it again while it is in the store leaves one: a resend is no second task.
    """
    id: str
    """The task's id; all attempts of a task share it."""
    queue: str
    payload: bytes
    """The envelope: JSON as Kombu writes it on Redis (`umbel.message.task`)."""
    priority: int = DEFAULT_PRIORITY
    due: float | None = None
    """Unix time before which nobody may claim it; None: at once."""
    private: bool = False
    """Only this package can read it: an engine whose queues others serve too keeps it apart."""
    rare: ClassVar[bool] = False
    """It has options that only its sender looks at."""


class Delivery(msgspec.Struct, gc=False):
    """One claimed message."""

    number: int
    """The broker's own number of the message, or of this claim of it; never used twice."""
    worker: int
    """The incarnation that holds the claim."""
    attempt: int
    """How often what has this number has been claimed; with number and worker it is the fence."""
    queue: str
    payload: bytes
    priority: int = DEFAULT_PRIORITY
    deliveries: int = 0
    """Attempts charged so far: those known to have started and to have killed their process."""
    suspect: bool = False
    """It may have killed a process: run it alone in a fresh child."""
    unknown_since: float | None = None
    """Unix time when a worker first met it without knowing the task's name."""
    early: bool = False
    """It was acknowledged before it ran, so it must not run again."""


class Claim(msgspec.Struct):
    """What one call of `Broker.claim` found."""

    deliveries: list[Delivery]
    revocations: int
    """The version of the set of revoked ids when the claim was made."""
    next_due: float | None = None
    """Unix time at which the next delayed message becomes ready, if one waits."""


class Acknowledge(msgspec.Struct, frozen=True, gc=False):
    """The message is done: remove it."""


class PutBack(msgspec.Struct, frozen=True, gc=False):
    """Return the message to its queue at its old place; an early acknowledgement is undone."""

    due: float | None = None
    deliveries: int | None = None
    """The new count of charged attempts; None leaves it."""
    suspect: bool | None = None
    unknown_since: float | None = None


class Bury(msgspec.Struct, frozen=True, gc=False):
    """Move the message to the dead-letter queue."""

    id: str
    """The task's id and name as far as they could be read, else empty."""
    task: str
    reason: str
    """One word: `lost`, `unknown`, `undecodable`, `disallowed`, `untrusted`, `rejected` (by its
    task), `unstorable`."""
    detail: str
    """For people: the cause, with signal or exit code, memory and stack where known."""
    deliveries: int | None = None


class StoredResult(msgspec.Struct, frozen=True, gc=False):
    """A result as a store keeps it."""

    id: str
    status: str
    meta: bytes
    """The bytes that a Celery client reads (`umbel.message.result`)."""
    expires: float | None = None
    """Unix time after which it may be dropped; None: kept."""


class HistoryEntry(msgspec.Struct, frozen=True, gc=False):
    """How one attempt of a task ended."""

    id: str
    task: str
    queue: str
    state: str
    at: float
    """Unix time of the end."""
    runtime: float | None = None
    worker: str = ""
    """The node's name."""
    retries: int = 0
    error: str | None = None
    root: str | None = None
    """From here on where in a workflow it stood: the task that all of it began with, if another."""
    parent: str | None = None
    """The task before it, or that sent it."""
    group: str | None = None
    """The group, or the header of the chord, that it was in."""
    joins: str | None = None
    """The chord whose body it was."""


class Chord(msgspec.Struct, frozen=True, gc=False):
    """A join that begins: once so many parts of it are there, its body is published."""

    id: str
    """The id of the header's group."""
    size: int
    body: Message
    """Published, as it is, in the step that brings the last part. It names the chord, and whoever
    runs it gets the parts from `ResultStore.parts`."""
    expires: float | None = None
    """Unix time after which it may be forgotten if it has not been dropped; None: never."""


class Part(msgspec.Struct, frozen=True, gc=False):
    """How one member of a chord has ended, in whichever way.

    Of two with one place the first counts, and one whose chord is not there is passed over.
    """

    chord: str
    index: int
    data: bytes
    key: str = ""
    """Tells apart members that were added to a running chord at the place of another."""
    body: Message | None = None
    """The body, where the chord was begun by somebody who left none in the store (Celery)."""
    task: str = ""
    """The id of the member's task: Celery's workers tell members apart by that too."""


class Kept(msgspec.Struct, frozen=True, gc=False):
    """The rest of a large workflow, stored once: its steps, by their positions from 0 on."""

    id: str
    steps: tuple[bytes, ...]
    expires: float | None = None


class Joining(msgspec.Struct, frozen=True, gc=False):
    """A chord whose body has not ended."""

    id: str
    size: int
    ended: int
    body: Message | None
    """None where whoever sent it left none in the store (Celery)."""


class Workflow(msgspec.Struct, frozen=True, gc=False):
    """What a publish or the end of a task changes in workflows, in the same atomic step.

    It happens in the order of the fields, before the messages of the same step are published.
    """

    results: tuple[StoredResult, ...] = ()
    """Of steps that will never run."""
    opened: tuple[Chord, ...] = ()
    """Beginning one that is there already changes nothing."""
    grown: tuple[tuple[str, int], ...] = ()
    """Chords, and by how many members they become larger."""
    kept: tuple[Kept, ...] = ()
    parts: tuple[Part, ...] = ()
    dropped: tuple[str, ...] = ()
    """Chords and kept steps that nobody needs any more, with all that lies under these ids."""


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """Everything that the end of one claim causes, as one atomic step (DESIGN: settlement)."""

    number: int
    worker: int
    attempt: int
    end: Acknowledge | PutBack | Bury
    result: StoredResult | None = None
    follow_ups: tuple[Message, ...] = ()
    history: HistoryEntry | None = None
    workflow: Workflow | None = None


Joiner = Callable[[Message, Sequence[bytes], bytes | None], Settlement | None]
"""Of the message of a chord's body, the chord's parts, and how the chord is nested where Celery has
left that: all that follows, as if it settled something. None: the body's own message."""


class QueueCount(msgspec.Struct, frozen=True):
    """How much lies in one queue."""

    queue: str
    ready: int
    delayed: int
    claimed: int
    oldest: float | None = None
    """Unix time at which the oldest ready message was published, if the engine can tell."""
    paused: bool = False


class Waiting(msgspec.Struct, frozen=True):
    """One message as `Broker.browse` shows it."""

    number: int | None
    """None where a message has one only while it is claimed."""
    queue: str
    priority: int
    due: float | None
    payload: bytes
    published: float | None
    """Unix time, if the engine can tell."""
    worker: int | None = None
    deliveries: int = 0


class LeaseLost(Exception):  # noqa: N818
    """The incarnation was declared dead; it may claim nothing more and must register anew."""


class Waker(Protocol):
    """Something to sleep on until the broker or the result store has news."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when there may be something new."""
        ...

    def drain(self) -> None:
        """Forget the news so far; call it before looking."""
        ...

    def close(self) -> None:
        """Stop listening."""
        ...


class Broker(Protocol):
    """Queues of messages. Safe for use from any number of threads and processes at once.

    Every method raises `umbel.exceptions.OperationalError` when the store cannot be reached
    or written within `timeout` seconds; nothing was then changed.
    """

    browsable: bool
    """Whether `browse` and looking a message up by its task's id work (not on RabbitMQ)."""
    unique_tags: bool
    """Whether `publish` refuses a tag that is in the store. Where it does not (its queues are those
    of other software, without an index), a resend after a lost answer looks for itself first."""

    @property
    def levels(self) -> Sequence[int]:
        """The priorities that it tells apart: a message has the highest that is not above its own.

        At least 0 is among them; in a delivery stands the level.
        """
        ...

    shared: bool
    """Whether Celery's own workers may serve the same queues, so that messages have to be such as
    they can read."""
    joiner: Joiner | None
    """Where queues are shared: what makes of the body of a complete chord a message that others
    can read. The app sets it. Without, and elsewhere, the body's own message is published."""

    def publish(
        self,
        messages: Sequence[Message],
        workflow: Workflow | None = None,
        *,
        timeout: float = 5.0,
    ) -> None:
        """Store all messages, in order, and the workflow, or nothing. Returns when all is safe."""
        ...

    def claim(
        self, worker: int, queues: Sequence[str], limit: int, waker: Waker | None = None
    ) -> Claim:
        """Claim up to `limit` (0 to 500) ready messages of the queues for one incarnation.

        Most urgent first, then oldest, as far as levels and ages are known; one call in 16 serves
        the least urgent level first. Fewer than `limit` are all that were ready, unless `next_due`
        has passed: then claim again. Paused queues are passed over. Raises `LeaseLost` if the
        incarnation was declared dead or is not on record.

        A `waker` of this broker for these queues is drained first; if fewer than `limit` are
        returned, it fires for all that comes from then on.
        """
        ...

    def accept(self, deliveries: Sequence[Delivery]) -> list[int]:
        """Acknowledge early: note that these claims must not run a second time.

        Returns the numbers of those that were refused because the claim is not held any more.
        """
        ...

    def settle(self, settlements: Sequence[Settlement]) -> list[int]:
        """End claims, each with all that follows from it, in as few round trips as possible.

        Returns the numbers of those that were refused because the claim is not held any more.
        """
        ...

    def listen(self, queues: Sequence[str] = ()) -> Waker:
        """A waker that fires when a message may have become ready, or may do so earlier.

        `queues`: those of which that is told at least.
        """
        ...

    def promote(self) -> None:
        """Make ready what is due, in all queues; each worker does so once a second.

        Nothing to do for an engine whose claims do it for all.
        """
        ...

    def counts(self) -> list[QueueCount]:
        """Every queue that holds anything or is paused, by name."""
        ...

    def browse(
        self, queue: str | None = None, *, id: str | None = None, limit: int = 100
    ) -> list[Waiting]:
        """Messages of a queue (of all without one), or those of one task id, oldest first."""
        ...

    def purge(self, queues: Sequence[str]) -> int:
        """Drop all waiting messages of the queues, delayed ones too; claimed ones stay."""
        ...
