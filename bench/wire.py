"""What one action costs on the wire: our client against the alternatives, then whole steps of our client and server.

Run: python bench/wire.py [--calls N]. Starts one policy server on loopback and ends by itself in under a minute.
"""

import argparse
import asyncio
import json
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpcore
import httpx
import numpy as np

import kinitro.policy.server
from kinitro.errors import PolicyError
from kinitro.policy.client import PolicyClient
from kinitro.policy.codec import ActionSpace, WireFormat, decode_action, encode_act
from kinitro.policy.messages import Observation, TaskConfig

POLICY = """
class Policy:
    needs_images = False
    def reset(self, task, seed):
        return None
    def act(self, obs, state):
        return {"continuous": {"ee_twist": [0.1] * 6, "gripper": [0.5]}}
"""
SPACE = ActionSpace({"ee_twist": 6, "gripper": 1})
TASK = TaskConfig("bench/wire", "bench", "wire", 1, "t")
REPLY = json.dumps({"action": {"continuous": {"ee_twist": [0.1] * 6, "gripper": [0.5]}}}).encode()


def observation(numbers: int, images: int) -> Observation:
    rng = np.random.default_rng(0)
    return Observation(
        {"ee_pos": rng.normal(size=3), "joint_pos": rng.normal(size=numbers)},
        rgb={f"camera{i}": rng.integers(0, 256, (84, 84, 3), dtype=np.uint8) for i in range(images)},
    )


async def timed(name: str, call: Callable[[], Awaitable[object]], calls: int) -> None:
    for _ in range(30):
        await call()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        await call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"| {name} | {wall / calls * 1e6:.0f} | {cpu / calls * 1e6:.0f} |", flush=True)


async def clients(url: str, calls: int) -> None:
    print(
        "\nOne `POST /act` of 2 KB JSON, microseconds a call\n\n| client | wall | client's CPU |\n| --- | --- | --- |"
    )
    seen = observation(90, 0)
    headers = {"Content-Type": "application/json"}
    async with PolicyClient(url) as ours:
        await ours.reset(TASK)
        body = encode_act(seen, ours.episode_id or "", WireFormat.JSON)
        await timed("ours (h11 on asyncio streams)", lambda: ours.act(seen, SPACE, 5.0), calls)
    async with httpcore.AsyncConnectionPool() as pool:
        await timed("httpcore", lambda: pool.request("POST", f"{url}/act", content=body, headers=headers), calls)
    async with httpx.AsyncClient(trust_env=False) as http:
        await timed("httpx", lambda: http.post(f"{url}/act", content=body, headers=headers), calls)


async def steps(url: str, calls: int) -> None:
    print("\nOne step, microseconds\n\n| observation, format | wall | client's CPU |\n| --- | --- | --- |")
    for images in (0, 2):
        for wire in WireFormat:
            async with PolicyClient(url) as policy:
                if wire is WireFormat.MSGPACK:
                    await policy.health()
                await policy.reset(TASK)
                seen = observation(20, images)
                await timed(f"{images} images, {wire.value}", lambda p=policy, s=seen: p.act(s, SPACE, 5.0), calls)


def codec(calls: int) -> None:
    print("\nCodec alone, microseconds\n\n| what | time |\n| --- | --- |")
    seen = observation(20, 2)
    for name, work in (
        ("encode 2 images, json", lambda: encode_act(seen, "e", WireFormat.JSON)),
        ("encode 2 images, msgpack", lambda: encode_act(seen, "e", WireFormat.MSGPACK)),
        ("decode an action, json", lambda: decode_action(REPLY, WireFormat.JSON, SPACE)),
    ):
        started = time.perf_counter()
        for _ in range(calls):
            work()
        print(f"| {name} | {(time.perf_counter() - started) / calls * 1e6:.0f} |")


async def ready(url: str) -> None:
    while True:
        async with PolicyClient(url) as client:
            try:
                await client.health()
            except PolicyError:
                await asyncio.sleep(0.01)
            else:
                return


def write_policy(folder: str) -> None:
    Path(folder, "server.py").write_text(Path(kinitro.policy.server.__file__).read_text())
    Path(folder, "policy.py").write_text(POLICY)


async def run(calls: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        write_policy(folder)
        started = time.perf_counter()
        server = await asyncio.create_subprocess_exec(
            sys.executable, "server.py", "--port", str(port), cwd=folder, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(30):
                await ready(f"http://127.0.0.1:{port}")
            print(f"Policy server ready in {time.perf_counter() - started:.2f} s")
            await clients(f"http://127.0.0.1:{port}", calls)
            await steps(f"http://127.0.0.1:{port}", calls)
            codec(calls)
        finally:
            server.kill()
            await server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1500)
    asyncio.run(run(parser.parse_args().calls))


if __name__ == "__main__":
    main()
