"""What a control step costs: bare MuJoCo, our environment, and our episode with a policy server over the wire.

Run: python bench/env.py [--task reach-v3] [--rounds 3] (or `make bench-env`). Ends by itself in about a minute.
The lowest of the rounds counts: everything else is other programs on the machine. Graphics: osmesa, or KINITRO_GL.
"""

# ruff: noqa: PLC0415, SLF001 - kinitro is imported in the measured child alone; the reference needs MetaWorld's own step

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

STEPS = {"none": 400, "fast": 80, "full": 12}
NAMES = {
    "bare": "bare MuJoCo",
    "metaworld": "MetaWorld's own step (reward, success)",
    "ours": "our environment",
    "wire": "our episode, policy over HTTP",
}
PROGRAMS = {"none": tuple(NAMES), "fast": ("bare", "ours", "wire"), "full": ("bare", "ours")}
BARE = Path(__file__).with_name("env_bare.py")
NOOP = Path(__file__).parents[1] / "src/kinitro/demo/policies/noop/policy.py"
GL = os.environ.setdefault("KINITRO_GL", "osmesa")

Cost = tuple[float, float]
"""Wall and CPU seconds a step."""


def make(task: str, pictures: str):
    from kinitro.environments import EnvironmentOptions, build, find  # after KINITRO_GL, and not in the parent
    from kinitro.environments.base import RenderProfile

    profile = RenderProfile.FULL if pictures == "full" else RenderProfile.FAST
    options = EnvironmentOptions(images=pictures != "none", render_profile=profile)
    return build(find(f"metaworld/{task}"), options)


def actions(steps: int):
    from kinitro.policy.messages import Action

    random = np.random.default_rng(0)
    return [Action({"ee_twist": random.uniform(-1, 1, 6), "gripper": random.uniform(0, 1, 1)}) for _ in range(steps)]


def record(task: str, folder: str) -> None:
    """Leaves the model, the first state and every step's commands for the bare script to repeat."""
    import mujoco

    environment = make(task, "none")
    environment.reset(0)
    simulator = environment._simulator
    mujoco.mj_saveModel(simulator.model, f"{folder}/model.mjb")
    state, mocap, ctrl = simulator.state(), [], []
    for action in actions(STEPS["none"]):
        environment.step(action)
        mocap.append(simulator.data.mocap_pos.copy())
        ctrl.append(simulator.data.ctrl.copy())
    np.savez(f"{folder}/recorded.npz", state=state, mocap=mocap, ctrl=ctrl)


def metaworld(task: str, pictures: str, steps: int) -> Cost:
    """MetaWorld's own step: the same physics, its reward and its check for success."""
    environment = make(task, pictures)
    environment.reset(0)
    native, moves = environment._simulator._native, [environment.native_action(action) for action in actions(steps)]
    wall, cpu = time.perf_counter(), time.process_time()
    for move in moves:
        native.step(move)
    return (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps


def ours(task: str, pictures: str, steps: int) -> Cost:
    environment = make(task, pictures)
    environment.reset(0)
    moves = actions(steps)
    environment.step(moves[0])
    wall, cpu = time.perf_counter(), time.process_time()
    for move in moves[1:]:
        environment.step(move)
    cost = (time.perf_counter() - wall) / (steps - 1), (time.process_time() - cpu) / (steps - 1)
    environment.close()
    return cost


async def over_the_wire(task: str, pictures: str, steps: int) -> Cost:
    """One episode of the no-op policy; the server's own CPU is not counted, its waiting is."""
    from kinitro.environments.episode import EpisodeRequest, run_episode
    from kinitro.environments.stall import StallMonitor
    from kinitro.policy.client import PolicyClient
    from kinitro.policy.messages import TaskConfig

    environment = make(task, pictures)
    request = EpisodeRequest(TaskConfig(f"metaworld/{task}", "metaworld", task, 0, "bench"), 0, steps, 5.0, 300.0)
    with tempfile.TemporaryDirectory() as folder:
        async with policy_server(folder) as url, PolicyClient(url) as policy, StallMonitor() as monitor:
            await policy.health()
            environment.reset(0)
            wall, cpu = time.perf_counter(), time.process_time()
            outcome = await run_episode(environment, policy, request, monitor=monitor)
            cost = (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps
    environment.close()
    assert outcome.timesteps == steps, outcome
    return cost


def write_policy(folder: str) -> None:
    import kinitro.policy.server

    Path(folder, "server.py").write_text(Path(kinitro.policy.server.__file__).read_text())
    Path(folder, "policy.py").write_text(NOOP.read_text())


@asynccontextmanager
async def policy_server(folder: str) -> AsyncIterator[str]:
    from kinitro.errors import PolicyError
    from kinitro.policy.client import PolicyClient

    write_policy(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = asyncio.subprocess.DEVNULL
    server = await asyncio.create_subprocess_exec(
        sys.executable, "server.py", "--host", "127.0.0.1", "--port", str(port), cwd=folder, stderr=quiet
    )
    try:
        async with asyncio.timeout(30), PolicyClient(f"http://127.0.0.1:{port}") as client:
            while True:
                try:
                    await client.health()
                    break
                except PolicyError:
                    await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        await server.wait()


def child(task: str, kind: str, pictures: str, folder: str) -> Cost:
    """Measures in a process of its own, as one process holds one OpenGL library."""
    steps = str(STEPS[pictures])
    if kind == "bare":
        command = [sys.executable, str(BARE), folder, pictures, steps]
    else:
        command = [sys.executable, __file__, "--child", kind, pictures, "--task", task]
    environment = os.environ | {"MUJOCO_GL": GL}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    wall, cpu = done.stdout.split()
    return float(wall), float(cpu)


def table(task: str, rounds: int) -> None:
    print(f"`{task}`, {GL}, two cameras of 84 x 84; lowest of {rounds} rounds\n")
    print("| pictures | program | steps/s | wall ms | CPU ms | CPU ratio to bare |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--child", "record", folder, "--task", task], timeout=120, check=True)
        for pictures, programs in PROGRAMS.items():
            rows(task, pictures, programs, folder, rounds)


def rows(task: str, pictures: str, programs: tuple[str, ...], folder: str, rounds: int) -> None:
    # In turns, so that a busy minute of the machine falls on all of them.
    costs = [[child(task, kind, pictures, folder) for kind in programs] for _ in range(rounds)]
    lowest = np.array(costs).min(axis=0)
    for kind, (wall, cpu) in zip(programs, lowest, strict=True):
        ratio = cpu / lowest[0][1]
        figures = f"{1 / wall:.0f} | {wall * 1e3:.2f} | {cpu * 1e3:.2f} | {ratio:.2f}"
        print(f"| {pictures} | {NAMES[kind]} | {figures} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="reach-v3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.child:
        table(arguments.task, arguments.rounds)
        return
    kind, what = arguments.child
    if kind == "record":
        record(arguments.task, what)
    elif kind == "wire":
        print(*asyncio.run(over_the_wire(arguments.task, what, STEPS[what])))
    else:
        print(*{"ours": ours, "metaworld": metaworld}[kind](arguments.task, what, STEPS[what]))


if __name__ == "__main__":
    main()
