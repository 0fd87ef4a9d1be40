"""A machine of the tests' own: services as real processes, in a home of their own, with their output in its logs."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

COMMAND = (sys.executable, "-m", "kinitro")


@dataclass
class Machine:
    """What runs on it, by name. `stop` ends them in the order of `order`."""

    home: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    order: Sequence[str] = ("executor", "scheduler", "api")
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(
        self,
        name: str,
        *arguments: str,
        command: Sequence[str] = COMMAND,
        variables: Mapping[str, str] | None = None,
        **options: object,
    ) -> None:
        """Starts `command` with these arguments; `options` are those of `subprocess.Popen`."""
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [*command, *arguments],
                env={**os.environ, "KINITRO_HOME": str(self.home), **self.variables, **(variables or {})},
                stdout=log,
                stderr=log,
                **({"cwd": self.home} | options),
            )

    def kill(self, name: str) -> None:
        self.running[name].send_signal(signal.SIGKILL)
        self.running.pop(name).wait()

    def stop(self) -> None:
        for name in self.order:
            if name in self.running:
                self.running[name].terminate()
        for process in self.running.values():
            process.wait(timeout=60)

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.home.glob("*.log")))
