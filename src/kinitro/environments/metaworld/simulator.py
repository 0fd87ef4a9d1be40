"""MetaWorld's own simulator, made to depend on the seed alone."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import mujoco
import numpy as np
from metaworld.env_dict import ENV_CLS_MAP
from numpy.typing import NDArray

from kinitro.environments.metaworld import cameras
from kinitro.environments.metaworld.randomisation import Draw, apply
from kinitro.errors import EnvironmentFault

Vector = NDArray[np.float64]

# What MetaWorld's resets and our randomisation write to. Meshes and textures are large and never written.
_WRITTEN: Final = ("body_", "jnt_", "dof_", "geom_", "site_", "cam_", "light_", "eq_", "actuator_", "qpos")
_DIVERGED: Final = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)
_ARM_JOINTS: Final = tuple(f"right_j{index}" for index in range(7))
_FINGERS: Final = ("rightclaw", "leftclaw")
_OPEN_M: Final = 0.1
_CLOSED_M: Final = 0.03
"""Distance between the fingers' bodies when open, and when closed on nothing."""
_XYZW: Final = [1, 2, 3, 0]
_UNLIMITED_STEPS: Final = 2**31


@dataclass(frozen=True)
class NativeStep:
    """What MetaWorld says of one step."""

    reward: float
    success: bool


class DivergedError(Exception):
    """The actions made the simulation overflow."""


class Simulator:
    """One MetaWorld task. `reset(seed, draw)` forgets everything that came before it."""

    def __init__(self, task_name: str) -> None:
        # Third party without types.
        self._native: Any = _translating(ENV_CLS_MAP[task_name], f"MetaWorld could not load {task_name}")
        self._native.seeded_rand_vec = True
        self._native._freeze_rand_vec = False  # noqa: SLF001 - MetaWorld's only way to place objects continuously
        self._native._set_task_called = True  # noqa: SLF001 - else it insists on its frozen lists of 50 variants
        self._native._partially_observable = False  # noqa: SLF001 - the experts read the goal; policies see none of it
        vars(self._native).pop("sawyer_observation_space", None)  # cached with the goal's bounds at zero
        self._native.max_path_length = _UNLIMITED_STEPS  # the episode loop counts the steps
        cameras.place(self._native.model)
        self._attributes = _own_attributes(self._native)
        self._nominal = _written_arrays(self._native.model)
        self._hand = self.model.body("hand").id
        self._goal_site = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_SITE, "goal")
        self._fingers = [self.model.body(name).id for name in _FINGERS]
        self._arm_qpos = np.array([self.model.joint(name).qposadr[0] for name in _ARM_JOINTS])
        self._arm_qvel = np.array([self.model.joint(name).dofadr[0] for name in _ARM_JOINTS])
        self.privileged = np.zeros(0)
        """MetaWorld's own full observation (39), object poses and goal included: for experts and tests alone."""
        self._scratch = mujoco.MjData(self.model)

    @property
    def model(self) -> Any:
        """`mujoco.MjModel`, this episode's."""
        return self._native.model

    @property
    def data(self) -> Any:
        """`mujoco.MjData`."""
        return self._native.data

    @property
    def target(self) -> Vector:
        """Where the goal is, metres (3)."""
        return np.array(self._native._target_pos, dtype=np.float64)  # noqa: SLF001 - no public name

    def objects(self) -> Vector:
        """Where the task's objects are, metres (3 or 6)."""
        return np.array(self._native._get_pos_objects(), dtype=np.float64)  # noqa: SLF001 - no public name

    def place_markers(self) -> None:
        """Puts the goal's markers where the goal is, for the next picture; stepping moves them back."""
        for name, position in self._native._target_site_config:  # noqa: SLF001 - no public name
            self.data.site(name).xpos[:] = position
        if self._goal_site >= 0:
            self.data.site_xpos[self._goal_site] = self.target

    def reset(self, seed: int, drawn: Draw | None) -> None:
        """Starts the episode of this seed."""
        _restore(self._native, self._attributes, self._nominal)
        if drawn is not None:
            apply(drawn, self.model, self._scratch)
        # The first pass puts the furniture in place, the second lets everything else settle around it: MetaWorld's
        # own reset also runs twice, and reads positions that only its second run has up to date.
        for _ in range(2):
            self._native.seed(seed)
            mujoco.mj_resetData(self.model, self.data)
            _translating(self._native.reset_model, "MetaWorld could not place its objects")
        mujoco.mj_forward(self.model, self.data)
        self.privileged = self._first_observation()

    def step(self, action: Vector) -> NativeStep:
        """Advances one control step (12.5 ms) with a native action (4, each in [-1, 1]).

        Raises:
            DivergedError: a number has overflowed and MetaWorld's own code gave up on it.
            EnvironmentFault: MetaWorld failed for any other reason.
        """
        try:
            observation, reward, _, _, info = _translating(
                lambda: self._native.step(action), "MetaWorld could not step"
            )
        except EnvironmentFault as error:
            if self.diverged():
                raise DivergedError(error.message) from error
            raise
        self.privileged = observation
        return NativeStep(float(reward), bool(info["success"]))

    def diverged(self) -> bool:
        """Whether a number has overflowed since reset. MuJoCo then goes on from its own start state."""
        return any(self.data.warning[kind].number > 0 for kind in _DIVERGED)

    def state(self) -> Vector:
        """The full integration state of MuJoCo."""
        state = np.empty(mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(self.model, self.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        return state

    def proprioception(self) -> Vector:
        """What the robot senses of itself: the channels of `tasks.PROPRIO`, one after another.

        The end effector is the frame of the body `hand`, in world axes.
        """
        data, hand = self.data, self._hand
        velocity = np.empty(6)
        mujoco.mj_objectVelocity(self.model, data, mujoco.mjtObj.mjOBJ_XBODY, hand, velocity, 0)
        arm = data.qpos[self._arm_qpos], data.qvel[self._arm_qvel]
        parts = data.xpos[hand], _xyzw(data.xquat[hand]), velocity[3:], velocity[:3], (self._closed(),), *arm
        return np.concatenate(parts)

    def close(self) -> None:
        """Frees what MetaWorld holds."""
        self._native.close()

    def _closed(self) -> float:
        right, left = self.data.xpos[self._fingers]
        return min(1.0, max(0.0, (_OPEN_M - math.dist(right, left)) / (_OPEN_M - _CLOSED_M)))

    def _first_observation(self) -> Vector:
        native = self._native
        now = native._get_curr_obs_combined_no_goal()  # noqa: SLF001 - as MetaWorld's own reset does
        native._prev_obs = now  # noqa: SLF001 - likewise
        return np.hstack((now, now, native._get_pos_goal()))  # noqa: SLF001 - likewise


def _xyzw(wxyz: Vector) -> Vector:
    """Scalar last, and of the two quaternions of a rotation the one with a scalar part of at least 0."""
    return (wxyz if wxyz[0] >= 0 else -wxyz)[_XYZW]


def _own_attributes(native: Any) -> dict[str, Any]:
    """The task's own variables, less the simulator's handles and the arrays that show its live state."""
    values = (str, int, float, bool, list, tuple, dict, np.ndarray, type(None))
    return {
        name: copy.deepcopy(value)
        for name, value in vars(native).items()
        if isinstance(value, values) and getattr(value, "base", None) is None
    }


def _written_arrays(model: Any) -> dict[str, Vector]:
    names = [name for name in dir(model) if name.startswith(_WRITTEN)]
    return {name: array.copy() for name in names if isinstance(array := getattr(model, name), np.ndarray)}


def _restore(native: Any, attributes: dict[str, Any], nominal: dict[str, Vector]) -> None:
    for name, value in attributes.items():
        setattr(native, name, copy.deepcopy(value))
    for name, array in nominal.items():
        getattr(native.model, name)[...] = array


def _translating(call: Callable[[], Any], failure: str) -> Any:
    """Runs third-party code whose own failures are the simulator's, not the policy's."""
    try:
        return call()
    except (mujoco.FatalError, ValueError, ArithmeticError, AssertionError) as error:
        raise EnvironmentFault(f"{failure}: {error}", code="simulator") from error
