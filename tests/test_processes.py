"""Processes find one another, however often they part."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

TWICE = """
import datetime, os, time, torch
from ira import processes
processes.STARTING = datetime.timedelta(seconds=15)
for _ in range(2):
    with processes.joined(torch.device("cpu")):
        assert processes.exchange(processes.rank()) == [0, 1]
    time.sleep(3 if os.environ["RANK"] == "0" else 0)  # the other one comes back first
"""


def test_a_process_that_joins_again_early_waits_for_the_others_instead_of_calling_where_they_were():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # as under torchrun: the store outlives each group, with the addresses of the first one still in it
    host = "import torch.distributed as d, sys; s = d.TCPStore('127.0.0.1', int(sys.argv[1]), is_master=True); input()"
    agent = subprocess.Popen([sys.executable, "-c", host, port], stdin=subprocess.PIPE)
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    both = [
        subprocess.Popen([sys.executable, "-c", TWICE], env=os.environ | common | {"RANK": rank}, stderr=-1, text=True)
        for rank in "01"
    ]
    said = [process.communicate(timeout=100)[1][-2000:] for process in both]
    agent.communicate(b"\n", timeout=30)
    assert [process.returncode for process in both] == [0, 0], said
