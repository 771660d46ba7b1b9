"""What is particular to the SQLite engine: its file, its processes, its log, its errors."""

import contextlib
import fcntl
import gc
import multiprocessing
import os
import random
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RecordProof, Rounds
from umbel.engines import urls
from umbel.engines.broker import Message
from umbel.engines.memory import MemoryEngine
from umbel.engines.sqlite import SqliteEngine, checkpoint
from umbel.engines.sqlite.checkpoint import LONG, Checkpointer, log_size
from umbel.engines.sqlite.connection import FORMAT, open_connection
from umbel.engines.sqlite.wake import Bell
from umbel.exceptions import (
    ImproperlyConfigured,
    OperationalError,
    StoreDamaged,
    StoreFull,
    UmbelError,
)
from umbel.message.task import decode_headers
from umbel.testing.contracts.values import fires, id_of, message, record, result, settlement

ROOT = os.geteuid() == 0
spawn = multiprocessing.get_context("spawn")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "queue.db"


@pytest.fixture
def engine(path: Path) -> Iterator[SqliteEngine]:
    engine = SqliteEngine(path)
    yield engine
    engine.close()


def start(target: Callable[..., None], *arguments: object) -> tuple[SpawnProcess, Connection]:
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def in_fork(body: Callable[[], object]) -> str:
    """Run `body` in a forked child; the repr of what it returns or raises."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = repr(body())
        except UmbelError as error:
            answer = repr(error)
        except BaseException:  # noqa: BLE001  (it has to leave by _exit)
            answer = traceback.format_exc()
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    answer = ""
    while part := os.read(reading, 65536):
        answer += part.decode()
    os.close(reading)
    os.waitpid(child, 0)
    return answer


def stored(path: Path) -> list[str]:
    """The ids of all messages, read by a connection of its own; the file must be sound."""
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute("SELECT payload FROM message ORDER BY number").fetchall()
    finally:
        connection.close()
    return [decode_headers(payload).id for (payload,) in rows]


# -------------------------------------------------------------------------------------- creation


def create_stores(pipe: Connection, paths: list[Path], name: str) -> None:
    for path in paths:
        pipe.send("ready")
        pipe.recv()
        SqliteEngine(path).broker.publish([message(name)])
    pipe.send("done")


def test_many_processes_create_one_file_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}" / "queue.db" for n in range(10)]
    children = [start(create_stores, paths, f"child-{n}") for n in range(4)]
    for _ in paths:
        for _, pipe in children:
            assert pipe.recv() == "ready"
        for _, pipe in children:
            pipe.send("go")
    for process, pipe in children:
        assert pipe.recv() == "done"
        process.join()
    for path in paths:
        assert sorted(stored(path)) == [f"child-{n}" for n in range(4)]


def test_files_are_the_owners_alone(path: Path) -> None:
    previous = os.umask(0)
    try:
        engine = SqliteEngine(path)
        engine.broker.publish([message("a")])
        waker = engine.broker.listen()
        assert Checkpointer(path, engine.run_dir).run()
        engine.broker.publish([message("b")])
    finally:
        os.umask(previous)
    modes = {
        file.name.split(".")[-1].removeprefix("db"): oct(file.stat().st_mode & 0o777)
        for file in [path.parent, *path.parent.rglob("*")]
    }
    assert modes == {
        "store": "0o700", "": "0o600", "-wal": "0o600", "-shm": "0o600", "run": "0o700",
        "fifo": "0o600", "lock": "0o600",
    }  # fmt: skip
    waker.close()
    engine.close()


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.parent.mkdir()
    path.touch(0o600)
    engine = SqliteEngine(path)
    engine.broker.publish([message("a")])
    assert stored(path) == ["a"]
    engine.close()


def test_durability_is_the_syncing_of_each_commit(path: Path) -> None:
    levels = {}
    for durability in ("process", "power"):
        connection = open_connection(path, durability=durability)
        (levels[durability],) = connection.execute("PRAGMA synchronous").fetchone()
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
        connection.close()
    assert levels == {"process": 1, "power": 2}


# ------------------------------------------------------------------------------- unusable stores


def test_a_newer_format_is_refused(engine: SqliteEngine, path: Path) -> None:
    engine.broker.publish([message("a")])
    engine.close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={FORMAT + 1}")
    connection.close()
    told = rf"newer umbel \(format {FORMAT + 1}.*UMBEL_HOME"
    with pytest.raises(ImproperlyConfigured, match=told):
        engine.broker.publish([message("b")])
    assert stored(path) == ["a"]


def test_an_older_format_is_brought_up_to_date(engine: SqliteEngine, path: Path) -> None:
    schema = (
        "SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' AND name <> 'history' "
        "UNION ALL SELECT name || type FROM pragma_table_info('history') ORDER BY 1"
    )
    engine.broker.publish([message("a")])
    engine.close()
    connection = sqlite3.connect(path)
    today = connection.execute(schema).fetchall()
    for table in ("schedule", "workflow", "piece", "termination"):  # as it was in format 1
        connection.execute(f"DROP TABLE {table}")
    connection.execute("ALTER TABLE history DROP COLUMN place")
    connection.execute("PRAGMA user_version=1")
    connection.close()
    assert engine.state.schedules() == []
    assert stored(path) == ["a"]
    connection = sqlite3.connect(path)
    assert connection.execute(schema).fetchall() == today
    assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    connection.close()


@pytest.mark.parametrize("version", [0, FORMAT, FORMAT + 5])
def test_another_programs_file_is_refused_and_left_as_it_is(path: Path, version: int) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE song (title)")
    connection.execute(f"PRAGMA user_version={version}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ImproperlyConfigured, match=r"not a store of umbel.*UMBEL_HOME"):
        SqliteEngine(path).broker.publish([message("a")])
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["queue.db"]


def test_a_file_that_is_no_database_is_damaged(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"Dear diary, " * 1000)
    with pytest.raises(StoreDamaged, match=r"queue\.db is damaged.*\.recover"):
        SqliteEngine(path).broker.publish([message("a")])
    assert path.read_bytes() == b"Dear diary, " * 1000


def test_overwritten_pages_are_damage(engine: SqliteEngine, path: Path) -> None:
    engine.broker.publish([message(f"task-{n}" * 40) for n in range(2000)])
    engine.close()
    with path.open("r+b") as file:
        for page in range(2, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(random.Random(page).randbytes(4096))
    with pytest.raises(StoreDamaged, match=r"queue\.db is damaged"):
        engine.broker.browse("q", limit=5000)
    with pytest.raises(StoreDamaged):
        engine.broker.publish([message("a")])


@pytest.mark.parametrize("folder", ["file/below", "/proc/umbel", "/sys/umbel"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, folder: str) -> None:
    if folder.startswith("/") and not Path(folder).parent.is_dir():
        pytest.skip(f"there is no {Path(folder).parent} here")
    (tmp_path / "file").touch()
    path = tmp_path / folder / "queue.db"
    with pytest.raises(ImproperlyConfigured, match=r"queue\.db cannot be used: .*UMBEL_HOME"):
        SqliteEngine(path).broker.publish([message("a")])


def test_a_folder_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "private"
    folder.mkdir(mode=0o500)

    def publish() -> None:
        if ROOT:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        SqliteEngine(folder / "queue.db").broker.publish([message("a")])

    for parent in (tmp_path, *tmp_path.parents):  # pytest's own folders are the owner's alone
        if ROOT and parent.stat().st_uid == 0 and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    answer = in_fork(publish)
    assert answer.startswith("ImproperlyConfigured"), answer
    assert f"no permission to write in {folder}" in answer
    assert "UMBEL_HOME" in answer
    assert list(folder.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB with a ballast of half of it, to be removed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if not ROOT or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        (folder / "ballast").write_bytes(bytes(1 << 20))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_read_only_disk_is_refused(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(ImproperlyConfigured, match=r"no permission to write.*UMBEL_HOME"):
        SqliteEngine(small_disk / "queue.db").broker.publish([message("a")])


def test_a_full_disk_loses_nothing_and_can_be_freed(small_disk: Path) -> None:
    path = small_disk / "queue.db"
    engine = SqliteEngine(path)
    worker = engine.state.register(record())
    engine.broker.publish([message("held")])
    (held,) = engine.broker.claim(worker, ["q"], 1).deliveries
    safe: list[str] = []

    def fill() -> None:
        for n in range(5000):
            ids = [f"{n}-{part}".ljust(900) for part in range(4)]
            engine.broker.publish([message(id) for id in ids])
            safe.extend(ids)

    with pytest.raises(StoreFull, match=r"queue\.db is full. Nothing that was queued is lost"):
        fill()
    assert len(safe) > 40
    with pytest.raises(StoreFull):
        engine.broker.settle([settlement(held, result=result("held", meta=bytes(50_000)))])
    assert [d.number for d in engine.state.claims(worker)] == [held.number]
    assert stored(path) == ["held", *safe]

    (small_disk / "ballast").unlink()
    engine.broker.publish([message("after")])
    assert engine.broker.settle([settlement(held, result=result("held"))]) == []
    assert list(engine.results.get(["held"])) == ["held"]
    assert stored(path) == [*safe, "after"]
    engine.close()


def test_a_store_is_not_created_on_a_full_disk(small_disk: Path) -> None:
    with contextlib.suppress(OSError), (small_disk / "more").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    engine = SqliteEngine(small_disk / "queue.db")
    with pytest.raises(StoreFull):
        engine.broker.publish([message("a")])
    (small_disk / "ballast").unlink()
    engine.broker.publish([message("a")])
    assert stored(engine.path) == ["a"]
    engine.close()


# ------------------------------------------------------------------------------------- processes


def hold_lock(pipe: Connection, path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    pipe.send("locked")
    os.kill(os.getpid(), signal.SIGSTOP)


def test_a_lock_that_is_not_given_back_is_an_error_in_time(
    engine: SqliteEngine, path: Path
) -> None:
    engine.broker.publish([message("a")])
    process, pipe = start(hold_lock, path)
    assert pipe.recv() == "locked"
    try:
        for timeout in (0.3, 0.0):
            started = time.monotonic()
            with pytest.raises(OperationalError, match=r"queue\.db stayed locked.*nothing was"):
                engine.broker.publish([message("b")], timeout=timeout)
            assert time.monotonic() - started < timeout + 0.5
        fresh = SqliteEngine(path)
        started = time.monotonic()
        with pytest.raises(OperationalError):
            fresh.broker.publish([message("b")], timeout=0.3)
        assert time.monotonic() - started < 0.8
        fresh.close()
        assert list(map(id_of, engine.broker.browse())) == ["a"]  # readers go on
    finally:
        process.kill()
        process.join()
    engine.broker.publish([message("c")], timeout=0.5)
    assert stored(path) == ["a", "c"]


def publish_batches(pipe: Connection, path: Path) -> None:
    broker = SqliteEngine(path).broker
    for batch in range(100_000):
        broker.publish([message(f"{batch}:{n}".ljust(900)) for n in range(100)])
        pipe.send(batch)


def test_a_killed_producer_leaves_whole_calls(
    path: Path, rounds: Rounds, record_proof: RecordProof
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    kills = rounds(short=5, full=200)
    for _ in range(kills):
        process, pipe = start(publish_batches, path)
        assert pipe.recv() == 0
        time.sleep(moments.uniform(0, 0.1))  # the moment is what is varied
        process.kill()
        process.join()
        acknowledged = 0
        with contextlib.suppress(EOFError):
            while True:
                acknowledged = pipe.recv()
        pipe.close()
        batches = Counter(id.partition(":")[0] for id in stored(path))
        assert set(batches.values()) == {100}
        assert set(map(int, batches)) >= set(range(acknowledged + 1))
        engine = SqliteEngine(path)
        engine.broker.purge(["q"])
        engine.close()
    record_proof(kills=kills, partial=0, lost=0)


# ------------------------------------------------------------------------------------------ fork


def test_parent_and_child_go_on_after_a_fork(engine: SqliteEngine, path: Path) -> None:
    engine.broker.publish([message("before")])

    def child() -> object:
        inherited = engine._database._connection
        engine.broker.publish([message("child")])
        engine.results.put([result("child")])
        return inherited

    assert in_fork(child) == "None"
    engine.broker.publish([message("parent")])
    assert in_fork(child) == "None"  # the tag is there: no second message
    assert stored(path) == ["before", "child", "parent"]
    assert list(engine.results.get(["child"])) == ["child"]


def fork_and_die(pipe: Connection, path: Path) -> None:
    engine = SqliteEngine(path)
    engine.broker.publish([message("parent")])
    if os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    engine.broker.publish([message("child 1")])
    pipe.send("published")
    pipe.recv()
    engine.broker.publish([message("child 2")])
    pipe.send("published")
    pipe.recv()
    os._exit(0)


def test_a_childs_work_outlives_its_parent(path: Path) -> None:
    # With the parent's locks gone, who opens the store next must still see that it is in use:
    # alone, it would remove the log under the child's feet.
    process, pipe = start(fork_and_die, path)
    assert pipe.recv() == "published"
    process.join()
    other = SqliteEngine(path)
    other.broker.publish([message("other 1")])
    other.close()
    pipe.send("go on")
    assert pipe.recv() == "published"
    other.broker.publish([message("other 2")])
    other.close()
    assert stored(path) == ["parent", "child 1", "other 1", "child 2", "other 2"]
    pipe.send("end")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forks_between_the_commits_of_threads(engine: SqliteEngine, path: Path) -> None:
    ended = threading.Event()
    published = [0, 0]

    def publish(thread: int) -> None:
        while not ended.is_set():
            engine.broker.publish([message(f"thread-{thread}-{published[thread]}" * 50)])
            published[thread] += 1

    checkpoints = Checkpointer(path, engine.run_dir)

    def checkpoint() -> None:
        while not ended.is_set():
            checkpoints.run()

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(2)]
    threads.append(threading.Thread(target=checkpoint))
    for thread in threads:
        thread.start()
    try:
        for n in range(25):
            answer = in_fork(lambda n=n: engine.broker.publish([message(f"fork-{n}")]))  # type: ignore[misc]
            assert answer == "None"
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    ids = stored(path)
    assert [id for id in ids if id.startswith("fork")] == [f"fork-{n}" for n in range(25)]
    assert len(ids) == 25 + sum(published)
    assert checkpoints.run()  # nobody inherited the lock file


# ------------------------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize("batch", [500, 25])
def test_the_log_stays_bounded(
    engine: SqliteEngine, path: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "LONG", 8 << 20)
    longest = 0
    for start_ in range(0, 100_000 if batch == 500 else 50_000, batch):
        ids = [f"task-{n}".ljust(900) for n in range(start_, start_ + batch)]
        engine.broker.publish([Message(id.strip(), "", "q", id.encode()) for id in ids])
        longest = max(longest, log_size(f"{path}-wal"))
    assert 8 << 20 < longest < 64 << 20  # 100 MB and more go through it
    checkpoint._finish()
    assert Checkpointer(path, engine.run_dir).run()
    assert log_size(f"{path}-wal") == 0


def test_the_log_of_short_lived_producers_stays_bounded(engine: SqliteEngine, path: Path) -> None:
    engine.broker.counts()  # a process that has the store open, and commits nothing
    longest = 0
    for n in range(150):
        producer = SqliteEngine(path)
        producer.broker.publish([Message(f"{n}:1", f"{n}", "q", bytes(1_000_000))])
        producer.close()
        longest = max(longest, log_size(f"{path}-wal"))
        checkpoint._finish()
    assert LONG < longest < 2 * LONG


def test_a_process_that_ends_at_once_shortens_the_log(engine: SqliteEngine, path: Path) -> None:
    engine.broker.counts()  # the last one to close the store would shorten it anyway
    program = f"""
from umbel.engines.broker import Message
from umbel.engines.sqlite import SqliteEngine
from pathlib import Path
engine = SqliteEngine(Path({str(path)!r}))
for n in range({checkpoint.LOOK_EVERY + 1}):
    engine.broker.publish([Message(f"{{n}}:1", f"{{n}}", "q", bytes(5_000_000))])
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    assert log_size(f"{path}-wal") == 0


def test_the_end_of_a_process_waits_for_a_checkpoint_that_just_begins(
    engine: SqliteEngine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.broker.counts()
    checkpointer = Checkpointer(path, engine.run_dir)
    SqliteEngine(path).broker.publish([Message("a:1", "a", "q", bytes(1_000_000))])
    began = []

    def look(log: str) -> int:
        # Just now the thread that a commit has started would come to its first line.
        thread = threading.Thread(target=lambda: began.append(checkpointer._lock.acquire(False)))
        thread.start()
        thread.join()
        return log_size(log)

    monkeypatch.setattr(checkpoint, "LONG", 1)
    monkeypatch.setattr(checkpoint, "log_size", look)
    checkpointer.finish()
    assert began == [False]
    assert log_size(f"{path}-wal") == 0


def test_a_log_that_was_removed_is_told_and_what_it_held_is_saved(
    engine: SqliteEngine, path: Path
) -> None:
    engine.broker.publish([message("a"), message("b")])
    Path(f"{path}-wal").unlink()
    for use in (lambda: engine.broker.publish([message("c")]), engine.broker.counts):
        with pytest.raises(StoreDamaged, match=r"-wal was removed while.*Stop every process"):
            use()
    engine.close()
    assert [count.ready for count in engine.broker.counts()] == [2]
    engine.broker.publish([message("c")])


def run_checkpoint(pipe: Connection, path: Path, run_dir: Path) -> None:
    checkpointer = Checkpointer(path, run_dir)
    while pipe.recv() != "end":
        pipe.send(checkpointer.run())


def test_one_process_checkpoints_at_a_time(engine: SqliteEngine, path: Path) -> None:
    engine.broker.publish([message("a")])
    lock_file = engine.run_dir / "checkpoint.lock"
    process, pipe = start(run_checkpoint, path, engine.run_dir)

    engine.run_dir.mkdir(exist_ok=True)
    with lock_file.open("w") as mine:  # as if this process were at it
        fcntl.flock(mine, fcntl.LOCK_EX)
        before = log_size(f"{path}-wal")
        pipe.send("run")
        assert pipe.recv() is False
        assert log_size(f"{path}-wal") == before > 0
    pipe.send("run")
    assert pipe.recv() is True
    assert log_size(f"{path}-wal") == 0

    engine.broker.publish([message("b")])
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM message").fetchone()
    engine.broker.publish([message("c")])
    # It cannot empty the log while the reader reads it, and keeps the lock meanwhile.
    pipe.send("run")
    while not is_locked(lock_file):
        if pipe.poll():  # looking takes the lock, too, and it came in between
            assert pipe.recv() is False
            pipe.send("run")
    assert Checkpointer(path, engine.run_dir).run() is False
    assert is_locked(lock_file)
    reader.close()
    assert pipe.recv() is True
    assert not is_locked(lock_file)
    assert stored(path) == ["a", "b", "c"]
    pipe.send("end")
    process.join()


def is_locked(file: Path) -> bool:
    with file.open("w") as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_checkpoint_gives_way_to_readers(engine: SqliteEngine, path: Path) -> None:
    engine.broker.publish([message("a")])
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM message").fetchone()
    engine.broker.publish([message("b")])
    started = time.monotonic()
    assert Checkpointer(path, engine.run_dir).run() is False
    assert time.monotonic() - started < 4
    reader.close()
    assert stored(path) == ["a", "b"]


# ------------------------------------------------------------------------------------------ wakes


def listen(pipe: Connection, path: Path) -> None:
    engine = SqliteEngine(path)
    wakers = engine.broker.listen(), engine.results.listen()
    pipe.send([waker.fileno() for waker in wakers])
    pipe.recv()


def test_the_fifos_of_the_dead_are_removed(engine: SqliteEngine, path: Path) -> None:
    process, pipe = start(listen, path)
    pipe.recv()
    mine = engine.broker.listen()
    engine.broker.publish([message("a")])
    assert len(list(engine.run_dir.glob("*.fifo"))) == 3
    process.kill()
    process.join()
    mine.drain()
    engine.broker.publish([message("b")])
    engine.results.put([result("a")])
    assert len(list(engine.run_dir.glob("*.fifo"))) == 1
    assert fires(mine, 0)
    mine.close()
    assert list(engine.run_dir.glob("*.fifo")) == []
    # A listener that died before anybody heard of it.
    process, pipe = start(listen, path)
    pipe.recv()
    process.kill()
    process.join()
    engine.broker.publish([message("c")])
    engine.results.put([result("b")])
    assert list(engine.run_dir.glob("*.fifo")) == []


def test_the_fifos_of_those_who_died_making_them_are_removed(engine: SqliteEngine) -> None:
    mine = [engine.broker.listen(), engine.results.listen()]
    for kind in ("work", "result"):
        for name in ("dead", "young", "stopped"):
            os.mkfifo(engine.run_dir / f"new-{kind}.{name}.fifo")
            if name != "young":
                os.utime(engine.run_dir / f"new-{kind}.{name}.fifo", (1, 1))
    readers = [os.open(path, os.O_RDWR) for path in engine.run_dir.glob("new-*.stopped.fifo")]
    engine.state.keep_house()
    left = sorted(path.name for path in engine.run_dir.glob("new-*"))
    assert left == [f"new-{k}.{n}.fifo" for k in ("result", "work") for n in ("stopped", "young")]
    for reader in readers:
        os.close(reader)
    for waker in mine:
        waker.close()


def test_a_childs_copy_of_a_waker_is_not_its_own(engine: SqliteEngine) -> None:
    waker = engine.broker.listen()
    assert in_fork(waker.close) == "None"
    engine.broker.publish([message("a")])
    assert fires(waker)
    waker.close()


def publish_times(pipe: Connection, path: Path) -> None:
    broker = SqliteEngine(path).broker
    while pipe.recv() != "end":
        broker.publish([Message(f"{time.monotonic()}:1", "a", "q", f"{time.monotonic()}".encode())])


def test_a_process_is_woken_at_once(engine: SqliteEngine, path: Path) -> None:
    worker = engine.state.register(record())
    waker = engine.broker.listen()
    process, pipe = start(publish_times, path)
    delays = []
    for _ in range(30):
        waker.drain()
        assert engine.broker.claim(worker, ["q"], 1).deliveries == []
        pipe.send("publish")
        assert fires(waker)
        (delivery,) = engine.broker.claim(worker, ["q"], 1).deliveries
        delays.append(time.monotonic() - float(delivery.payload))
    pipe.send("end")
    process.join()
    waker.close()
    print(f"publish to claim, ms: {[round(delay * 1e3, 2) for delay in delays]}")
    assert statistics.median(delays) < 0.05


def test_a_ring_without_descriptors_is_no_error(engine: SqliteEngine, path: Path) -> None:
    engine.broker.publish([message("before")])
    waker = engine.broker.listen()

    def publish() -> None:
        engine.broker.publish([message("warm")])  # opens what the child needs
        for bell in engine._bells:
            bell.close()
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
        engine.broker.publish([message("without")])
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        waker.drain()
        engine.broker.publish([message("with")])

    assert in_fork(publish) == "None"
    assert stored(path) == ["before", "warm", "without", "with"]
    assert fires(waker, 0)
    waker.close()


# ------------------------------------------------------------------------------------------- URLs


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    engines: dict[str, Any] = {}
    monkeypatch.setattr(urls, "_engines", engines)
    yield engines
    for engine in engines.values():
        engine.close()


def test_a_url_is_opened_once(
    opened: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = urls.open_engine("sqlite:///my%20queue.db")
    assert isinstance(first, SqliteEngine)
    assert first.path == tmp_path / "my queue.db"
    assert urls.open_engine("sqlite:///my%20queue.db") is first
    absolute = urls.open_engine(f"sqlite:///{tmp_path}/other.db?durability=power")
    assert absolute.name == f"{tmp_path}/other.db"
    absolute.broker.publish([message("a")])
    assert stored(tmp_path / "other.db") == ["a"]
    memory = urls.open_engine("memory://tests")
    assert isinstance(memory, MemoryEngine)
    assert memory.name == "memory://tests"
    assert urls.open_engine("memory://tests") is memory
    assert urls.open_engine("memory://other") is not memory


@pytest.mark.parametrize(
    "url",
    [
        "ftp://me:s3cret@host/0",
        "redis://:s3cret@host/zero?password=s3cret",
        "redis://:s3cret@host:port/0",
        "redis://:s3cret/s3cret#s3cret@host:6379/0",
        "redis://:s3cret@host/0;https://:s3cret@host/0",
        "redis+socket:///path?virtual_host=s3cret",
        "redis://host/0?no_such_option=s3cret",
        "sqlite://me:s3cret@host/file.db",
        "sqlite:///file.db?key=s3cret",
        "sqlite:///file.db?durability=s3cret",
        "sqlite://?key=s3cret",
    ],
)
def test_a_bad_url_is_refused_without_its_secrets(opened: dict[str, Any], url: str) -> None:
    with pytest.raises(ImproperlyConfigured) as refused:
        urls.open_engine(url)
    assert "s3cret" not in "".join(traceback.format_exception(refused.value))
    assert opened == {}


def test_a_store_that_was_removed_is_made_anew(engine: SqliteEngine, path: Path) -> None:
    """What is published after `rm -rf` must not go into a file without a name."""
    engine.broker.publish([message("before")])
    path.unlink()
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    engine.broker.publish([message("after")])
    other = SqliteEngine(path)
    assert [count.ready for count in other.broker.counts()] == [1]
    other.close()


# A handler that raises between open() and its with leaves the file to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_exceptions_from_signal_handlers_leave_no_lock(engine: SqliteEngine, path: Path) -> None:
    """A handler may raise at any instruction of a publish (Ctrl-C, a soft limit)."""

    class StruckError(Exception):
        pass

    strikes: list[int] = []

    def strike(*_: object) -> None:
        strikes.append(1)
        raise StruckError

    # Python ignores what is raised in a finalizer: those of other tests' garbage do not run here.
    gc.collect()
    gc.disable()
    before = signal.signal(signal.SIGALRM, strike)
    other = SqliteEngine(path)
    try:
        number = 0
        for trial in range(150):
            with contextlib.suppress(StruckError):
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + trial * 0.00001)
                while len(strikes) <= trial:
                    number += 1
                    engine.broker.publish([message(f"t{number}")])
            signal.setitimer(signal.ITIMER_REAL, 0)
            other.broker.publish([message(f"other{trial}")], timeout=0.5)
            engine.broker.publish([message(f"own{trial}")], timeout=0.5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.enable()
        signal.signal(signal.SIGALRM, before)
        other.close()


def test_a_call_from_a_signal_handler_is_refused_not_hung(engine: SqliteEngine) -> None:
    refusals: list[OperationalError] = []

    def publish(*_: object) -> None:
        try:
            engine.broker.publish([message(f"handler{len(refusals)}:{time.monotonic_ns()}")])
        except OperationalError as error:
            refusals.append(error)

    before = signal.signal(signal.SIGALRM, publish)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        end = time.monotonic() + 10
        number = 0
        while not refusals and time.monotonic() < end:
            number += 1
            engine.broker.publish([message(f"t{number}")])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert "signal handler" in str(refusals[0])
    engine.broker.publish([message("after")])


def test_many_waiters_are_woken_with_few_descriptors(engine: SqliteEngine) -> None:
    wakers = [engine.results.listen() for _ in range(100)]
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    engine.results.put([result("a")])
    assert len(os.listdir("/proc/self/fd")) - before <= 64 + 8  # noqa: PTH208
    try:
        assert all(fires(waker) for waker in wakers)
    finally:
        for waker in wakers:
            waker.close()


@pytest.mark.parametrize("where", ["open", "rename", "listen"])
def test_a_signal_handler_that_raises_leaves_no_fifo_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def stop(*_: object) -> None:
        raise Stop

    run = tmp_path / "run"
    bell = Bell(run, "result")
    bell.listen().close()
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    if where == "open":
        monkeypatch.setattr(os, "open", stop)
    elif where == "rename":
        monkeypatch.setattr(Path, "rename", stop)

    def listen() -> None:
        waker = bell.listen()
        assert waker.fileno() >= 0
        stop()  # before the frame has come to its try

    with pytest.raises(Stop):
        listen()
    monkeypatch.undo()
    gc.collect()
    assert list(run.iterdir()) == []
    assert len(list(descriptors.iterdir())) == before
