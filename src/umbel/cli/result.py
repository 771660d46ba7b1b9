"""`umbel result`: what became of a task, or where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from umbel import clock
from umbel.cli.errors import FAILURE, Refusal
from umbel.cli.invocation import Invocation, Target, announce, interruption, live_workers
from umbel.cli.options import Seconds, common_options
from umbel.cli.output import (
    describe_duration,
    describe_moment,
    describe_value,
    print_json,
    print_pairs,
    print_table,
)

if TYPE_CHECKING:
    from umbel.engines.broker import HistoryEntry, Waiting
    from umbel.engines.state import DeadLetter

UNKNOWN = "UNKNOWN"
"""The state shown for an id of which the store holds nothing."""


@click.command()
@click.argument("id")
@click.option("-t", "--task", metavar="NAME", help="Of which task it has to be.")
@click.option("--traceback", is_flag=True, help="Show the traceback of a failed task too.")
@click.option("--wait", is_flag=True, help="Wait for the task's end.")
@click.option("--timeout", type=Seconds(), metavar="S", help="Wait no longer.")
@click.option("--tree", is_flag=True, help="Show the workflow that it is part of.")
@click.option("--mermaid", is_flag=True, help="Write the workflow as a flowchart of Mermaid.")
@common_options
@click.pass_context
def result(
    ctx: click.Context,
    id: str,
    task: str | None,
    traceback: bool,
    wait: bool,
    timeout: float | None,
    tree: bool,
    mermaid: bool,
) -> int:
    """Show what became of a task, or where it is.

    With --wait the exit code is 1 if the task failed. With --tree (or --mermaid) it shows the
    workflow, whichever of its tasks, or groups, the id is of: which steps have ended, wait, or
    have failed, and why.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout says how long to --wait.")
    if (tree or mermaid) and (wait or traceback or task):
        raise click.UsageError("--tree and --mermaid show a workflow as it is; no other options.")
    asked = ctx.ensure_object(Invocation)
    target = asked.load_store()
    if not target.exists:
        if asked.as_json:
            print_json({**_empty(target, id), "exists": False})
        else:
            announce(target)
        return 0
    if tree or mermaid:
        return show_tree(asked, target, id, mermaid=mermaid)
    from umbel import states

    report = look(target, id)
    if task is not None and report["task"] not in {None, task}:
        raise Refusal(f"{id} is of the task {report['task']}, not of {task}.")
    # A task that asked to be ignored has ended, and its state is none of Celery's.
    over = bool(report["attempts"]) and not report["messages"]
    if wait and report["state"] not in states.READY_STATES and not over:
        await_end(target, id, report, timeout)
        report = look(target, id)
    if asked.as_json:
        print_json({**report, "exists": True})
    else:
        announce(target)
        show(target, report, traceback=traceback)
    return FAILURE if wait and report["state"] in states.PROPAGATE_STATES else 0


def show_tree(asked: Invocation, target: Target, id: str, *, mermaid: bool) -> int:
    """Show the workflow that a task is part of; the exit code."""
    from umbel.cli import tree

    found = tree.gather(target, id)
    if asked.as_json:
        print_json({"store": target.store.name, "exists": True, **found.as_record()})
    elif mermaid:
        click.echo(tree.mermaid(found))
    elif announce(target):
        tree.show(found)
    return 0


def _empty(target: Target, id: str) -> dict[str, Any]:
    return {
        "store": target.store.name, "id": id, "state": UNKNOWN, "task": None, "args": None,
        "kwargs": None, "result": None,
        "error": None, "traceback": None, "ended": None, "known": None, "messages": [],
        "attempts": [], "dead_letter": None,
    }  # fmt: skip


def look(target: Target, id: str) -> dict[str, Any]:
    """All that the store knows about a task, as one JSON object."""
    from umbel import states
    from umbel.exceptions import DecodeError, SecurityError
    from umbel.message import result as result_message
    from umbel.message.task import parse_time

    report = _empty(target, id)
    store = target.store
    # A task moves from message to result, history and dead letter: read in that order, it cannot
    # be missed on its way.
    messages = _browse(target, id)
    stored = store.results.get([id]).get(id)
    attempts = store.state.history(id=id)[::-1]
    letter = store.state.dead_letter(id)
    if attempts:
        report["task"] = attempts[-1].task
        report["state"] = attempts[-1].state  # stands if no result was kept
        report["ended"] = attempts[-1].at
    if messages:
        report["state"], report["ended"] = states.PENDING, None
    if stored is not None:
        report["state"] = stored.status
        try:
            meta = result_message.decode(stored.meta, target.app.result_format)
            done = parse_time(meta.date_done)
        except (DecodeError, SecurityError) as error:
            raise Refusal(f"The stored result of {id} cannot be read: {error}") from error
        report["ended"] = done
        report["task"] = report["task"] or meta.name
        report["args"], report["kwargs"] = meta.args, meta.kwargs
        if stored.status in states.EXCEPTION_STATES:
            failure = result_message.restore_exception(meta.result, {})
            report["error"] = {"type": type(failure).__qualname__, "message": str(failure)}
            report["traceback"] = meta.traceback
        else:
            report["result"] = meta.result
        if stored.status in states.READY_STATES:
            messages = _browse(target, id)  # it may have ended since
    if messages:
        report["task"] = _headers(messages[0])["task"]
    report["messages"] = [_place(target, message) for message in messages]
    if messages and target.name and report["task"]:
        report["known"] = report["task"] in target.app.tasks
    report["attempts"] = [_attempt(entry) for entry in attempts]
    if letter is not None and letter.id == id:
        report["dead_letter"] = _letter(letter)
        report["task"] = letter.task
    return report


def _browse(target: Target, id: str) -> list[Waiting]:
    broker = target.store.broker
    return broker.browse(id=id) if broker.browsable else []


def _attempt(entry: HistoryEntry) -> dict[str, Any]:
    return {
        "state": entry.state, "ended": entry.at, "runtime": entry.runtime, "queue": entry.queue,
        "worker": entry.worker, "retries": entry.retries, "error": entry.error,
    }  # fmt: skip


def _letter(letter: DeadLetter) -> dict[str, Any]:
    return {
        "number": letter.number, "reason": letter.reason, "detail": letter.detail,
        "buried": letter.at, "deliveries": letter.deliveries,
    }  # fmt: skip


def _headers(message: Waiting) -> dict[str, Any]:
    from umbel.exceptions import DecodeError
    from umbel.message.task import decode_headers

    try:
        headers = decode_headers(message.payload)
    except DecodeError:
        return {"task": None, "ignore_result": None}
    return {"task": headers.task, "ignore_result": headers.ignore_result}


def _place(target: Target, message: Waiting) -> dict[str, Any]:
    """Where a message is: ready, delayed or claimed."""
    from umbel.engines.run_file import read_trace

    store = target.store
    place: dict[str, Any] = {
        "where": "ready", "queue": message.queue, "published": message.published,
        "due": message.due, "worker": None, "worker_lives": None, "running_for": None,
        "deliveries": message.deliveries,
        "result_kept": not _headers(message)["ignore_result"],
    }  # fmt: skip
    live = {worker.number: worker for worker in live_workers(store)}
    if message.worker is not None:
        records = {worker.number: worker for worker in store.state.workers()}
        holder = records.get(message.worker)
        place["where"] = "claimed"
        place["worker"] = str(message.worker) if holder is None else holder.node
        place["worker_lives"] = message.worker in live
        trace = None if holder is None else read_trace(holder, store.run_dir)
        place["running_for"] = trace and trace.running.get(message.number or 0)
    elif message.due is not None and message.due > clock.time():
        place["where"] = "delayed"
    paused = {count.queue for count in store.broker.counts() if count.paused}
    place["paused"] = message.queue in paused
    place["served"] = any(message.queue in worker.queues for worker in live.values())
    return place


def await_end(target: Target, id: str, report: dict[str, Any], timeout: float | None) -> None:
    """Wait; a `Refusal` if there is nothing to wait for, or after the time."""
    from umbel import exceptions

    if not report["messages"]:
        raise Refusal(
            f"Nothing to wait for: {target.store.name} holds no message and no result of {id}."
        )
    if not report["messages"][0]["result_kept"]:
        raise Refusal(f"Nothing to wait for: {id} was sent with ignore_result.")
    try:
        target.app.AsyncResult(id).get(timeout, propagate=False)
    except exceptions.TimeoutError as error:
        raise Refusal(str(error), id=id) from error
    except KeyboardInterrupt as error:
        raise interruption(target, id) from error


def show(target: Target, report: dict[str, Any], *, traceback: bool) -> None:
    """Print a report for people."""
    from umbel import states

    error, letter = report["error"], report["dead_letter"]
    value = None if report["result"] is None else describe_value(report["result"])
    ended = report["state"] == states.SUCCESS
    print_pairs(
        [
            ("id", report["id"]),
            ("task", report["task"]),
            ("state", report["state"]),
            *((name, report[name] and describe_value(report[name])) for name in ("args", "kwargs")),
            ("result", (value or "null") if ended else None),
            ("meta", None if ended else value),
            ("error", error and f"{error['type']}: {error['message']}"),
            ("ended", report["ended"] and describe_moment(report["ended"])),
            *(("where", _describe_place(target, place)) for place in report["messages"]),
            ("unknown", _describe_unknown(target, report)),
            ("dead letter", letter and _describe_letter(target, letter)),
        ]
    )
    if report["state"] == UNKNOWN:
        click.echo(f"There is nothing of this id in {target.store.name}: never sent, or expired.")
    if report["attempts"]:
        click.echo()
        print_table(
            ("ATTEMPT", "STATE", "ENDED", "TOOK", "WORKER", "ERROR"),
            [
                (
                    number,
                    attempt["state"],
                    describe_moment(attempt["ended"]),
                    "" if attempt["runtime"] is None else f"{attempt['runtime']:.3g} s",
                    attempt["worker"],
                    (attempt["error"] or "").partition("\n")[0],
                )
                for number, attempt in enumerate(report["attempts"], 1)
            ],
        )
    if traceback and report["traceback"]:
        click.echo(f"\n{report['traceback'].rstrip()}")


def _describe_place(target: Target, place: dict[str, Any]) -> str:
    queue = place["queue"]
    if place["where"] == "claimed":
        if place["worker_lives"]:
            seconds = place["running_for"]
            since = "" if seconds is None else f", running for {describe_duration(seconds)}"
            return f"claimed by {place['worker']} from the queue {queue}{since}"
        text = f"claimed by {place['worker']}, which is dead; a live worker takes it over"
    elif place["where"] == "delayed":
        text = f"due at {describe_moment(place['due'])} in the queue {queue}"
    else:
        text = f"waiting in the queue {queue}"
        if place["published"] is not None:
            text += f" for {describe_duration(clock.time() - place['published'])}"
    if place["paused"]:
        text += f"\nthe queue is paused; go on: {target.line('queues', '--resume', queue)}"
    if not place["served"]:
        text += f"\nno live worker serves it; start one: {target.line('worker', '-Q', queue)}"
    return text


def _describe_unknown(target: Target, report: dict[str, Any]) -> str | None:
    """Why a message waits whose task the app does not have."""
    if report["known"] is not False or any(m["where"] == "claimed" for m in report["messages"]):
        return None
    near = target.app.tasks.nearest(report["task"])
    hint = f" (the nearest: {near})" if near else ""
    timeout = target.app.conf.task_unknown_timeout
    return (
        f"the app {target.name} has no task of this name{hint}\n"
        f"a worker that does not know it puts it back, and after {timeout:g} s it is a dead letter"
    )


def _describe_letter(target: Target, letter: dict[str, Any]) -> str:
    number = letter["number"]
    return (
        f"number {number}, {letter['reason']}: {letter['detail'].partition(chr(10))[0]}\n"
        f"run it again: {target.line('dead', 'replay', str(number))}"
    )
