# mypy: disable-error-code="import-not-found, import-untyped, no-any-return"
"""The bare limit: what a claiming supervisor with two children does on Redis with no feature.

It reads batches with one script, hands them to children over stream sockets, lets each child start
a task only after an 8-byte start token, takes one outcome per task, and acknowledges in pipelines.
No leases, no recovery, no limits, no retries, nothing that a task queue is for: the 100 % line.

    python -m on_prototype PROCESSES
"""

import base64
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import hiredis
import msgspec
import record
import redis

QUEUE, CLAIMS, NUMBER = "prototype:queue", "prototype:claims", "prototype:number"
BATCH = 100
FRAME = struct.Struct("<QI")  # number of the claim, length of what follows
TOKEN = struct.Struct("<Q")
CLAIM = """
local taken = redis.call('RPOP', KEYS[1], ARGV[1])
if not taken then return false end
local first = redis.call('INCRBY', KEYS[3], #taken) - #taken + 1
local pairs = {}
for i, message in ipairs(taken) do
  pairs[2 * i - 1] = first + i - 1
  pairs[2 * i] = message
end
redis.call('HSET', KEYS[2], unpack(pairs))
return {first, taken}
"""


class Headers(msgspec.Struct):
    id: str
    task: str
    retries: int = 0
    eta: object = None
    expires: object = None


class Envelope(msgspec.Struct):
    body: str
    headers: Headers
    properties: dict[str, object]


read_envelope = msgspec.json.Decoder(Envelope).decode
read_body = msgspec.json.Decoder(tuple[list[int], dict[str, object], object]).decode
write = msgspec.json.encode


def noop(index: int) -> None:
    record.done(index)


def kept(index: int) -> int:
    record.done(index)
    return index


TASKS: Mapping[str, Callable[[int], object]] = {"noop": noop, "kept": kept}


# -- the producer: redis-py's own LPUSH of a message as long as Celery's ---------------------------


def template(task: str) -> bytes:
    """A task message in Celery's protocol 2, with `%(id)b` and `%(body)b` to fill in."""
    headers: dict[str, object] = {
        "lang": "py",
        "task": task,
        "id": "%(id)b",
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": "%(id)b",
        "parent_id": None,
        "argsrepr": "(0,)",
        "kwargsrepr": "{}",
        "origin": "gen1@host",
        "ignore_result": task == "noop",
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    properties = {
        "correlation_id": "%(id)b",
        "reply_to": "%(id)b",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "%(id)b",
    }
    return write(
        {
            "body": "%(body)b",
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        }
    )


def sender(client: Any, task: str) -> Callable[[int], str]:
    message = template(task)

    def send(index: int) -> str:
        name = f"00000000-0000-4000-8000-{index:012x}"
        body = b'[[%d],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]' % index
        client.lpush(QUEUE, message % {b"id": name.encode(), b"body": base64.b64encode(body)})
        return name

    return send


client = redis.Redis.from_url(os.environ["BENCH_REDIS"])
SEND = {task: sender(client, task) for task in TASKS}


def identity(handle: str) -> str:
    return handle


def fetch(name: str, timeout: float) -> object:
    deadline = time.monotonic() + timeout
    while (stored := client.get(f"prototype:result:{name}")) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no result of task {name} after {timeout} s")
        time.sleep(0.001)
    return msgspec.json.decode(stored)["result"]


# -- the worker ------------------------------------------------------------------------------------


def serve(link: socket.socket, tokens: socket.socket) -> None:
    """A child: for each start token the next message off the stream, and its outcome at once."""
    buffer, begin, offset, number = bytearray(), 0, 0, 0
    while token := tokens.recv(TOKEN.size):
        (wanted,) = TOKEN.unpack(token)
        while number != wanted:  # another one was recalled: its token was taken back
            if len(buffer) - offset >= FRAME.size:
                following, size = FRAME.unpack_from(buffer, offset)
                if len(buffer) - offset - FRAME.size >= size:
                    begin, offset = offset + FRAME.size, offset + FRAME.size + size
                    number = following
                    continue
            received = link.recv(1 << 20)
            if not received:
                return
            del buffer[:offset]
            offset = 0
            buffer += received
        envelope = read_envelope(memoryview(buffer)[begin:offset])
        args, kwargs, _ = read_body(base64.b64decode(envelope.body))
        value = TASKS[envelope.headers.task](*args, **kwargs)
        result = b""
        if value is not None:
            name = envelope.headers.id
            result = name.encode() + write(
                {
                    "status": "SUCCESS",
                    "result": value,
                    "traceback": None,
                    "children": [],
                    "date_done": "2026-01-01T00:00:00",
                    "task_id": name,
                }
            )
        link.sendall(FRAME.pack(wanted, len(result)) + result)


class Child:
    """The supervisor's end of one child: its sockets and what it holds."""

    def __init__(self, others: "list[Child]") -> None:
        self.link, link = socket.socketpair()
        self.tokens, tokens = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.link, self.tokens, link, tokens):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
        self.buffer, self.held = bytearray(), 0
        if not os.fork():
            for end in (self.link, self.tokens):
                end.close()
            for other in others:
                other.link.close()
                other.tokens.close()
            serve(link, tokens)
            os._exit(0)
        link.close()
        tokens.close()

    def hand(self, first: int, messages: list[bytes]) -> None:
        frames = []
        for number, message in enumerate(messages, first):
            read_envelope(message)  # a supervisor decides by the headers
            frames.append(FRAME.pack(number, len(message)) + message)
        self.link.sendall(b"".join(frames))
        for number in range(first, first + len(messages)):
            self.tokens.send(TOKEN.pack(number))
        self.held += len(messages)

    def outcomes(self) -> list[tuple[int, bytes]]:
        buffer, offset, ended = self.buffer, 0, []
        buffer += self.link.recv(1 << 20)
        while len(buffer) - offset >= FRAME.size:
            number, size = FRAME.unpack_from(buffer, offset)
            begin = offset + FRAME.size
            if len(buffer) - begin < size:
                break
            offset = begin + size
            ended.append((number, bytes(buffer[begin:offset])))
        del buffer[:offset]
        self.held -= len(ended)
        return ended


def settle(connection: Any, ended: list[tuple[int, bytes]]) -> None:
    commands: list[tuple[object, ...]] = [
        ("SETEX", f"prototype:result:{result[:36].decode()}", 60, result[36:])
        for _, result in ended
        if result
    ]
    commands.append(("HDEL", CLAIMS, *(number for number, _ in ended)))
    connection.send_packed_command([hiredis.pack_command(command) for command in commands])
    for _ in commands:
        connection.read_response()


def claim(connection: Any, script: str, children: list[Child]) -> bool:
    """Fill the children up; False once the queue is empty."""
    wanted = sum(2 * BATCH - child.held for child in children if child.held <= BATCH)
    if wanted < BATCH:
        return True
    command = ("EVALSHA", script, 3, QUEUE, CLAIMS, NUMBER, wanted)
    connection.send_packed_command([hiredis.pack_command(command)])
    reply = connection.read_response()
    if not reply:
        return False
    first, messages = reply
    share = -(-len(messages) // len(children))
    for position, child in enumerate(sorted(children, key=lambda child: child.held)):
        part = messages[position * share : (position + 1) * share]
        child.hand(first + position * share, part)
    return True


def main(processes: int) -> None:
    script = client.script_load(CLAIM)
    children: list[Child] = []
    for _ in range(processes):
        children.append(Child(children))
    by_socket = {child.link: child for child in children}
    connection, full = client.connection_pool.get_connection(), True
    while True:
        if full:
            full = claim(connection, script, children)
        readable = select.select(list(by_socket), [], [], 0.05)[0]
        ended = [outcome for link in readable for outcome in by_socket[link].outcomes()]
        if ended:
            settle(connection, ended)
        full = full or not readable


if __name__ == "__main__":
    main(int(sys.argv[1]))
