"""stable-baselines3's agents: python sb3.py ppo|sac|dqn STEPS prints the seconds of learn()."""

import sys
import time

import torch
from stable_baselines3 import DQN, PPO, SAC

torch.set_num_threads(2)
kind, steps = sys.argv[1], int(sys.argv[2])
if kind == "ppo":
    agent = PPO("MlpPolicy", "CartPole-v1", seed=0, device="cpu")
elif kind == "sac":
    agent = SAC("MlpPolicy", "Pendulum-v1", seed=0, device="cpu")
else:
    agent = DQN("MlpPolicy", "CartPole-v1", seed=0, device="cpu", learning_starts=100, train_freq=1)
begin = time.perf_counter()
agent.learn(steps)
print("seconds", time.perf_counter() - begin)
