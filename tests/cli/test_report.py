"""`umbel report`: versions, the store, settings with their origins, and what is wrong with them."""

from tests.cli.conftest import Project

APP = "from umbel import Celery\n\napp = Celery('tasks')\napp.config_from_object('celeryconfig')\n"


def configure(project: Project, text: str) -> None:
    project.write("celeryconfig.py", text)
    project.write("tasks.py", APP)


def test_origins_of_what_was_given(project: Project) -> None:
    configure(project, "REDIS_HOST = 'h'\nCELERYD_CONCURRENCY = 3\nworker_lease = 9\n")
    project.environment["UMBEL_WORKER_LEASE"] = "8"
    project.environment["CELERY_RESULT_BACKEND"] = "broker"
    document = project.ask("report")
    assert document["store"] == str(project.store)
    assert (document["app"], document["results"]) == ("tasks:app", "with the messages")
    assert document["umbel"]
    assert document["python"]
    given = {
        one["name"]: (one["value"], one["origin"], one["place"]) for one in document["settings"]
    }
    assert given == {
        "worker_concurrency": (3, "configuration", "celeryconfig: CELERYD_CONCURRENCY"),
        "worker_lease": (8.0, "environment", "UMBEL_WORKER_LEASE"),
        "result_backend": ("broker", "environment", "CELERY_RESULT_BACKEND"),
    }
    assert "celeryconfig: CELERYD_CONCURRENCY" in project.say("report")
    assert not project.store.exists()


def test_check_names_differences_and_what_has_no_effect(project: Project) -> None:
    configure(project, "CELERYD_FORCE_EXECV = True\nCELERY_EVENT_SERIALIZER = 'yaml'\n")
    document = project.ask("report", "--check")
    assert "task_acks_late" in {one["setting"] for one in document["differences"]}
    assert len(document["notes"]) == 2
    text = project.say("report", "--check")
    assert "task_acks_late is True (Celery: False)" in text
    assert "comes with events" in text
    assert "CELERYD_FORCE_EXECV (celeryconfig: CELERYD_FORCE_EXECV) has no effect: " in text


def test_with_compat_no_difference_is_met(project: Project) -> None:
    configure(project, "")
    project.environment["UMBEL_COMPAT"] = "celery"
    document = project.ask("report", "--check")
    assert document["differences"] == []
    late = next(one for one in document["settings"] if one["name"] == "task_acks_late")
    assert (late["value"], late["origin"]) == (False, "compat")


def test_everything_that_is_refused_is_named_and_the_exit_code_tells(project: Project) -> None:
    configure(
        project,
        "CELERY_TASK_SERIALISER = 'json'\nCASSANDRA_PORT = 1\ntask_time_limit = 'long'\n"
        "BROKER_URL = 'redis://me:hunter2@there/0'\n",
    )
    project.environment["UMBEL_WORKER_LEASE"] = "8"
    project.environment["UMBEL_WORKER_CONCURRENCY"] = "many"
    document = project.ask("report", "--check", code=1)
    assert len(document["problems"]) == 4
    text = "\n".join(document["problems"])
    for part in (
        "task_serializer", "cassandra_port", "task_time_limit must be a number",
        "worker_concurrency",
    ):  # fmt: skip
        assert part in text
    # What is good is shown all the same.
    assert document["settings"] == [
        {
            "name": "broker_url", "value": "redis://me:**@there/0", "origin": "configuration",
            "place": "celeryconfig: BROKER_URL",
        },
        {
            "name": "worker_lease", "value": 8.0, "origin": "environment",
            "place": "UMBEL_WORKER_LEASE",
        },
    ]  # fmt: skip
    shown = project.say("report", code=1)
    assert "task_serializer" in shown
    assert "celeryconfig: BROKER_URL" in shown
    assert "hunter2" not in shown


def test_tasks_of_all_modules_are_counted(project: Project) -> None:
    configure(project, "")
    before = project.ask("report")["tasks"]  # tasks that other tests share with all apps
    configure(project, "imports = ['more']\n")
    project.write("more.py", "from tasks import app\nprint('loud')\n@app.task\ndef f(): ...\n")
    assert project.ask("report")["tasks"] == before + 1
    project.write("more.py", "import nowhere_to_be_found\n")
    report = project.ask("report", code=1)
    (problem,) = report["problems"]
    assert "nowhere_to_be_found" in problem
    assert problem.endswith("more.py, line 1)")
    assert "imports" in {one["name"] for one in report["settings"]}


def test_a_module_does_not_hide_what_is_wrong_with_the_store(project: Project) -> None:
    configure(project, "imports = ['more']\nbroker_url = 'gopher://x'\n")
    project.write("more.py", "\n\n1 / 0\n")
    store, module = project.ask("report", "--check", code=1)["problems"]
    assert "gopher" in store
    assert module.endswith("more.py, line 3)")
    assert "broker_url" in project.say("report", "--check", code=1)


def test_secrets_are_masked(project: Project) -> None:
    configure(project, "redis_password = 'hunter2'\nresult_backend = 'broker'\n")
    done = project.run("report", "--check")
    assert done.returncode == 0
    assert "hunter2" not in done.stdout + done.stderr
    configure(project, "BROKER_URL = 'ftp://me:hunter2@h:6379/0'\n")
    done = project.run("report", "--check")
    assert done.returncode == 1
    assert "ftp://me:**@h:6379/0" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr
