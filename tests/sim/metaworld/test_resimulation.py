"""Recorded actions applied again: the same episode, watched or not."""

from uuid import uuid4

import pytest

from kinitro.environments import EnvironmentOptions, build, find
from kinitro.environments.simulation import describe
from kinitro.environments.trace import Steps, Trace
from kinitro.replay import Answer, compare, recorded, resimulate
from kinitro.schemas import EpisodeConditions, EpisodeOut, EpisodeRecord, ExportEpisode

SEED = 11


def expert_episode(env_id: str, *, images: bool) -> tuple[Steps, EpisodeOut]:
    """An episode as an executor would have reported it, with pictures drawn at each step or without."""
    options = EnvironmentOptions(images=images)
    environment = build(find(env_id), options)
    trace, observation, total = Trace(), environment.reset(SEED), 0.0
    for _ in range(60):
        action = environment.expert_action()
        step = environment.step(action)
        trace.add(observation, action, step)
        observation, total = step.observation, total + step.reward
        if step.success:
            break
    steps = trace.close(environment.state())
    conditions = EpisodeConditions(
        eval_mode="process", environment_version=environment.spec.version, simulation=describe(environment, options),
        max_timesteps=60, action_timeout_s=0.5, timeout_s=300.0, use_images=True,
    )  # fmt: skip
    environment.close()
    episode = ExportEpisode(
        uid=1, env_id=env_id, index=0, seed=SEED, policy_seed=0, task_uuid=uuid4(), executor_id="one",
        success=bool(steps.successes.any()), score=1.0, total_reward=total, timesteps=len(steps),
        trace_digest=steps.digest(), conditions="c",
    )  # fmt: skip
    out = EpisodeOut(
        cycle_id=1, netuid=1, hotkey="5H", repo="a/b", revision="0" * 40, episode=episode,
        record=EpisodeRecord(conditions=conditions),
    )  # fmt: skip
    return steps, out


@pytest.mark.parametrize("env_id", ["metaworld/push-v3", "metaworld/door-open-v3", "metaworld/peg-insert-side-v3"])
def test_watching_at_full_quality_changes_nothing(env_id) -> None:
    steps, out = expert_episode(env_id, images=True)
    drawn = []

    def watch(environment, number, _step):
        if number % 20 == 0:
            drawn.extend(environment.picture(camera) for camera in environment.spec.cameras)

    episode = recorded(out)
    played = resimulate(episode, steps, watch)
    assert len(drawn) >= 4
    assert played.trace_digest == out.episode.trace_digest
    assert compare(episode.run, played).answer is Answer.SAME


def test_without_a_picture_ever_drawn_it_is_the_same_episode() -> None:
    steps, out = expert_episode("metaworld/push-v3", images=False)
    assert resimulate(recorded(out), steps).trace_digest == out.episode.trace_digest


def test_an_action_that_was_changed_by_the_least_gives_another_episode() -> None:
    steps, out = expert_episode("metaworld/push-v3", images=False)
    steps.continuous["ee_twist"][3, 0] += 1e-9
    assert resimulate(recorded(out), steps).trace_digest != out.episode.trace_digest
