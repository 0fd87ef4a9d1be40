"""Bare MuJoCo: the same physics and the same pictures, with nothing of ours. What bench/env.py compares to.

Usage: MUJOCO_GL=... python bench/env_bare.py FOLDER none|fast|full STEPS. FOLDER is what bench/env.py recorded.
"""

import sys
import time

import mujoco
import numpy as np

folder, pictures, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = mujoco.MjModel.from_binary_path(f"{folder}/model.mjb")
data = mujoco.MjData(model)
with np.load(f"{folder}/recorded.npz") as recorded:
    state, mocap, ctrl = (recorded[name] for name in ("state", "mocap", "ctrl"))
mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
model.vis.quality.offsamples = 0 if pictures == "fast" else 4
renderer = None if pictures == "none" else mujoco.Renderer(model, 84, 84)


def step(index: int) -> None:
    data.mocap_pos[:], data.ctrl[:] = mocap[index], ctrl[index]
    mujoco.mj_step(model, data, nstep=5)
    mujoco.mj_rnePostConstraint(model, data)
    mujoco.mj_forward(model, data)
    for camera in ("corner4", "topview") if renderer else ():
        renderer.update_scene(data, camera)
        if pictures == "fast":
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
            renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        renderer.render()


step(0)
wall, cpu = time.perf_counter(), time.process_time()
for index in range(1, steps):
    step(index)
print((time.perf_counter() - wall) / (steps - 1), (time.process_time() - cpu) / (steps - 1))
