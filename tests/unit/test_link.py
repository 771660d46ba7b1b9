"""The link between supervisor and child, with both ends in one process."""

import socket
import threading
from collections.abc import Iterator

import pytest

from umbel.app.execution.outcome import FollowUp, Outcome
from umbel.pools.link import RETIRE, ChildEnd, SupervisorEnd


@pytest.fixture
def ends() -> Iterator[tuple[SupervisorEnd, ChildEnd]]:
    ours = SupervisorEnd()
    theirs = ChildEnd(ours.child_stream, ours.child_tokens)
    yield ours, theirs
    ours.close()


def test_a_delivery_travels_with_its_token(ends: tuple[SupervisorEnd, ChildEnd]) -> None:
    ours, theirs = ends
    ours.give([(7, 0, b"seven"), (8, 2, b"")])
    assert theirs.next_token() == 7
    assert theirs.payload(7) == (b"seven", 0)
    assert theirs.next_token() == 8
    assert theirs.payload(8) == (b"", 2)


def test_what_is_recalled_is_skipped(ends: tuple[SupervisorEnd, ChildEnd]) -> None:
    ours, theirs = ends
    ours.give([(1, 0, b"one"), (2, 0, b"two"), (3, 0, b"three")])
    assert theirs.next_token() == 1
    assert ours.recall() == [2, 3]
    assert theirs.payload(1) == (b"one", 0)
    ours.give([(3, 1, b"three")])
    assert theirs.next_token() == 3
    assert theirs.payload(3)[0] == b"three"


def test_a_recall_does_not_take_a_retirement_back(ends: tuple[SupervisorEnd, ChildEnd]) -> None:
    ours, theirs = ends
    ours.give([(1, 0, b"one")])
    ours.retire()
    assert ours.recall() == [1]
    assert theirs.next_token() == RETIRE


def test_each_token_is_read_once_however_both_hurry(
    ends: tuple[SupervisorEnd, ChildEnd],
) -> None:
    ours, theirs = ends
    read: list[int] = []

    def run() -> None:
        while (number := theirs.next_token()) != RETIRE:
            read.append(number)

    child = threading.Thread(target=run)
    child.start()
    recalled: list[int] = []
    for start in range(1, 2001, 20):
        ours.give([(number, 0, b"x") for number in range(start, start + 20)])
        recalled += ours.recall()
        theirs._stream.recv(1 << 16, socket.MSG_DONTWAIT)
    ours.retire()
    child.join(10)
    assert sorted(read + recalled) == list(range(1, 2001))


def test_outcomes_arrive_whole(ends: tuple[SupervisorEnd, ChildEnd]) -> None:
    ours, theirs = ends
    sent = [Outcome(n, "success", 0.5, b"r" * n) for n in (1, 100_000, 3)]
    sent[1].follow_ups = (FollowUp("a:1", None, b"p"), FollowUp("a:2", 1.5, b"q", "slow", 9))

    def send_all() -> None:
        for outcome in sent:
            theirs.send(outcome)

    sender = threading.Thread(target=send_all)
    sender.start()
    received: list[Outcome] = []
    while len(received) < 3:
        received += ours.outcomes()
    sender.join()
    assert received == sent
    assert not ours.at_end
