"""One machine with the three services of a production one."""

import asyncio
import time
from dataclasses import dataclass

from kinitro.client import KinitroClient
from kinitro.demo import NETUID
from kinitro.errors import ApiError, ApiUnreachable
from kinitro.schemas import CycleOut, TaskStats

from ..machine import Machine  # noqa: TID252 - one machine for all tests

LEASE_S = 3


@dataclass
class EvaluationMachine(Machine):
    """A machine with the three services of a production one; the short leases and episodes are the tests'."""

    port: int = 0
    environment: str = ""
    episodes: int = 1
    eval_mode: str = "process"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start_service(self, name: str) -> None:
        arguments = {
            "api": ("--port", str(self.port)),
            "scheduler": (
                *("--network", "dev", "--netuid", str(NETUID), "--eval-interval", "3600"),
                *("--episodes-per-env", str(self.episodes), "--environments", self.environment),
            ),
            "executor": (
                *("--api-url", self.url, "--eval-mode", self.eval_mode, "--poll-interval", "0.3"),
                *("--executor-id", f"executor-{time.monotonic_ns()}", "--batch-size", "4"),
            ),
        }
        short = {
            "KINITRO_API_TASK_LEASE_SECONDS": str(LEASE_S),
            "KINITRO_SCHEDULER_TASK_MAX_ATTEMPTS": "6",
            "KINITRO_EXECUTOR_MAX_TIMESTEPS": "80",
        }
        self.start(name, name, *arguments[name], variables=short | dict(self.variables))


async def stats(client: KinitroClient) -> TaskStats | None:
    try:
        return await client.stats()
    except (ApiError, ApiUnreachable):
        return None


async def until_closed(client: KinitroClient, at_least: int) -> int:
    """Waits until so many tasks have a verdict; returns how many have."""
    while True:
        now = await stats(client)
        if now is not None and now.completed_tasks >= at_least:
            return now.completed_tasks
        await asyncio.sleep(0.1)


async def until_completed(client: KinitroClient) -> CycleOut:
    while True:
        try:
            last = (await client.status()).last_completed_cycle
        except (ApiError, ApiUnreachable):
            last = None
        if last is not None:
            return last
        await asyncio.sleep(0.2)
