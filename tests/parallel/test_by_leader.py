"""What process 0 does alone reaches the others, its failure too."""

import socket
import subprocess
import sys

from tests.conftest import ROOT


def test_results_and_failures_of_process_0_reach_the_others():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [sys.executable, "-m", "tests.parallel.by_leader", port]
    processes = [
        subprocess.Popen([*words, str(i)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    ended = [process.communicate(timeout=120) for process in processes]
    assert [out.splitlines()[-1] for out, _ in ended] == [str({"text": "ééé", "number": None})] * 2
    assert [process.returncode for process in processes] == [2, 2]
    assert "error: the scorer fails here" in ended[0][1]
    assert "error: process 0 failed; what it printed says why" in ended[1][1]
