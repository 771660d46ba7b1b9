"""The road that sends: how deep and how long it is, and what its import costs."""

import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import umbel
from umbel import App

PACKAGE = str(Path(umbel.__file__).parent)
app = App("roads", broker="memory://roads")


@app.task
def add(x: int, y: int) -> int:
    return x + y


def test_a_warm_delay_is_short() -> None:
    """At most 6 frames deep and 60 calls inside the package."""
    add.delay(2, 3)
    calls: list[int] = []

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            depth = 0
            outer: FrameType | None = frame
            while outer is not None:
                depth += outer.f_code.co_filename.startswith(PACKAGE)
                outer = outer.f_back
            calls.append(depth)

    sys.setprofile(note)
    try:
        add.delay(2, 3)
    finally:
        sys.setprofile(None)
    assert max(calls) <= 6
    assert 5 < len(calls) <= 60


def test_importing_umbel_pulls_in_nothing_heavy() -> None:
    program = (
        "import sys; before = set(sys.modules); import umbel; "
        "app = umbel.App('x')\n@app.task\ndef f(): pass\n"
        "print('\\n'.join(set(sys.modules) - before))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.split())
    assert "umbel.app.task" in loaded
    outside = {"asyncio", "msgspec", "click", "sqlite3", "logging", "subprocess"}
    assert not outside & loaded
    assert not {name for name in loaded if name.startswith(("umbel.worker", "umbel.pools"))}
    roots = {name.partition(".")[0] for name in loaded}
    assert roots <= set(sys.stdlib_module_names) | {"umbel"}
