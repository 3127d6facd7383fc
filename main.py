"""`python main.py --config configs/train_config.yaml`: the same options and the same work as `ira train`."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from ira.cli.app import app

    app(["train", *sys.argv[1:]], prog_name="python main.py")
