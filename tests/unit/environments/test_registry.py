"""The catalogue: complete, cheap to read, and helpful about a wrong name."""

import subprocess
import sys

import pytest

from kinitro.environments import registry
from kinitro.environments.base import EnvironmentOptions
from kinitro.errors import ConfigurationError

DEFAULT = {
    f"metaworld/{task}-v3"
    for task in (
        "reach",
        "push",
        "pick-place",
        "door-open",
        "drawer-open",
        "drawer-close",
        "button-press-topdown",
        "peg-insert-side",
    )
}


def test_metaworld_has_its_fifty_tasks_each_with_an_instruction() -> None:
    tasks = [spec for spec in registry.catalogue() if spec.family == "metaworld"]
    assert len({spec.env_id for spec in tasks}) == 50
    assert all(spec.instruction.endswith(".") for spec in tasks)
    assert len({spec.instruction for spec in tasks}) == 50


def test_nothing_chosen_means_the_eight_default_environments() -> None:
    assert {spec.env_id for spec in registry.select()} == DEFAULT


def test_a_family_stands_for_its_defaults_and_single_environments_add_to_them() -> None:
    chosen = registry.select(["metaworld"], ["metaworld/reach-v3", "metaworld/basketball-v3"])
    assert [spec.env_id for spec in chosen] == sorted({*DEFAULT, "metaworld/basketball-v3"})
    assert [spec.env_id for spec in registry.select((), ["metaworld/push-v3", "metaworld/basketball-v3"])] == [
        "metaworld/basketball-v3",
        "metaworld/push-v3",
    ]


def test_an_executor_of_a_family_serves_all_of_it() -> None:
    assert len(registry.served_by(["metaworld"])) == 50
    assert registry.served_by(["metaworld", "procthor"]) == registry.catalogue()


def test_an_executor_without_a_choice_serves_the_families_of_the_default_set_alone() -> None:
    assert registry.served_by() == registry.served_by(["metaworld"])


def test_procthor_is_chosen_by_family_or_by_name_and_never_by_default() -> None:
    assert [spec.env_id for spec in registry.select(["procthor"])] == ["procthor/v0"]
    assert "procthor/v0" in [spec.env_id for spec in registry.select(["metaworld"], ["procthor/v0"])]


def test_an_unknown_environment_names_the_nearest_and_the_command_that_lists_them() -> None:
    with pytest.raises(ConfigurationError, match=r"'metaworld/pick-plce'.*metaworld/pick-place-v3.*kinitro env list"):
        registry.find("metaworld/pick-plce")


def test_a_task_without_its_family_is_understood_well_enough_to_advise() -> None:
    with pytest.raises(ConfigurationError, match=r"Did you mean metaworld/reach-v3"):
        registry.select((), ["reach-v3"])


def test_an_unknown_family_names_those_that_exist() -> None:
    with pytest.raises(ConfigurationError, match=r"'metawrld'.*metaworld"):
        registry.select(["metawrld"])


def test_reading_the_catalogue_imports_no_simulator() -> None:
    code = (
        "import sys; from kinitro.environments import registry; registry.catalogue(); "
        "print(sorted({'mujoco', 'metaworld', 'gymnasium', 'ai2thor'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


def test_a_simulator_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    for name in [name for name in sys.modules if name.startswith("kinitro.environments.metaworld.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigurationError, match=r"metaworld/reach-v3 needs .*`uv sync`.*\[metaworld\]"):
        registry.build(registry.find("metaworld/reach-v3"), EnvironmentOptions(images=False))
