import tempfile
from pathlib import Path

import pytest

from kinitro.errors import InfrastructureError
from kinitro.executor.selftest import SelfTest


class Link:
    """An API that answers."""

    async def check(self) -> None:
        return


async def test_a_disk_that_fails_fails_the_self_test_and_ends_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "away"))
    selftest = SelfTest(None, None, Link(), None, ())
    with pytest.raises(InfrastructureError, match="self-test can't write") as caught:
        await selftest.run("unknown")
    assert caught.value.code == "selftest"
