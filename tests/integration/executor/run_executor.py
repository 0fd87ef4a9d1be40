"""An executor as a process of its own, in the line world: `python run_executor.py SWITCHES`."""

import sys
from pathlib import Path

from kinitro.cli.common import LogLevel, configure, run_service
from kinitro.executor import build_executor
from kinitro.settings import ExecutorSettings
from kinitro.testing.line_world import LINE_REACH

SERVER = (sys.executable, str(Path(__file__).with_name("line_server.py")), "{host}", "{port}", sys.argv[1])


async def run() -> None:
    settings = ExecutorSettings.load(eval_mode="process")
    async with build_executor(settings, environments=(LINE_REACH,), environment_server=SERVER) as executor:
        await executor.run()


configure(LogLevel.INFO)
run_service(run)
