"""Every setting, from flag, environment variable, `.env`, then default. A flag that was not given overrides nothing."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Self

import platformdirs
from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from kinitro.errors import ConfigurationError
from kinitro.types import EvalMode

DEFAULT_API_URL = "http://localhost:8000"
_HOSTS_EXAMPLE = '["localhost", "ssh://user@host"]'
_HOST = re.compile(r"localhost|ssh://[A-Za-z0-9_][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]{1,5})?")
_IMAGES_EXAMPLE = '{"metaworld": "kinitro/metaworld:v1"}'


def _split_words(value: object) -> object:
    """A list as a flag or a variable gives it: words with commas between them."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _hosts(value: object) -> object:
    """Docker hosts, as a variable gives them: a JSON list of `localhost` and `ssh://user@host[:port]`, each once."""
    try:
        hosts = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"not JSON ({error}); an example: {_HOSTS_EXAMPLE}") from None
    if not isinstance(hosts, list) or not hosts or len(hosts) != len(set(map(str, hosts))):
        raise ValueError(f"not a list of different hosts; an example: {_HOSTS_EXAMPLE}")
    for host in hosts:
        if not isinstance(host, str) or not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} is no Docker host; an example: {_HOSTS_EXAMPLE}")
    return hosts


Words = Annotated[list[str], NoDecode, BeforeValidator(_split_words)]


def _images(value: object) -> object:
    """Family to image, as a flag or a variable gives it: a JSON object."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"not JSON ({error}); an example: {_IMAGES_EXAMPLE}") from None


class ServiceSettings(BaseSettings):
    """Base of each service's settings."""

    model_config = SettingsConfigDict(env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True)

    @classmethod
    def load(cls, **flags: Any) -> Self:  # Any: each flag's own type is checked by pydantic
        """Reads the settings; `flags` that are None were not given. Wrong values name the flag or variable."""
        try:
            return cls(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            prefix = cls.model_config.get("env_prefix", "")
            problems = "; ".join(
                f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()
            )
            names = ", ".join(sorted({f"{prefix}{item['loc'][0]}".upper() for item in error.errors() if item["loc"]}))
            raise ConfigurationError(
                f"A setting is not valid: {problems}.", advice=f"Correct the flag, or the variable {names}."
            ) from None


class SharedSettings(ServiceSettings):
    """`KINITRO_...`: what belongs to no single service."""

    model_config = SettingsConfigDict(env_prefix="KINITRO_")

    home: Path | None = None
    """Where this user's embedded database, ledger and caches live; the platform's data directory when not set."""
    api_url: str = DEFAULT_API_URL
    """The API that commands read cycles, scores and episodes from."""
    max_repo_size_gb: float = Field(default=5.0, gt=0, lt=1e6)
    """Largest policy that is uploaded or downloaded."""

    @field_validator("home", mode="before")
    @classmethod
    def _empty_is_not_set(cls, value: object) -> object:
        return value or None


def home_directory() -> Path:
    """Where this user's embedded database, ledger and caches live."""
    chosen = SharedSettings.load().home
    return chosen.expanduser().absolute() if chosen else Path(platformdirs.user_data_dir("kinitro"))


class ApiSettings(ServiceSettings):
    """`KINITRO_API_...`"""

    model_config = SettingsConfigDict(env_prefix="KINITRO_API_")

    database_url: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    api_key: SecretStr | None = None
    no_auth: bool = False
    task_lease_seconds: float = Field(default=60.0, gt=0)
    max_lease_seconds: float = Field(default=660.0, gt=0)
    """Longest a lease may be renewed in all: warm-up (300) + evaluation timeout (300) + 60."""

    @field_validator("api_key")
    @classmethod
    def _empty_key_is_no_key(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value and value.get_secret_value() else None


class SchedulerSettings(ServiceSettings):
    """`KINITRO_SCHEDULER_...`"""

    model_config = SettingsConfigDict(env_prefix="KINITRO_SCHEDULER_")

    database_url: str | None = None
    network: str = "finney"
    netuid: int = Field(default=1, ge=0, le=65535)
    hf_token: SecretStr | None = None
    """Raises the hub's limits for reading whose policy a repo is; `HF_TOKEN` when not set."""
    eval_interval_seconds: float = Field(default=3600.0, ge=0)
    episodes_per_env: int = Field(default=50, ge=1, le=10_000)
    env_families: Words | None = None
    environments: Words | None = None
    evidence_alpha: float = Field(default=0.05, gt=0, lt=1)
    min_improvement: float = Field(default=0.01, ge=0, lt=1)
    pareto_epsilon: float = Field(default=0.05, ge=0, lt=1)
    pareto_temperature: float = Field(default=1.0, gt=0)
    burn_uid: int | None = Field(default=None, ge=0, le=65535)
    miner_time_budget_seconds: float = Field(default=3600.0, gt=0)
    cycle_timeout_seconds: float = Field(default=7200.0, gt=0)
    task_max_attempts: int = Field(default=3, ge=1, le=100)
    audit_rate: float = Field(default=0.02, ge=0, le=1)
    """Share of episodes that a second executor runs too, to check the first one's verdict."""
    audit_grace_seconds: float = Field(default=300.0, ge=0)
    """How long a cycle whose episodes are all done waits for the checks that are under way."""
    weights_lifetime_blocks: int = Field(default=7200, ge=1)
    steps_kept_cycles: int = Field(default=24, ge=1)
    """For how many of the latest cycles the steps of episodes stay in the database."""
    tick_seconds: float = Field(default=1.0, gt=0)


class ExecutorSettings(ServiceSettings):
    """`KINITRO_EXECUTOR_...`"""

    model_config = SettingsConfigDict(env_prefix="KINITRO_EXECUTOR_")

    api_url: str = DEFAULT_API_URL
    api_key: SecretStr | None = None
    executor_id: str | None = Field(default=None, min_length=1, max_length=200)
    """By default a name of this machine that stays over restarts, kept in `KINITRO_HOME`."""
    batch_size: int = Field(default=10, ge=1, le=100)
    poll_interval_seconds: float = Field(default=5.0, gt=0)
    max_concurrent: int | None = Field(default=None, ge=1)
    """Episodes at once; by default as many as there are processors for, on all hosts."""
    env_families: Words | None = None
    eval_mode: EvalMode = EvalMode.DOCKER
    eval_images: Annotated[dict[str, str], NoDecode, BeforeValidator(_images)] = Field(default_factory=dict)
    """Environment family to image, as JSON; families that are not named have `kinitro/FAMILY:v1`."""
    eval_hosts: Annotated[list[str], NoDecode, BeforeValidator(_hosts)] = Field(default_factory=lambda: ["localhost"])
    """Docker hosts that environments and policies run on, as JSON."""
    eval_kept_cores: int = Field(default=1, ge=0)
    """Processors of each Docker host that no episode gets: for the engine, and for policies that are starting."""
    eval_gpu_count: int = Field(default=0, ge=0)
    eval_mem_limit: str | None = None
    """Memory of an environment: by default `8g` in Docker mode, `8Gi` in Basilica mode; each has its own spelling."""
    max_timesteps: int = Field(default=500, ge=1, le=100_000)
    action_timeout: float = Field(default=0.5, gt=0)
    eval_timeout: float = Field(default=300.0, gt=0)
    use_images: bool = True
    miner_deployment_enabled: bool = True
    miner_hf_token: SecretStr | None = None
    miner_basilica_api_token: SecretStr | None = None
    """`BASILICA_API_TOKEN` when not set."""
    miner_deployment_ttl_seconds: float = Field(default=600.0, ge=0)
    miner_deployment_warmup_timeout: float = Field(default=300.0, gt=0)
    miner_deployment_image: str = "kinitro/miner-runner:v1"
    miner_deployment_gpu_count: int = Field(default=0, ge=0)
    miner_deployment_min_gpu_memory_gb: int | None = Field(default=None, ge=1)
    miner_deployment_cpu: float = Field(default=1.0, gt=0)
    miner_deployment_memory: str = "4Gi"
    miner_deployment_capacity: int = Field(default=8, ge=1)
    """Policy servers kept at once, in use or not; never fewer than `max_concurrent` needs."""
    snapshot_cache_gb: float = Field(default=50.0, gt=0)
    """Policies kept on disk; the least recently used make way."""
    records_url: str | None = None
    """Where the steps of episodes are kept, `file:///directory` or `s3://bucket/prefix`; in the database if not set."""
    shutdown_grace_seconds: float = Field(default=30.0, ge=0)
    """How long running episodes may go on after the request to end."""


class BuildSettings(ServiceSettings):
    """`KINITRO_BUILD_...`: what images are built from, where the usual places can't be reached."""

    model_config = SettingsConfigDict(env_prefix="KINITRO_BUILD_")

    base_image: str = "python:3.11-slim-bookworm"
    torch_index: str | None = None
    """`none` leaves torch out of the runner; the Dockerfile's own index when not set."""


class ValidatorSettings(ServiceSettings):
    """`KINITRO_VALIDATOR_...`"""

    model_config = SettingsConfigDict(env_prefix="KINITRO_VALIDATOR_")

    backend_url: str = DEFAULT_API_URL
    network: str = "finney"
    netuid: int = Field(default=1, ge=0, le=65535)
    wallet_name: str | None = None
    hotkey_name: str | None = None
    wallet_path: str | None = None
    """Without these three, btcli's own variables and defaults count."""
    poll_interval_seconds: float = Field(default=60.0, gt=0)
    refresh_blocks: int = Field(default=1000, ge=1)
    """Unchanged weights are set again after so many blocks (1000 are 3 h 20 min at 12 s); chains forget the silent."""
    recompute: bool = True
    version_key: int = Field(default=0, ge=0)
    """The subnet's weights version, where its owner demands one."""


class BtcliSettings(ServiceSettings):
    """`BT_...`: what btcli's users have set already."""

    model_config = SettingsConfigDict(env_prefix="BT_")

    wallet: str = "default"
    wallet_hotkey: str = "default"
    wallet_path: Path | None = None
    network: str = "finney"


class MinerSettings(ServiceSettings):
    """`KINITRO_MINER_...`: what the evaluator that a miner aims at uses, where it is not the default."""

    model_config = SettingsConfigDict(env_prefix="KINITRO_MINER_")

    action_timeout: float = Field(default=0.5, gt=0)
    warmup_timeout: float = Field(default=300.0, gt=0)
    eval_timeout: float = Field(default=300.0, gt=0)
    max_timesteps: int = Field(default=500, ge=1, le=100_000)
    time_budget_seconds: float = Field(default=3600.0, gt=0)
    episodes_per_env: int = Field(default=50, ge=1, le=10_000)
