"""A MetaWorld task behind the environment contract: our channels outside, the native action space inside."""

from dataclasses import replace
from importlib.metadata import version
from itertools import accumulate
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kinitro.environments.base import (
    Environment,
    EnvironmentOptions,
    EnvironmentSpec,
    EpisodeFacts,
    RenderProfile,
    Step,
)
from kinitro.environments.metaworld import cameras, randomisation, tasks
from kinitro.environments.metaworld.experts import Expert, as_channels, expert
from kinitro.environments.metaworld.rendering import Marker, Renderer
from kinitro.environments.metaworld.simulator import DivergedError, Simulator
from kinitro.policy.messages import Action, Image, Observation

Vector = NDArray[np.float64]

_OPEN: Final = 0.0
_DECIMALS: Final = 6
_ENDS: Final = tuple(accumulate(tasks.PROPRIO.values()))
_CHANNELS: Final = tuple(
    (name, slice(end - length, end)) for (name, length), end in zip(tasks.PROPRIO.items(), _ENDS, strict=True)
)
_PICTURE_SIZE: Final = 336
_STILL: Final = np.zeros(6)


class MetaWorldEnvironment(Environment):
    """One task. See docs/environments.md for units, frames and what is not actuated."""

    def __init__(self, spec: EnvironmentSpec, options: EnvironmentOptions) -> None:
        self.spec = replace(spec, version=tasks.version(options))
        self._options = options
        self._simulator = Simulator(spec.task_name)
        size = tasks.IMAGE_SIZE
        self._renderer = Renderer(self._simulator.model, size, options.render_profile) if options.images else None
        self._picture_renderer: Renderer | None = None
        self._intrinsics = {name: cameras.intrinsics(self._simulator.model, name, size) for name in spec.cameras}
        self._expert: Expert | None = None
        self._facts = EpisodeFacts()
        self._gripper = _OPEN

    def reset(self, seed: int) -> Observation:
        """Places everything anew over the task's full range, from the seed alone."""
        drawn = randomisation.draw(seed, self._options.randomisation, self.spec.task_name)
        self._simulator.reset(seed, drawn)
        self._gripper = _OPEN
        self._facts = self._gather_facts(drawn)
        return self._observe()

    def step(self, action: Action) -> Step:
        """Commands a displacement of the hand (1 cm a step at 1.0) and the gripper.

        The rotation part of `ee_twist` is ignored: the hand's orientation is held by the simulator. Without
        `ee_twist` the hand's target stays, without `gripper` the fingers keep their last command.
        """
        try:
            native = self._simulator.step(self.native_action(action))
        except DivergedError:
            return self._overflowed()
        if self._simulator.diverged() or not np.isfinite(native.reward):
            return self._overflowed()
        return Step(self._observe(), native.reward, success=native.success)

    def native_action(self, action: Action) -> Vector:
        """MetaWorld's own action (4): displacement x, y, z and gripper effort, -1 opens and +1 closes."""
        twist = action.continuous.get("ee_twist", _STILL)
        if "gripper" in action.continuous:
            self._gripper = float(action.continuous["gripper"][0])
        return np.array([*twist[:3], 2.0 * self._gripper - 1.0]).clip(-1.0, 1.0)

    def state(self) -> bytes:
        """MuJoCo's integration state as little-endian doubles; -0.0 is written as 0.0."""
        return (self._simulator.state() + 0.0).astype("<f8").tobytes()

    def facts(self) -> EpisodeFacts:
        """Goal and object positions (metres), randomisation level and factors."""
        return self._facts

    def privileged(self) -> Vector:
        """MetaWorld's full observation (39), object poses and goal included: for experts and tests, never a policy."""
        return self._simulator.privileged

    def expert_action(self) -> Action:
        """What MetaWorld's scripted expert, who reads the privileged state, does now."""
        if self._expert is None:
            self._expert = expert(self.spec.task_name)
        return as_channels(self._expert(self.privileged()))

    def picture(self, camera: str) -> Image:
        """One camera at full quality, 336x336 pixels, for people. Draws nothing until it is first called."""
        if self._picture_renderer is None:
            self._picture_renderer = Renderer(self._simulator.model, _PICTURE_SIZE, RenderProfile.FULL)
        self._simulator.place_markers()
        return self._picture_renderer.draw(self._simulator.data, cameras.slot(camera), self._marker())

    def stack(self) -> dict[str, str]:
        """MetaWorld, MuJoCo, NumPy, and what draws where there are pictures."""
        packages = {name: version(name) for name in ("metaworld", "mujoco", "numpy")}
        return packages if self._renderer is None else packages | {"opengl": self._renderer.drawn_by}

    def close(self) -> None:
        """Frees the simulator and the rendering contexts."""
        for renderer in (self._renderer, self._picture_renderer):
            if renderer is not None:
                renderer.close()
        self._simulator.close()

    def _overflowed(self) -> Step:
        return Step(self._observe(), 0.0, success=False, failed="a position, velocity or acceleration overflowed")

    def _observe(self) -> Observation:
        proprio, extra = self._sense(), {"instruction": self.spec.instruction}
        if self._renderer is None:
            return Observation(proprio=proprio, extra=extra)
        data = self._simulator.data
        self._simulator.place_markers()
        return Observation(
            proprio=proprio,
            rgb={name: self._renderer.draw(data, cameras.slot(name), self._marker()) for name in self.spec.cameras},
            cam_intrinsics=self._intrinsics,
            cam_extrinsics={name: cameras.extrinsics(data, name) for name in self.spec.cameras},
            extra=extra,
        )

    def _sense(self) -> dict[str, Vector]:
        # The last bits of the robot's own state depend on objects it has not touched: one solver computes both.
        values = self._simulator.proprioception().round(_DECIMALS)
        return {name: values[channel] for name, channel in _CHANNELS}

    def _marker(self) -> Marker | None:
        if not self.spec.needs_images:
            return None
        return Marker(self._simulator.target, tasks.PIN_M.get(self.spec.task_name, 0.0))

    def _gather_facts(self, drawn: randomisation.Draw | None) -> EpisodeFacts:
        values: dict[str, float | str] = {"randomisation": self._options.randomisation.value}
        values |= _flat("goal_m", self._simulator.target) | _flat("object_m", self._simulator.objects())
        if drawn is not None:
            values |= {name: value for name, value in vars(drawn).items() if isinstance(value, float)}
        return EpisodeFacts(values)


def _flat(name: str, values: Vector) -> dict[str, float | str]:
    return {f"{name}_{index}": float(value) for index, value in enumerate(values)}
