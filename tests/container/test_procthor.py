"""MetaWorld and ProcTHOR in one cycle, in Docker mode, against the stand-in; and the image itself."""

import json

import pytest

from ..sim.procthor.cycle import check, run_cycle  # noqa: TID252 - the same cycle in both modes
from .conftest import METAWORLD, RUNNER, docker

PROCTHOR = "kinitro/procthor:v1"


@pytest.fixture(autouse=True)
def image():
    if PROCTHOR not in docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split():
        pytest.skip(f"no {PROCTHOR}; run `kinitro env build procthor --unity none`")


@pytest.mark.timeout(300)
async def test_a_cycle_with_both_families_completes_and_is_marked_unscored(state, monkeypatch):
    state.mkdir()
    monkeypatch.setenv("KINITRO_HOME", str(state))
    images = json.dumps({"metaworld": METAWORLD, "procthor": PROCTHOR})
    check(*await run_cycle(state, "docker", "python", eval_images=images, miner_deployment_image=RUNNER))


def test_the_image_has_what_unity_needs_and_runs_as_nobody():
    run = ("run", "--rm", "--network", "none", PROCTHOR)
    assert docker(*run, "sh", "-c", "command -v Xvfb; id -u").split() == ["/usr/bin/Xvfb", "10001"]
    libraries = docker(*run, "sh", "-c", "/sbin/ldconfig -p")
    for library in ("libGL.so.1", "libvulkan.so.1", "libX11.so.6"):
        assert library in libraries


def test_without_a_unity_build_the_image_says_so():
    code = (
        "from kinitro.environments import EnvironmentOptions, find, registry\n"
        "try:\n    registry.build(find('procthor/v0'), EnvironmentOptions())\n"
        "except Exception as error:\n    print(error)"
    )
    said = docker("run", "--rm", "--network", "none", PROCTHOR, "python", "-c", code)
    assert said.startswith("There is no Unity build of AI2-THOR at /opt/unity")
