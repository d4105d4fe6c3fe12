"""dreamdrive learns to drive inside a learned world model. docs/api.md says how to use it from Python.

What is named here is imported when it is first asked for: `import dreamdrive` alone takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from dreamdrive.api import Dreamt, Run, load_run
    from dreamdrive.data.shards import Dataset
    from dreamdrive.driving.driver import Driver, drive
    from dreamdrive.driving.policies import make_policy
    from dreamdrive.envs import make
    from dreamdrive.utils.errors import UserError

__all__ = ["Dataset", "Dreamt", "Driver", "Run", "UserError", "drive", "load_run", "make", "make_policy"]

_MODULES = {
    **dict.fromkeys(("Dreamt", "Run", "load_run"), "api"),
    **dict.fromkeys(("Driver", "drive"), "driving.driver"),
    "Dataset": "data.shards",
    "UserError": "utils.errors",
    "make": "envs",
    "make_policy": "driving.policies",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
