"""MANIFEST and OUT as arguments in, shards of two rows out, each after a pause: a run that a test can kill."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fake_codec import LoudnessCodec  # noqa: E402

from ira.data import prepare as preparing  # noqa: E402
from ira.data.text import CharTokenizer  # noqa: E402

if __name__ == "__main__":
    preparing.ROWS_PER_SHARD = 2
    _, manifest, out, workers = sys.argv
    codec = LoudnessCodec(seconds_a_call=0.05)
    preparing.prepare([manifest], out, codec, CharTokenizer(), workers=int(workers), progress=False)
