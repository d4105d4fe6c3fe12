"""The one exception for what a user can put right."""


class UserError(Exception):
    """What was got, what was wanted and what to do, in one sentence; scripts print it and exit with status 1."""
