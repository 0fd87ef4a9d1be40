"""An executor in Basilica mode as a process of its own, in the line world."""

import sys

import typer

from kinitro.cli.common import LogLevel, configure, run_service
from kinitro.executor import build_executor
from kinitro.settings import ExecutorSettings
from kinitro.testing.line_world import LINE_REACH


async def run() -> None:
    async with build_executor(ExecutorSettings.load(eval_mode="basilica"), environments=(LINE_REACH,)) as executor:
        await executor.run()


configure(LogLevel.INFO)
try:
    run_service(run)
except typer.Exit as end:
    sys.exit(end.exit_code)
