"""A configuration module of Celery 3, as it stands."""

import pytest

from tests.cli.conftest import Project

CONFIG = """\
from settings import REDIS_DB, REDIS_HOST, REDIS_PORT
from umbel.schedules import crontab

CELERY_CREATE_MISSING_QUEUES = True
CELERY_IMPORTS = ("jobs",)
BROKER_URL = "redis://%s:%d/%d" % (REDIS_HOST, REDIS_PORT, REDIS_DB)
CELERY_RESULT_BACKEND = BROKER_URL
CELERYD_CONCURRENCY = 2
CELERY_TIMEZONE = "Asia/Shanghai"
CELERYD_FORCE_EXECV = True
CELERYD_PREFETCH_MULTIPLIER = 1
CELERYD_MAX_TASKS_PER_CHILD = 1
CELERYD_TASK_TIME_LIMIT = 60
BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 90}
CELERY_DISABLE_RATE_LIMITS = True
CELERYBEAT_SCHEDULE = {
    "every-night": {
        "task": "jobs.who",
        "schedule": crontab(minute=30, hour=3),
        "args": (),
    },
}
"""
JOBS = """\
import os
from umbel import Celery

app = Celery("jobs")
app.config_from_object("celeryconfig")


@app.task
def who():
    return os.getpid()
"""


@pytest.fixture
def old(empty: Project) -> Project:
    """A project of Celery 3 whose only change is the name in its imports."""
    empty.write("settings.py", "REDIS_HOST, REDIS_PORT, REDIS_DB = '10.0.0.7', 6379, 0\n")
    empty.write("celeryconfig.py", CONFIG)
    empty.write("jobs.py", JOBS)
    return empty


def test_its_redis_is_an_engine_that_is_not_there_yet(old: Project) -> None:
    complaint = old.refuse("-A", "jobs", "worker", code=64)
    assert "No engine for the broker URL 'redis://10.0.0.7:6379/0'" in complaint
    assert "sqlite://" in complaint


def test_each_setting_has_its_effect_or_one_line_that_says_why_not(old: Project) -> None:
    old.write("celeryconfig.py", CONFIG.replace(
        'BROKER_URL = "redis://%s:%d/%d" % (REDIS_HOST, REDIS_PORT, REDIS_DB)',
        f'BROKER_URL = "sqlite:///{old.store}"',
    ))  # fmt: skip
    document = old.ask("-A", "jobs", "report")
    settings = {one["name"]: one["value"] for one in document["settings"]}
    assert settings["worker_concurrency"] == 2
    assert settings["timezone"] == "Asia/Shanghai"
    assert settings["worker_max_tasks_per_child"] == 1
    assert settings["task_time_limit"] == 60
    assert document["store"] == str(old.store)
    with old.worker("-A", "jobs", "-l", "INFO") as lines:
        text = "\n".join(lines)
        for name in (
            "CELERYD_FORCE_EXECV", "CELERYD_PREFETCH_MULTIPLIER", "BROKER_TRANSPORT_OPTIONS",
            "CELERY_DISABLE_RATE_LIMITS", "CELERYBEAT_SCHEDULE",
        ):  # fmt: skip
            told = [line for line in lines if f": {name}) has no effect" in line]
            assert len(told) == 1, (name, text)
        assert "WARNING" in next(line for line in lines if "CELERYBEAT_SCHEDULE" in line)
        pids = {
            old.ask("-A", "jobs", "call", "jobs.who", "--wait")["result"] for _ in range(2)
        }  # fmt: skip
        assert len(pids) == 2  # CELERYD_MAX_TASKS_PER_CHILD = 1


def test_its_typos_are_found_at_the_start(old: Project) -> None:
    old.write("celeryconfig.py", CONFIG + "CELERY_TASK_SERIALISER = 'json'\n")
    complaint = old.refuse("-A", "jobs", "worker", code=64)
    assert "'CELERY_TASK_SERIALISER' (celeryconfig)" in complaint
    assert "(task_serializer)" in complaint
