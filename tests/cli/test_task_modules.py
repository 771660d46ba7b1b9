"""Where a worker finds its tasks, and that it and a program agree on their names."""

from __future__ import annotations

import subprocess
import sys

from tests.cli.conftest import Project, end, read_until_ready

PROGRAM = """
from umbel import App, Task, shared_task

app = App("another name", include=["proj.more"])
app.autodiscover_tasks(["proj.part"])

@app.task(rate_limit="10/s")
def add(x, y):
    return x + y

class Sub(Task):
    def __init__(self):
        self.calls = 0
    def __call__(self, *args):
        self.calls += 1
        return [self.calls, super().__call__(*args)]
    def run(self, x, y):
        return x - y

sub = app.register_task(Sub)

if __name__ == "__main__":
    from proj.part.tasks import shared
    results = [add.delay(2, 3), sub.delay(2, 3), shared.delay(), app.send_task("proj.more.f")]
    print(*[result.get(timeout=30) for result in results])
"""


def test_a_program_and_a_worker_agree(project: Project) -> None:
    project.write("proj/__init__.py", "")
    project.write("proj/jobs.py", PROGRAM)
    project.write("proj/more.py", "from proj.jobs import app\n@app.task\ndef f(): return 'more'\n")
    project.write("proj/part/__init__.py", "")
    project.write(
        "proj/part/tasks.py",
        "from umbel import current_app, shared_task\n"
        "@shared_task(bind=True)\n"
        "def shared(self): return [self.app.main, current_app.main, shared.request.id == "
        "self.request.id]\n",
    )
    worker = project.popen("-A", "proj.jobs", "worker", "-c", "1")
    lines = read_until_ready(worker)
    run = subprocess.run(
        [sys.executable, "-m", "proj.jobs"], cwd=project.folder, env=project.environment,
        capture_output=True, text=True, check=False, timeout=50,
    )  # fmt: skip
    end(worker)
    assert "these tasks run without it: proj.jobs.add" in "\n".join(lines)
    expected = "5 [1, -1] ['another name', 'another name', True] more\n"
    assert (run.stdout, run.stderr) == (expected, "")
