"""One machine with the three services of a production one."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kinitro.client import KinitroClient
from kinitro.demo import NETUID
from kinitro.errors import ApiError, ApiUnreachable
from kinitro.schemas import CycleOut, TaskStats

LEASE_S = 3


@dataclass
class Machine:
    """In a home of its own. `settings` are variables of its services."""

    home: Path
    port: int
    environment: str
    episodes: int
    eval_mode: str = "process"
    settings: Mapping[str, str] = field(default_factory=dict)
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, name: str) -> None:
        commands = {
            "api": ["api", "--port", str(self.port)],
            "scheduler": [
                *("scheduler", "--network", "dev", "--netuid", str(NETUID), "--eval-interval", "3600"),
                *("--episodes-per-env", str(self.episodes), "--environments", self.environment),
            ],
            "executor": [
                *("executor", "--api-url", self.url, "--eval-mode", self.eval_mode, "--poll-interval", "0.3"),
                *("--executor-id", f"executor-{time.monotonic_ns()}", "--batch-size", "4"),
            ],
        }
        environment = {
            **os.environ,
            "KINITRO_HOME": str(self.home),
            "KINITRO_API_TASK_LEASE_SECONDS": str(LEASE_S),
            "KINITRO_SCHEDULER_TASK_MAX_ATTEMPTS": "6",
            "KINITRO_EXECUTOR_MAX_TIMESTEPS": "80",
            **self.settings,
        }
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "kinitro", *commands[name]],
                cwd=self.home,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def kill(self, name: str) -> None:
        self.running[name].send_signal(signal.SIGKILL)
        self.running.pop(name).wait()

    def stop(self) -> None:
        for name in ("executor", "scheduler", "api"):
            if name in self.running:
                self.running[name].terminate()
        for process in self.running.values():
            process.wait(timeout=40)

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.home.glob("*.log")))


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
