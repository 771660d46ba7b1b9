"""Python runs this at the start of every process that has this folder on its path."""

import os
import traceback

try:
    from tests.faults.plants import PLANTS

    for name in os.environ["WORKLOAD_PLANT"].split(","):
        PLANTS[name]()
except BaseException:  # noqa: BLE001  (Python itself would go on, without the bug)
    traceback.print_exc()
    os._exit(99)
