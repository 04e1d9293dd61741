"""The peers of `cargo xtask bench sim|fidelity|render`: MuJoCo and Gymnasium from PyPI. Prints one JSON object."""

import json
import os
import sys
import time

import mujoco
import numpy as np

SECONDS = 4.0


def gymnasium_speed(case, files):
    """Best of Gymnasium's vector environments, environment steps per second."""
    import gymnasium

    name = {"hopper": "Hopper-v5", "walker": "Walker2d-v5"}.get(case)

    def make():
        if name:
            return gymnasium.make(name)
        if case == "humanoid":
            return gymnasium.make("Humanoid-v5", xml_file=files[case], frame_skip=5, healthy_z_range=(0.5, 2.0))
        return gymnasium.make("Ant-v5", xml_file=files[case], frame_skip=5, healthy_z_range=(0.15, 1.0),
                              include_cfrc_ext_in_observation=False, reset_noise_scale=0.01)

    best = 0.0
    for kind in (gymnasium.vector.SyncVectorEnv, gymnasium.vector.AsyncVectorEnv):
        for count in (1, os.cpu_count(), 4 * os.cpu_count()):
            envs = kind([make] * count)
            envs.reset(seed=1)
            envs.action_space.seed(1)
            actions = [envs.action_space.sample() for _ in range(64)]
            for action in actions[:20]:
                envs.step(action)
            start, steps = time.perf_counter(), 0
            while time.perf_counter() - start < SECONDS / 4:
                for action in actions:
                    envs.step(action)
                steps += len(actions)
            best = max(best, steps * count / (time.perf_counter() - start))
            envs.close()
    return best


def rollout_speed(file, substeps, threads):
    """Environment steps per second of mujoco.rollout: physics alone, from the start, with random controls."""
    from mujoco import rollout

    model = mujoco.MjModel.from_xml_path(file)
    data = mujoco.MjData(model)
    if model.nkey:
        mujoco.mj_resetDataKeyframe(model, data, 0)
    state = np.zeros(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS))
    mujoco.mj_getState(model, data, state, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    count, length = 32 * threads, 100
    low, high = model.actuator_ctrlrange.T
    random = np.random.default_rng(1)
    control = random.uniform(-1, 1, (count, length, model.nu))
    if model.nkey:
        control = data.ctrl + 0.2 * control
    else:
        control = low + (high - low) * (control + 1) / 2
    control = np.repeat(control, substeps, axis=1)
    work = [mujoco.MjData(model) for _ in range(threads)]
    with rollout.Rollout(nthread=threads) as pool:
        pool.rollout(model, work, np.tile(state, (count, 1)), control)
        start, rounds = time.perf_counter(), 0
        while time.perf_counter() - start < SECONDS:
            pool.rollout(model, work, np.tile(state, (count, 1)), control)
            rounds += 1
        return rounds * count * length / (time.perf_counter() - start)


def speed(request):
    threads = request["threads"]
    files = {case["name"]: case["file"] for case in request["cases"]}
    return {
        case["name"]: {
            "gymnasium": gymnasium_speed(case["name"], files),
            "mujoco.rollout": rollout_speed(case["file"], case["substeps"], threads),
        }
        for case in request["cases"]
    }


def traces(request):
    """Positions after every control period under the controls of each case, and the time of a physics step."""
    out = {}
    for case in request["cases"]:
        model = mujoco.MjModel.from_xml_path(case["file"])
        model.opt.iterations, model.opt.ls_iterations = 100, 50
        data = mujoco.MjData(model)
        if model.nkey and case.get("keyframe"):
            mujoco.mj_resetDataKeyframe(model, data, 0)
        for name, value in case["start"].items():
            data.joint(name).qpos[0] = value
        joints = [data.joint(name) for name in case["joints"]]
        free = [j for j in range(model.njnt) if model.jnt_type[j] == mujoco.mjtJoint.mjJNT_FREE]
        motors = [
            next(a for a in range(model.nu) if model.actuator_trnid[a, 0] == model.joint(name).id)
            for name in case["driven"]
        ]
        # Controls of motors come as shares of their range.
        scale = model.actuator_ctrlrange[motors, 1] if case["scaled"] else 1.0
        rows = []
        start = time.perf_counter()
        for control in case["controls"]:
            data.ctrl[motors] = np.array(control) * scale
            mujoco.mj_step(model, data, case["substeps"])
            base = list(data.qpos[model.jnt_qposadr[free[0]]:][:7]) if free else [0.0] * 7
            rows.append([base, [float(j.qpos[0]) for j in joints]])
        spent = time.perf_counter() - start
        out[case["name"]] = {"rows": rows, "step_us": 1e6 * spent / len(rows) / case["substeps"]}
    return out


def render(request):
    """Frames per second of MuJoCo's off-screen renderer on this processor."""
    out = {}
    for case in request["cases"]:
        model = mujoco.MjModel.from_xml_path(case["file"])
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        camera = mujoco.MjvCamera()
        camera.lookat[:] = case["target"]
        camera.distance = case["distance"]
        camera.azimuth, camera.elevation = 90.0, -20.0
        renderer = mujoco.Renderer(model, 64, 64)
        renderer.update_scene(data, camera)
        renderer.render()
        start, frames = time.perf_counter(), 0
        while time.perf_counter() - start < SECONDS:
            renderer.update_scene(data, camera)
            renderer.render()
            frames += 1
        out[case["name"]] = frames / (time.perf_counter() - start)
        renderer.close()
    return out


def assets(_):
    import gymnasium

    return os.path.join(os.path.dirname(gymnasium.__file__), "envs", "mujoco", "assets")


if __name__ == "__main__":
    work = {"speed": speed, "traces": traces, "render": render, "assets": assets}[sys.argv[1]]
    print(json.dumps(work(json.load(sys.stdin))))
