"""The fifty tasks as the catalogue lists them. Nothing here imports a simulator."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from kinitro.environments.base import EnvironmentOptions, EnvironmentSpec

FAMILY: Final = "metaworld"
CAMERAS: Final = ("corner", "front")
IMAGE_SIZE: Final = 84
"""Height and width, pixels."""
PROPRIO: Final[Mapping[str, int]] = MappingProxyType(
    {"ee_pos": 3, "ee_quat": 4, "ee_vel_lin": 3, "ee_vel_ang": 3, "gripper": 1, "joint_pos": 7, "joint_vel": 7}
)
CONTINUOUS: Final[Mapping[str, int]] = MappingProxyType({"ee_twist": 6, "gripper": 1})

_ADAPTER: Final = "1"
_SIMULATOR: Final = "metaworld-3.1.1/mujoco-3.3.0"
_ENTRY_POINT: Final = "kinitro.environments.metaworld:build"

_DEFAULT: Final = frozenset(
    {
        "reach-v3",
        "push-v3",
        "pick-place-v3",
        "door-open-v3",
        "drawer-open-v3",
        "drawer-close-v3",
        "button-press-topdown-v3",
        "peg-insert-side-v3",
    }
)

# Where the goal is drawn apart from the objects, only the marker in the images tells it. A test holds this to the
# simulator.
_GOAL_VARIES: Final = frozenset(
    {
        "assembly-v3",
        "basketball-v3",
        "box-close-v3",
        "coffee-pull-v3",
        "coffee-push-v3",
        "hand-insert-v3",
        "peg-insert-side-v3",
        "pick-out-of-hole-v3",
        "pick-place-v3",
        "pick-place-wall-v3",
        "plate-slide-back-side-v3",
        "plate-slide-back-v3",
        "plate-slide-side-v3",
        "plate-slide-v3",
        "push-back-v3",
        "push-v3",
        "push-wall-v3",
        "reach-v3",
        "reach-wall-v3",
        "shelf-place-v3",
        "soccer-v3",
        "stick-pull-v3",
        "stick-push-v3",
    }
)

PIN_M: Final[Mapping[str, float]] = MappingProxyType(
    {"peg-insert-side-v3": 0.25, "plate-slide-side-v3": 0.2, "plate-slide-v3": 0.2, "shelf-place-v3": 0.45}
)
"""Height of the pin above a goal that lies inside something."""

_INSTRUCTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "assembly-v3": "Pick up the wrench by its handle and put its ring over the peg.",
        "basketball-v3": "Pick up the ball and drop it through the hoop.",
        "bin-picking-v3": "Pick up the block from one bin and put it into the other.",
        "box-close-v3": "Pick up the lid and put it on the box.",
        "button-press-topdown-v3": "Press the button from above.",
        "button-press-topdown-wall-v3": "Press the button from above, past the wall.",
        "button-press-v3": "Press the button on the front of the box.",
        "button-press-wall-v3": "Press the button on the front of the box, past the wall.",
        "coffee-button-v3": "Press the button of the coffee machine.",
        "coffee-pull-v3": "Pull the mug from the coffee machine to the marker.",
        "coffee-push-v3": "Push the mug to the marker under the coffee machine.",
        "dial-turn-v3": "Turn the dial by half a turn.",
        "disassemble-v3": "Pick up the wrench and lift its ring off the peg.",
        "door-close-v3": "Close the door of the safe.",
        "door-lock-v3": "Lock the door by turning its lock.",
        "door-open-v3": "Open the door of the safe by its handle.",
        "door-unlock-v3": "Unlock the door by turning its lock.",
        "drawer-close-v3": "Push the drawer closed.",
        "drawer-open-v3": "Pull the drawer open by its handle.",
        "faucet-close-v3": "Turn the faucet clockwise.",
        "faucet-open-v3": "Turn the faucet counter-clockwise.",
        "hammer-v3": "Pick up the hammer and drive the nail into the box.",
        "hand-insert-v3": "Put the block and the gripper into the hole at the marker.",
        "handle-press-side-v3": "Press the handle down from the side.",
        "handle-press-v3": "Press the handle down.",
        "handle-pull-side-v3": "Pull the handle up from the side.",
        "handle-pull-v3": "Pull the handle up.",
        "lever-pull-v3": "Pull the lever up by a quarter turn.",
        "peg-insert-side-v3": "Pick up the peg and insert it into the hole in the side of the box.",
        "peg-unplug-side-v3": "Pull the peg out of the hole in the side of the box.",
        "pick-out-of-hole-v3": "Pick the block out of the hole and bring it to the marker.",
        "pick-place-v3": "Pick up the puck and bring it to the marker.",
        "pick-place-wall-v3": "Pick up the puck and bring it over the wall to the marker.",
        "plate-slide-back-side-v3": "Slide the plate sideways out of the cabinet to the marker.",
        "plate-slide-back-v3": "Slide the plate back out of the cabinet to the marker.",
        "plate-slide-side-v3": "Slide the plate sideways into the cabinet.",
        "plate-slide-v3": "Slide the plate into the cabinet.",
        "push-back-v3": "Pull the block back to the marker.",
        "push-v3": "Push the puck to the marker.",
        "push-wall-v3": "Push the puck around the wall to the marker.",
        "reach-v3": "Move the gripper to the marker.",
        "reach-wall-v3": "Move the gripper past the wall to the marker.",
        "shelf-place-v3": "Pick up the block and put it on the shelf.",
        "soccer-v3": "Push the ball into the goal.",
        "stick-pull-v3": "Pick up the stick, put it through the handle of the flask and pull the flask to the marker.",
        "stick-push-v3": "Pick up the stick and push the flask with it to the marker.",
        "sweep-into-v3": "Sweep the block into the hole.",
        "sweep-v3": "Sweep the block off the table.",
        "window-close-v3": "Push the window closed.",
        "window-open-v3": "Push the window open.",
    }
)


def version(options: EnvironmentOptions) -> str:
    """Names everything that decides an episode besides its seed and its actions."""
    return f"{_SIMULATOR}/adapter-{_ADAPTER}/{options.randomisation.value}/{options.render_profile.value}"


def specs() -> tuple[EnvironmentSpec, ...]:
    """Every task, by name; the version is that of the default options."""
    return tuple(_spec(name, instruction) for name, instruction in sorted(_INSTRUCTIONS.items()))


def _spec(name: str, instruction: str) -> EnvironmentSpec:
    return EnvironmentSpec(
        env_id=f"{FAMILY}/{name}",
        family=FAMILY,
        task_name=name,
        version=version(EnvironmentOptions()),
        default=name in _DEFAULT,
        needs_images=name in _GOAL_VARIES,
        cameras=CAMERAS,
        proprio=PROPRIO,
        continuous=CONTINUOUS,
        discrete={},
        instruction=instruction,
        entry_point=_ENTRY_POINT,
    )
