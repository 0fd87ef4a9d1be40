"""The assets that our houses are made of: a small table of AI2-THOR asset ids with their sizes and what they can do."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Final


class Ability(StrEnum):
    """What the agent can do with an asset."""

    PICK_UP = "pick_up"
    OPEN = "open"
    TOGGLE = "toggle"


@dataclass(frozen=True)
class Asset:
    """One AI2-THOR asset. `size_m` is its box as it stands at rotation 0, facing +z: width x, height y, depth z.

    `surface` says that its box's top is one flat place to put things. `front_m` is the free floor it needs before it:
    for its door, or to stand there.
    """

    asset_id: str
    object_type: str
    noun: str
    size_m: tuple[float, float, float]
    abilities: frozenset[Ability] = frozenset()
    surface: bool = False
    front_m: float = 0.5

    def footprint_m(self, rotation: int) -> tuple[float, float]:
        """Extent along x and z when turned by `rotation`, a multiple of 90 degrees."""
        width, _, depth = self.size_m
        return (depth, width) if rotation % 180 else (width, depth)


def _of(
    object_type: str,
    noun: str,
    *variants: tuple[str, float, float, float],
    can: tuple[Ability, ...] = (),
    surface: bool = False,
    front_m: float = 0.5,
) -> tuple[Asset, ...]:
    return tuple(
        Asset(asset_id, object_type, noun, (width, height, depth), frozenset(can), surface, front_m)
        for asset_id, width, height, depth in variants
    )


_UP, _OPEN, _TOGGLE = (Ability.PICK_UP,), (Ability.OPEN,), (Ability.TOGGLE,)

FLOOR: Final = (
    *_of(
        "Fridge", "fridge", ("Fridge_1", 1.013, 1.967, 0.724), ("Fridge_10", 0.866, 1.878, 0.716), can=_OPEN,
        front_m=0.85,
    ),
    *_of(
        "CounterTop", "counter", ("Countertop_I_6x2", 1.83, 0.94, 0.61), ("Countertop_I_8x2", 2.44, 0.94, 0.61),
        surface=True,
    ),
    *_of(
        "DiningTable", "dining table", ("Dining_Table_203_1", 1.47, 0.75, 0.99), ("Dining_Table_27_1", 1.37, 0.76, 0.7),
        ("RoboTHOR_dining_table_mella", 1.14, 0.71, 0.73), surface=True,
    ),
    *_of("GarbageCan", "trash can", ("bin_10", 0.445, 0.539, 0.333), ("bin_23", 0.37, 0.66, 0.37)),
    *_of("Sofa", "sofa", ("RoboTHOR_sofa_alrid", 1.549, 0.817, 0.947), ("RoboTHOR_sofa_ektorp_v", 1.821, 0.891, 0.945)),
    *_of("ArmChair", "armchair", ("ArmChair_213_1", 1.092, 0.974, 0.732), ("Armchair_201_1", 1.0, 0.922, 0.979)),
    *_of(
        "CoffeeTable", "coffee table", ("Coffee_Table_202_1", 1.014, 0.443, 0.655),
        ("Coffee_Table_206_1", 1.21, 0.47, 0.5), ("RoboTHOR_coffee_table_fjallbo_v", 0.9, 0.45, 0.46), surface=True,
    ),
    *_of(
        "TVStand", "TV stand", ("TV_Stand_206_1", 1.2, 0.75, 0.6), ("TV_Stand_206_2", 1.9, 0.75, 0.52), surface=True
    ),
    *_of(
        "FloorLamp", "floor lamp", ("Floor_Lamp_17", 0.4, 1.8, 0.4), ("Floor_Lamp_8", 0.41, 1.86, 0.41),
        ("Floor_Lamp_4", 0.43, 1.87, 0.43), can=_TOGGLE,
    ),
    *_of(
        "SideTable", "side table", ("RoboTHOR_side_table_hol", 0.513, 0.502, 0.504),
        ("Side_Table_21_1", 0.489, 0.69, 0.49), ("Side_Table_302_1_1", 0.622, 0.669, 0.366), surface=True,
    ),
    *_of("HousePlant", "plant", ("Houseplant_10", 0.409, 0.501, 0.333)),
    *_of("Bed", "bed", ("Bed_1", 1.467, 0.91, 2.075)),
    *_of(
        "Dresser", "dresser", ("Dresser_229_1", 1.2, 0.7, 0.4), ("RoboTHOR_dresser_aspelund", 0.99, 0.82, 0.39),
        surface=True,
    ),
    *_of(
        "Desk", "desk", ("Desk_229_1", 1.136, 0.748, 0.534), ("RoboTHOR_desk_lisabo", 1.19, 0.74, 0.47), surface=True
    ),
    *_of("Toilet", "toilet", ("Toilet_1", 0.529, 1.038, 0.973), ("Toilet_2", 0.54, 0.946, 0.862), can=_OPEN),
)  # fmt: skip
"""What stands on the floor."""

SMALL: Final = (
    *_of("Microwave", "microwave", ("Microwave_10", 0.606, 0.352, 0.366), ("Microwave_3", 0.61, 0.35, 0.35), can=_OPEN),
    *_of("CoffeeMachine", "coffee machine", ("coffee_machine_11", 0.382, 0.425, 0.409), can=_TOGGLE),
    *_of("Television", "TV", ("Television_16", 1.08, 0.63, 0.15), ("Television_25", 1.08, 0.74, 0.07), can=_TOGGLE),
    *_of(
        "DeskLamp", "desk lamp", ("Desk_Lamp_3", 0.189, 0.354, 0.189), ("Desk_Lamp_4", 0.217, 0.368, 0.193), can=_TOGGLE
    ),
    *_of("Safe", "safe", ("Safe_18_2", 0.297, 0.303, 0.335), can=_OPEN),
    *_of("Apple", "apple", ("Apple_10", 0.087, 0.114, 0.087), can=_UP),
    *_of("Bread", "loaf of bread", ("Bread_11", 0.142, 0.16, 0.268), can=_UP),
    *_of("Tomato", "tomato", ("Tomato_11", 0.122, 0.1, 0.126), can=_UP),
    *_of("Lettuce", "lettuce", ("Lettuce_10", 0.148, 0.148, 0.255), can=_UP),
    *_of("Mug", "mug", ("Mug_1", 0.126, 0.104, 0.103), ("Mug_2", 0.109, 0.104, 0.086), can=_UP),
    *_of("Cup", "cup", ("Cup_10", 0.07, 0.147, 0.073), ("Cup_11", 0.112, 0.185, 0.112), can=_UP),
    *_of("Bowl", "bowl", ("Bowl_10", 0.155, 0.079, 0.157), ("Bowl_11", 0.202, 0.075, 0.202), can=_UP),
    *_of("Plate", "plate", ("Plate_10", 0.188, 0.023, 0.188), ("Plate_11", 0.223, 0.023, 0.223), can=_UP),
    *_of("Book", "book", ("Book_14", 0.148, 0.015, 0.188), can=_UP),
    *_of("CellPhone", "phone", ("Cellphone_3", 0.089, 0.01, 0.18), can=_UP),
    *_of("RemoteControl", "remote control", ("Remote_1", 0.068, 0.019, 0.216), can=_UP),
    *_of("AlarmClock", "alarm clock", ("Alarm_Clock_11", 0.169, 0.192, 0.079), can=_UP),
    *_of("SoapBottle", "soap bottle", ("Soap_Bottle_11", 0.086, 0.19, 0.088), can=_UP),
    *_of("SprayBottle", "spray bottle", ("Spray_Bottle_2", 0.033, 0.245, 0.112), can=_UP),
    *_of("TissueBox", "tissue box", ("Tissue_Box_1", 0.199, 0.15, 0.102), can=_UP),
    *_of("Newspaper", "newspaper", ("Newspaper_1", 0.233, 0.022, 0.127), can=_UP),
    *_of("Vase", "vase", ("Vase_Decorative_1", 0.148, 0.288, 0.148), can=_UP),
    *_of("Laptop", "laptop", ("Laptop_7", 0.32, 0.28, 0.27), can=_UP),
)  # fmt: skip
"""What stands on a surface."""

WALL: Final = _of(
    "Painting", "painting", ("Wall_Decor_Painting_3", 0.806, 0.613, 0.019),
    ("Wall_Decor_Painting_9", 0.458, 0.608, 0.019), ("Wall_Decor_Painting_2V", 0.597, 0.717, 0.032),
)  # fmt: skip
WINDOWS: Final = _of(
    "Window", "window", ("Window_Fixed_36x48", 0.915, 1.219, 0.078), ("Window_Slider_48x36", 1.223, 0.914, 0.087)
)
DOORFRAME: Final = Asset("Doorframe_2", "Doorframe", "doorway", (1.0, 2.073, 0.155))
FRONT_DOOR: Final = Asset("Doorway_2", "Doorway", "door", (1.0, 2.073, 0.163))

_ALL_SURFACES: Final = ("CounterTop", "DiningTable", "CoffeeTable", "TVStand", "SideTable", "Dresser", "Desk")
_DRY: Final = ("DiningTable", "CoffeeTable", "TVStand", "SideTable", "Dresser", "Desk")
_KITCHEN: Final = ("CounterTop", "DiningTable")
GOES_ON: Final[dict[str, tuple[str, ...]]] = {
    "Microwave": _KITCHEN,
    "CoffeeMachine": _KITCHEN,
    "Television": ("TVStand",),
    "DeskLamp": _DRY,
    "Safe": ("Dresser",),
    "Apple": ("CounterTop", "DiningTable", "CoffeeTable", "TVStand", "SideTable", "Desk"),
    "Bread": _KITCHEN,
    "Tomato": _KITCHEN,
    "Lettuce": _KITCHEN,
    "Mug": _ALL_SURFACES,
    "Cup": _ALL_SURFACES,
    "Bowl": _ALL_SURFACES,
    "Plate": _ALL_SURFACES,
    "Book": _ALL_SURFACES,
    "CellPhone": _ALL_SURFACES,
    "RemoteControl": _DRY,
    "AlarmClock": _DRY,
    "SoapBottle": ("CounterTop", "SideTable"),
    "SprayBottle": ("CounterTop", "DiningTable", "CoffeeTable", "SideTable", "Dresser", "Desk"),
    "TissueBox": ("CounterTop", "CoffeeTable", "TVStand", "SideTable", "Dresser", "Desk"),
    "Newspaper": _DRY,
    "Vase": _ALL_SURFACES,
    "Laptop": _DRY,
}
"""The surfaces that AI2-THOR's documentation lets each small object stand on, of those in our table."""


@cache
def assets_of(object_type: str) -> tuple[Asset, ...]:
    """Every variant of a type."""
    return tuple(asset for asset in (*FLOOR, *SMALL) if asset.object_type == object_type)
