"""Shards divide items by id."""

import pytest

from rellm_cache.errors import ConfigError
from rellm_cache.workers.options import Shard, WorkerOptions


def test_an_item_is_in_one_shard_that_depends_on_its_id_alone() -> None:
    ids = [f"c/{i}" for i in range(1000)]
    shards = [WorkerOptions(shard=Shard(number, 8)) for number in range(1, 9)]
    shares = [[name for name in ids if options.takes(name)] for options in shards]
    assert sorted(name for share in shares for name in share) == sorted(ids)
    assert all(90 < len(share) < 160 for share in shares)
    assert Shard.of("c/3", 8) == next(
        options.shard for options, share in zip(shards, shares, strict=True) if "c/3" in share
    )
    assert all(WorkerOptions().takes(name) for name in ids)


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "1", "1/0", "a/b", "1/2/3", "-1/2", "\u0661/\u0662", ""]
)
def test_a_malformed_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"shard '{text}': expected i/n with 1 <= i <= n"):
        WorkerOptions.parse(None, "", text)


def test_a_shard_is_written_as_it_is_read() -> None:
    assert str(Shard.parse("2/8")) == "2/8"
