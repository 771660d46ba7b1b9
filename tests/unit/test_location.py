"""Where the embedded store lies."""

from pathlib import Path

import pytest

from umbel.app.location import locate_store


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UMBEL_HOME", raising=False)


def store(folder: Path) -> str:
    return str(folder / ".umbel" / "queue.db")


def put(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


@pytest.mark.parametrize("marker", ["pyproject.toml", "setup.py", "manage.py", ".git"])
def test_the_projects_root_holds_it(tmp_path: Path, marker: str) -> None:
    put(tmp_path / marker)
    file = put(tmp_path / "src" / "pkg" / "sub" / "app.py")
    assert locate_store("pkg.sub.app", file) == store(tmp_path)


def test_without_a_project_the_top_package_holds_it(tmp_path: Path) -> None:
    file = put(tmp_path / "pkg" / "sub" / "app.py")
    assert locate_store("pkg.sub.app", file) == store(tmp_path / "pkg")
    init = put(tmp_path / "pkg" / "sub" / "__init__.py")
    assert locate_store("pkg.sub", init) == store(tmp_path / "pkg")
    single = put(tmp_path / "tasks.py")
    assert locate_store("tasks", single) == locate_store("__main__", single) == store(tmp_path)


def test_a_store_that_was_made_before_the_root_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = put(tmp_path / "code" / "pkg" / "tasks.py")
    first = locate_store("tasks", file)
    assert first == store(tmp_path / "code" / "pkg")
    put(Path(first))
    put(tmp_path / "pyproject.toml")
    assert caplog.messages == []
    assert locate_store("tasks", file) == store(tmp_path)
    assert locate_store("tasks", file) == store(tmp_path)
    (line,) = caplog.messages
    assert store(tmp_path) in line
    old = f"{tmp_path}/code/pkg/.umbel"
    assert f"UMBEL_HOME={old}, " in line
    assert line.endswith(f"mv {old} {tmp_path}/.umbel")
    caplog.clear()
    other = put(tmp_path / "code" / "more" / "tasks.py")
    put(Path(store(tmp_path / "code" / "more")))
    put(Path(store(tmp_path)))  # there is one where it is to be: all is well
    assert locate_store("tasks", other) == store(tmp_path)
    assert caplog.messages == []


def test_the_working_directory_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = put(tmp_path / "one" / "tasks.py")
    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path / "two")
    assert locate_store("tasks", file) == store(tmp_path / "one")


def test_an_interpreter_uses_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "pyproject.toml")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert locate_store("__main__", None) == store(tmp_path)


def test_umbel_home_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMBEL_HOME", str(tmp_path / "home"))
    assert locate_store("tasks", "/nowhere/tasks.py") == str(tmp_path / "home" / "queue.db")
