"""What a worker's run file tells those who look at it on the same host."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import msgspec

from umbel.engines.run_file import (
    RunFile,
    SlotTable,
    proof_of_death,
    read_trace,
    remove_strays,
)
from umbel.engines.state import WorkerRecord


def make(run_dir: Path) -> tuple[RunFile, WorkerRecord]:
    run_file = RunFile.create(run_dir)
    return run_file, run_file.sign(WorkerRecord("w@h", "h", 1, ("celery",), 1, 30.0))


def test_a_lock_that_is_held_and_one_that_is_free(tmp_path: Path) -> None:
    run_file, record = make(tmp_path)
    trace = read_trace(record, tmp_path)
    assert trace is not None
    assert trace.locked
    assert 0 <= trace.renewed < 5
    run_file.close(remove=False)
    trace = read_trace(record, tmp_path)
    assert trace is not None
    assert not trace.locked
    assert proof_of_death(record, tmp_path) is not None


def test_a_renewal_is_told_and_touches_no_slot(tmp_path: Path) -> None:
    run_file, record = make(tmp_path)
    before = read_trace(record, tmp_path)
    time.sleep(0.02)
    later = read_trace(record, tmp_path)
    run_file.note_renewal()
    renewed = read_trace(record, tmp_path)
    assert before is not None
    assert later is not None
    assert renewed is not None
    assert later.renewed > before.renewed + 0.01
    assert renewed.renewed < later.renewed
    table = SlotTable(run_file.descriptor)
    assert table.running(0, 10) == []
    table.close()
    run_file.close(remove=True)


def test_nothing_is_told_of_a_worker_elsewhere(tmp_path: Path) -> None:
    run_file, record = make(tmp_path)
    for other in (
        msgspec.structs.replace(record, boot="another kernel"),
        msgspec.structs.replace(record, token="f" * 32),
        msgspec.structs.replace(record, inode=record.inode + 1),
        msgspec.structs.replace(record, run_file=""),
        msgspec.structs.replace(record, run_file="worker.gone"),
    ):
        assert read_trace(other, tmp_path) is None
        assert proof_of_death(other, tmp_path) is None
    run_file.close(remove=True)


def test_run_files_of_those_who_died_making_them_are_removed(tmp_path: Path) -> None:
    living, _ = make(tmp_path)
    for name in ("dead", "young", "stopped"):
        (tmp_path / f"new-worker.{name}").touch()
        if name != "young":
            os.utime(tmp_path / f"new-worker.{name}", (1, 1))
    with (tmp_path / "new-worker.stopped").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remove_strays(tmp_path, ())
        left = {path.name for path in tmp_path.iterdir()}
    assert left == {living.path.name, "new-worker.young", "new-worker.stopped"}
    living.close(remove=True)
