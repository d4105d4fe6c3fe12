"""Settings of a stage: a frozen record, from whose fields come the command line, args.json, and the check of what may
not change when a run is resumed.

    @dataclass(frozen=True, kw_only=True)
    class MDRNNSettings(Training):
        hidden: int = flag(256, positive, "R, size of the LSTM", fixed=True)

    args = MDRNNSettings.parse(sys.argv[1:], __doc__)     # from the command line
    args = MDRNNSettings(logdir=folder, hidden=32)        # from other code
    args, inherited = args.resume(checkpoint["config"])   # what was not given is as it was; what was must be the same
"""

import argparse
import math
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self, TypeVar

from dreamdrive import __version__
from dreamdrive.utils import runs, stages
from dreamdrive.utils.argument_types import controller_name, natural, natural_float
from dreamdrive.utils.cluster import ALL, Cluster, require_ray
from dreamdrive.utils.errors import UserError
from dreamdrive.utils.help_text import HelpFormatter
from dreamdrive.utils.json_files import write_json
from dreamdrive.utils.precision import CHOICES
from dreamdrive.utils.source import keep_source
from dreamdrive.utils.trackers import TRACKERS

NOT_GIVEN = object()
# of the command dreamdrive, by the scripts that they are
SCRIPTS = {
    "trainvae.py": "vae",
    "trainmdrnn.py": "mdrnn",
    "traincontroller.py": "controller",
    "trainbc.py": "bc",
    "test_controller.py": "test",
}
SHOWN_ONLY = ("given", "quiet")  # fields that nothing depends on
WORKERS = ("--max-workers", "--threads")  # mean the same everywhere
# what alone some flags are for, where --world says one or the other
DREAM = ("--world dream", lambda args: args.world == "dream")
SIMULATOR = ("--world simulator", lambda args: args.world == "simulator")
ON_RAY = ("workers of a cluster, with --ray", lambda args: args.ray is not None)
QUIET = "DREAMDRIVE_QUIET"  # variable that is set where --quiet was given, also for what is started from here
Other = TypeVar("Other", bound="Settings")


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, instead of after a screenful of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help lists what is possible\n")


def parser(doc: str | None) -> Parser:
    """An argument parser whose description is the script's docstring."""
    p = Parser(description=doc, formatter_class=HelpFormatter, allow_abbrev=False)
    p.add_argument("--version", action="version", version=f"dreamdrive {__version__}", help="print it and end")
    return p


def flag(
    default: Any,
    type: Callable[[str], Any] | None = None,
    help: str = "",
    *,
    names: Sequence[str] = (),
    fixed: bool | str = False,
    where: tuple[str, Callable[[Any], bool]] | None = None,
    **how: Any,
) -> Any:
    """A field of a Settings that is a flag of the command line.

    A default of False makes a flag that takes no value; True, or a bool that may be None (`type=bool`), one with a
    `--no-` form. `names`: spellings other than the field's. `fixed`: it may not change when a run is resumed; a text is
    the name that the run's checkpoint has for it. `where`: what alone it is for, in words, and whether settings are
    that. `how`: what else argparse's add_argument takes, as `choices` and `nargs`.
    """
    if default is False:
        how["action"] = "store_true"
    elif default is True or type is bool:
        how["action"] = argparse.BooleanOptionalAction
    elif type is not None:
        how["type"] = type
    return field(
        default=default, metadata={"flag": {"help": help, **how}, "names": names, "fixed": fixed, "where": where}
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a script can be told.

    Attributes:
        given: names of the fields that the command line gave; None where code made the record: then those that differ
            from their defaults
        GROUPS: headings in --help, and the names of the fields that have their flags there
    """

    GROUPS: ClassVar[dict[str, str]] = {"run": "quiet"}

    given: frozenset[str] | None = field(default=None, repr=False, compare=False)
    quiet: bool = flag(False, help="do not show how far it has come")

    @classmethod
    def parse(cls, argv: Sequence[str] | None, doc: str | None) -> Self:
        """The settings of a command line, by default this process's; `doc` heads its --help."""
        p = parser(doc)
        p.usage = "%(prog)s [flags]"
        cls.add_flags(p)
        found = p.parse_args(argv, argparse.Namespace(**dict.fromkeys(cls.flags(), NOT_GIVEN)))
        settings = cls.of(found)
        if settings.quiet:
            os.environ[QUIET] = "1"
        return settings

    @classmethod
    def add_flags(cls, p: argparse.ArgumentParser) -> None:
        """Add the fields' flags to a parser, under their headings."""
        headings = cls.headings()
        groups = {heading: p.add_argument_group(heading) for heading in dict.fromkeys(headings.values())}
        for name, mark in cls.flags().items():
            group = groups[headings[name]] if name in headings else p
            group.add_argument(*spellings(mark), dest=name, default=mark.default, **mark.metadata["flag"])

    @classmethod
    def of(cls, found: argparse.Namespace) -> Self:
        """The settings in a namespace, of which those that are NOT_GIVEN are as by default."""
        values = {name: getattr(found, name) for name in cls.flags()}
        given: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if v is not NOT_GIVEN
        }
        return cls(**given, given=frozenset(given))

    @classmethod
    def headings(cls) -> dict[str, str]:
        """The heading of each field's flag in --help, those of the class itself first."""
        found: dict[str, str] = {}
        for kind in cls.__mro__:
            for heading, names in vars(kind).get("GROUPS", {}).items():
                found |= {name: heading for name in names.split() if name not in found}
        return found

    @classmethod
    def flags(cls) -> dict[str, Field]:
        """The fields that are flags, by name."""
        return {field.name: field for field in fields(cls) if "flag" in field.metadata}

    def was_given(self, name: str) -> bool:
        """Whether a field has been given, not left as it is by default."""
        if self.given is not None:
            return name in self.given
        default = type(self).flags()[name].default
        return default is MISSING or getattr(self, name) != default

    def into(self, other: type[Other], **more: Any) -> Other:
        """Settings of another script: what it calls by the same name is as here, what it has in `more` as there, and
        everything else as by default."""
        shared = {name: getattr(self, name) for name in type(self).flags() if name in other.flags()}
        return other(**(shared | more))

    def fixed(self) -> dict[str, Any]:
        """The values that may not change when a run is resumed, by their names in its checkpoint."""
        return {there: getattr(self, name) for name, there in self._fixed().items()}

    def resume(self, before: dict | None, usual: dict | None = None, init: Path | None = None) -> tuple[Self, dict]:
        """(These settings with whatever may not change taken over from `before`, what a checkpoint says of the run that
        is resumed; and what was taken over, by field). UserError where a value was given and is another. What no flag
        could have said, as that numbers are seen as they are, is left alone.

        Without a run to resume, `usual` has what a field is that was not given, where its default does not say.
        `init`: the file that `before` comes from, where that is what a run begins with, not what is resumed.
        """
        before, marks = before or {}, type(self).flags()
        kept = {
            name: there
            for name, there in self._fixed().items()
            if there in before and possible(before[there], marks[name].metadata["flag"].get("choices"))
        }
        for name, there in kept.items():
            if not sayable(before[there], marks[name]):
                raise UserError(
                    f"{init or 'the run to resume'} has {there} {shown(before[there])[:60]}, which "
                    f"{spellings(marks[name])[0]} cannot be: restore its checkpoint"
                    f"{'' if init else ', or start afresh with --noreload'}"
                )
        inherited = {name: before[there] for name, there in kept.items() if not self.was_given(name)}
        filled = {name: value for name, value in (usual or {}).items() if not self.was_given(name)}
        settled = replace(self, **filled | inherited)
        settled.check()
        for name, there in kept.items():
            if getattr(settled, name) != before[there]:
                raise UserError(
                    f"{init or 'the run to resume'} has {there} {shown(before[there])}, not "
                    f"{shown(getattr(self, name))}: leave {spellings(marks[name])[0]} away"
                    f"{'' if init else ', or start afresh with --noreload'}"
                )
        return settled, inherited

    def check(self) -> None:
        """UserError where a flag was given that means nothing, or where values do not fit each other."""
        for name, mark in type(self).flags().items():
            where = mark.metadata["where"]
            if where and self.was_given(name) and not where[1](self):
                raise UserError(f"{spellings(mark)[0]} is for {where[0]}: leave it away, or give that")

    def recorded(self) -> dict[str, Any]:
        """The command and every value that what is done depends on, as plain ones."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in SHOWN_ONLY}
        return {"command": command_line(), **{name: plain(value) for name, value in values.items()}}

    def write(self, folder: Path, **more: Any) -> None:
        """Record the command and every value, and what is known besides, in `folder`/args.json."""
        write_json(folder / "args.json", {**self.recorded(), **more})

    def _fixed(self) -> dict[str, str]:
        """Field -> its name in a checkpoint, of those that may not change when a run is resumed."""
        marks = {name: field.metadata["fixed"] for name, field in type(self).flags().items()}
        return {name: name if mark is True else mark for name, mark in marks.items() if mark}


@dataclass(frozen=True, kw_only=True)
class RunFolder(Settings):
    """Of a script that works on a run."""

    GROUPS: ClassVar[dict[str, str]] = {"run": "logdir"}

    logdir: Path = flag(Path("exp_dir"), Path, "folder of the run; each stage has a folder in it")

    def write(self, folder: Path, **more: Any) -> None:
        """The same, and the code of now in the run's source.zip, whose digest is noted."""
        super().write(folder, source=keep_source(self.logdir, folder), **more)


@dataclass(frozen=True, kw_only=True)
class Tracked(RunFolder):
    """Of a script whose numbers can be shown in a tracker."""

    GROUPS: ClassVar[dict[str, str]] = {"run": "track"}

    track: str = flag(
        "none",
        help="show parameters, numbers, pictures and films there, too; see docs/tracking.md",
        choices=("none", *TRACKERS),
    )


@dataclass(frozen=True, kw_only=True)
class Training(Tracked):
    """Of the stages that train."""

    GROUPS: ClassVar[dict[str, str]] = {"run": "noreload seed device"}

    noreload: bool = flag(False, help="start afresh instead of resuming from checkpoint.tar")
    seed: int = flag(0, natural, "decides everything random in the run")
    device: str = flag("auto", help="auto, cpu, cuda or cuda:N; auto takes a GPU where there is one")

    @classmethod
    def of(cls, found: argparse.Namespace) -> Self:
        settings = super().of(found)
        runs.require_own(settings.logdir)  # before the long work
        return settings


@dataclass(frozen=True, kw_only=True)
class ControllerTraining(Training):
    """Of the stages that train a controller, of which a run has as many as are given names.

    Attributes:
        KIND: of the stage: "ctrl" or "bc"
    """

    GROUPS: ClassVar[dict[str, str]] = {"run": "name"}
    KIND: ClassVar[str]

    name: str | None = flag(
        None,
        controller_name,
        "train a controller of this name beside the others of the run: its folder is exp_dir/bc-NAME instead of "
        "exp_dir/bc, or ctrl-NAME instead of ctrl",
    )

    @property
    def stage(self) -> str:
        """The stage's folder, and what the controller is called."""
        return stages.stage_named(self.KIND, self.name)


@dataclass(frozen=True, kw_only=True)
class Spread(Settings):
    """Of a script whose workers may be on other machines; as many of them as there are cores, where their number is not
    given."""

    GROUPS: ClassVar[dict[str, str]] = {"other machines": "ray mixed_nodes gpu_share"}

    ray: str | None = flag(
        None,
        help="workers are those of a Ray cluster, given as HOST:PORT of its head, or auto for the one that this "
        "machine is in; see docs/scale.md",
    )
    mixed_nodes: bool = flag(False, help="allow nodes that differ in the last bit of what they compute", where=ON_RAY)
    gpu_share: float = flag(0.0, natural_float, "of a GPU, that each worker asks for and drives on", where=ON_RAY)

    @classmethod
    def of(cls, found: argparse.Namespace) -> Self:
        settings, workers = super().of(found), cls._workers()
        if settings.ray is None or settings.was_given(workers):
            return settings
        more: dict[str, Any] = {workers: ALL}
        return replace(settings, **more)

    @classmethod
    def _workers(cls) -> str:
        """The field that says how many there are."""
        return next(name for name, mark in cls.flags().items() if set(spellings(mark)) == set(WORKERS))

    def check(self) -> None:
        super().check()
        if self.ray is not None:
            require_ray()

    @property
    def cluster(self) -> Cluster | None:
        """Where workers are, if not on this machine."""
        return None if self.ray is None else Cluster(self.ray, self.mixed_nodes, self.gpu_share)

    def crew(self) -> dict[str, Any]:
        """The same workers, as stage 1 is told of them."""
        same = {name: getattr(self, name) for name in ("ray", "mixed_nodes", "gpu_share")}
        return {"threads": getattr(self, self._workers()), **same}


KEPT = ("best", "last")


@dataclass(frozen=True, kw_only=True)
class Fitting(Training):
    """Of the stages that fit a model of the world by Adam."""

    GROUPS: ClassVar[dict[str, str]] = {"learning": "precision anneal keep"}

    precision: str = flag("auto", help="auto: bf16 where the machine multiplies it in hardware", choices=CHOICES)
    anneal: bool = flag(
        False,
        help="let the learning rate fall evenly to a tenth, over the epochs on the datasets of now, and train all of "
        "them",
    )
    keep: str = flag("best", help="what best.tar holds: the lowest validation loss, or the last epoch", choices=KEPT)


def possible(value: Any, choices: Sequence | None) -> bool:
    """Whether a flag with these choices, or with none given, says a value, or each of several."""
    several = value if isinstance(value, (tuple, list)) else (value,)
    return choices is None or value is None or all(one in choices for one in several)


def sayable(value: Any, field: Field) -> bool:
    """Whether a value that a file has for a field is one that its flag could have said."""
    how, several = field.metadata["flag"], isinstance(value, (tuple, list))
    if "action" in how:
        return type(value) is bool or (value is None and field.default is None)
    if value is None or several != ("nargs" in how):
        return value is None and field.default is None
    try:
        return all(how.get("type", str)(str(one)) == one for one in (value if several else (value,)))
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return False


def spellings(field: Field) -> Sequence[str]:
    """The spellings of a field's flag, the one to show first."""
    return field.metadata["names"] or ("--" + field.name.replace("_", "-"),)


def all_spellings(settings: type[Settings]) -> set[str]:
    """Everything that a command line may say to it."""
    p = argparse.ArgumentParser()
    settings.add_flags(p)
    return set(p._option_string_actions)


def refuse_others(
    name: str, words: Sequence[str], kinds: Mapping[str, type[Settings]], spellings: dict[str, str]
) -> None:
    """End with a sentence where one of the words of a command line for kind `name` of a stage is a flag of other kinds
    alone. `kinds`: the settings of each.
    `spellings`: how each kind is asked for; the first stands for those that have its flags, too."""
    own = all_spellings(kinds[name])
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    for flag in (flag for flag in flags if flag not in own):
        theirs = [kind for kind, settings in kinds.items() if kind != name and flag in all_spellings(settings)]
        if theirs:
            first = next(iter(kinds))
            what = [spellings[first]] if first in theirs else [spellings[kind] for kind in theirs]
            said = " or ".join(what).replace(" or --method", " or")
            parser("").error(f"{flag} is for {said}: leave it away, or give that")


def plain(value: Any) -> Any:
    """A value as JSON has it, which knows no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [str(x) for x in value]
    return value if isinstance(value, (int, float, bool, str, type(None))) else str(value)


def command_line() -> str:
    """The command as the user typed it, as far as Python can tell."""
    name, *words = sys.argv
    called = name.split() if name.split()[:1] == ["dreamdrive"] else ["python", name]  # see __main__.py
    return shlex.join([*called, *words])


def next_command(script: str, *words: Any) -> str:
    """How another script is called, spelled as this one was: `python trainvae.py ...`, or `dreamdrive vae ...`."""
    name = sys.argv[0].split()
    called = ["dreamdrive", SCRIPTS[script]] if name[:1] == ["dreamdrive"] else ["python", script]  # see __main__.py
    return shlex.join([*called, *map(str, words)])


def say_inherited(sources: dict[Path, dict[str, Any]]) -> None:
    """Print, in one line, which values come from which file because the command line did not give them."""
    told = [
        f"{', '.join(f'{name} {shown(value)}' for name, value in values.items())} from {source}"
        for source, values in sources.items()
        if values
    ]
    if told:
        print("inherited: " + "; ".join(told))


def shown(value: Any) -> str:
    """A value in a sentence."""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
