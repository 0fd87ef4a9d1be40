"""Which checks a role has, and which roles this machine is configured for."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from pydantic import SecretStr

from kinitro.chain import HotkeyName
from kinitro.doctor import containers, machine, outside, services
from kinitro.doctor.findings import Check, Finding, Role
from kinitro.environments import registry
from kinitro.settings import ApiSettings, ExecutorSettings, SchedulerSettings, ValidatorSettings
from kinitro.types import EvalMode

_SLOW_S = 60.0


@dataclass(frozen=True)
class MinerSubject:
    """What a miner's commands would use. A `netuid` of None was not given."""

    network: str
    netuid: int | None
    hotkey: HotkeyName


@dataclass(frozen=True)
class Subjects:
    """Everything that is looked at, as the services would read it. `configured` are the roles that somebody set up."""

    miner: MinerSubject
    executor: ExecutorSettings
    scheduler: SchedulerSettings
    api: ApiSettings
    validator: ValidatorSettings
    validator_hotkey: HotkeyName
    configured: frozenset[Role]


def checks_of(role: Role, subjects: Subjects) -> Sequence[Check]:
    """Every check of a role."""
    plan: Callable[[Subjects], Sequence[Check]] = {
        Role.MACHINE: _machine,
        Role.MINER: _miner,
        Role.EXECUTOR: _executor,
        Role.SCHEDULER: _scheduler,
        Role.API: _api,
        Role.VALIDATOR: _validator,
    }[role]
    return plan(subjects)


def _machine(_: Subjects) -> list[Check]:
    return [
        Check("Python", machine.python),
        Check("Disk", machine.disk),
        Check("Rendering", partial(machine.rendering, needed=False), _SLOW_S),
        Check("Docker", _engine),
        Check("Clock", partial(outside.clock, outside.hub_url())),
    ]


def _miner(subjects: Subjects) -> list[Check]:
    miner = subjects.miner
    look = outside.ChainLook(miner.network, miner.netuid, miner.hotkey)
    return [
        _extras("hub", "metaworld", *_chain_extra(miner.network)),
        Check("Hub", outside.publishing),
        Check("Chain", look.run, _SLOW_S),
    ]


def _executor(subjects: Subjects) -> list[Check]:
    settings = subjects.executor
    variable, anonymous = "KINITRO_EXECUTOR_MINER_HF_TOKEN", "so public repos only, and lower limits"
    return [
        *_mode(settings),
        Check("API", partial(outside.api, settings.api_url, settings.api_key, works=True)),
        Check("Clock", partial(outside.clock, f"{settings.api_url}/health")),
        Check("Hub", partial(outside.hub, settings.miner_hf_token, variable, without=anonymous)),
        Check("Disk", partial(machine.disk, wanted_gb=min(settings.snapshot_cache_gb, 10.0))),
    ]


def _mode(settings: ExecutorSettings) -> list[Check]:
    families = (spec.family for spec in registry.served_by(settings.env_families))
    images = registry.images_of(families, settings.eval_images)
    match settings.eval_mode:
        case EvalMode.DOCKER:
            return [_extras("hub", "docker"), Check("Docker", partial(containers.docker, settings, images), _SLOW_S)]
        case EvalMode.PROCESS:
            drawing = partial(machine.rendering, needed=settings.use_images)
            return [_extras("hub", "metaworld"), Check("Rendering", drawing, _SLOW_S)]
        case EvalMode.BASILICA:
            return [_extras("hub", "basilica"), Check("Basilica", partial(outside.basilica, settings))]


def _scheduler(subjects: Subjects) -> list[Check]:
    settings = subjects.scheduler
    look = outside.ChainLook(settings.network, settings.netuid)
    checks = [
        _extras("server", *_chain_extra(settings.network), *(["hub"] if settings.network != "dev" else [])),
        Check("Database", partial(services.database, settings.database_url, look), _SLOW_S),
        Check("Chain", look.run, _SLOW_S),
    ]
    if settings.network == "dev":
        return checks
    token = settings.hf_token or SecretStr(os.environ.get("HF_TOKEN", ""))
    anonymous = "so the hub's lower limits"
    return [*checks, Check("Hub", partial(outside.hub, token, "KINITRO_SCHEDULER_HF_TOKEN", without=anonymous))]


def _api(subjects: Subjects) -> list[Check]:
    return [
        _extras("server"),
        Check("Database", partial(services.database, subjects.api.database_url), _SLOW_S),
        Check("Port", partial(services.listening, subjects.api)),
    ]


def _validator(subjects: Subjects) -> list[Check]:
    settings = subjects.validator
    look = outside.ChainLook(settings.network, settings.netuid, subjects.validator_hotkey, validates=True)
    return [
        _extras(*_chain_extra(settings.network)),
        Check("Chain", look.run, _SLOW_S),
        Check("Backend", partial(outside.backend, settings.backend_url, look), _SLOW_S),
        Check("Clock", partial(outside.clock, f"{settings.backend_url}/health")),
    ]


def _chain_extra(network: str) -> list[str]:
    return [] if network == "dev" else ["chain"]


def _extras(*names: str) -> Check:
    async def look() -> list[Finding]:
        return [machine.extras(names)]

    return Check("Packages", look)


async def _engine() -> list[Finding]:
    return [await containers.engine_answers()]
