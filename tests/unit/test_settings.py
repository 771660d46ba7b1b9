"""Settings: what each name means, what a value may be, who outweighs whom, and when."""

import math
import os
import sys
import types
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.unit.celery_settings import DOCUMENTED_ONLY, NAMES
from umbel import App
from umbel.app.settings.names import KNOWN
from umbel.app.settings.spelling import old_name
from umbel.app.settings.table import Settings, UnreadSettings
from umbel.engines.urls import mask
from umbel.exceptions import ImproperlyConfigured

PAIRS = [tuple(line.split()) for line in NAMES.strip().splitlines()]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("UMBEL_", "CELERY_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to import from; what was imported is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]


# ------------------------------------------------------------------ names


def test_each_name_of_celerys_is_known_under_its_old_one_too() -> None:
    assert len(PAIRS) == 207
    conf = App("x").conf
    for name, old in PAIRS:
        assert name in conf
        assert old_name(name) == old
        assert conf.find_option(old).key == name
        assert conf.find_option(f"CELERY_{name.upper()}").key == name


@pytest.mark.parametrize("name", DOCUMENTED_ONLY.split())
def test_names_that_are_only_documented_are_known(name: str) -> None:
    assert name in App("x").conf


def test_each_setting_without_an_effect_says_why() -> None:
    for name, known in KNOWN.items():
        assert known.reason, name
        assert not known.reason.endswith("."), name  # the sentence it is put into ends it


@pytest.mark.parametrize("name", [name for name, _ in PAIRS])
def test_each_setting_has_an_effect_a_note_or_a_refusal(name: str) -> None:
    if name in Settings.__annotations__:
        return
    conf = App("x").conf
    if KNOWN[name].kind == "refused":
        with pytest.raises(ImproperlyConfigured, match=f"{name} .* is refused: "):
            conf[name] = "something"
        return
    conf[name] = "something"
    (note,) = conf.notes()
    assert note.text.startswith(f"{name} (app.conf) has no effect")
    assert note.urgent == (KNOWN[name].kind == "later")


def test_a_typo_is_named_with_the_nearest_name() -> None:
    with pytest.raises(ImproperlyConfigured, match="task_serializer"):
        App("x", CELERY_TASK_SERIALISER="json")  # type: ignore[call-arg]
    with pytest.raises(ImproperlyConfigured, match="Did you mean task_time_limit"):
        App("x", task_time_limt=3)  # type: ignore[call-arg]
    with pytest.raises(ImproperlyConfigured, match="zzz"):
        App("x").conf["zzz"] = 1
    with pytest.raises(AttributeError, match="Did you mean task_acks_late"):
        App("x").conf.task_ack_late  # type: ignore[attr-defined]  # noqa: B018


def test_old_names_read_and_set_the_same_setting() -> None:
    conf = App("x", CELERYD_CONCURRENCY=3).conf  # type: ignore[call-arg]
    conf["CELERY_TIMEZONE"] = "Asia/Shanghai"
    assert (conf.worker_concurrency, conf["CELERYD_CONCURRENCY"]) == (3, 3)
    assert (conf.timezone, conf.get("CELERY_TIMEZONE")) == ("Asia/Shanghai", "Asia/Shanghai")
    assert conf.origin("timezone") == ("code", "app.conf: CELERY_TIMEZONE")


# ------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("result_expires", timedelta(hours=2), 7200.0),
        ("result_expires", 0, None),
        ("result_expires", 60, 60),
        ("task_time_limit", 0, None),
        ("task_acks_late", 0, False),
        ("worker_concurrency", "auto", None),
        ("task_default_priority", None, None),
        ("task_default_delivery_mode", "transient", 1),
        ("result_accept_content", None, None),
        ("accept_content", "json", ("json",)),
        ("timezone", ZoneInfo("Europe/Paris"), "Europe/Paris"),
        ("broker_url", ["sqlite:///a"], "sqlite:///a"),
    ],
)
def test_values_that_celery_takes(name: str, value: Any, kept: Any) -> None:
    conf = App("x").conf
    conf[name] = value
    assert conf[name] == kept
    assert type(conf[name]) is type(kept)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("task_time_limit", "60", "must be a number"),
        ("task_time_limit", -1, "must not be negative"),
        ("task_time_limit", math.nan, "must be a finite number"),
        ("history_limit", 10**300, "must be at most 9223372036854775807; got 1000"),
        ("history_expires", 1e300, "must be at most"),
        ("task_time_limit", True, "must be a number"),
        ("task_acks_late", "yes", "must be True or False"),
        ("task_max_deliveries", 0, "must be above 0"),
        ("task_max_deliveries", 2.5, "must be a whole number"),
        ("task_default_queue", 3, "must be text"),
        ("task_default_priority", 10, "must be from 0 to 9"),
        ("task_default_delivery_mode", 3, "must be 1 .transient. or 2"),
        ("timezone", "Mars/Olympus", "must be an IANA name"),
        ("broker_url", "sqlite:///a;sqlite:///b", "must be one URL"),
        ("compat", "huey", "must be 'celery'"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: Any, rule: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"^{name} {rule}.*app.conf"):
        App("x").conf[name] = value


def test_a_refused_value_shows_no_secret() -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        App("x").conf.task_acks_late = "redis://:hunter2@host"  # type: ignore[assignment]
    assert "hunter2" not in str(caught.value)


# ------------------------------------------------------------------ when, and who outweighs whom


def test_nothing_is_read_before_the_first_question(modules: Path) -> None:
    (modules / "conf_lazy.py").write_text("task_time_limit = 5\nworker_concurrency = 7\n")
    app = App("x")
    app.config_from_object("conf_lazy")
    app.conf.worker_concurrency = 2

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert "conf_lazy" not in sys.modules
    assert type(app.conf) is UnreadSettings
    assert (app.conf.task_time_limit, app.conf.worker_concurrency) == (5, 2)
    assert "conf_lazy" in sys.modules
    assert type(app.conf) is Settings


def test_command_line_environment_code_configuration_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = App("x", config_source={"task_max_deliveries": 7, "worker_lease": 7})
    app.add_defaults({"task_max_deliveries": 8, "worker_lease": 8, "task_unknown_timeout": 8})
    app.conf.task_max_deliveries = 6
    assert [app.conf.task_max_deliveries, app.conf.worker_lease] == [6, 7]
    assert app.conf.task_unknown_timeout == 8
    monkeypatch.setenv("UMBEL_TASK_MAX_DELIVERIES", "5")
    other = App("x", task_max_deliveries=6)
    assert other.conf.task_max_deliveries == 5
    assert other.conf.origin("task_max_deliveries") == ("environment", "UMBEL_TASK_MAX_DELIVERIES")
    other.conf.task_max_deliveries = 9
    assert other.conf.task_max_deliveries == 5
    other.config_from_cmdline(["task.max_deliveries=4", "concurrency=3"], namespace="worker")
    assert [other.conf.task_max_deliveries, other.conf.worker_concurrency] == [4, 3]
    assert other.conf.origin("task_acks_late") == ("default", "")


def test_the_environment_is_text_of_the_settings_type(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, text in {
        "UMBEL_TASK_ACKS_LATE": "off",
        "UMBEL_TASK_TIME_LIMIT": "2.5",
        "UMBEL_RESULT_EXPIRES": "none",
        "UMBEL_BROKER_TRANSPORT_OPTIONS": '{"visibility_timeout": 90}',
        "CELERY_BROKER_URL": "sqlite:///from-celerys",
        "CELERY_RESULT_BACKEND": "broker",
    }.items():
        monkeypatch.setenv(variable, text)
    conf = App("x", broker="sqlite:///in-code").conf
    assert conf.task_acks_late is False
    assert [conf.task_time_limit, conf.result_expires] == [2.5, None]
    assert conf["broker_transport_options"] == {"visibility_timeout": 90}
    assert [conf.broker_url, conf.result_backend] == ["sqlite:///from-celerys", "broker"]
    monkeypatch.setenv("UMBEL_BROKER_URL", "sqlite:///ours")
    assert App("x").conf.broker_url == "sqlite:///ours"
    monkeypatch.setenv("UMBEL_TASK_ACKS_LATE", "perhaps")
    with pytest.raises(
        ImproperlyConfigured, match=r"task_acks_late must be .*UMBEL_TASK_ACKS_LATE"
    ):
        App("x").conf.read()


def test_a_variable_that_is_nearly_a_setting_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_TASK_TIMELIMIT", "3")
    monkeypatch.setenv("UMBEL_HOME", "/somewhere")
    monkeypatch.setenv("UMBEL_DEPLOYED_BY", "someone")
    (note,) = App("x").conf.notes()
    assert "did you mean UMBEL_TASK_TIME_LIMIT?" in note.text


def test_celerys_variable_names_the_module_of_an_app_without_one(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (modules / "conf_env.py").write_text("CELERYD_CONCURRENCY = 5\n")
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "conf_env")
    assert App("x").conf.worker_concurrency == 5
    app = App("x", config_source={"worker_concurrency": 6})
    assert app.conf.worker_concurrency == 6
    monkeypatch.setenv("MY_CONFIG", "conf_env")
    app.config_from_envvar("MY_CONFIG")
    assert app.conf.worker_concurrency == 5
    assert app.config_from_envvar("NO_SUCH", silent=True) is False
    with pytest.raises(ImproperlyConfigured, match="NO_SUCH"):
        app.config_from_envvar("NO_SUCH")


# ------------------------------------------------------------------ objects


def test_a_module_may_hold_what_is_not_ours(modules: Path) -> None:
    (modules / "conf_foreign.py").write_text(
        "import os\nfrom datetime import timedelta, timezone\nfrom pathlib import Path\n"
        "REDIS_HOST, REDIS_PORT, DEBUG = 'h', 1, True\nhosts = ['a']\n_private = 1\n"
        "def helper(): ...\nclass task_base: ...\n"
        "task_time_limit = timedelta(minutes=1)\n"
    )
    conf = App("x", config_source="conf_foreign").conf
    assert conf.without_defaults() == {"task_time_limit": 60.0}
    assert conf.origin("task_time_limit")[1] == "conf_foreign: task_time_limit"


@pytest.mark.parametrize(
    "line",
    ["CELERY_TASK_SERIALISER = 'json'", "CELERYD_CONCURENCY = 1", "BROKER_ULR = 'x'",
     "task_time_limt = 1", "worker_foo = 1"],
)  # fmt: skip
def test_a_typo_in_a_module_is_an_error(modules: Path, line: str) -> None:
    (modules / "conf_typo.py").write_text(f"{line}\n")
    app = App("x", config_source="conf_typo")
    name = line.partition(" ")[0]
    with pytest.raises(ImproperlyConfigured, match=rf"no setting '{name}' \(conf_typo\)"):
        app.conf.read()
    with pytest.raises(ImproperlyConfigured, match=name):  # not only the first time
        app.conf.task_time_limit  # noqa: B018


def test_in_a_dict_every_key_must_be_known() -> None:
    app = App("x", config_source={"REDIS_HOST": "h"})
    with pytest.raises(ImproperlyConfigured, match="REDIS_HOST"):
        app.conf.read()


def test_classes_instances_and_dotted_paths(modules: Path) -> None:
    class Base:
        task_time_limit = 3

    class Config(Base):
        worker_concurrency = 4

        def __init__(self) -> None:
            self.task_acks_late = False

        def helper(self) -> None: ...

    (modules / "proj").mkdir()
    (modules / "proj" / "__init__.py").write_text("")
    (modules / "proj" / "conf.py").write_text(
        "class Inner:\n    worker_concurrency = 9\nsettings = {'worker_concurrency': 8}\n"
    )
    app = App("x")
    for source, expected in [
        (Config, {"task_time_limit": 3, "worker_concurrency": 4}),
        (Config(), {"task_time_limit": 3, "worker_concurrency": 4, "task_acks_late": False}),
        ("proj.conf:settings", {"worker_concurrency": 8}),
        ("proj.conf:Inner", {"worker_concurrency": 9}),
        ("proj.conf.Inner", {"worker_concurrency": 9}),
    ]:
        app.config_from_object(source, force=True)
        assert app.conf.without_defaults() == expected


def test_a_path_that_leads_nowhere(modules: Path) -> None:
    (modules / "conf_broken.py").write_text("import no_such_module_here\n")
    for name in ("no_such_conf", "no_such_conf:attr", "conf_lost.py"):
        with pytest.raises(ImproperlyConfigured, match=name):
            App("x", config_source=name).conf.read()
    assert App("x", config_source="no_such", config_source_silent=True).conf.task_acks_late
    with pytest.raises(ModuleNotFoundError, match="no_such_module_here"):
        App("x", config_source="conf_broken").conf.read()


def test_a_namespace_reads_its_own_names_only() -> None:
    class LazySettings:  # as Django's
        CELERY_BROKER_URL = "sqlite:///x"
        CELERY_TASK_ALWAYS_EAGER = False
        CELERY_WORKER_CONCURRENCY = 2
        CELERY_EMAIL_BACKEND = "x"
        DATABASES = ()
        CELERYD_CONCURRENCY = 5
        TIME_ZONE = "UTC"

    module = types.ModuleType("djangoish")
    module.settings = LazySettings()  # type: ignore[attr-defined]
    sys.modules["djangoish"] = module
    try:
        app = App("x")
        app.config_from_object("djangoish:settings", namespace="CELERY")
        assert [app.conf.broker_url, app.conf.worker_concurrency] == ["sqlite:///x", 2]
        texts = [note.text for note in app.conf.notes()]
        assert any("django-celery-email" in text for text in texts)
        assert any("CELERY_WORKER_CONCURRENCY" in text for text in texts)
        LazySettings.CELERY_TASK_SERIALISER = "json"  # type: ignore[attr-defined]
        app.config_from_object("djangoish:settings", namespace="CELERY")
        with pytest.raises(ImproperlyConfigured, match="CELERY_TASK_SERIALIZER"):
            app.conf.read()
    finally:
        del sys.modules["djangoish"]


def test_one_setting_under_two_names_must_agree() -> None:
    same = App("x", config_source={"CELERYD_CONCURRENCY": 2, "worker_concurrency": 2})
    assert same.conf.worker_concurrency == 2
    app = App("x", config_source={"CELERYD_CONCURRENCY": 2, "worker_concurrency": 3})
    with pytest.raises(ImproperlyConfigured, match="worker_concurrency twice"):
        app.conf.read()


# ------------------------------------------------------------------ app.conf as a mapping


def test_conf_is_a_mapping_too() -> None:
    app = App("x", task_time_limit=3, broker="redis://:hunter2@h/0")
    conf = app.conf
    assert "task_time_limit" in conf
    assert "nonsense" not in conf
    assert conf.get("nonsense", 5) == 5
    with pytest.raises(KeyError):
        conf["nonsense"]
    conf.update({"task_default_queue": "a"}, task_default_priority=5)
    assert (conf.pop("task_default_queue"), conf.pop("task_default_priority")) == ("a", 5)
    assert set(conf.keys()) >= {name for name, _ in PAIRS}
    assert len(conf) == len(conf.values()) == len(conf.items())
    assert conf.changes == {"task_time_limit": 3, "broker_url": "redis://:hunter2@h/0"}
    assert conf.table() == {"task_time_limit": 3, "broker_url": "redis://:**@h/0"}
    assert conf.table(censored=False)["broker_url"] == "redis://:hunter2@h/0"
    assert "redis_password: None" in conf.humanize(with_defaults=True)
    assert conf.setdefault("task_time_limit", 4) == 3
    assert conf.setdefault("task_soft_time_limit", 2) == 2
    assert conf.pop("task_soft_time_limit") == 2
    assert conf.task_soft_time_limit is None
    assert conf.get_by_parts("task", "time_limit") == 3
    assert conf.find_value_for_key("time_limit", namespace="task") == 3
    given = [conf.value_set_for(name) for name in ("CELERYD_TASK_TIME_LIMIT", "timezone")]
    assert given == [True, False]


def test_settings_that_follow_others_are_read_as_in_celery() -> None:
    conf = App("x", broker="memory://follows", task_default_queue="own").conf
    assert [conf.task_default_exchange, conf.task_default_routing_key] == ["own", "own"]
    for name in ("broker_read_url", "broker_write_url"):
        assert getattr(conf, name) == "memory://follows"
        with pytest.raises(ImproperlyConfigured, match=name):
            setattr(conf, name, "memory://elsewhere")
    conf.task_default_exchange = "other"
    conf.task_default_queue = "third"
    assert [conf.task_default_exchange, conf.task_default_routing_key] == ["other", "third"]
    conf.pop("task_default_exchange")
    assert conf["task_default_exchange"] == "third"
    assert "task_default_exchange" not in conf.without_defaults()


def test_what_is_put_into_a_dict_of_conf_is_kept() -> None:
    one, other = App("one"), App("other")
    one.conf["beat_schedule"]["tick"] = {"task": "tick"}
    assert one.conf["beat_schedule"] == {"tick": {"task": "tick"}}
    assert other.conf["beat_schedule"] == {}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("disabled://", "disabled://"),
        ("sqlite:////var/a%20b.db", "sqlite:////var/a%20b.db"),
        ("redis://me:hunter2@h:1/0?password=hunter2", "redis://me:**@h:1/0?**"),
        ("redis://:hunter2@h/0", "redis://:**@h/0"),
        ("redis+socket:///tmp/r.sock?virtual_host=1", "redis+socket:///tmp/r.sock?**"),
        ("me:hunter2@h", "**"),
        ("redis:me:hunter2@h", "**"),
        ("redis://me:hun/ter2@h/0", "redis://me:**@h/0"),
        ("redis://me:hunter2#x@h/0", "redis://me:**@h/0"),
        ("redis://me:hunter2?x@h/0", "redis://**"),
        ("redis://h/0?password=hun@ter2", "redis://**"),
        ("redis://me:hun@ter2@h/0", "redis://me:**@h/0"),
        ("redis://hunter2@h/0", "redis://**@h/0"),
        ("redis://a:x@h1;redis://b:hunter2@h2", "redis://a:**@h1;redis://b:**@h2"),
        ("redis://a:x@h1;b:hunter2@h2", "redis://a:**@h2"),
        ("broker", "broker"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert mask(url) == shown


class Url:
    def __repr__(self) -> str:
        return "Url(redis://me:hunter2@h)"


@pytest.mark.parametrize(
    "value", [b"redis://me:hunter2@h", {"redis://me:hunter2@h"}, Url(), frozenset({b"a:hunter2@h"})]
)
def test_a_refused_value_is_shown_without_its_secrets(value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="broker_url must be text") as caught:
        App("x", broker=value)
    assert "hunter2" not in str(caught.value)


def test_where_a_setting_comes_from_does_not_tell_it() -> None:
    app = App("x")
    app.config_from_cmdline(["security_key_password=hunter2"])
    assert app.conf["security_key_password"] == "hunter2"
    assert app.conf.origin("security_key_password") == ("command line", "command line")


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    conf = App("x", redis_password="hunter2", s3_secret_access_key="hunter2").conf
    conf["broker_transport_options"] = {"password": "hunter2", "url": "redis://:hunter2@h"}
    assert "hunter2" not in conf.humanize() + repr(conf.table(with_defaults=True))


# ------------------------------------------------------------------ results, stores


def test_where_results_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert App("x").keeps_results
    assert not App("x", broker="memory://r").keeps_results
    assert App("x", broker="memory://r", backend="broker").keeps_results
    assert App("x", broker="memory://r", backend="memory://r").keeps_results
    assert not App("x", backend="disabled://").keeps_results
    monkeypatch.setenv("UMBEL_BROKER_URL", "memory://r")  # moves the store, as -b does
    assert App("x").keeps_results
    assert not App("x", broker="memory://s").keeps_results


def test_a_result_that_nobody_keeps_says_what_to_add() -> None:
    app = App("x", broker="memory://nowhere")
    sent = app.send_task("anything")
    for ask in (sent.get, sent.ready, lambda: sent.state, sent.forget):
        with pytest.raises(ImproperlyConfigured, match="Add result_backend='broker'"):
            ask()


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        ("dynamodb://:hunter2@h/0", "needs an engine"),
        ("db:me:hunter2@h/0", "needs an engine"),
        ("me:hunter2@h/0", "a class of your own"),
        ("rpc://", "RabbitMQ"),
        ("django-db", "django-celery-results"),
        ("cache+memcached://h", "no results are kept in cache"),
        ("sqlite:///elsewhere.db", "is not the store of the messages"),
        ("proj.backends:Mine", "a class of your own"),
    ],
)
def test_a_result_backend_that_is_not_there(backend: str, why: str) -> None:
    app = App("x", broker="memory://r", backend=backend)
    with pytest.raises(ImproperlyConfigured, match=f"{why}.*result_backend='broker'") as caught:
        app.engine  # noqa: B018
    assert "hunter2" not in str(caught.value)


# ------------------------------------------------------------------ compat


def test_compat_restores_celerys_defaults_and_nothing_that_was_given() -> None:
    conf = App("x", compat="celery").conf
    assert conf.task_acks_late is False
    assert conf.origin("task_acks_late") == ("compat", "compat='celery'")
    assert App("x", compat="celery", task_acks_late=True).conf.task_acks_late is True
    assert App("x").conf.task_acks_late is True


def test_compat_by_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_COMPAT", "celery")
    app = App("x", config_source={"CELERY_NO_SUCH_SETTING": 1})
    assert app.conf.task_acks_late is False
    (note,) = app.conf.notes()
    assert "CELERY_NO_SUCH_SETTING" in note.text


def test_with_compat_an_unknown_setting_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="my_own"):
        app = App("x", compat="celery", my_own=3)  # type: ignore[call-arg]
    assert app.conf["my_own"] == 3
