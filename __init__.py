"""dreamdrive learns to drive inside a learned world model. docs/api.md says how to use it from Python."""

__version__ = "0.2.0"
