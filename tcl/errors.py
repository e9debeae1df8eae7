"""The one error type that a user is meant to read."""


class TCLError(Exception):
    """Something the user can mend: the message names the key or file, the rule, the value seen and what to do.

    Every stage and command prints it without a traceback and exits with status 1.
    """
