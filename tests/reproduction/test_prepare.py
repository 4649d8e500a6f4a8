"""Settings of a reproduction's folder."""

from dataclasses import replace
from pathlib import Path

import pytest

from rellm_cache.errors import RunError
from rellm_cache.reproduction.folds import Source
from rellm_cache.reproduction.prepare import Request, claim_folder


def test_damaged_settings_can_be_repaired_as_the_message_says(tmp_path: Path) -> None:
    request = Request(Source("iemocap", tmp_path), tmp_path / "out", tmp_path / "cache")
    claim_folder(request)
    settings = tmp_path / "out" / "settings.json"
    settings.write_text(settings.read_text()[:40])
    with pytest.raises(RunError, match=r"settings\.json: not JSON .* another --out"):
        claim_folder(request)
    claim_folder(replace(request, out=tmp_path / "other"))
    settings.write_text((tmp_path / "other" / "settings.json").read_text())
    claim_folder(request)
    with pytest.raises(RunError, match="something else"):
        claim_folder(replace(request, base="small"))
