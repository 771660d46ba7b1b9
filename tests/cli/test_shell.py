"""`umbel shell`: Python with the app at hand."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from tests.cli.conftest import Project

STAND_INS = {
    "IPython": "def start_ipython(argv, user_ns):\n    print('ipython', argv, sorted(user_ns))\n",
    "bpython": "def embed(locals_, banner):\n    print('bpython', banner, sorted(locals_))\n",
}
"""Modules with the functions by which the two are started, as their documentation has them."""


def test_code_that_is_piped_in(project: Project) -> None:
    code = """
print(app is celery, app.main, Task.__name__, __name__)
print(add.name, add(2, 3), greet(name="Ann"))
print(greet.delay().id)
"""
    process = project.popen("shell")  # where no other test has shared its tasks with all apps
    out, err = process.communicate(code, timeout=30)
    assert (process.returncode, err) == (0, "")
    *lines, sent = out.splitlines()
    assert lines == ["True tasks Task __main__", "tasks.add 5 hello Ann"]
    assert project.ask("result", sent)["messages"][0]["queue"] == "celery"


def test_its_error_is_shown_as_it_is_and_its_exit_code_counts(project: Project) -> None:
    done = project.run("shell", answer="def f():\n    add(1)\n\nprint('begun')\nf()\n")
    assert (done.returncode, done.stdout) == (1, "begun\n")
    files = [line.split('"')[1] for line in done.stderr.splitlines() if line.startswith("  File")]
    assert files[:2] == ["<stdin>", "<stdin>"]
    assert "    add(1)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("TypeError: ")
    done = project.run("shell", answer="def (")
    assert done.returncode == 1
    assert "SyntaxError" in done.stderr
    assert "umbel" not in done.stderr
    process = project.popen("shell")
    process.communicate("import sys; sys.exit(3)", timeout=30)
    assert process.returncode == 3


def test_modules_with_tasks_are_there_and_tasks_can_be_left_out(project: Project) -> None:
    project.write("more.py", "from tasks import app\n\n@app.task\ndef triple(x):\n"
                  "    return 3 * x\n")  # fmt: skip
    project.write("tasks.py", (project.folder / "tasks.py").read_text()
                  + "\napp.conf.imports = ['more']\n")  # fmt: skip
    assert project.say("shell", answer="print(triple(4))") == "12\n"
    names = "print('triple' in globals(), 'app' in globals())"
    assert project.say("shell", "-T", answer=names) == "False True\n"
    assert project.say("shell", "--without-tasks", answer=names) == "False True\n"


def test_pythons_own_prompt(project: Project) -> None:
    text = on_a_terminal(project, "shell", "--python", typed="add(20, 3)\nexit()\n")
    assert "app   tasks:app" in text
    assert f"store {project.store}" in text
    assert "names app, celery, Task, " in text
    assert "23" in text
    quiet = on_a_terminal(project, "-q", "shell", "--python", typed="exit()\n")
    assert "store" not in quiet


def test_ipython_and_bpython(project: Project) -> None:
    for option, name in (("-I", "IPython"), ("--ipython", "IPython"), ("-B", "bpython")):
        complaint = project.refuse("shell", option, code=1)
        assert f"{name} is not installed: pip install {name.lower()}" in complaint
    project.write("bpython.py", STAND_INS["bpython"])
    for option in ("-B", "--bpython"):
        said = project.say("shell", option)
        assert said.startswith("bpython umbel ")
        assert "'add', 'app', 'celery'" in said
    project.write("IPython.py", STAND_INS["IPython"])
    said = project.say("shell", "-I")
    assert f"store {project.store}" in said
    assert "ipython ['--no-banner'] [" in said
    assert "'add', 'app', 'celery'" in said
    # On a terminal the best one that is there is taken.
    assert "ipython [" in on_a_terminal(project, "shell", typed="")
    (project.folder / "IPython.py").unlink()
    assert "bpython umbel" in on_a_terminal(project, "shell", typed="")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--gevent"], "--gevent is refused: only a worker's children are patched"),
        (["--eventlet"], "--eventlet is refused: only a worker's children are patched"),
        (["-I", "--python"], "Say one of --ipython, --bpython and --python."),
    ],
)
def test_refusals(project: Project, line: list[str], words: str) -> None:
    assert words in project.refuse("shell", *line, code=64)


def on_a_terminal(project: Project, *args: str, typed: str) -> str:
    """What a command writes to a terminal at which somebody types."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "umbel", *args], cwd=project.folder,
        env={**project.environment, "TERM": "dumb"}, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, typed.encode())
    text = b""
    try:
        while data := os.read(ours, 4096):
            text += data
    except OSError:  # Linux says so when the other end is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(30) == 0, text
    return text.decode()
