"""Every stage of a tiny journey, killed twice at random, ends with the bytes of one that was left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_train.py"


def test_killed_stages_end_with_the_bytes_of_those_that_were_left_alone():
    words = [sys.executable, str(SCRIPT), "--kills", "2", "--steps", "4"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "every byte as if left alone" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    rows = [row for row in rows if row[0] in ("codec", "voice", "speech", "align", "reinforce")]
    assert len(rows) == 5 and all(row[1] == "2" and int(row[6]) >= 1 and row[7] == "0" for row in rows)
