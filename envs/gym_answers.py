"""What environments of other people give, made what a world takes: their answers come in the forms of several versions
of gym, and in some of their own. One that cannot be made sense of is told in a sentence."""

import contextlib
import inspect
import traceback
from typing import Any, NamedTuple

import numpy as np

from dreamdrive.utils.errors import UserError


class Advance(NamedTuple):
    """What one step of one copy gives: the environment's observation and three plain values."""

    observation: Any
    reward: float
    terminated: bool
    truncated: bool


def advance(result: Any, name: str, where: str) -> Advance:
    """The answer to a step, in the old form of four (observation, reward, done, info) or in today's of five; `where` it
    was given, for messages."""
    if not isinstance(result, tuple) or len(result) not in (4, 5):
        got = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        raise UserError(
            f"{name} answers a step with {got}: wanted are (observation, reward, terminated, truncated, info)"
        )
    observation, reward, terminated, *rest = result
    terminated = flag(terminated, name, "terminated")
    if len(rest) == 1:
        info = rest[0] if isinstance(rest[0], dict) else {}
        truncated = bool(info.get("TimeLimit.truncated", False))
        terminated = terminated and not truncated
    else:
        truncated = flag(rest[0], name, "truncated")
    return Advance(observation, number(reward, name, where), terminated, truncated)


def number(reward: Any, name: str, where: str) -> float:
    """A reward, also one that comes as an array of one."""
    try:
        values = np.asarray(reward, np.float64).ravel()
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.size != 1:
        raise UserError(f"{name} gave {reward!r} for a reward {where}: it must be a number")
    if not abs(values[0]) <= np.finfo(np.float32).max:
        raise UserError(
            f"{name} gave a reward of {values[0]} {where}: look there for what divides by zero or overflows"
        )
    return float(values[0])


def flag(value: Any, name: str, what: str) -> bool:
    """Whether an episode is over, also where that comes as an array of one."""
    values = np.asarray(value).ravel()
    if values.size != 1:
        raise UserError(f"{name} gave {value!r} for {what}: it must be True or False")
    return bool(values[0])


def first_observation(result: Any) -> Any:
    """Of a reset, which in the old form has no info."""
    return result[0] if isinstance(result, tuple) and len(result) == 2 else result


def numbers(observation: Any, wanted: int | None, name: str, where: str) -> np.ndarray:
    """An observation as float32 numbers (S,); UserError where there are others than `wanted`, or one is not finite."""
    with np.errstate(over="ignore"):
        found = np.array(observation, np.float32).ravel()
    if wanted is not None and len(found) != wanted:
        raise UserError(
            f"{name} showed {len(found)} numbers {where}, and its observation_space has {wanted}: let it always show "
            "as many, or record its picture"
        )
    if wanted is not None and not np.isfinite(found).all():
        raise UserError(
            f"{name} showed {np.asarray(observation).ravel()[~np.isfinite(found)][0]} {where}: observations must be "
            "finite as float32"
        )
    return found


def expert_answers(answers: list, size: tuple[int, ...], dtype: Any, name: str) -> np.ndarray:
    """What experts answered, one a copy, as actions of this `size` each; None, from one who does not know, as an
    unknown action."""
    unknown = np.full(size, np.nan if np.issubdtype(dtype, np.floating) else -1)
    answers = [unknown if answer is None else answer for answer in answers]
    for answer in answers:
        try:
            fits = np.asarray(answer, np.float64).reshape(-1).size == int(np.prod(size, dtype=int))
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise UserError(
                f"the expert_action() of {name} answered {answer!r}: let it give an element of the action space for "
                "whatever it sees, or record without the expert"
            )
    return np.stack([np.asarray(answer).reshape(size) for answer in answers]).astype(dtype)


# How they are made, and begun


def made(package: Any, registered: Any, arguments: dict[str, Any]) -> Any:
    """Build one environment of a package, given its spec and arguments, without a time limit, which the world keeps;
    UserError where it cannot be built."""
    try:
        try:
            # old gym's checker fails on NumPy 2
            environment = package.make(registered, render_mode="rgb_array", disable_env_checker=True, **arguments)
        except (ImportError, package.error.DependencyNotInstalled):
            raise
        except Exception:  # some know no render_mode, and some draw for people only: each says so in its own way
            environment = package.make(registered, disable_env_checker=True, **arguments)
    except (ImportError, package.error.DependencyNotInstalled) as error:
        raise UserError(
            f"{registered.id} needs a package that is not installed here: {first_line(error)}: install what that names"
        ) from None
    except UserError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{registered.id} cannot be made: {type(error).__name__}: {first_line(error)} ({frame.filename}, line "
            f"{frame.lineno}); arguments that it needs go into gymnasium.register(..., kwargs={{...}})"
        ) from None
    return unlimited(environment)


def unlimited(environment: Any) -> Any:
    """The environment less its time limits, at whatever depth of wrappers: the world counts steps, and that wrapper
    cannot read an old answer of four."""
    while type(environment).__name__ == "TimeLimit":
        environment = environment.env
    outer = environment
    while hasattr(outer, "env") and outer is not outer.unwrapped:
        if type(outer.env).__name__ == "TimeLimit":
            with contextlib.suppress(AttributeError):  # a wrapper that does not let itself be changed
                outer.env = outer.env.env
                continue
        outer = outer.env
    # gymnasium's wrappers always pass a seed and options on
    return environment if takes(environment, "seed") and takes(environment, "options") else environment.unwrapped


def takes(environment: Any, name: str) -> bool:
    """Whether the environment's reset takes an argument of that name: today's form is reset(*, seed, options)."""
    parameters = inspect.signature(environment.unwrapped.reset).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
