"""Exports made from tables of outcomes, for every test of scoring."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from kinitro.schemas import CycleExport, ExportEpisode, ExportHistory, ExportMiner, RuleOut
from kinitro.scoring.seeds import episode_seed, policy_seed
from kinitro.types import MinerState

SALT = bytes(range(32))
BLOCK_HASH = "0x" + "11" * 32

Table = NDArray[np.bool_]
MakeExport = Callable[..., CycleExport]


def build_export(
    success: Mapping[int, Table],
    *,
    evaluated: Mapping[int, Table] | None = None,
    earlier: Sequence[Mapping[int, Table]] = (),
    places: Mapping[int, int | None] | None = None,
    states: Mapping[int, MinerState] | None = None,
    rule: RuleOut | None = None,
) -> CycleExport:
    """An export of `success` (uid to (environment, episode)); earlier cycles alike, all evaluated."""
    shape = next((table.shape for table in success.values()), (1, 1))
    environments = [f"sim/task-{e}" for e in range(shape[0])]
    everything = np.ones(shape, dtype=bool)
    ran = {uid: (evaluated or {}).get(uid, everything) for uid in success}
    miners = [_miner(uid, (places or {}).get(uid, uid + 1), (states or {}).get(uid)) for uid in success]
    episodes = [
        _episode(uid, env_id, i, bool(success[uid][e, i]) if ran[uid][e, i] else None)
        for uid in success
        for e, env_id in enumerate(environments)
        for i in range(shape[1])
    ]
    history = [
        ExportHistory(
            cycle_id=number,
            env_id=env_id,
            episodes=next(iter(cycle.values())).shape[1],
            evaluated={uid: _hex(np.ones_like(table[e])) for uid, table in cycle.items()},
            success={uid: _hex(table[e]) for uid, table in cycle.items()},
        )
        for number, cycle in enumerate(earlier, start=1)
        for e, env_id in enumerate(environments)
    ]
    return CycleExport(
        format=1,
        cycle_id=len(earlier) + 1,
        status="completed",
        block_number=100,
        target_block=103,
        block_hash=BLOCK_HASH,
        salt=SALT.hex(),
        salt_sha256=hashlib.sha256(SALT).hexdigest(),
        netuid=1,
        genesis="0x" + "00" * 32,
        episodes_per_env=shape[1],
        rule=rule or RuleOut(),
        environments=environments,
        miners=miners,
        episodes=episodes,
        history=history,
    )


def hotkey(uid: int) -> str:
    return f"5Hotkey{uid}"


def _miner(uid: int, place: int | None, state: MinerState | None) -> ExportMiner:
    return ExportMiner(
        uid=uid,
        hotkey=hotkey(uid),
        repo=f"user/policy-{uid}",
        revision=f"{uid:040x}",
        committed_block=uid,
        place=place,
        state=state or MinerState.EVALUATED,
    )


def _episode(uid: int, env_id: str, index: int, success: bool | None) -> ExportEpisode:
    return ExportEpisode(
        uid=uid,
        env_id=env_id,
        index=index,
        seed=episode_seed(SALT, BLOCK_HASH, env_id, index),
        policy_seed=policy_seed(SALT, hotkey(uid), env_id, index),
        success=success,
        score=None if success is None else float(success),
        total_reward=None if success is None else 2.0 * success,
        timesteps=None if success is None else 10,
        error="host lost" if success is None else None,
        error_kind="infrastructure" if success is None else None,
        tree_digest=f"sha256:{uid:064x}",
    )


def _hex(flags: Table) -> str:
    return np.packbits(flags, bitorder="little").tobytes().hex()


@pytest.fixture
def make_export() -> MakeExport:
    return build_export
