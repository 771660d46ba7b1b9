"""Which test judges a name: read from the tests' syntax trees.

A test counts if it asserts something (`assert`, or `pytest.raises` and `warns`) and uses the name
itself, not in an import: in the way of the name's group, as an attribute, a keyword, a word of a
command line. What a test uses is its body with its decorators, the constants, functions and tasks
of its module that it names, and the code in its strings. Of several tests the best is the one that
uses the name where it asserts; of these the one that uses the fewest names. What a page cites
stays as long as it counts, so that the page changes with the verdicts and not with every test.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
APART = {"conftest.py", "plants.py"}
CLOSE = 3
"""How near a use is that stands where the test asserts; lower ones are further away."""


@dataclass
class Uses:
    """The names that a piece of code uses, by how."""

    attributes: set[str] = field(default_factory=set)
    keywords: set[str] = field(default_factory=set)
    given: dict[str, set[str]] = field(default_factory=dict)
    """The keywords of calls by the function's name."""
    names: set[str] = field(default_factory=set)
    definitions: set[str] = field(default_factory=set)
    strings: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    """The parts of strings: words of a command line, names in a line of settings."""

    def add(self, tree: ast.AST) -> None:
        """Add what a tree uses; imports use nothing."""
        for node in _walk(tree):
            if isinstance(node, ast.Attribute):
                self.attributes.add(node.attr)
            elif isinstance(node, ast.Call):
                given = {keyword.arg for keyword in node.keywords if keyword.arg}
                self.keywords |= given
                name = ast.unparse(node.func).rpartition(".")[2]
                self.given.setdefault(name, set()).update(given)
            elif isinstance(node, ast.ClassDef):
                self.keywords.update(keyword.arg for keyword in node.keywords if keyword.arg)
            elif isinstance(node, ast.Name):
                (self.names if isinstance(node.ctx, ast.Load) else self.definitions).add(node.id)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.arg)):
                self.definitions.add(node.name if not isinstance(node, ast.arg) else node.arg)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self._add_string(node.value)

    def _add_string(self, text: str) -> None:
        self.strings.add(text)
        self.words.update(re.split(r"[\s=\"',()\[\]{}:.]+", text))
        if "\n" in text.strip():
            try:
                self.add(ast.parse(text))
            except SyntaxError:
                return

    @property
    def count(self) -> int:
        return len(self.attributes | self.keywords | self.names | self.definitions | self.words)


@dataclass
class Judge:
    """One test function: what it uses where it asserts, in its body, and by what it names."""

    where: str
    """file::function."""
    asserted: Uses
    body: Uses
    reached: Uses


@cache
def judges() -> list[Judge]:
    """Every test of the project that asserts something."""
    found: list[Judge] = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "surface" not in path.parts and path.name not in APART:
            found += read(ast.parse(path.read_text()), str(path.relative_to(ROOT)))
    return found


def read(module: ast.Module, file: str) -> Iterator[Judge]:
    """The judges in a module of tests."""
    scope = dict(_bindings(module))
    for node in module.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and _is_test(node):
            test = Judge(f"{file}::{node.name}", Uses(), Uses(), Uses())
            for assertion in _assertions(node):
                test.asserted.add(assertion)
            for decorator in node.decorator_list:
                test.asserted.add(decorator)
            test.body.add(node)
            for tree in _reach(node, scope):
                test.reached.add(tree)
            yield test


def _bindings(module: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """The constants, functions and classes of a module that are no tests."""
    for node in module.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield target.id, node.value
        elif isinstance(node, ast.ClassDef) or (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not _is_test(node)
        ):
            yield node.name, node


def _is_test(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return node.name.startswith("test_") and any(True for _ in _assertions(node))


def _assertions(test: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(test):
        if isinstance(node, ast.Assert) or (
            isinstance(node, (ast.With, ast.AsyncWith))
            and re.search(r"\b(raises|warns)\(", ast.unparse(node.items[0].context_expr))
        ):
            yield node


def _reach(test: ast.AST, scope: dict[str, ast.AST]) -> Iterator[ast.AST]:
    """What the test names of its module, and what that names."""
    seen: set[str] = set()
    rest = [test]
    while rest:
        tree = rest.pop()
        for node in _walk(tree):
            named = _named_by(node)
            if named in scope and named not in seen:
                seen.add(named)
                rest.append(scope[named])
                yield scope[named]


def _named_by(node: ast.AST) -> str:
    """A name, or a fixture: named by a parameter or by `usefixtures`."""
    match node:
        case ast.Name(id=name) | ast.arg(arg=name) | ast.Constant(value=str(name)):
            return name
    return ""


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """`ast.walk` without imports."""
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom, ast.alias)):
            yield node


# --------------------------------------------------------------------------- a name in its group


OF_CALLS = {"@task": ("task", "shared_task"), "retry": ("retry",)}
"""Groups whose names are keywords of certain functions."""
OF_ANY_CALL = {"App()", "apply_async"}
"""Groups whose names are keywords, which tests pass on by functions of their own."""
SENDING = ("unit/test_sending_options", "unit/test_publish", "unit/test_routing")
RESULTS = ("unit/test_results", "unit/test_results_kept")
CANVAS = ("unit/test_workflows", "unit/test_signatures", "celery/test_canvas_form")
SETTINGS = ("unit/test_apps", "unit/test_settings")
HOMES = {
    "App()": (*SETTINGS, "unit/test_tasks"),
    "App.": (
        *SETTINGS,
        *SENDING,
        "unit/test_tasks",
        "unit/test_shared",
        "celery/test_auth",
        *CANVAS,
    ),
    "app.conf.": SETTINGS,
    "@task": ("unit/test_tasks", "unit/test_shared", "unit/test_task_options", "unit/test_models"),
    "Task.": (
        "unit/test_tasks",
        "unit/test_task_options",
        "unit/test_execution",
        "unit/test_eager",
        "unit/test_publish",
        "unit/test_shared",
        "pools/test_telling",
        *CANVAS,
    ),
    "Task.request.": ("unit/test_request", "cli/test_logging"),
    "apply_async": (*SENDING, "unit/test_content"),
    "retry": ("unit/test_execution", "unit/test_eager", "unit/test_content", "faults/test_retries"),
    "AsyncResult.": (*RESULTS, *CANVAS),
    "EagerResult.": ("unit/test_results", "unit/test_eager", *CANVAS),
    "ResultSet.": RESULTS,
    "GroupResult.": (*CANVAS, *RESULTS),
    "Signature.": CANVAS,
    "umbel.contrib.pytest": ("unit/test_contrib_pytest",),
    "umbel.security": ("celery/test_auth",),
    "umbel": ("cli/",),
    "umbel call": ("cli/test_call_and_result",),
    "umbel result": ("cli/test_call_and_result",),
    "umbel purge": ("cli/test_queues",),
    "umbel beat": ("cli/test_beat",),
    "umbel worker": ("cli/test_worker", "cli/test_logging", "cli/test_task_modules", "faults/"),
}
"""Where the judges of a group are: its words mean something else in other files."""
MARKS = {"EagerResult.": "EagerResult", "ResultSet.": "ResultSet"}
"""What a judge of a group uses besides."""


def is_command(group: str) -> bool:
    """Whether a group is the command line's: "umbel", "umbel worker"."""
    return group == "umbel" or (group.startswith("umbel ") and group != "umbel (module)")


def is_used(uses: Uses, group: str, name: str) -> bool:
    """Whether the code uses the name in the way of its group."""
    if group in OF_CALLS:
        return any(name in uses.given.get(called, ()) for called in OF_CALLS[group])
    if group in OF_ANY_CALL:
        return name in uses.keywords or name in uses.strings
    if group == "Task." and is_used(uses, "@task", name):
        return True
    if group.endswith("."):
        return name in uses.attributes | uses.strings | uses.definitions
    if group == "setting":
        told = uses.keywords | uses.attributes | uses.strings | uses.words
        return bool({name, f"UMBEL_{name.upper()}"} & told)
    if is_command(group):
        return any(one in uses.words for one in name.split("/"))
    return name in uses.names | uses.attributes | uses.strings | uses.words | uses.definitions


def judge(group: str, name: str, cited: str = "") -> str:
    """The test (file::function) that judges a name: `cited` if it does, else the best; or ""."""
    best, rank = "", (0, 0)
    home = tuple(f"tests/{file}" for file in HOMES.get(group, ("",)))
    mark = MARKS.get(group)
    for test in judges():
        if not test.where.startswith(home):
            continue
        if mark and mark not in test.body.names | test.body.attributes:
            continue
        near = next(
            (
                CLOSE - place
                for place, uses in enumerate((test.asserted, test.body, test.reached))
                if is_used(uses, group, name)
            ),
            0,
        )
        if near and test.where == cited:
            return cited
        if near and (near, -test.body.count) > rank:
            best, rank = test.where, (near, -test.body.count)
    return best
