"""ProcTHOR's line in the catalogue, and the units of its actions. Nothing here imports a simulator."""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from kinitro.environments.base import EnvironmentSpec

FAMILY: Final = "procthor"
ENV_ID: Final = "procthor/v0"
CAMERA: Final = "ego"
IMAGE_SIZE: Final = 224
"""Height and width, pixels."""
FIELD_OF_VIEW_DEG: Final = 90.0
CONTROL_S: Final = 0.5
"""AI2-THOR's agent moves by steps, not in time; this says what `base_vel` means: metres a second times this."""
STEP_M: Final = 0.25
TURN_DEG: Final = 30
MAX_SPEED_M_S: Final = STEP_M / CONTROL_S
MAX_TURN_DEG_S: Final = TURN_DEG / CONTROL_S
HAND_STEP_M: Final = 0.1
HAND_TURN_DEG: Final = 15.0
PROPRIO: Final[Mapping[str, int]] = MappingProxyType(
    {"base_pos": 3, "base_quat": 4, "base_heading": 1, "base_vel": 3, "gripper": 1}
)
CONTINUOUS: Final[Mapping[str, int]] = MappingProxyType({"aim": 2, "base_vel": 3, "ee_twist": 6})

_VERSION: Final = "ai2thor-5.0.0/houses-1/adapter-2"


class Nav(IntEnum):
    """Values of the discrete channel `nav`."""

    STAY = 0
    AHEAD = 1
    BACK = 2
    LEFT = 3
    RIGHT = 4
    TURN_LEFT = 5
    TURN_RIGHT = 6
    LOOK_UP = 7
    LOOK_DOWN = 8


class Interact(IntEnum):
    """Values of the discrete channel `interact`. Each acts on what the pixel `aim` shows."""

    NOTHING = 0
    PICK_UP = 1
    PUT = 2
    OPEN = 3
    CLOSE = 4
    TURN_ON = 5
    TURN_OFF = 6


def specs() -> tuple[EnvironmentSpec, ...]:
    """The one environment of this family."""
    return (
        EnvironmentSpec(
            env_id=ENV_ID,
            family=FAMILY,
            task_name="v0",
            version=_VERSION,
            default=False,
            needs_images=True,
            cameras=(CAMERA,),
            proprio=PROPRIO,
            continuous=CONTINUOUS,
            discrete=MappingProxyType({"interact": len(Interact), "nav": len(Nav)}),
            instruction="Do what this episode's own instruction says, somewhere in the house.",
            entry_point="kinitro.environments.procthor:build",
        ),
    )
