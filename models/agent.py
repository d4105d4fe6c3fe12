"""An agent: V, M and C together, from a frame to an action."""

from pathlib import Path

import torch
from torch import Tensor

from models.controller import Controller, ControllerConfig, action_vector
from models.mdrnn import MDRNN, MDRNNConfig
from models.vae import VAE, VAEConfig, to_float, to_uint8
from utils import checkpoint


def load_vae(logdir: Path, device: torch.device) -> tuple[VAE, dict]:
    """V of a run, frozen, and its checkpoint."""
    saved = checkpoint.load_parent(logdir, "vae")
    vae = VAE(VAEConfig(**saved["config"]))
    vae.load_state_dict(saved["model"])
    return vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False), saved


def load_models(logdir: Path, device: torch.device) -> tuple[VAE, MDRNN, dict, dict | None, dict[str, str]]:
    """V and M of a run, frozen; the world they model; where dreams start; and the digests of both. UserError if M was trained on another V."""
    vae, saved_vae = load_vae(logdir, device)
    saved = checkpoint.load_parent(logdir, "mdrnn")
    checkpoint.check_parents(saved, {"vae": saved_vae["digest"]}, checkpoint.path(logdir, "mdrnn"), "mdrnn")
    mdrnn = MDRNN(MDRNNConfig(**saved["config"]))
    mdrnn.load_state_dict(saved["model"])
    return vae, mdrnn.to(device).eval().requires_grad_(False), saved_vae["world"], saved["starts"], {"vae": saved_vae["digest"], "mdrnn": saved["digest"]}


def load_agent(logdir: Path, controller: str = "ctrl", device: str | torch.device = "cpu") -> "Agent":
    """The agent of a run with its evolved ("ctrl") or cloned ("bc") controller."""
    device = torch.device(device)
    vae, mdrnn, world, _, parents = load_models(logdir, device)
    saved = checkpoint.load_parent(logdir, controller)
    checkpoint.check_parents(saved, parents, checkpoint.path(logdir, controller), controller)
    head = Controller(ControllerConfig(**saved["config"]))
    head.load_state_dict(saved["model"])
    return Agent(vae, mdrnn, head.to(device).eval(), world, {**parents, controller: saved["digest"]})


class Agent:
    """B copies of (V, M, C): sees frames, remembers, acts. z is the posterior's mean, so that the same frames give the same actions.

    Attributes:
        world: env, image_shape, action_space, dt and max_steps it was made for
        parents: digests of its checkpoints
        z: (B, Z) latent of the last frame        h: (B, R) M's output before that frame
    """

    def __init__(self, vae: VAE, mdrnn: MDRNN, controller: Controller, world: dict, parents: dict[str, str]) -> None:
        self.vae, self.mdrnn, self.controller, self.world, self.parents = vae, mdrnn, controller, world, parents

    def reset(self, num: int, parameters: Tensor | None = None) -> None:
        """Begin an episode in each of `num` copies; with `parameters` (B, n), each has those for its head (models.controller.parameter_vector)."""
        self.state = self.mdrnn.initial_state(num)
        self.h = self.state[0]
        self.parameters = parameters

    def keep(self, which: Tensor) -> None:
        """Forget all copies but `which` (B,) bool."""
        self.state = (self.state[0][which], self.state[1][which])
        self.parameters = None if self.parameters is None else self.parameters[which]

    @torch.inference_mode()
    def act(self, obs: Tensor) -> Tensor:
        """obs uint8 (B, H, W, C) -> action (B, A) float32 or (B,) int64; M then takes its step."""
        self.z = self.vae.encode(to_float(obs.to(self.h.device))).mu
        self.h = self.state[0]
        if self.parameters is None:
            action = self.controller(self.z, self.h)
        else:
            action = self.controller.population_action(self.parameters, self.z[:, None], self.h[:, None])[:, 0]
        self.follow(action)
        return action

    @torch.inference_mode()
    def see(self, obs: Tensor) -> None:
        """Take in a frame without acting, for somebody else's action; call `follow` with it."""
        self.z = self.vae.encode(to_float(obs.to(self.state[0].device))).mu
        self.h = self.state[0]

    @torch.inference_mode()
    def follow(self, action: Tensor) -> None:
        """M's step after `action` was taken on the last frame."""
        vector = action_vector(action, self.world["action_space"])
        _, self.state = self.mdrnn.hidden(self.z[:, None], vector[:, None], self.state)

    @torch.inference_mode()
    def reconstruction(self) -> Tensor:
        """What V makes of the last frame, uint8 (B, H, W, C)."""
        return to_uint8(self.vae.decode(self.z))

    @torch.inference_mode()
    def expectation(self) -> Tensor:
        """What M expected the last frame to be: its likeliest component's mean, decoded, uint8 (B, H, W, C)."""
        pred = self.mdrnn.predict(self.h)
        index = pred.logpi.argmax(-1)[:, None, None].expand(-1, 1, pred.mu.shape[-1])
        return to_uint8(self.vae.decode(pred.mu.gather(1, index)[:, 0]))
