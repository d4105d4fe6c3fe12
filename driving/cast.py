"""Who is to drive, and where, from what a command line says and what a run holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dreamdrive.driving.agent import Agent, Head, load_agent, world_trained_on
from dreamdrive.driving.catalogue import PLAN
from dreamdrive.driving.planning import Plan, load_planner
from dreamdrive.envs import flags, official, without_places
from dreamdrive.models.world_model import load_world_model
from dreamdrive.utils import checkpoint
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.stages import is_controller


@dataclass(frozen=True)
class Cast:
    """Who drives, and where.

    Fields:
        name: of the controller, as it was asked for
        env: the simulator's name        options: of `envs.make`
        agent: with its controller, or V and M alone where somebody else drives; None where nothing is trained and need
            not be
    """

    name: str
    env: str
    options: dict[str, Any]
    agent: Head | None


def cast(
    logdir: Path, controller: str, dream: bool, env: str | None, options: dict[str, Any], plan: Plan | None = None
) -> Cast:
    """Who is called `controller` in the run in `logdir`, and the simulator it drives in; UserError where these are not
    what was asked for.

    Args:
        dream: whether it is to drive in the dream
        env: the simulator that was asked for, or the fast world that stands for it; None for the run's own
        options: of the simulator, that were asked for
        plan: how it searches, for "plan"
    """
    world, agent = _trained(logdir, controller, dream, env, options, plan)
    flags.check_env(logdir, world, env)
    flags.check(logdir, world, options, inherits=True)
    # where a run was trained says nothing of how well it drives
    known = without_places(world["env"], world.get("options", {}))
    return Cast(controller, env or world["env"], {**known, **options}, agent)


def _trained(
    logdir: Path, controller: str, dream: bool, env: str | None, options: dict[str, Any], plan: Plan | None
) -> tuple[dict, Head | None]:
    """The world ("env", "options"), and the agent."""
    if is_controller(controller):
        agent = load_agent(logdir, controller)
        if dream and not isinstance(agent, Agent):
            raise UserError(
                f"{logdir} has no dream to drive in, its controller sees the simulator itself: use --world simulator"
            )
        return agent.world, agent
    if controller == PLAN:
        assert plan is not None, "it comes with how to plan"
        planner = load_planner(logdir, plan, torch.device("cpu"))
        return planner.world, planner
    if not checkpoint.path(logdir, "mdrnn").exists() and not dream:
        trained_on = world_trained_on(logdir)
        return trained_on or {"env": official(env or "carracing"), "options": options}, None
    model = load_world_model(logdir, torch.device("cpu"))
    return model.world, Agent(model, None, {})
