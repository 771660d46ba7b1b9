"""Where a task goes: routes, queues, exchanges and keys."""

import importlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from umbel import App, Exchange, Queue, binding
from umbel.exceptions import ImproperlyConfigured, QueueNotFound

kombu: Any = importlib.import_module("kombu")  # it has no types

NUMBER = iter(range(1000))


def make_app(**settings: Any) -> App:
    return App("routing", broker=f"memory://routing{next(NUMBER)}", **settings)


def sent(app: App, name: str = "feed.tasks.load", **options: Any) -> list[str]:
    """The queues that a task comes to when it is sent so."""
    app.send_task(name, options.pop("args", ()), **options)
    counts = app.engine.broker.counts()
    app.engine.broker.purge([count.queue for count in counts])
    return [count.queue for count in counts]


class Old:
    def route_for_task(self, task: str, args: Any = None, kwargs: Any = None) -> Any:
        return "old" if task.startswith("feed") else None


def by_argument(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
    return {"queue": f"shard{args[0]}"} if args else None


router = Old()


@pytest.mark.parametrize("routes", [
    {"feed.tasks.load": "feeds"},
    {"feed.tasks.load": {"queue": "feeds"}},
    {"feed.tasks.load": Queue("feeds")},
    {"feed.*": "other", "feed.tasks.load": "feeds"},
    {"feed.*": "feeds", "*": "other"},
    {re.compile(r"(feed|web)\.tasks"): "feeds"},
    {re.compile(r"tasks"): "other", "feed.*": "feeds"},
    [("feed.*", "feeds"), ("*", "other")],
    ([("feed.*", {"queue": "feeds"}), ("*", "other")],),
    [{"web.*": "other"}, {"feed.*": "feeds"}, {"*": "other"}],
    lambda name, *_, **__: "feeds" if name == "feed.tasks.load" else None,
    [lambda *_, **__: None, {"feed.*": "feeds"}],
])  # fmt: skip
def test_a_route_names_a_queue(routes: Any) -> None:
    app = make_app(task_routes=routes)
    assert sent(app) == ["feeds"]
    assert sent(app) == ["feeds"]


def test_no_route_is_the_default_queue() -> None:
    for routes in (None, (), {}, {"web.*": "other"}):
        assert sent(make_app(task_routes=routes)) == ["celery"]
    assert sent(make_app(task_default_queue="mine")) == ["mine"]


def test_a_function_sees_all_of_the_call_and_changes_none_of_it() -> None:
    seen: list[Any] = []

    def look(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> None:
        seen.append((name, args, kwargs, dict(options), task))
        options["queue"] = options["priority"] = "spoilt"

    app = make_app(task_routes=look)

    @app.task(name="plain")
    def plain(*_: Any, **__: Any) -> None: ...

    plain.apply_async((1,), {"k": 2}, priority=3)
    assert seen == [("plain", (1,), {"k": 2}, {"priority": 3}, plain)]
    (waiting,) = app.engine.broker.browse("celery")
    assert waiting.priority == 3


@pytest.mark.parametrize("routes", [5, [5], {5: "feeds"}, [("feed.*", "feeds"), (5, "x")]])
def test_what_routes_nothing_is_refused(routes: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"task_routes: 5 (routes nothing|is n)"):
        sent(make_app(task_routes=routes))


def test_a_function_sees_the_call() -> None:
    app = make_app(task_routes=(by_argument, {"*": "rest"}))
    assert sent(app, args=(3,)) == ["shard3"]
    assert sent(app, args=(4,)) == ["shard4"]
    assert sent(app) == ["rest"]


def test_routers_by_path_and_of_celery_3() -> None:
    assert sent(make_app(task_routes=router)) == ["old"]
    assert sent(make_app(task_routes=(f"{__name__}.router",))) == ["old"]
    assert sent(make_app(task_routes=f"{__name__}.Old")) == ["old"]
    assert sent(make_app(task_routes=f"{__name__}:by_argument"), args=(1,)) == ["shard1"]
    with pytest.raises(ImproperlyConfigured, match=r"no 'nowhere\.at\.all'"):
        sent(make_app(task_routes="nowhere.at.all"))


def test_the_call_wins_over_the_task_and_the_task_over_the_route() -> None:
    app = make_app(task_routes={"*": {"queue": "route", "priority": 5, "shadow": "by route"}})

    @app.task(name="plain")
    def plain() -> None: ...

    @app.task(name="tuned", queue="task", priority=7)
    def tuned() -> None: ...

    def look(queue: str) -> list[Any]:
        (waiting,) = app.engine.broker.browse(queue)
        app.engine.broker.purge([queue])
        return [waiting.priority, json.loads(waiting.payload)["headers"]["shadow"]]

    plain.delay()
    assert look("route") == [5, "by route"]
    tuned.delay()
    assert look("task") == [7, "by route"]
    tuned.apply_async(queue="call", shadow="by call")
    assert look("call") == [7, "by call"]
    tuned.apply_async(queue=None, priority=None)
    assert look("route") == [5, "by route"]
    tuned.apply_async(queue="call", priority=1)
    assert look("call") == [1, "by route"]
    app.send_task("plain", route_name="x", router={"x": "asked"})
    assert look("asked") == [0, None]
    app.send_task("plain", router={"plain": "first"})
    assert look("first") == [0, None]
    app.send_task("plain", router={"plain": "second"})
    assert look("second") == [0, None]
    app.send_task("plain")
    assert look("route") == [5, "by route"]


def test_routes_may_change() -> None:
    app = make_app()
    assert sent(app) == ["celery"]
    app.conf.task_routes = {"feed.*": "feeds"}
    assert sent(app) == ["feeds"]
    app.conf.task_routes = {"feed.*": "other"}
    assert sent(app) == ["other"]


MEDIA = Exchange("media", "topic")
NEWS = Exchange("news", "fanout")
QUEUES = [
    Queue("celery"),
    Queue("video", MEDIA, "media.video.#", alias="v"),
    Queue("image", MEDIA, "media.image"),
    Queue("all", MEDIA, "media.*"),
    Queue("news1", NEWS),
    Queue("news2", NEWS),
    Queue("both", bindings=[binding(Exchange("direct"), "a"), binding("direct", "b")]),
]


@pytest.mark.parametrize(
    ("options", "queues"),
    [
        ({}, ["celery"]),
        ({"queue": "image"}, ["all", "image"]),
        ({"queue": "v", "routing_key": "media.video.hd"}, ["video"]),
        ({"exchange": "media", "routing_key": "media.video"}, ["all", "video"]),
        ({"exchange": MEDIA, "routing_key": "media.image"}, ["all", "image"]),
        ({"exchange": "news", "routing_key": "any"}, ["news1", "news2"]),
        ({"queue": "news1"}, ["news1", "news2"]),
        ({"exchange": "direct", "routing_key": "b"}, ["both"]),
        ({"exchange": "celery", "routing_key": "celery"}, ["both", "celery"]),
        ({"exchange": "", "routing_key": "made"}, ["celery"]),
        ({"exchange": "media"}, ["celery"]),
        ({"exchange": NEWS}, ["news1", "news2"]),
        ({"queue": Queue("image")}, ["all", "image"]),
        ({"queue": "both", "exchange_type": "topic"}, ["both", "celery"]),
        ({"queue": Queue("fresh")}, ["fresh"]),
        ({"queue": kombu.Queue("foreign", kombu.Exchange("foreign"), "k")}, ["foreign"]),
        ({"queue": "fresh"}, ["fresh"]),
    ],
)
def test_exchanges_and_keys_come_down_to_queues(options: Any, queues: list[str]) -> None:
    assert sent(make_app(task_queues=QUEUES), **options) == queues


def test_a_topic_travels_with_its_exchange_and_key() -> None:
    app = make_app(task_queues=QUEUES)
    app.send_task("t", queue="image")
    one, other = (app.engine.broker.browse(queue)[0] for queue in ("image", "all"))
    found = [json.loads(waiting.payload) for waiting in (one, other)]
    for envelope in found:
        info = envelope["properties"]["delivery_info"]
        assert info == {"exchange": "media", "routing_key": "media.image"}
    assert found[0]["headers"]["id"] == found[1]["headers"]["id"]
    assert len({envelope["properties"]["delivery_tag"] for envelope in found}) == 2


def test_copies_are_as_urgent_and_as_late_as_the_first() -> None:
    app = make_app(task_queues=QUEUES)
    app.send_task("t", queue="news1", priority=7, countdown=60)
    found = [app.engine.broker.browse(queue)[0] for queue in ("news1", "news2")]
    assert [one.priority for one in found] == [7, 7]
    assert found[0].due == found[1].due
    assert found[0].due is not None


def info(app: App, queue: str) -> dict[str, Any]:
    """Where the only message of a queue says that it was sent to, and how."""
    (waiting,) = app.engine.broker.browse(queue)
    app.engine.broker.purge([queue])
    properties = json.loads(waiting.payload)["properties"]
    return {**properties["delivery_info"], "mode": properties["delivery_mode"]}


def test_a_key_that_is_given_travels_and_not_the_queues_own() -> None:
    app = make_app(task_queues=QUEUES)
    app.send_task("t", queue="v", routing_key="media.video.hd")
    assert info(app, "video") == {
        "exchange": "media", "routing_key": "media.video.hd", "mode": 2
    }  # fmt: skip
    app.send_task("t", queue="celery")
    assert info(app, "celery") == {"exchange": "", "routing_key": "celery", "mode": 2}


def test_how_it_is_delivered_says_the_call_then_the_task_then_the_exchange() -> None:
    queues = [Queue("celery"), Queue("light", Exchange("light", delivery_mode=1), "light")]
    app = make_app(task_queues=queues)
    plain = app.task(name="plain")(lambda: None)
    kept = app.task(name="kept", queue="light", delivery_mode=2)(lambda: None)
    sends: list[tuple[Callable[[], object], str, int]] = [
        (plain.delay, "celery", 2),
        (lambda: plain.apply_async(queue="light"), "light", 1),
        (lambda: plain.apply_async(queue="light", delivery_mode=2), "light", 2),
        (kept.delay, "light", 2),
        (lambda: kept.apply_async(delivery_mode=1), "light", 1),
    ]
    for send, queue, mode in sends:
        send()
        assert info(app, queue)["mode"] == mode
    own = make_app()
    own.task(name="light", delivery_mode=1)(lambda: None).delay()
    assert info(own, "celery")["mode"] == 1


def test_a_tasks_own_place_may_be_taken_away() -> None:
    app = make_app(task_queues=QUEUES)
    task = app.task(name="placed", queue="image")(lambda: None)
    task.apply_async(queue=None)
    assert [count.queue for count in app.engine.broker.counts()] == ["celery"]


def test_a_task_names_its_place_without_declared_queues() -> None:
    app = make_app()
    by_value: Any = Queue("by value")
    app.task(name="valued", queue=by_value)(lambda: None).delay()
    app.send_task("t", queue=Queue("by value"))
    (count,) = app.engine.broker.counts()
    assert (count.queue, count.ready) == ("by value", 2)
    exchanged = app.task(name="exchanged", exchange="nowhere", routing_key="k")(lambda: None)
    with pytest.raises(QueueNotFound, match="exchange 'nowhere'"):
        exchanged.delay()


def test_the_settings_say_how_undeclared_queues_are_bound() -> None:
    app = make_app(
        task_default_exchange="main", task_default_exchange_type="topic",
        task_default_routing_key="main.#", task_create_missing_queue_exchange_type="fanout",
    )  # fmt: skip
    queues = app.amqp.queues
    celery = queues["celery"]
    assert (celery.exchange, celery.routing_key) == (Exchange("main", "topic"), "main.#")
    fresh = queues["fresh"]
    assert (fresh.exchange, fresh.routing_key) == (Exchange("fresh", "fanout"), "fresh")
    assert sent(app, exchange="main", routing_key="main.any") == ["celery"]
    app.conf.task_default_exchange = "other"
    assert app.amqp.queues["celery"].exchange == Exchange("other", "topic")
    plain = make_app().amqp.queues
    assert (plain["celery"].exchange, plain["celery"].routing_key) == (
        Exchange("celery"), "celery"
    )  # fmt: skip
    assert plain["fresh"].exchange == Exchange("fresh")


def test_without_declared_queues_none_may_be_made_either() -> None:
    app = make_app(task_create_missing_queues=False)
    assert sent(app) == ["celery"]
    with pytest.raises(QueueNotFound, match="no queue 'fresh'"):
        app.send_task("t", queue="fresh")


def test_what_no_queue_gets_is_refused() -> None:
    app = make_app(task_queues=QUEUES)
    with pytest.raises(QueueNotFound, match="fits 'c'"):
        app.send_task("t", exchange="direct", routing_key="c")
    with pytest.raises(QueueNotFound, match=r"(?s)'sound'.*Nothing was queued.*video on Exchange"):
        app.send_task("t", exchange="media", routing_key="sound")
    with pytest.raises(QueueNotFound, match="exchange 'none'"):
        make_app().send_task("t", exchange="none", routing_key="x")
    assert app.engine.broker.counts() == []


def test_missing_queues_may_be_refused() -> None:
    app = make_app(
        task_queues=[Queue("feeds")], task_default_queue="feeds", task_create_missing_queues=False
    )
    assert sent(app) == ["feeds"]
    with pytest.raises(QueueNotFound, match=r"no queue 'feds'.*Did you mean 'feeds'"):
        app.send_task("t", queue="feds")
    app.conf.task_create_missing_queues = True
    assert sent(app, queue="feds") == ["feds"]


def test_celerys_dict_form_of_queues() -> None:
    app = make_app(
        task_queues={
            "celery": {"exchange": "celery", "binding_key": "celery"},
            "video": {"exchange": "media", "exchange_type": "topic", "binding_key": "media.#"},
        }
    )
    assert sent(app, queue="video") == ["video"]
    assert app.amqp.queues["video"] == Queue("video", MEDIA, "media.#")
    with pytest.raises(ImproperlyConfigured, match="Did you mean 'binding_key'"):
        sent(make_app(task_queues={"x": {"bindingkey": "y"}}))


def test_the_queues_of_an_app() -> None:
    app = make_app(task_queues=QUEUES)
    queues = app.amqp.queues
    assert list(queues) == [queue.name for queue in QUEUES]
    assert queues["celery"].exchange == Exchange("celery")
    assert queues["v"].name == "video"
    assert "v" in queues
    assert "fresh" not in queues
    app.select_queues("v,fresh")
    assert list(queues.consume_from) == ["video", "fresh"]
    queues.deselect(["v"])
    assert list(queues.consume_from) == ["fresh"]
    assert list(make_app().amqp.queues.consume_from) == ["celery"]
    with pytest.raises(AttributeError, match=r"app\.amqp\.queues"):
        app.amqp.producer_pool  # type: ignore[attr-defined]  # noqa: B018


def test_queues_are_values() -> None:
    assert Queue("a", "x", "k") == Queue("a", Exchange("x"), "k")
    assert Queue("a", "x", "k") != Queue("a", "x", "l")
    assert len({Queue("a"), Queue("a"), Queue("b")}) == 2
    assert repr(Queue("a", Exchange("x", "topic"), "k")) == (
        """<Queue 'a' "Exchange 'x'(topic)" routing_key='k'>"""
    )
    with pytest.raises(AttributeError):
        Queue("a").name = "b"  # type: ignore[misc]
    for make in (lambda: Exchange("x", "headers"), lambda: Queue("")):
        with pytest.raises(ImproperlyConfigured):
            make()


def test_kombus_own_queues_are_taken() -> None:
    media = kombu.Exchange("media", type="topic", delivery_mode=1)
    app = make_app(task_queues=(kombu.Queue("celery"), kombu.Queue("video", media, "video.#")))
    assert app.amqp.queues["video"] == Queue(
        "video", Exchange("media", "topic", delivery_mode=1), "video.#"
    )
    app.send_task("t", exchange="media", routing_key="video.hd")
    (waiting,) = app.engine.broker.browse("video")
    assert json.loads(waiting.payload)["properties"]["delivery_info"]["exchange"] == "media"
    app.send_task("t", queue="video", routing_key="video.x")
    assert json.loads(app.engine.broker.browse("video")[1].payload)["properties"][
        "delivery_mode"
    ] == 1  # fmt: skip
