"""An agent: V, M and C together, from a frame to an action; C alone, where a world is observed as numbers; or a policy
that sees frames without V and M."""

from pathlib import Path

import torch
from torch import Tensor

from dreamdrive.models.controller import Controller, ControllerConfig
from dreamdrive.models.mdrnn import MDRNN, MDRNNConfig
from dreamdrive.models.policy import FRAMES, Policy, PolicyConfig
from dreamdrive.models.vae import VAE, VAEConfig, to_float, to_uint8
from dreamdrive.utils import checkpoint
from dreamdrive.utils.spaces import ActionSpace

ENCODED_AT_ONCE = 256  # frames
# Copies are a multiple of this in all that networks do: a smaller batch meets other kernels, which differ in the last
# bit. AVX2's are alike from 4 rows on; those of AVX-512 and AMX work on 16 rows at a time.
LANES = 4 if torch.backends.cpu.get_cpu_capability() == "AVX2" else 16


def load_vae(logdir: Path, device: torch.device) -> tuple[VAE, dict]:
    """V of a run, frozen, and its checkpoint."""
    saved = checkpoint.load_parent(logdir, "vae")
    vae = VAE(VAEConfig(**saved["config"]))
    vae.load_state_dict(saved["model"])
    return vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False), saved


def load_models(logdir: Path, device: torch.device) -> tuple[VAE, MDRNN, dict, dict | None, dict[str, str]]:
    """V and M of a run, frozen; the world they model; where dreams start; and the digests of both. UserError if M was
    trained on another V."""
    vae, saved_vae = load_vae(logdir, device)
    saved = checkpoint.load_parent(logdir, "mdrnn")
    checkpoint.check_parents(saved, {"vae": saved_vae["digest"]}, checkpoint.path(logdir, "mdrnn"), "mdrnn")
    mdrnn = MDRNN(MDRNNConfig(**saved["config"]))
    mdrnn.load_state_dict(saved["model"])
    # an exported run holds them in half precision
    starts = saved["starts"] and {name: value.float() for name, value in saved["starts"].items()}
    return (
        vae,
        mdrnn.to(device).eval().requires_grad_(False),
        saved_vae["world"],
        starts,
        {"vae": saved_vae["digest"], "mdrnn": saved["digest"]},
    )


def load_agent(
    logdir: Path, controller: str = "ctrl", device: str | torch.device = "cpu", name: str = "best.tar"
) -> "Head":
    """The agent of a run with its evolved ("ctrl") or cloned ("bc") controller, as it is in the checkpoint `name`."""
    device, path = torch.device(device), checkpoint.path(logdir, controller, name)
    # V's absence is to be told before a controller's
    alone = checkpoint.load(path, controller) if path.exists() else None
    if alone and alone["config"]["features"] in ALONE:
        return ALONE[alone["config"]["features"]](_head(alone, device), alone["world"], {controller: alone["digest"]})
    vae, mdrnn, world, _, parents = load_models(logdir, device)
    saved = alone or checkpoint.load(path, controller)
    checkpoint.check_parents(saved, parents, path, controller)
    return Agent(vae, mdrnn, _head(saved, device), world, {**parents, controller: saved["digest"]})


def world_trained_on(logdir: Path) -> dict | None:
    """The world that a run was trained for, by whatever checkpoint it has: env, image_shape, action_space, ...; None
    where it has none."""
    for stage in ("vae", "bc"):
        path = checkpoint.path(logdir, stage)
        if path.exists() and (world := checkpoint.load(path, stage).get("world")):
            return world
    return None


def make_head(config: dict) -> Controller | Policy:
    """The untrained head of a checkpoint's config."""
    return Policy(PolicyConfig(**config)) if config["features"] == FRAMES else Controller(ControllerConfig(**config))


def _head(saved: dict, device: torch.device) -> Controller | Policy:
    head = make_head(saved["config"])
    head.load_state_dict(saved["model"])
    return head.to(device).eval()


def filled(batch: Tensor) -> Tensor:
    """batch (B, ...) with its last row repeated up to a multiple of LANES."""
    return torch.cat([batch, batch[-1:].expand(-len(batch) % LANES, *batch.shape[1:])])


class Head:
    """B copies of C alone, which acts on observations that are numbers and remembers nothing. The same numbers give the
    same actions, to the last bit whoever drives beside them (on a CPU with a given number of threads): see LANES.

    Attributes:
        world: env, image_shape, action_space, dt and max_steps it was made for
        parents: digests of its checkpoints
        num: B        device: where it thinks
    """

    def __init__(self, controller: Controller, world: dict, parents: dict[str, str]) -> None:
        self.controller, self.world, self.parents = controller, world, parents
        self.device = controller.layers[0].weight.device if controller else torch.device("cpu")

    def reset(self, num: int, parameters: Tensor | None = None) -> None:
        """Begin an episode in each of `num` copies; with `parameters` (B, n), each has those for its head
        (models.controller.parameter_vector)."""
        self.num = num
        self._parameters = None if parameters is None else filled(parameters)

    def keep(self, which: Tensor) -> None:
        """Forget all copies but `which` (B,) bool."""
        self.num = int(which.sum())
        self._parameters = None if self._parameters is None else self._parameters[filled(which.nonzero()[:, 0])]

    def act(self, obs: Tensor) -> Tensor:
        """obs, as the world gives it -> action (B, A) float32 or (B,) int64; M, if there is one, then takes its
        step."""
        self.see(obs)
        action = self.choose()
        self.follow(action)
        return action

    @torch.inference_mode()
    def see(self, obs: Tensor) -> None:
        """Take in an observation; `choose` says what C would do now, `follow` goes on with an action, C's or somebody
        else's."""
        self._z = self._h = filled(obs).to(self.device)

    @property
    def z(self) -> Tensor:
        """(B, Z): latent of the last frame; or the last numbers (B, S)."""
        return self._z[: self.num]

    @property
    def h(self) -> Tensor:
        """(B, R): M's output before the last frame."""
        return self._h[: self.num]

    def outputs(self) -> Tensor:
        """C's raw outputs on the last observation, (B, A), before clipping or argmax."""
        return self.controller.outputs(self._z, self._h)[: self.num]

    @torch.inference_mode()
    def choose(self) -> Tensor:
        """C's action on the last observation, (B, A) float32 or (B,) int64."""
        if self._parameters is None:
            return self.controller(self._z, self._h)[: self.num]
        return self.controller.population_action(self._parameters, self._z[:, None], self._h[:, None])[: self.num, 0]

    def follow(self, action: Tensor) -> None:
        """`action` was taken on the last observation."""


class PolicyHead(Head):
    """B copies of a policy that sees frames and remembers them itself."""

    def __init__(self, policy: Policy, world: dict, parents: dict[str, str]) -> None:
        self.controller, self.world, self.parents, self.device = policy, world, parents, policy.head.weight.device

    def reset(self, num: int, parameters: Tensor | None = None) -> None:
        if parameters is not None:
            raise ValueError("copies of a policy on frames all have the same parameters")
        self.num, self._state = num, self.controller.initial_state(num + -num % LANES)

    def keep(self, which: Tensor) -> None:
        self.num = int(which.sum())
        self._state = self._state[filled(which.nonzero()[:, 0])]

    @torch.inference_mode()
    def see(self, obs: Tensor) -> None:
        outputs, self._next = self.controller(filled(obs).to(self.device)[:, None], self._state)
        self._outputs = outputs[: self.num, 0]

    def outputs(self) -> Tensor:
        return self._outputs

    def choose(self) -> Tensor:
        return self.controller.space.action(self._outputs)

    def follow(self, action: Tensor) -> None:
        self._state = self._next


class Agent(Head):
    """B copies of (V, M, C): sees frames, remembers, acts. z is the posterior's mean, so that the same frames give the
    same actions."""

    def __init__(self, vae: VAE, mdrnn: MDRNN, controller: Controller, world: dict, parents: dict[str, str]) -> None:
        super().__init__(controller, world, parents)
        self.vae, self.mdrnn, self.device = vae, mdrnn, mdrnn.head.weight.device
        self._space = ActionSpace.from_dict(world["action_space"])  # M's own

    def reset(self, num: int, parameters: Tensor | None = None) -> None:
        super().reset(num, parameters)
        self._state = self.mdrnn.initial_state(num + -num % LANES)

    def keep(self, which: Tensor) -> None:
        super().keep(which)
        left = filled(which.nonzero()[:, 0])
        self._state = (self._state[0][left], self._state[1][left])

    @torch.inference_mode()
    def see(self, obs: Tensor) -> None:
        self._z = self.vae.encode(to_float(filled(obs).to(self.device))).mu
        self._h = self._state[0]

    @torch.inference_mode()
    def follow(self, action: Tensor) -> None:
        """M's step after `action` was taken on the last frame."""
        vector = filled(self._space.vector(action.to(self.device)))
        _, self._state = self.mdrnn.hidden(self._z[:, None], vector[:, None], self._state)

    def imagine(self, z: Tensor, h: Tensor) -> None:
        """Instead of `see`: be in a dream at z (B, Z), h (B, R)."""
        self._z, self._h = filled(z), filled(h)

    def latents(self, frames: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """What was `z` (T, Z) and `h` (T, R) at each frame of an episode, uint8 (T, H, W, C), in which action (T, A) or
        (T,) was taken."""
        z = torch.cat([self.vae.encode(to_float(part.to(self.device))).mu for part in frames.split(ENCODED_AT_ONCE)])
        h, _ = self.mdrnn.hidden(z[None], self._space.vector(action.to(self.device))[None], self.mdrnn.initial_state(1))
        return z, torch.cat([torch.zeros_like(h[0, :1]), h[0, :-1]])

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


ALONE = {"state": Head, FRAMES: PolicyHead}  # by what a head sees: those that drive without V and M
