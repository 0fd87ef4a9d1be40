"""Episodes of Docker mode, run again from their records."""

import pytest

from kinitro.demo.miners import MINERS, DemoMiner, write_folder
from kinitro.replay import Answer, Replay, recorded, replay
from kinitro.schemas import EpisodeOut
from kinitro.settings import ExecutorSettings
from kinitro.testing.records import as_shown

from .conftest import METAWORLD, docker, until

DICE, HANDY = MINERS[1], MINERS[3]


@pytest.fixture
def run(api, store, run_executor, tmp_path):
    """Runs one episode of a bundled policy in containers; gives what the API would show of it."""

    async def run(miner: DemoMiner, **chosen: object) -> EpisodeOut:
        write_folder(miner, tmp_path / miner.name)
        ref = store.add_local(tmp_path / miner.name, miner.repo)
        (task,) = api.add(ref, 1, env_id="metaworld/reach-v3")
        (known,) = api.pending
        async with run_executor(eval_images={"metaworld": METAWORLD}, **chosen):
            await until(lambda: task in api.results, 120)
        return as_shown(known, api.results[task])

    return run


async def again(episode: EpisodeOut, **changes: object) -> Replay:
    chosen = {"max_concurrent": 1, "miner_deployment_memory": "1g", "miner_deployment_warmup_timeout": 20.0}
    (done,) = [one async for one in replay([recorded(episode)], ExecutorSettings.load(**chosen | changes))]
    assert done.failure is None, done.failure
    return done


@pytest.mark.timeout(300)
async def test_an_episode_comes_out_the_same_in_its_image_and_elsewhere_by_its_verdict(run) -> None:
    episode = await run(HANDY, use_images=True)
    conditions = episode.record.conditions
    assert episode.episode.image_digest == docker("image", "inspect", METAWORLD, "--format", "{{.Id}}").strip()
    assert conditions.policy_image_digest.startswith("sha256:")
    assert conditions.simulation.stack["opengl"].startswith("osmesa, ")

    inside = (await again(episode)).comparison
    assert (inside.answer, inside.compared, inside.findings) == (Answer.SAME, "digests", ())
    outside = (await again(episode, eval_mode="process")).comparison
    assert (outside.answer, outside.compared) == (Answer.SAME, "verdicts")
    assert "Only verdicts were compared, not digests: the image was sha256:" in outside.findings[0]


@pytest.mark.timeout(200)
async def test_an_image_that_this_machine_has_not_is_replaced_by_the_usual_one(run) -> None:
    episode = await run(DICE, max_timesteps=20)
    lost = episode.model_copy(
        update={"episode": episode.episode.model_copy(update={"image_digest": "sha256:" + "0" * 64})}
    )
    found = (await again(lost, eval_images={})).comparison
    assert (found.answer, found.compared) == (Answer.SAME, "verdicts")
