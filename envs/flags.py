"""The flags that say more about a world than its name does, made from what the worlds' classes declare."""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from dreamdrive.envs.catalogue import (
    Option,
    all_options,
    defaults,
    listed,
    module_of,
    official,
    require_options,
    trials,
    without_places,
)
from dreamdrive.utils import modules
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.settings import Settings, flag


@dataclass(frozen=True, kw_only=True)
class WorldSettings(Settings):
    """Of a script that makes a world.

    Attributes:
        options: those of `envs.make` that were given, as plain values
        TRIALS: whether options that are trials are flags of the script, too
    """

    TRIALS: ClassVar[bool] = False

    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def add_flags(cls, p: argparse.ArgumentParser) -> None:
        super().add_flags(p)
        add_to(p, cls.TRIALS)

    @classmethod
    def of(cls, found: argparse.Namespace) -> Self:
        settings = replace(super().of(found), options=given(found, cls.TRIALS))
        name_module(settings)
        return settings

    def check_world(self, env: str) -> None:
        """UserError where there is no world of that name, or where it does not have one of the options."""
        listed(env)
        require_options(env, self.options)

    def refuse_options(self) -> None:
        """UserError where one was given, for settings that drive in no simulator."""
        if self.options:
            name = next(iter(self.options)).replace("_", "-")
            raise UserError(f"--{name} is for --world simulator: leave it away, or give that")

    def recorded(self) -> dict[str, Any]:
        values = super().recorded()
        del values["options"]
        return values | {name: self.options.get(name) for name in declared(self.TRIALS)}


@dataclass(frozen=True, kw_only=True)
class OfWorld(Settings):
    """Of a script that drives in the world its run was recorded in, whose name it need not be told."""

    GROUPS: ClassVar[dict[str, str]] = {"run": "env"}

    env: str | None = flag(
        None,
        help="the run's world, gym:<module>:<id>, where that module has not been allowed on this machine by stage 1: "
        "no file makes it be imported",
    )

    @classmethod
    def of(cls, found: argparse.Namespace) -> Self:
        settings = super().of(found)
        name_module(settings)
        return settings


def name_module(settings: Any) -> None:
    """The module of the world that --env has given, if it has, may be imported."""
    if settings.was_given("env") and settings.env and (module := module_of(settings.env)):
        modules.name(module)


def check_env(run: Path, world: dict, env: str | None) -> None:
    """UserError where --env is another world than the one ("env") that the run in folder `run` was trained on."""
    if env and official(env) != world["env"]:
        raise UserError(f"{run} was trained on {world['env']}, not {env}: leave --env away, or use another --logdir")


def declared(with_trials: bool = False) -> dict[str, dict[str, Option]]:
    """The options that are flags: name -> kind of world -> the option."""
    found = {
        name: {kind: option for kind, option in by_kind.items() if option.help and option.trial <= with_trials}
        for name, by_kind in all_options().items()
    }
    return {name: by_kind for name, by_kind in found.items() if by_kind}


def add_to(p: argparse.ArgumentParser, with_trials: bool = False) -> None:
    """Add all of them, under a heading of their own."""
    group = p.add_argument_group("world, where it has them")
    for name, by_kind in declared(with_trials).items():
        _add(group, name, by_kind)


def _add(p: argparse._ArgumentGroup, name: str, by_kind: dict[str, Option]) -> None:
    """Add one flag, of all the kinds of world that have the option."""
    kinds: dict[str, list[str]] = {}
    for kind, option in by_kind.items():
        kinds.setdefault(option.help + default_words(option.default), []).append(kind)
    first, *_ = by_kind.values()
    if first.type is bool:
        how: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
    else:
        choices = unique(choice for option in by_kind.values() for choice in option.choices or ())
        how = {"type": first.type or str, "choices": choices or None}
    p.add_argument(
        "--" + name.replace("_", "-"),
        default=None,
        help="; ".join(f"{', '.join(worlds)}: {words}" for words, worlds in kinds.items()),
        **how,
    )


def given(found: argparse.Namespace, with_trials: bool = False) -> dict[str, Any]:
    """The options that were given, as plain values."""
    values = {name: getattr(found, name) for name in declared(with_trials)}
    return {
        name: value if isinstance(value, (int, float)) else str(value)
        for name, value in values.items()
        if value is not None
    }


def check(run: Path, world: dict, asked: dict[str, Any], inherits: bool) -> None:
    """UserError where the options `asked` say that the world is another than the one ("env", "options") that the run in
    folder `run` was trained on. Where it is found may differ, and so may trials. `inherits`: what is not given is as
    the run has it."""
    tried = trials(asked)
    require_options(world["env"], tried)
    trained = defaults(world["env"]) | world.get("options", {})
    for name, value in without_places(world["env"], asked).items():
        there = trained.get(name)
        if value != there and name not in tried:
            word = name.replace("_", "-")
            remedy = f"give --{'' if there else 'no-'}{word}" if isinstance(there, bool) else f"give --{word} {there}"
            raise UserError(
                f"{run} was trained with --{word} {there}, not {value}: "
                f"{f'leave --{word} away' if inherits else remedy}, or use another --logdir"
            )


def tried(world: dict, asked: dict[str, Any]) -> dict[str, Any]:
    """Those of the options `asked` that are trials: other than those of the world ("env", "options") that a driver was
    trained in."""
    trained = defaults(world["env"]) | world.get("options", {})
    return {name: value for name, value in trials(asked).items() if value != trained.get(name)}


def default_words(default: Any) -> str:
    """A default as --help says it."""
    if default is None:
        return ""
    said = {True: "yes", False: "no"}[default] if isinstance(default, bool) else default
    return f" (default: {said:g})" if isinstance(said, float) else f" (default: {said})"


def unique(values: Iterable) -> tuple:
    return tuple(dict.fromkeys(values))
