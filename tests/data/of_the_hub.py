"""Reads splits of tasks from the hub that HF_ENDPOINT names; prints for each what was read, or the sentence.

Waits take no time; their sum is printed.
"""

import json
import sys
import time

from prefix_jax import tasks
from prefix_jax.errors import UserError

WAITS: list[float] = []
time.sleep = WAITS.append
for line in sys.stdin:
    task, split = line.split()
    WAITS.clear()
    try:
        reading = tasks.read(task, split)
        found = {"name": reading.name, "records": [[r.source, r.target] for r in reading.records]}
    except UserError as error:
        found = {"error": str(error)}
    except Exception as error:
        found = {"crash": f"{type(error).__module__}.{type(error).__name__}: {error}"}
    print(json.dumps({**found, "waited": sum(WAITS)}), flush=True)
