"""One connection to Ray for all models of a process."""

from __future__ import annotations

import pytest

from gguf_hub.api.cluster.ray_host import _Sessions, knock
from gguf_hub.errors import ClusterError


def test_the_last_one_leaves_the_cluster() -> None:
    sessions = _Sessions()
    sessions.begin("a:1")
    sessions.share("a:1")
    assert [sessions.end(), sessions.end()] == [False, True]


def test_a_connection_that_is_not_ours_stays() -> None:
    sessions = _Sessions()
    sessions.share("a:1")
    assert not sessions.end()


def test_one_process_computes_on_one_cluster() -> None:
    sessions = _Sessions()
    sessions.begin("a:1")
    with pytest.raises(ClusterError, match="on the cluster at a:1 already, not on that at b:1"):
        sessions.share("b:1")
    assert sessions.end()


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".b"])
def test_a_name_that_no_host_can_have_is_told(host: str) -> None:
    with pytest.raises(ClusterError, match="this is no host"):
        knock(host, 1)
