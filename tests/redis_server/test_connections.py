"""What URLs and settings say of the connections to Redis."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.redis_server.conftest import Opener, Pair
from tests.servers import Proxy, RedisServer, free_port
from umbel import App
from umbel.engines.redis import RedisEngine
from umbel.exceptions import ImproperlyConfigured, OperationalError
from umbel.testing.contracts.values import message, record

# -------------------------------------------------------------------------------------- encryption


class TlsServer(RedisServer):
    """A server that takes encrypted connections of those it knows on `tls`, others on `port`."""

    tls = 0

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.tls}/0"


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory, own: Pair) -> Iterator[TlsServer]:
    port = free_port()
    server = TlsServer(
        tmp_path_factory.mktemp("redis"), "--tls-port", str(port), "--tls-cert-file",
        own.certificate, "--tls-key-file", own.key, "--tls-ca-cert-file", own.certificate,
    )  # fmt: skip
    server.tls = port
    server.start()
    yield server
    server.kill()


def own_tls(own: Pair) -> dict[str, Any]:
    """What Celery's documentation says to write into the settings."""
    return {
        "ssl_ca_certs": own.certificate, "ssl_certfile": own.certificate,
        "ssl_keyfile": own.key, "ssl_cert_reqs": ssl.CERT_REQUIRED,
    }  # fmt: skip


def send_one(**settings: Any) -> int:
    """How many messages lie in the store after one was sent."""
    app = App("tls", set_as_current=False, **settings)
    try:
        app.send_task("nobody.knows", queue="tls")
        (count,) = app.engine.broker.counts()
        app.engine.broker.purge(["tls"])
        return count.ready
    finally:
        app.close()
        app.engine.close()


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_settings_say_how_to_encrypt(encrypted: TlsServer, own: Pair, scheme: str) -> None:
    url = f"{scheme}://{encrypted.place}"
    assert send_one(broker_url=url, broker_use_ssl=own_tls(own)) == 1


def test_a_url_says_how_to_encrypt(encrypted: TlsServer, own: Pair) -> None:
    query = "&".join(f"{key}={value}" for key, value in own_tls(own).items() if "reqs" not in key)
    for reqs in ("required", "CERT_REQUIRED", "none"):
        url = f"rediss://{encrypted.place}?{query}&ssl_cert_reqs={reqs}"
        assert send_one(broker_url=url) == 1


def test_results_have_an_encryption_of_their_own(
    server: RedisServer, encrypted: TlsServer, own: Pair
) -> None:
    app = App(
        "tls",
        broker=server.url,
        backend=f"rediss://{encrypted.place}",
        redis_backend_use_ssl=own_tls(own),
        set_as_current=False,
    )
    app.engine.results.forget(["an-id"])
    with pytest.raises(OperationalError, match="cannot be reached"):
        App(
            "tls", broker=server.url, backend=f"rediss://{encrypted.place}", set_as_current=False
        ).engine.results.forget(["an-id"])
    app.engine.close()


@pytest.mark.parametrize("wrong", ["authority", "no certificate", "not at all"])
def test_a_server_that_is_not_the_right_one_gets_nothing(
    encrypted: TlsServer, own: Pair, strange: Pair, wrong: str
) -> None:
    tls = own_tls(own)
    if wrong == "authority":
        tls["ssl_ca_certs"] = strange.certificate
    elif wrong == "no certificate":
        del tls["ssl_certfile"], tls["ssl_keyfile"]
    scheme = "redis" if wrong == "not at all" else "rediss"
    start = time.monotonic()
    with pytest.raises(OperationalError, match=f"{scheme}://127.0.0.1"):
        send_one(
            broker_url=f"{scheme}://{encrypted.place}",
            broker_use_ssl=False if wrong == "not at all" else tls,
            task_publish_timeout=0.5,
        )
    assert time.monotonic() - start < 5


def test_options_of_tls_need_an_encrypted_url() -> None:
    with pytest.raises(ImproperlyConfigured, match="that takes rediss://"):
        RedisEngine("redis://h/0?ssl_cert_reqs=none", "redis://h/0")


# -------------------------------------------------------------------------------------- connections


def clients(server: RedisServer) -> list[dict[str, str]]:
    with redis.Redis(port=server.port) as admin:
        found: list[dict[str, str]] = admin.client_list()
    return found


def test_connections_have_a_name(server: RedisServer, opener: Opener) -> None:
    opener(server.url, client_name="shop").broker.counts()
    assert "shop" in {one["name"] for one in clients(server)}
    app = App(
        "named", broker=server.url, backend="broker", redis_client_name="till", set_as_current=False
    )
    app.engine.broker.counts()
    assert "till" in {one["name"] for one in clients(server)}
    app.engine.close()


def test_a_command_has_its_timeout(opener: Opener) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        for options in ({"socket_timeout": 0.2}, {"socket_connect_timeout": 0.2}):
            start = time.monotonic()
            with pytest.raises(OperationalError, match="cannot be reached"):
                opener(url, **options).broker.queues()
            assert 0.15 < time.monotonic() - start < 3
        app = App(
            "slow",
            broker=url,
            backend="broker",
            redis_socket_timeout=0.2,
            redis_socket_connect_timeout=0.1,
            set_as_current=False,
        )
        start = time.monotonic()
        with pytest.raises(OperationalError):
            app.engine.broker.counts()
        assert time.monotonic() - start < 3
        app.engine.close()


def test_no_more_connections_than_are_allowed(server: RedisServer, opener: Opener) -> None:
    """One is in use for as long as its command is not answered; who needs it waits, or is told."""
    engine = opener(server.url, max_connections=1)
    engine.broker.publish([message("a")])
    connection = engine._server._idle[0]
    asked = threading.Event()
    send = connection._sock.sendall

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(stream, name)

        def sendall(self, data: bytes) -> None:
            send(data)
            asked.set()

    stream, connection._sock = connection._sock, Watched()
    blocker = threading.Thread(
        target=engine._server.call, args=([("BLPOP", "nothing", "1.5")],), daemon=True
    )
    blocker.start()
    assert asked.wait(10)
    start = time.monotonic()
    with pytest.raises(OperationalError, match="all 1 connections are in use"):
        engine.broker.publish([message("b")], timeout=0.3)
    assert time.monotonic() - start < 1.2
    engine.broker.publish([message("c")], timeout=20)
    blocker.join(10)
    app = App(
        "few", broker=server.url, backend="broker", redis_max_connections=3, set_as_current=False
    )
    engine = app.engine  # type: ignore[assignment]
    assert engine._server._most == 3  # type: ignore[attr-defined]
    engine.close()


def test_a_connection_that_was_long_idle_is_replaced(server: RedisServer, opener: Opener) -> None:
    """A firewall has forgotten it: what is sent over it is never answered."""
    proxy = Proxy(server.port)
    url = f"redis://127.0.0.1:{proxy.port}/0"
    engine = opener(url, health_check_interval=60)
    engine.broker.publish([message("a")])
    (first,) = engine._server._idle
    engine.broker.publish([message("b")])
    assert list(engine._server._idle) == [first]
    first.used -= 61
    engine.broker.publish([message("c")])
    (second,) = engine._server._idle
    assert second is not first
    proxy.close()
    app = App(
        "checked",
        broker=server.url,
        backend="broker",
        redis_backend_health_check_interval=30,
        set_as_current=False,
    )
    assert app.engine._server._idle_limit == 30.0  # type: ignore[attr-defined]
    app.engine.close()


def test_keep_alive_is_on_and_can_be_tuned(server: RedisServer, opener: Opener) -> None:
    engine = opener(server.url, socket_keepalive_options={socket.TCP_KEEPIDLE: 77})
    engine.broker.counts()
    stream = engine._server._idle[0]._sock
    assert stream.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77


class Vault(redis.CredentialProvider):
    """What a user writes to fetch a password that changes."""

    def get_credentials(self) -> tuple[str, str]:
        return "clerk", "secret"


@pytest.fixture
def clerk(server: RedisServer) -> Iterator[None]:
    with redis.Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "clerk", "on", ">secret", "~*", "&*", "+@all")
        yield
        admin.execute_command("ACL", "DELUSER", "clerk")


@pytest.mark.parametrize("provider", [Vault(), f"{__name__}.Vault", f"{__name__}:Vault"])
def test_credentials_come_from_a_provider(
    server: RedisServer, opener: Opener, clerk: None, provider: Any
) -> None:
    url = server.url.replace("://", "://who:cares@")
    opener(url, credential_provider=provider).broker.counts()
    assert "clerk" in {one["user"] for one in clients(server)}


def test_settings_name_who_signs_in_to_read_results(server: RedisServer, clerk: None) -> None:
    for settings in (
        {"redis_backend_credential_provider": Vault()},
        {"redis_username": "clerk", "redis_password": "secret"},
    ):
        app = App(
            "vault",
            broker="memory://vault",
            backend="redis",
            redis_host="127.0.0.1",
            redis_port=server.port,
            redis_db=3,
            set_as_current=False,
            **settings,
        )
        app.engine.results.forget(["an-id"])
        assert ("clerk", "3") in {(one["user"], one["db"]) for one in clients(server)}
        app.engine._results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("provider", ["no.such.module", 5])
def test_a_provider_that_is_none_is_refused(opener: Opener, provider: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="credential provider"):
        opener("redis://h/0", credential_provider=provider)


def test_what_has_no_effect_is_told_once_with_the_reason(
    server: RedisServer, opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    engine = opener(
        server.url,
        visibility_timeout=3600,
        retry_on_timeout=True,
        socket_keepalive=False,
        queue_order_strategy="priority",
        socket_timout=3,
        unacked_mutex_key="m",
        client_name="c",
    )
    with caplog.at_level(logging.INFO):
        engine.state.register(record())
    lines = [one for one in caplog.messages if "effect" in one or "always on" in one]
    assert len(lines) == 6
    assert sum("visibility_timeout has no effect: a claim lasts" in line for line in lines) == 1
    (typo,) = [one for one in caplog.records if "socket_timout" in one.getMessage()]
    assert typo.levelname == "WARNING"
    assert "Did you mean socket_timeout?" in typo.getMessage()


@pytest.mark.parametrize(
    "url",
    [
        "redis://h/0;sentinel://h/0",
        "redis://h/shop",
        "redis+cluster://h;redis://h",
        "redis://h:port/0",
        "redis://h/0?no_such_option=1",
        "rediss://h/0?ssl_cert_reqs=perhaps",
    ],
)
def test_a_url_that_cannot_be_used_says_what_is_written(opener: Opener, url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="redis://"):
        opener(url)


def test_a_list_of_urls_is_a_broker_url(server: RedisServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        dead = f"redis://127.0.0.1:{gone.getsockname()[1]}/0"
    assert send_one(broker_url=[dead, server.url]) == 1
    assert send_one(broker_url=f"{dead};{server.url}") == 1
