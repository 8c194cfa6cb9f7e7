"""Two processes for all tests."""

import pytest

from tests.distributed.processes import Ranks


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    ranks = Ranks(2, tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.close()
