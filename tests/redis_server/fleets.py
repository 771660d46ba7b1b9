"""Private servers that belong together: a primary with replicas and sentinels, or a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from tests.servers import RedisServer, free_port
from umbel.engines.redis.topology import SLOTS

MASTER = "shop"
PATIENCE = 30.0


def wait_for(what: str, condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds; an error of a server that is not ready counts as no."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < deadline, f"not seen in {seconds} s: {what}"
        time.sleep(0.02)


def admin(port: int) -> redis.Redis:
    return redis.Redis(port=port, socket_timeout=10, decode_responses=True)


class Sentinel(RedisServer):
    """A sentinel that looks after one primary; it needs no quorum but its own."""

    def __init__(self, folder: Path, primary: int, quorum: int) -> None:
        super().__init__(folder)
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {primary} {quorum}\n"
            f"sentinel down-after-milliseconds {MASTER} 1000\n"
            f"sentinel failover-timeout {MASTER} 10000\n"
        )
        self._command = [self._command[0], str(config), "--sentinel"]


class Fleet:
    """One primary, replicas and sentinels."""

    def __init__(self, folder: Path, replicas: int = 1, sentinels: int = 0) -> None:
        # Replicas would wait for more of them before the first copy is sent.
        options = ("--appendonly", "no", "--repl-diskless-sync-delay", "0")
        self.primary = RedisServer(folder / "primary", *options).start()
        self.replicas = [
            RedisServer(
                folder / f"replica{n}", *options, "--replicaof", f"127.0.0.1 {self.primary.port}"
            ).start()
            for n in range(replicas)
        ]
        self.sentinels = [
            Sentinel(folder / f"sentinel{n}", self.primary.port, max(1, sentinels // 2 + 1))
            for n in range(sentinels)
        ]
        for sentinel in self.sentinels:
            sentinel.start()
        wait_for("the replicas are in step", lambda: self.in_step(self.primary, replicas))
        for sentinel in self.sentinels:
            wait_for("the sentinels know all", lambda s=sentinel: self._knows_all(s))  # type: ignore[misc]

    @staticmethod
    def in_step(primary: RedisServer, replicas: int) -> bool:
        with admin(primary.port) as client:
            about: dict[str, Any] = client.info("replication")
        states = [about[key]["state"] for key in about if key.startswith("slave")
                  and isinstance(about[key], dict)]  # fmt: skip
        return states.count("online") >= replicas

    def _knows_all(self, sentinel: RedisServer) -> bool:
        with admin(sentinel.port) as client:
            about: dict[str, Any] = client.sentinel_master(MASTER)
        return bool(
            about["num-other-sentinels"] == len(self.sentinels) - 1
            and about["num-slaves"] == len(self.replicas)
            and about["flags"] == "master"
        )

    @property
    def url(self) -> str:
        """The sentinels', as Celery writes it."""
        return ";".join(f"sentinel://127.0.0.1:{one.port}/0" for one in self.sentinels)

    def named(self) -> int:
        """The port of the server that the sentinels name."""
        with admin(self.sentinels[0].port) as client:
            return int(client.sentinel_get_master_addr_by_name(MASTER)[1])

    def is_primary(self, server: RedisServer) -> bool:
        with admin(server.port) as client:
            return bool(client.role()[0] == "master")

    def kill(self) -> None:
        for one in (*self.sentinels, *self.replicas, self.primary):
            one.kill()


class Node(RedisServer):
    """A node of a cluster."""

    def __init__(self, folder: Path) -> None:
        self.bus = free_port()
        super().__init__(
            folder, "--cluster-enabled", "yes", "--cluster-config-file", str(folder / "nodes.conf"),
            "--cluster-port", str(self.bus), "--appendonly", "no",
        )  # fmt: skip


class ClusterFleet:
    """Three primaries that share the slots."""

    def __init__(self, folder: Path) -> None:
        self.servers: list[Node] = []
        for n in range(3):
            server = Node(folder / f"node{n}")
            server.start()
            self.servers.append(server)
        share = SLOTS // 3 + 1
        for n, server in enumerate(self.servers):
            with admin(server.port) as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
                last = min((n + 1) * share, SLOTS) - 1
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", n * share, last)
                for other in self.servers[:n]:
                    place = ("127.0.0.1", other.port, other.bus)
                    client.execute_command("CLUSTER", "MEET", *place)
        for server in self.servers:
            wait_for("the cluster is there", lambda s=server: self._is_up(s))  # type: ignore[misc]

    @staticmethod
    def _is_up(server: RedisServer) -> bool:
        with admin(server.port) as client:
            about: dict[str, str] = client.execute_command("CLUSTER INFO")
            served: list[object] = client.execute_command("CLUSTER SLOTS")
        return about["cluster_state"] == "ok" and len(served) == 3

    @property
    def url(self) -> str:
        return ";".join(f"redis+cluster://127.0.0.1:{one.port}" for one in self.servers)

    def kill(self) -> None:
        for one in self.servers:
            one.kill()
