"""Stored results in every serializer and compression, beside the real Celery's result backend."""

import importlib
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from umbel import App, states
from umbel.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    ImproperlyConfigured,
    TaskRevokedError,
)
from umbel.message import result as result_message
from umbel.message.format import MAGIC, PLAIN, Format, make_format, read
from umbel.testing import Harness

celery: Any = importlib.import_module("celery")
celery_base: Any = importlib.import_module("celery.backends.base")

SERIALIZERS = ["json", "pickle", "yaml", "msgpack"]
COMPRESSIONS = [None, "zlib", "bzip2", "zstd"]
LIMIT = 32 << 20
VALUE = {"list": [1, 2.5, None, True], "text": "ü" * 500}


class Store(celery_base.KeyValueStoreBackend):  # type: ignore[misc]
    """Celery's key-value backend over a dict."""

    supports_result_compression = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.data: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.data.get(key)

    def set(self, key: bytes, value: bytes | str) -> None:
        self.data[key] = value if isinstance(value, bytes) else value.encode()


def backend(serializer: str, compression: str | None) -> Any:
    app = celery.Celery(set_as_current=False)
    app.conf.update(
        result_serializer=serializer, result_compression=compression, accept_content=SERIALIZERS
    )
    return Store(app, serializer=serializer, accept=SERIALIZERS)


def form_of(serializer: str, compression: str | None = None) -> Format:
    return make_format(serializer, compression, SERIALIZERS, LIMIT)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_each_reads_the_others_results(serializer: str, compression: str | None) -> None:
    store, form = backend(serializer, compression), form_of(serializer, compression)

    store.store_result("i", VALUE, states.SUCCESS)
    [theirs] = store.data.values()
    meta = result_message.decode(theirs, form)
    assert (meta.task_id, meta.status, meta.result) == ("i", states.SUCCESS, VALUE)
    assert theirs.startswith(MAGIC) == bool(compression)

    ours = result_message.encode_success("j", VALUE, 0.0, parent_id="p", form=form)
    assert ours.startswith(MAGIC) == bool(compression)
    store.set(store.get_key_for_task("j"), ours)
    read_by_celery = store.get_task_meta("j")
    assert read_by_celery["result"] == VALUE
    assert read_by_celery["status"] == states.SUCCESS
    assert read_by_celery["date_done"] == "1970-01-01T00:00:00.000000+00:00"
    assert read_by_celery["parent_id"] == "p"


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_each_reads_the_others_failures(serializer: str) -> None:
    store, form = backend(serializer, None), form_of(serializer)

    store.store_result("i", ValueError("bad", 7), states.FAILURE, traceback="Traceback…")
    [theirs] = store.data.values()
    restored = result_message.restore_exception(result_message.decode(theirs, form).result, {})
    assert type(restored) is ValueError
    assert restored.args == ("bad", 7)

    record = result_message.describe_exception(ValueError("bad", 7))
    ours = result_message.encode_failure("j", record, 0.0, "Traceback…", form=form)
    store.set(store.get_key_for_task("j"), ours)
    read_by_celery = store.get_task_meta("j")
    assert type(read_by_celery["result"]) is ValueError
    assert read_by_celery["result"].args == ("bad", 7)
    assert read_by_celery["traceback"] == "Traceback…"


@pytest.mark.parametrize("serializer", ["yaml", "msgpack"])
def test_a_failure_can_always_be_written(serializer: str) -> None:
    error = ValueError(Decimal("1.5"), datetime(2030, 1, 1))
    record = result_message.describe_exception(error)
    form = form_of(serializer)
    written = result_message.encode_failure("i", record, 0.0, form=form)
    args = result_message.restore_exception(result_message.decode(written, form).result, {}).args
    assert str(args[0]) in {"1.5", "Decimal('1.5')"}
    with pytest.raises(EncodeError):
        result_message.encode_success("i", Decimal("1.5"), 0.0, form=form)


def test_what_was_stored_under_other_settings_is_still_read() -> None:
    plain = result_message.encode_success("i", VALUE, 0.0)
    for serializer in SERIALIZERS:
        assert result_message.decode(plain, form_of(serializer)).result == VALUE
    compressed = result_message.encode_success("i", VALUE, 0.0, form=form_of("json", "zlib"))
    assert result_message.decode(compressed).result == VALUE


def test_what_is_not_accepted_is_not_decoded() -> None:
    pickled = result_message.encode_success("i", VALUE, 0.0, form=form_of("pickle"))
    with pytest.raises(DecodeError):
        result_message.decode(pickled)
    only_msgpack = make_format("msgpack", None, ["msgpack"], LIMIT)
    with pytest.raises(ContentDisallowed):
        result_message.decode(result_message.encode_success("i", 1, 0.0), only_msgpack)
    assert make_format("json", None, ["json"], LIMIT) is PLAIN


@pytest.mark.parametrize("damaged", [MAGIC, MAGIC + b"application/x-gzip\0x", MAGIC + b"x\0y", b""])
def test_damaged_bytes_are_decode_errors(damaged: bytes) -> None:
    with pytest.raises(DecodeError):
        read(damaged, PLAIN)
    with pytest.raises(DecodeError):
        result_message.decode(damaged)


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_an_app_writes_and_reads_as_its_settings_say(serializer: str, umbel: Harness) -> None:
    app = App(
        "shop", result_serializer=serializer, result_compression="zlib", task_serializer=serializer,
        accept_content=[serializer],
    )  # fmt: skip

    @app.task
    def echo(value: Any) -> Any:
        return value

    @app.task
    def fail() -> None:
        raise KeyError("k", Decimal(1))

    @app.task
    def unwritable() -> Any:
        return lambda: None

    echoed, failed, refused = echo.delay(VALUE), fail.delay(), unwritable.delay()
    umbel.run(propagate=False)
    [stored] = app.engine.results.get([echoed.id]).values()
    assert stored.meta.startswith(MAGIC)
    assert echoed.get(timeout=1) == VALUE
    with pytest.raises(KeyError):
        failed.get(timeout=1)
    with pytest.raises(EncodeError):
        refused.get(timeout=1)
    revoked = fail.delay()
    revoked.revoke()
    umbel.run(propagate=False)
    assert revoked.state == states.REVOKED
    assert isinstance(revoked.result, TaskRevokedError)


def test_settings_that_name_nothing_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="no compression 'snappy'"):
        _ = App("x", result_compression="snappy").result_format
    with pytest.raises(ImproperlyConfigured, match="no serializer 'jsn'"):
        _ = App("x", result_serializer="jsn").result_format
