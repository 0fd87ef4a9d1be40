"""A household task behind the environment contract: our channels outside, AI2-THOR's Controller inside."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Final

from kinitro.environments.base import (
    STAND_IN_SUFFIX,
    Environment,
    EnvironmentOptions,
    EnvironmentSpec,
    EpisodeFacts,
    Step,
)
from kinitro.environments.procthor.actions import calls
from kinitro.environments.procthor.experts import Expert
from kinitro.environments.procthor.houses import digest
from kinitro.environments.procthor.launch import PlayerLaunch
from kinitro.environments.procthor.observations import observe
from kinitro.environments.procthor.schema import AGENT_HEIGHT_M
from kinitro.environments.procthor.simulator import Frame, Simulator, View
from kinitro.environments.procthor.spec import FIELD_OF_VIEW_DEG, IMAGE_SIZE, STEP_M, TURN_DEG
from kinitro.environments.procthor.tasks import Task, TaskType, draw_task, obstacle, success
from kinitro.errors import EnvironmentFault
from kinitro.policy.messages import Action, Image, Observation

# Any in this file: AI2-THOR's metadata.

_INITIALIZATION: Final[Mapping[str, Any]] = {
    "agentMode": "default",
    "gridSize": STEP_M,
    "snapToGrid": False,
    "rotateStepDegrees": TURN_DEG,
    "visibilityDistance": 1.5,
}
_UNDO: Final[Mapping[TaskType, str]] = {
    TaskType.OPEN: "CloseObject",
    TaskType.CLOSE: "OpenObject",
    TaskType.TOGGLE_ON: "ToggleObjectOff",
    TaskType.TOGGLE_OFF: "ToggleObjectOn",
}
_UPRIGHT: Final[Mapping[str, Any]] = {"rotation": {"x": 0, "y": 0, "z": 0}, "horizon": 0, "standing": True}
_STATE: Final = ("isOpen", "isToggled", "isPickedUp", "isBroken")


class ProcThorEnvironment(Environment):
    """One household task after another. See docs/procthor.md for units, frames and what has been verified.

    The player is started by the first reset and kept. `launch` says which one; a stand-in marks the version.
    """

    def __init__(self, spec: EnvironmentSpec, options: EnvironmentOptions, launch: PlayerLaunch) -> None:
        self.spec = replace(spec, version=spec.version + STAND_IN_SUFFIX) if launch.stand_in else spec
        self._launch = launch
        self._view = View(IMAGE_SIZE, FIELD_OF_VIEW_DEG, headless=not options.images, depth=options.depth)
        self._simulator: Simulator | None = None
        self._task: Task | None = None
        self._frame: Frame | None = None
        self._expert: Expert | None = None
        self._facts = EpisodeFacts()
        self.last_calls_ok = True
        """Whether AI2-THOR obeyed every command of the last step."""

    @property
    def task(self) -> Task:
        """What this episode asks for: for experts, pictures and tests, never a policy."""
        assert self._task is not None, "reset first"
        return self._task

    @property
    def metadata(self) -> Mapping[str, Any]:
        """AI2-THOR's metadata now: for experts and tests, never a policy."""
        return self._now.metadata

    def reset(self, seed: int) -> Observation:
        """Builds this seed's house in the player, and puts the agent and the goal's object into their first state.

        Raises `EnvironmentFault`: the player failed, or it shows a house in which the task can't be done
        (`house_unfit`) or is done already.
        """
        self._task, self._expert = draw_task(seed), None
        document = self._task.document()
        simulator = self._started()
        simulator.reset(document)
        self._frame = self._prepared(simulator, self._task)
        self.last_calls_ok = True
        self._facts = self._gather_facts(self._task, digest(document))
        return observe(self._frame, self._frame, self._task.instruction, succeeded=True)

    def step(self, action: Action) -> Step:
        """Interacts, then makes the largest of the commanded motions. A command that AI2-THOR refuses (a wall in the
        way, nothing at that pixel) changes nothing and is told as `last_action_success` = 0.
        """
        before, simulator = self._now, self._started()
        frames = [simulator.step(call.action, **call.arguments) for call in calls(action)]
        self._frame, self.last_calls_ok = frames[-1], all(frame.ok for frame in frames)
        done = success(self.task.goal, self.metadata["objects"])
        observation = observe(self._frame, before, self.task.instruction, succeeded=self.last_calls_ok)
        return Step(observation, reward=float(done), success=done)

    def state(self) -> bytes:
        """Agent and objects as canonical JSON, lengths to the millimetre."""
        agent = self.metadata["agent"]
        objects = sorted(self.metadata["objects"], key=lambda found: str(found["objectId"]))
        document = {
            "agent": [
                *_numbers(agent["position"]),
                *_numbers(agent["rotation"]),
                round(agent["cameraHorizon"], 3) + 0.0,
            ],
            "objects": [
                [
                    found["objectId"],
                    *_numbers(found["position"]),
                    *(bool(found[name]) for name in _STATE),
                    sorted(found["parentReceptacles"] or ()),
                ]
                for found in objects
            ],
        }
        return json.dumps(document, separators=(",", ":")).encode()

    def facts(self) -> EpisodeFacts:
        """The house's digest, the task's type, objects and sentence."""
        return self._facts

    def stack(self) -> dict[str, str]:
        """The Controller and NumPy. Which Unity build answers it is the operator's to keep: it does not say."""
        return {name: version(name) for name in ("ai2thor", "numpy")}

    def expert_action(self) -> Action:
        """What the scripted expert, who knows the house and reads the metadata, does now."""
        if self._expert is None:
            self._expert = Expert(self.task, lambda: self.metadata, lambda: self.last_calls_ok)
        return self._expert()

    def picture(self, camera: str) -> Image:
        """What the agent sees, for people. There is only the camera `ego`."""
        del camera
        if self._now.rgb is None:
            raise EnvironmentFault("There is no picture: this environment was made without images.", code="no_images")
        return self._now.rgb

    def stands_at(self, x: float, z: float) -> bool:
        """Moves the agent there, for the checklist alone, and says whether it fits."""
        pose = {"x": x, "y": AGENT_HEIGHT_M, "z": z}
        return self._started().step("TeleportFull", position=pose, **_UPRIGHT).ok

    def player_id(self) -> int:
        """The player's process id."""
        return self._started().player_id

    def close(self) -> None:
        """Ends the player."""
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    @property
    def _now(self) -> Frame:
        assert self._frame is not None, "reset first"
        return self._frame

    def _started(self) -> Simulator:
        if self._simulator is None:
            self._simulator = Simulator(self._launch, self._view, _INITIALIZATION)
        return self._simulator

    def _prepared(self, simulator: Simulator, task: Task) -> Frame:
        start = task.house.start
        frame = simulator.must(
            "TeleportFull",
            position={"x": start.x, "y": AGENT_HEIGHT_M, "z": start.z},
            **{**_UPRIGHT, "rotation": {"x": 0, "y": start.heading_deg, "z": 0}},
        )
        if success(task.goal, frame.metadata["objects"]) and task.goal.task_type in _UNDO:
            # The house says how things stand; should the player not have heeded it, we tell it so.
            frame = simulator.must(_UNDO[task.goal.task_type], objectId=task.goal.target, forceAction=True)
        objects: Sequence[Mapping[str, Any]] = frame.metadata["objects"]
        problem = "the task is done already" if success(task.goal, objects) else obstacle(task.goal, objects)
        if problem:
            raise EnvironmentFault(
                f"The house of seed {task.house.seed} does not suit {task.goal.task_type}: {problem}.",
                code="house_unfit",
            )
        return frame

    def _gather_facts(self, task: Task, house_digest: str) -> EpisodeFacts:
        values: dict[str, float | str] = {
            "house_sha256": house_digest,
            "rooms": float(len(task.house.plan.rooms)),
            "task_type": task.goal.task_type.value,
            "target": task.goal.target,
            "instruction": task.instruction,
        }
        return EpisodeFacts(values | ({"receptacle": task.goal.receptacle} if task.goal.receptacle else {}))


def _numbers(point: Mapping[str, float]) -> list[float]:
    return [round(point[axis], 3) + 0.0 for axis in ("x", "y", "z")]
