"""Reading shard folders that something is wrong with; reading good ones is tested where they are made."""

from __future__ import annotations

import json

import pytest

from ira.data.shards import TokenShards
from ira.errors import InputError


def test_a_folder_that_is_none_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(InputError, match="not a shard folder .* make one with ira prepare"):
        TokenShards(tmp_path)
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(InputError, match="not a shard folder"):
        TokenShards(tmp_path)


@pytest.mark.parametrize("meta", [{"format": 99}, [], {}])
def test_an_unknown_format_is_refused(tmp_path, meta):
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match="unknown format"):
        TokenShards(tmp_path)
