"""A made-up episode record, for tests of everything that carries one."""

import base64
from hashlib import sha256

import numpy as np

from kinitro.environments.base import Step
from kinitro.environments.trace import Steps, Trace
from kinitro.policy.messages import Action, Observation
from kinitro.schemas import (
    EpisodeConditions,
    EpisodeOut,
    EpisodeRecord,
    ExportEpisode,
    ResultIn,
    Simulation,
    TaskOut,
)


def made_up_steps(count: int = 5) -> Steps:
    """Steps of nothing: two channels, one of them commanded at every other step."""
    random, trace = np.random.default_rng(0), Trace()
    for index in range(count):
        seen = Observation({"ee_pos": random.uniform(size=3)}, rgb={"front": np.full((4, 4, 3), index % 256, np.uint8)})
        continuous = {"ee_twist": random.uniform(-1, 1, 6)}
        if index % 2:
            continuous["gripper"] = random.uniform(0, 1, 1)
        reward = float(random.normal())
        trace.add(seen, Action(continuous, {"interact": index}), Step(seen, reward, success=index == count - 1))
    return trace.close(b"final state")


def made_up_record(steps: Steps | None = None, **conditions: object) -> EpisodeRecord:
    """A record with these steps; `conditions` replace fields of what it ran under."""
    chosen = {
        "eval_mode": "process",
        "environment_version": "line-1",
        "simulation": Simulation(
            kinitro="0.1.0",
            architecture="x86_64",
            randomisation="standard",
            render_profile="fast",
            images=False,
            stack={"python": "3.11.9"},
        ),
        "max_timesteps": 500,
        "action_timeout_s": 0.5,
        "timeout_s": 300.0,
        "use_images": True,
    }
    kept = steps.encode() if steps is not None else None
    return EpisodeRecord(
        conditions=EpisodeConditions.model_validate(chosen | conditions),
        facts={"goal_m": 0.75},
        steps=base64.b64encode(kept).decode() if kept else None,
        steps_sha256=sha256(kept).hexdigest() if kept else None,
    )


def as_shown(task: TaskOut, result: ResultIn, **changes: object) -> EpisodeOut:
    """What the API shows of a task and its result; `changes` replace fields of the episode."""
    told = result.model_dump(exclude={"lease_token", "record"})
    facts = {
        "uid": task.miner_uid,
        "env_id": task.env_id,
        "index": 0,
        "seed": task.seed,
        "policy_seed": task.policy_seed,
        "executor_id": "test",
        "error_code": result.record.error_code if result.record else None,
    }
    return EpisodeOut(
        cycle_id=task.cycle_id,
        netuid=1,
        hotkey=task.miner_hotkey,
        repo=task.miner_repo,
        revision=task.miner_revision,
        episode=ExportEpisode.model_validate(facts | told | changes),
        record=result.record,
    )
