"""`ira.data.columns` in, `docs/manifest.schema.json` out: the JSON schema of a manifest's row.

python docs/make_schema.py            writes the schema
python docs/make_schema.py --check    exit code 1 where it is out of date
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ira.data.columns import row_schema

PAGE = Path(__file__).with_name("manifest.schema.json")


def page() -> str:
    return json.dumps(row_schema(), indent=2) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
