"""`python -m ira ...`: the same options and the same work as `ira ...`; torchrun starts a verb that way."""

from __future__ import annotations

if __name__ == "__main__":
    from ira.cli.app import app

    app(prog_name="python -m ira")
