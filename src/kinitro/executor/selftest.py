"""Can this executor run an episode at all? A few steps in each family's environment with a policy of its own."""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from kinitro.backends.base import Backend, LaunchSpec, Limits, Role, Running
from kinitro.deployments import SnapshotStore
from kinitro.deployments.readiness import until_ready
from kinitro.environments.base import EnvironmentSpec
from kinitro.environments.protocol import EvaluateRequest
from kinitro.environments.workers import EnvironmentWorkers
from kinitro.errors import EnvironmentFault, InfrastructureError, PolicyError
from kinitro.executor.episodes import check_version
from kinitro.executor.link import ApiLink
from kinitro.policy import server as policy_server

_POLICY = '''"""Commands nothing."""


class Policy:
    needs_images = False

    def reset(self, task, seed):
        return None

    def act(self, obs, state):
        return {"continuous": {}}
'''
_STEPS = 5
_TIMEOUT_S = 60.0


class SelfTest:
    """Passes when the API answers, a policy can be started and an environment of each family can be stepped."""

    def __init__(
        self,
        backend: Backend,
        workers: EnvironmentWorkers,
        link: ApiLink,
        store: SnapshotStore,
        environments: Sequence[EnvironmentSpec],
        python: str = sys.executable,
    ) -> None:
        self._backend = backend
        self._workers = workers
        self._link = link
        self._store = store
        self._env_ids = list({spec.family: spec.env_id for spec in reversed(environments)}.values())
        self._versions = {spec.env_id: spec.version for spec in environments}
        self._python = python

    async def run(self, suspect: str) -> None:
        """Raises a `KinitroError` that says what does not work. `suspect` is the kind of fault that led here."""
        await self._link.check()
        if suspect.startswith("hub_"):
            await self._store.check()
        try:
            await self._run_in_scratch()
        except OSError as error:
            raise InfrastructureError(
                f"The self-test can't write its policy or start it: {error}.",
                code="selftest",
                advice="Free some disk space in the folder for temporary files, or set TMPDIR.",
            ) from error

    async def _run_in_scratch(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="kinitro-selftest-"))
        try:
            (folder / "policy.py").write_text(_POLICY)
            shutil.copy(policy_server.__file__, folder / "server.py")
            await self._run_episodes(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _run_episodes(self, folder: Path) -> None:
        command = (self._python, "server.py", "--host", "{host}", "--port", "{port}")
        running = await self._backend.launch(
            LaunchSpec("The self-test's policy", Role.POLICY, command, folder, limits=Limits(cpus=1.0))
        )
        try:
            await until_ready(running, _TIMEOUT_S)
            for env_id in self._env_ids:
                await self._run_episode(env_id, running)
        except PolicyError as error:
            raise EnvironmentFault(f"The self-test's own policy failed: {error}", code="selftest") from error
        finally:
            await running.stop(0.5)

    async def _run_episode(self, env_id: str, policy: Running) -> None:
        request = EvaluateRequest(
            task_id=str(uuid4()),
            seed=1,
            policy_seed=1,
            base_url=policy.url,
            env_id=env_id,
            max_timesteps=_STEPS,
            action_timeout=5.0,
            use_images=False,
            timeout=_TIMEOUT_S,
            authorization=policy.authorization,
        )
        async with self._workers.lease(env_id, policy) as server:
            reply = await server.evaluate(request, 2 * _TIMEOUT_S)
        if reply.error is not None:
            raise EnvironmentFault(f"The self-test failed in {env_id}: {reply.error}", code="selftest")
        check_version(reply, self._versions.get(env_id))
