import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinitro.backends.docker.cores import Cores


@given(st.integers(1, 64), st.integers(0, 4), st.integers(1, 16))
def test_every_host_has_processors_for_one_episode_at_least(count, kept, each) -> None:
    cores = Cores(range(count), kept, each)
    assert cores.episodes >= 1
    assert len(cores.common) == count


async def test_no_processor_belongs_to_two_episodes_or_to_everything_else() -> None:
    cores = Cores(range(8), kept=1, each=2)
    seen = []

    async def episode() -> None:
        async with cores.take() as mine:
            seen.append((mine, cores.common))
            await asyncio.sleep(0.01)

    await asyncio.gather(*(episode() for _ in range(cores.episodes)))
    taken = [core for mine, _ in seen for core in mine]
    assert sorted(taken) == [2, 3, 4, 5, 6, 7]
    assert all(not set(mine) & set(common) for mine, common in seen)
    assert sorted(cores.common) == list(range(8))


async def test_an_episode_too_many_waits_for_another_to_end() -> None:
    cores = Cores((4, 7), kept=1, each=1)
    async with cores.take() as first:
        assert first == (7,)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), cores.take():
                pass
    async with asyncio.timeout(1), cores.take() as second:
        assert second == (7,)
