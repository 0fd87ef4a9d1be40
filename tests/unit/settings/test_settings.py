"""What a setting is when nobody set it, and who wins when several did."""

import os
from pathlib import Path
from typing import Any

import pytest

from kinitro.deployments.limits import HubLimits
from kinitro.errors import ConfigurationError
from kinitro.settings import (
    ApiSettings,
    BtcliSettings,
    BuildSettings,
    ExecutorSettings,
    MinerSettings,
    SchedulerSettings,
    ServiceSettings,
    SharedSettings,
    ValidatorSettings,
    home_directory,
)

DEFAULTS: dict[type[ServiceSettings], dict[str, Any]] = {
    ApiSettings: {
        "database_url": None, "host": "127.0.0.1", "port": 8000, "api_key": None, "no_auth": False,
        "task_lease_seconds": 60, "max_lease_seconds": 300 + 300 + 60,
    },
    SchedulerSettings: {
        "database_url": None, "network": "finney", "netuid": 1, "eval_interval_seconds": 3600, "episodes_per_env": 50,
        "env_families": None, "environments": None, "evidence_alpha": 0.05, "min_improvement": 0.01,
        "pareto_epsilon": 0.05, "pareto_temperature": 1.0, "burn_uid": None, "miner_time_budget_seconds": 3600,
        "cycle_timeout_seconds": 7200, "task_max_attempts": 3,
    },
    ExecutorSettings: {
        "api_url": "http://localhost:8000", "api_key": None, "executor_id": None, "batch_size": 10,
        "poll_interval_seconds": 5, "max_concurrent": None, "env_families": None, "eval_mode": "docker",
        "eval_images": {}, "eval_hosts": ["localhost"], "eval_mem_limit": None, "max_timesteps": 500,
        "action_timeout": 0.5, "eval_timeout": 300, "use_images": True, "miner_deployment_enabled": True,
        "miner_deployment_image": "kinitro/miner-runner:v1", "miner_basilica_api_token": None, "miner_hf_token": None,
        "miner_deployment_ttl_seconds": 600, "miner_deployment_warmup_timeout": 300, "miner_deployment_gpu_count": 0,
        "miner_deployment_min_gpu_memory_gb": None, "miner_deployment_cpu": 1, "miner_deployment_memory": "4Gi",
    },
    ValidatorSettings: {
        "backend_url": "http://localhost:8000", "network": "finney", "netuid": 1, "wallet_name": None,
        "hotkey_name": None, "wallet_path": None,
    },
    MinerSettings: {
        "action_timeout": 0.5, "warmup_timeout": 300, "eval_timeout": 300, "max_timesteps": 500,
        "time_budget_seconds": 3600, "episodes_per_env": 50,
    },
    SharedSettings: {"home": None, "api_url": "http://localhost:8000", "max_repo_size_gb": 5},
    BuildSettings: {"base_image": "python:3.11-slim-bookworm", "torch_index": None},
    BtcliSettings: {"wallet": "default", "wallet_hotkey": "default", "wallet_path": None, "network": "finney"},
}  # fmt: skip
"""Those of the contract and the guide, and those that must be as another's."""
SET_IN_TURN = {
    ApiSettings: ("KINITRO_API_PORT", 8001, 8002, 8003),
    SchedulerSettings: ("KINITRO_SCHEDULER_EPISODES_PER_ENV", 51, 52, 53),
    ExecutorSettings: ("KINITRO_EXECUTOR_ACTION_TIMEOUT", 0.6, 0.7, 0.8),
    ValidatorSettings: ("KINITRO_VALIDATOR_NETUID", 2, 3, 4),
    MinerSettings: ("KINITRO_MINER_MAX_TIMESTEPS", 501, 502, 503),
    SharedSettings: ("KINITRO_API_URL", "http://file", "http://variable", "http://flag"),
    BuildSettings: ("KINITRO_BUILD_BASE_IMAGE", "file", "variable", "flag"),
    BtcliSettings: ("BT_NETWORK", "local", "test", "dev"),
}
"""A variable of each class, its value in `.env`, in the environment, as a flag."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; nothing is set."""
    for name in [name for name in os.environ if name.startswith(("KINITRO_", "BT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", DEFAULTS, ids=lambda kind: kind.__name__)
def test_with_nothing_set_a_setting_is_what_the_contract_says(kind: type[ServiceSettings]) -> None:
    settings = kind.load()
    assert {name: getattr(settings, name) for name in DEFAULTS[kind]} == DEFAULTS[kind]


@pytest.mark.parametrize("kind", SET_IN_TURN, ids=lambda kind: kind.__name__)
def test_a_flag_comes_before_a_variable_before_the_env_file_before_the_default(
    kind: type[ServiceSettings], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, in_file, in_environment, as_flag = SET_IN_TURN[kind]
    name = variable.removeprefix(kind.model_config["env_prefix"]).lower()
    assert getattr(kind.load(**{name: None}), name) == DEFAULTS[kind][name]
    (folder / ".env").write_text(f"{variable}={in_file}\n")
    assert getattr(kind.load(**{name: None}), name) == in_file
    monkeypatch.setenv(variable, str(in_environment))
    assert getattr(kind.load(**{name: None}), name) == in_environment
    assert getattr(kind.load(**{name: as_flag}), name) == as_flag


def test_no_settings_are_left_out_here() -> None:
    assert set(DEFAULTS) == set(SET_IN_TURN) == set(ServiceSettings.__subclasses__())


def test_the_home_and_the_largest_policy_can_stand_in_the_env_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (home_directory().name, HubLimits.chosen().max_bytes) == ("kinitro", 5_000_000_000)
    (folder / ".env").write_text(f"KINITRO_HOME={folder}/own\nKINITRO_MAX_REPO_SIZE_GB=0.5\n")
    assert (home_directory(), HubLimits.chosen().max_bytes) == (folder / "own", 500_000_000)
    monkeypatch.setenv("KINITRO_HOME", "elsewhere")
    assert home_directory() == folder / "elsewhere"
    monkeypatch.setenv("KINITRO_HOME", "")
    assert home_directory().name == "kinitro"


@pytest.mark.parametrize("text", ["much", "-1", "0", "nan", "inf"])
def test_a_size_limit_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("KINITRO_MAX_REPO_SIZE_GB", text)
    with pytest.raises(ConfigurationError, match="KINITRO_MAX_REPO_SIZE_GB"):
        HubLimits.chosen()
