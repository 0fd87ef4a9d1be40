"""Pictures: calibrated, with the goal in them, never blank, and closed when done."""

import numpy as np
import pytest

from kinitro.environments import registry
from kinitro.environments.base import RenderProfile
from kinitro.environments.metaworld import cameras
from kinitro.environments.metaworld.rendering import Marker
from kinitro.environments.metaworld.tasks import IMAGE_SIZE
from kinitro.errors import EnvironmentFault
from kinitro.policy.messages import Action, Observation

VARYING = [spec.task_name for spec in registry.served_by(["metaworld"]) if spec.needs_images]


def magenta(image: np.ndarray) -> np.ndarray:
    """Rows and columns of the marker's pixels."""
    red, green, blue = (image[..., channel].astype(int) for channel in range(3))
    return np.argwhere((red > 180) & (green < 90) & (blue > 180))


def pixel(observation: Observation, camera: str, point_m: np.ndarray) -> np.ndarray:
    """Where (u, v) a point of the world falls, by the observation's own calibration."""
    in_camera = np.linalg.inv(observation.cam_extrinsics[camera]) @ np.append(point_m, 1.0)
    homogeneous = observation.cam_intrinsics[camera] @ in_camera[:3]
    return homogeneous[:2] / homogeneous[2]


def test_images_have_the_contracts_shape_and_the_catalogues_cameras(build) -> None:
    environment = build("reach-v3", images=True)
    observation = environment.reset(1)
    for part in (observation.rgb, observation.cam_intrinsics, observation.cam_extrinsics):
        assert tuple(part) == environment.spec.cameras
    for image in observation.rgb.values():
        assert image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
        assert image.dtype == np.uint8
        assert image.std() > 10


def test_a_known_point_is_at_its_pixel_in_both_cameras(build) -> None:
    """The hand is moved about; a ball drawn at a finger's own place must be where the calibration says."""
    environment = build("reach-v3", images=True)
    observation = environment.reset(2)
    for camera in environment.spec.cameras:
        for point in ([0.0, 0.8, 0.3], [-0.2, 0.6, 0.2], [0.15, 0.75, 0.05]):
            marker = Marker(np.array(point))
            image = environment._renderer.draw(environment._simulator.data, cameras.slot(camera), marker)
            found = magenta(image)
            assert len(found) >= 3, (camera, point)
            centre = found.mean(axis=0)[::-1] + 0.5
            assert centre == pytest.approx(pixel(observation, camera, np.array(point)), abs=1.0), (camera, point)


def test_camera_jitter_moves_the_picture_and_the_extrinsics_together(build) -> None:
    environment = build("reach-v3", images=True)
    poses = [environment.reset(seed).cam_extrinsics["front"] for seed in (1, 2)]
    moved = np.abs(poses[0] - poses[1])
    assert 0 < moved[:3, 3].max() <= 0.02
    assert 0 < moved[:3, :3].max() <= 0.07


@pytest.mark.parametrize("task", VARYING)
def test_the_goal_marker_is_found_where_the_goal_varies(task: str, build) -> None:
    environment = build(task, images=True)
    for seed in (0, 1):
        observation = environment.reset(seed)
        seen = [magenta(observation.rgb[camera]) for camera in environment.spec.cameras]
        assert max(len(found) for found in seen) >= 4


def test_the_marker_tells_where_the_goal_is(build) -> None:
    environment = build("reach-v3", images=True)
    for seed in range(3):
        observation = environment.reset(seed)
        goal = environment._simulator.target
        for camera in environment.spec.cameras:
            found = magenta(observation.rgb[camera])
            if len(found) >= 8:
                assert found.mean(axis=0)[::-1] + 0.5 == pytest.approx(pixel(observation, camera, goal), abs=1.0)


def test_the_picture_follows_the_robot(build) -> None:
    environment = build("reach-v3", images=True)
    first = environment.reset(1).rgb["front"]
    for _ in range(20):
        step = environment.step(Action({"ee_twist": np.array([1.0, 0, 0, 0, 0, 0])}))
    assert np.abs(step.observation.rgb["front"].astype(int) - first).max() > 50


def test_images_change_nothing_in_the_simulation(build) -> None:
    states = []
    for images in (True, False):
        environment = build("push-v3", images=images)
        environment.reset(9)
        environment.step(Action({"ee_twist": np.full(6, 0.5)}))
        states.append(environment.state())
    assert states[0] == states[1]


def test_the_profile_and_the_level_are_in_the_version(build) -> None:
    fast, full = build("reach-v3"), build("reach-v3", profile=RenderProfile.FULL)
    assert fast.spec.version.endswith("standard/fast")
    assert full.spec.version.endswith("standard/full")
    assert fast.spec.version == registry.find("metaworld/reach-v3").version


def test_contexts_opened_one_after_another_are_never_blank(build) -> None:
    for seed in range(4):
        environment = build("reach-v3", images=True)
        assert environment.reset(seed).rgb["corner"].std() > 10
        environment.close()
        environment.close()


def test_a_large_picture_for_people_does_not_disturb_what_policies_see(build) -> None:
    environment, other = build("reach-v3", images=True), build("reach-v3", images=True)
    environment.reset(1)
    other.reset(1)
    assert environment.picture("corner").shape == (336, 336, 3)
    images, same = (one.step(Action()).observation.rgb for one in (environment, other))
    assert all(np.array_equal(images[name], same[name]) for name in images)


def test_a_blank_picture_is_our_fault(build, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = build("reach-v3", images=True)
    environment.reset(1)
    monkeypatch.setattr("mujoco.mjr_readPixels", lambda pixels, *_: pixels.fill(0))  # what a stale context reads
    with pytest.raises(EnvironmentFault, match=r"corner4.*blank") as caught:
        environment.step(Action())
    assert caught.value.code == "rendering"
