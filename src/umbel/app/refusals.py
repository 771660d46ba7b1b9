"""Names of Celery's that Umbel does not have, and what takes their place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NoReturn

_SEAM = "the parts of the package are not replaced by classes of one's own"
_BOOTSTEPS = (
    "there are no bootsteps; connect to umbel.signals.worker_init, worker_ready and worker_shutdown"
)
_LOADER = (
    "there are no loaders; app.config_from_object reads settings, and the signals worker_init and "
    "worker_process_init tell of a worker's start"
)
_BEAT = "start one with `umbel beat`"
_SCHEDULER = (
    "the one scheduler is not subclassed: app.schedules edits the schedule at run time, and an "
    "object with is_due() is a schedule of your own"
)
_AMQP = "there is no AMQP layer underneath; app.conf.task_queues and task_routes describe queues"
_LOG = (
    "connect to umbel.signals.setup_logging to set logging up; "
    "umbel.utils.log.get_task_logger gives tasks their loggers"
)
_FIXUPS = "there are no fixups; autodiscover_tasks() asks Django for its apps by itself"
_WORKER = "start one with `umbel worker`, or app.worker_main(['worker'])"
_PUBLISH = "task.apply_async and app.send_task publish"
_PLATFORM = "sys.platform tells the system"
_TRACER = "tasks are run by one plain function; signals and the handlers of Task see each run"

ARGUMENTS: Final = MappingProxyType(
    {
        "loader": _LOADER,
        "amqp": _AMQP,
        "events": _SEAM,
        "log": f"{_SEAM}; {_LOG}",
        "control": _SEAM,
        "fixups": _FIXUPS,
    }
)
"""Arguments of `App(…)`."""

CLASSES: Final = MappingProxyType(
    {
        "amqp_cls": _AMQP,
        "backend_cls": f"{_SEAM}; set result_backend to a URL",
        "events_cls": _SEAM,
        "loader_cls": _LOADER,
        "log_cls": f"{_SEAM}; {_LOG}",
        "control_cls": _SEAM,
        "registry_cls": _SEAM,
        "builtin_fixups": _FIXUPS,
        "create_task_cls": "task_cls names the class, and app.Task is it, bound to the app",
        "prepare_config": "connect to app.on_after_configure, or give app.add_defaults a function",
        "type_checker": "App(strict_typing=False), or typing=False of a task, checks no arguments",
        "Pickler": "override __reduce_keys__ to add to what a pickled app is made from",
    }
)
"""Attributes of subclasses of `App`, which would have no effect."""

NAMES: Final = MappingProxyType(
    {
        **CLASSES,
        "Worker": _WORKER,
        "WorkController": _WORKER,
        "loader": _LOADER,
        "fixups": _FIXUPS,
        "backend": "app.AsyncResult(id) reads, and forgets, what is stored",
        "log": _LOG,
        "Beat": _BEAT,
        "pool": "app.connection() tells whether the broker answers",
        "producer_pool": _PUBLISH,
        "producer_or_acquire": _PUBLISH,
        "default_producer": _PUBLISH,
        "steps": _BOOTSTEPS,
        "user_options": f"commands take no options of an app's; {_BOOTSTEPS}",
        "clock": "processes keep no common counter",
        "annotations": "app.conf.task_annotations has them",
        "subclass_with_self": "app.Task is bound to the app; bind a class of yours by an attribute",
        "use_fast_trace_task": _TRACER,
        "IS_WINDOWS": _PLATFORM,
        "IS_macOS": _PLATFORM,
        "SYSTEM": _PLATFORM,
    }
)
"""Attributes of an app."""

_LAYERS = "app.conf.origin(name) tells where a value comes from, `umbel report --check` of all"
_ITERATION = "app.conf has keys(), values() and items(), as a dict has"

CONF: Final = MappingProxyType(
    {
        "bind_to": "connect to app.on_after_configure",
        "clear": "app.conf.pop(name) takes back what code has set",
        "copy": "dict(app.conf) is one",
        "defaults": _LAYERS,
        "finalize": "settings are read when the first is asked for; app.conf.read() reads them now",
        "first": "app.conf.get(name) gives one setting; app.either(name, *values) the first set",
        "fromkeys": "app.conf.update(names) sets several",
        "iteritems": _ITERATION,
        "iterkeys": _ITERATION,
        "itervalues": _ITERATION,
        "key_t": "old and new names of a setting mean the same one everywhere",
        "maps": _LAYERS,
        "maybe_warn_deprecated_settings": "old names of settings are not deprecated",
        "popitem": "app.conf.pop(name) takes back what code has set",
        "swap_with": "app.conf.update(dict(other.conf)) takes over another app's settings",
    }
)
"""Attributes of `app.conf`."""

_TRACE_APP = (
    "umbel.contrib.testing.app.set_trap, and the fixture use_celery_app_trap, find code that "
    "falls back to the current app"
)
_IMPORT = "importlib.import_module imports by name"
_LOGGER_OF_PROCESSES = "multiprocessing.get_logger() is the standard library's"
_SIGHANDLER = "handlers of signals log nothing here"
_FAKE = (
    "messages are not faked; send real ones, which the fixture umbel shows in umbel.queued and "
    "runs with umbel.run()"
)

MODULES: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "umbel": {
            "backends": "results are kept by the engine that result_backend names by a URL",
            "bootsteps": _BOOTSTEPS,
            "loaders": _LOADER,
        },
        "umbel.beat": {
            "Scheduler": _SCHEDULER,
            "PersistentScheduler": _SCHEDULER,
            "ScheduleEntry": "an entry is a dict of beat_schedule, or added by app.schedules.add()",
            "Service": _BEAT,
            "EmbeddedService": f"{_BEAT}, or in a worker with -B",
            "BeatPidbox": "nothing is broadcast to schedulers; `umbel schedule` edits the schedule",
            "SchedulingError": "a tick that cannot be sent is logged, and told by `umbel schedule`",
        },
        "umbel.contrib": {
            "rdb": "put breakpoint() into a task and run it in a test, by umbel.run() of the "
            "fixture umbel or by task.apply()",
        },
        "umbel.app": {
            "AppPickler": "override __reduce_keys__ of App to add to what a pickled app is made "
            "from",
            "enable_trace": _TRACE_APP,
            "disable_trace": _TRACE_APP,
        },
        "umbel.app.log": {"Logging": _LOG},
        "umbel.utils": {
            "chunks": "itertools.batched (Python 3.12) cuts an iterable into parts",
            "gen_task_name": "app.gen_task_name(name, module) names a task",
            "get_cls_by_name": _IMPORT,
            "get_full_cls_name": "a class has __module__ and __qualname__",
            "import_from_cwd": f"{_IMPORT}; `umbel` puts the working directory on sys.path",
            "instantiate": f"{_IMPORT}; then call the class",
            "memoize": "functools.lru_cache",
            "noop": "write lambda *args, **kwargs: None",
        },
        "umbel.utils.log": {
            "set_in_sighandler": _SIGHANDLER,
            "in_sighandler": _SIGHANDLER,
            "get_multiprocessing_logger": _LOGGER_OF_PROCESSES,
            "reset_multiprocessing_logger": _LOGGER_OF_PROCESSES,
        },
        "umbel.contrib.testing.app": {
            "UnitLogging": "TestApp leaves logging alone",
        },
        "umbel.contrib.testing.worker": {
            "setup_app_for_worker": "start_worker(app) sets the app up",
        },
        "umbel.contrib.testing.manager": {
            "ManagerMixin": "subclass Manager",
        },
        "umbel.contrib.testing.mocks": {
            "ContextMock": "unittest.mock.MagicMock can be entered by `with`",
            "TaskMessage": _FAKE,
            "TaskMessage1": _FAKE,
            "task_message_from_sig": _FAKE,
        },
    }
)
"""Names that are imported from modules."""


def refuse_names(module: str) -> Callable[[str], NoReturn]:
    """The `__getattr__` of a module that tells why a name of Celery's is not in it.

    As an `ImportError`: of an `AttributeError`, `from module import name` would show no reason.
    """
    reasons = MODULES[module]

    def refuse(name: str) -> NoReturn:
        if name in reasons:
            raise ImportError(f"{module} has no {name!r}: {reasons[name]}.", name=module)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return refuse
