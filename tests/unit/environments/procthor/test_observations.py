"""What a policy senses: conventions, and that nothing hidden gets through."""

from math import pi

import numpy as np
import pytest

from kinitro.environments.procthor.observations import extrinsics, intrinsics, observe, sense
from kinitro.environments.procthor.simulator import Frame
from kinitro.environments.procthor.spec import PROPRIO


def metadata(x=1.0, z=2.0, yaw=0.0, horizon=0.0, objects=()):
    return {
        "agent": {
            "position": {"x": x, "y": 0.9, "z": z},
            "rotation": {"x": 0, "y": yaw, "z": 0},
            "cameraHorizon": horizon,
        },
        "cameraPosition": {"x": x, "y": 1.575, "z": z},
        "fov": 90.0,
        "objects": list(objects),
        "lastActionSuccess": True,
    }


def test_channels_are_those_of_the_catalogue():
    sensed = sense(metadata(), metadata())
    assert {name: len(values) for name, values in sensed.items()} == dict(PROPRIO)


@pytest.mark.parametrize(("yaw", "heading"), [(0, pi / 2), (90, 0.0), (180, -pi / 2), (270, pi), (450, 0.0)])
def test_heading_counts_counter_clockwise_from_x(yaw, heading):
    sensed = sense(metadata(yaw=yaw), metadata(yaw=yaw))
    assert sensed["base_heading"][0] == pytest.approx(heading)
    x, y, z, w = sensed["base_quat"]
    assert (x, y) == (0, 0)
    assert 2 * np.arctan2(z, w) == pytest.approx(heading)


def test_position_has_z_up():
    assert sense(metadata(x=1.0, z=2.0), metadata())["base_pos"].tolist() == [1.0, 2.0, 0.9]


@pytest.mark.parametrize(
    ("yaw", "moved", "velocity"),
    [(0, (0, 0.25), (0.5, 0)), (90, (0.25, 0), (0.5, 0)), (0, (-0.25, 0), (0, 0.5)), (180, (0.25, 0), (0, 0.5))],
)
def test_velocity_is_forward_and_left_of_the_robot(yaw, moved, velocity):
    sensed = sense(metadata(x=1 + moved[0], z=2 + moved[1], yaw=yaw), metadata(yaw=yaw))
    assert sensed["base_vel"].tolist() == pytest.approx([*velocity, 0.0])


def test_turning_left_is_positive_also_across_the_half_circle():
    assert sense(metadata(yaw=330), metadata(yaw=0))["base_vel"][2] == pytest.approx(pi / 3)
    assert sense(metadata(yaw=300), metadata(yaw=270))["base_vel"][2] == pytest.approx(-pi / 3)


def test_a_point_is_projected_where_the_camera_sees_it():
    pose, camera = extrinsics(metadata(yaw=90, horizon=30)), intrinsics(metadata(), 224)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1.0, abs=1e-5)
    # Looking along x and 30 degrees down: a point there is in the middle, one more to the south is right of it.
    ahead = np.array([1.0 + np.cos(pi / 6), 2.0, 1.575 - 0.5, 1.0])
    u, v, depth = camera @ (np.linalg.inv(pose) @ ahead)[:3]
    assert (u / depth, v / depth, depth) == pytest.approx((112, 112, 1.0), abs=1e-3)
    u, _, depth = camera @ (np.linalg.inv(pose) @ (ahead - [0, 0.1, 0, 0]))[:3]
    assert u / depth > 112
    _, v, depth = camera @ (np.linalg.inv(pose) @ (ahead - [0, 0, 0.1, 0]))[:3]
    assert v / depth > 112


def test_nothing_of_the_objects_gets_through_but_that_one_is_held():
    mug = {"objectId": "Mug|1", "isPickedUp": False, "position": {"x": 3.25, "y": 0.8, "z": 4.5}, "isOpen": False}
    moved = mug | {"position": {"x": 9.0, "y": 0.1, "z": 9.0}, "isOpen": True, "objectId": "Fridge|2"}
    worlds = [metadata(objects=objects) for objects in ([], [mug], [moved], [mug, moved])]
    seen = [observe(Frame(world), Frame(world), "Do it.", succeeded=True) for world in worlds]
    for other in seen[1:]:
        assert other.extra == seen[0].extra == {"instruction": "Do it.", "last_action_success": 1.0}
        for name, values in other.proprio.items():
            assert values.tolist() == seen[0].proprio[name].tolist()
    held = metadata(objects=[mug | {"isPickedUp": True}])
    assert sense(held, held)["gripper"].tolist() == [1.0]


def test_images_come_with_their_cameras_and_depth_only_when_it_was_drawn():
    rgb, depth = np.zeros((224, 224, 3), dtype=np.uint8), np.ones((224, 224), dtype=np.float32)
    seen = observe(Frame(metadata(), rgb), Frame(metadata()), "Do it.", succeeded=False)
    assert set(seen.rgb) == set(seen.cam_intrinsics) == set(seen.cam_extrinsics) == {"ego"}
    assert seen.depth == {}
    assert seen.extra["last_action_success"] == 0.0
    assert (
        observe(Frame(metadata(), rgb, depth), Frame(metadata()), "", succeeded=True).depth["ego"].dtype == np.float32
    )
