"""PPO of Stable-Baselines3 on Gymnasium until the mean return of the last episodes reaches a goal.

usage: sb3.py ENVIRONMENT SETTINGS.toml GOAL EPISODES SEED [--sde]
Settings are those of tendon_learn's PPO. Prints one line of JSON.
"""
import json, sys, time, tomllib

import gymnasium
import numpy as np
import stable_baselines3
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

name, file, goal, episodes, seed = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
sde = "--sde" in sys.argv
torch.set_num_threads(1)
with open(file, "rb") as text:
    s = tomllib.load(text)


class UntilReached(BaseCallback):
    """Looks after every rollout, as tendon does."""

    def __init__(self):
        super().__init__()
        self.returns, self.reached = [], False

    def _on_step(self):
        self.returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
        return not self.reached

    def _on_rollout_end(self):
        last = self.returns[-episodes:]
        self.reached = len(last) == episodes and np.mean(last) >= goal
        self.steps = self.num_timesteps
        self.at = (time.time(), time.process_time())


environment = make_vec_env(name, n_envs=s["environments"], seed=seed)
if s["normalise_observations"] or s["scale_rewards"]:
    environment = VecNormalize(
        environment, norm_obs=s["normalise_observations"], norm_reward=s["scale_rewards"], gamma=s["discount"]
    )
rows = s["environments"] * s["rollout_steps"]
model = PPO(
    "MlpPolicy",
    environment,
    n_steps=s["rollout_steps"],
    batch_size=rows // s["minibatches"],
    n_epochs=s["epochs"],
    learning_rate=s["learning_rate"],
    gamma=s["discount"],
    gae_lambda=s["gae_lambda"],
    clip_range=s["clip"],
    ent_coef=s["entropy_weight"],
    vf_coef=s["value_weight"],
    max_grad_norm=s["max_gradient_norm"],
    use_sde=sde,
    sde_sample_freq=4 if sde else -1,
    policy_kwargs={"net_arch": s["hidden"], "log_std_init": float(np.log(s["initial_std"]))},
    seed=seed,
    device="cpu",
)
callback = UntilReached()
start = (time.time(), time.process_time())
model.learn(s["total_steps"], callback=callback)
print(
    json.dumps(
        {
            "peer": f"stable-baselines3 {stable_baselines3.__version__}{' gSDE' if sde else ''}",
            "environment": name,
            "seed": seed,
            "reached": bool(callback.reached),
            "steps": callback.steps,
            "wall_s": callback.at[0] - start[0],
            "cpu_s": callback.at[1] - start[1],
            "mean_return": float(np.mean(callback.returns[-episodes:])),
        }
    ),
    flush=True,
)
