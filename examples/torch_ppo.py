"""Proximal policy optimization in torch on a pole that is balanced, with torch's optimizer and with fastopt's, in turns.

    python examples/torch_ppo.py [--rounds 8] [--small]

Two networks of 64-64, minibatches of 64: the update spends more time around its products than in them.
Schulman, Wolski, Dhariwal, Radford & Klimov 2017, arXiv:1707.06347.  The pole: Barto, Sutton & Anderson 1983.
"""

import argparse
import statistics
import time

import torch
from torch import nn

import fastopt.torch


class Poles:
    """Many carts with a pole each; a reward of 1 for each step in which the pole stands."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.generator = generator
        self.state = self._fresh(count)
        self.age = torch.zeros(count)

    def _fresh(self, count: int) -> torch.Tensor:
        return torch.rand(count, 4, generator=self.generator) * 0.1 - 0.05

    def step(self, action: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The states after an action, and whether the episode ended; those begin anew."""
        x, v, angle, spin = self.state.T
        push = (action * 20.0 - 10.0 + 0.05 * spin**2 * angle.sin()) / 1.1
        turn = (9.8 * angle.sin() - angle.cos() * push) / (0.5 * (4 / 3 - 0.1 * angle.cos() ** 2 / 1.1))
        pull = push - 0.05 * turn * angle.cos() / 1.1
        self.state = torch.stack([x + 0.02 * v, v + 0.02 * pull, angle + 0.02 * spin, spin + 0.02 * turn], 1)
        self.age += 1
        done = (self.state[:, 0].abs() > 2.4) | (self.state[:, 2].abs() > 0.21) | (self.age >= 500)
        self.state = torch.where(done[:, None], self._fresh(len(done)), self.state)
        self.age[done] = 0
        return self.state, done


class Agent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = (
            nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, n)) for n in (2, 1)
        )


class Run:
    def __init__(self, fast: bool, carts: int, length: int) -> None:
        torch.manual_seed(0)
        self.fast, self.length, self.generator = fast, length, torch.Generator().manual_seed(1)
        self.agent, self.poles = Agent(), Poles(carts, self.generator)
        if fast:
            self.optimizer = fastopt.torch.optim.Adam(self.agent.parameters(), lr=1e-3, eps=1e-5)  # one line
        else:
            self.optimizer = torch.optim.Adam(self.agent.parameters(), lr=1e-3, eps=1e-5, fused=True)

    @torch.no_grad()
    def play(self) -> tuple[list[torch.Tensor], float]:
        """Steps of all carts: states, actions, their log probabilities, advantages and returns; and the mean length of episodes."""
        seen, episodes = [], 0
        for _ in range(self.length):
            state = self.poles.state
            chances = self.agent.actor(state).log_softmax(1)
            action = torch.multinomial(chances.exp(), 1, generator=self.generator)
            _, done = self.poles.step(action[:, 0].float())
            seen.append((state, action, chances.gather(1, action), self.agent.critic(state)[:, 0], done.float()))
            episodes += int(done.sum())
        states, actions, chances, values, dones = (torch.stack(one) for one in zip(*seen, strict=True))
        following, advantage, advantages = (
            self.agent.critic(self.poles.state)[:, 0],
            torch.zeros(len(self.poles.age)),
            [],
        )
        for t in reversed(range(self.length)):
            error = 1 + 0.99 * following * (1 - dones[t]) - values[t]
            advantage = error + 0.99 * 0.95 * advantage * (1 - dones[t])
            advantages.append(advantage)
            following = values[t]
        advantages = torch.stack(advantages[::-1])
        rows = [one.flatten(0, 1) for one in (states, actions, chances, advantages, advantages + values)]
        return rows, states[..., 0].numel() / max(episodes, 1)

    def update(self, rows: list[torch.Tensor]) -> None:
        for _ in range(4):
            for some in torch.randperm(len(rows[0]), generator=self.generator).split(64):
                states, actions, chances, advantages, returns = (one[some] for one in rows)
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
                new = self.agent.actor(states).log_softmax(1)
                ratio = (new.gather(1, actions) - chances).exp()[:, 0]
                gain = torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
                entropy = -(new.exp() * new).sum(1).mean()
                loss = 0.5 * (self.agent.critic(states)[:, 0] - returns).square().mean() - gain - 0.01 * entropy
                self.optimizer.zero_grad()
                loss.backward()
                if self.fast:
                    self.optimizer.step(clip_norm=0.5)  # and clipping is part of the step
                else:
                    nn.utils.clip_grad_norm_(self.agent.parameters(), 0.5)
                    self.optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="8, or 3 if small")
    parser.add_argument("--small", action="store_true", help="an eighth of the steps")
    args = parser.parse_args()
    carts, length = (8, 32) if args.small else (16, 128)
    runs = {"torch": Run(False, carts, length), "fastopt": Run(True, carts, length)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(1, (args.rounds or (3 if args.small else 8)) + 1):
        lengths = {}
        for name, run in runs.items():
            rows, lengths[name] = run.play()
            begin = time.perf_counter()
            run.update(rows)
            times[name].append(time.perf_counter() - begin)
        print(
            f"round {number}: " + ", ".join(f"{name} episodes of {steps:.0f} steps" for name, steps in lengths.items())
        )
    medians = {name: statistics.median(some) for name, some in times.items()}
    print(", ".join(f"{name} {1e3 * median:.0f} ms an update" for name, median in medians.items()), end="; ")
    print(f"{medians['torch'] / medians['fastopt']:.2f} times as fast")


if __name__ == "__main__":
    main()
