"""What ends a command early, besides the client's errors. The message is what the operator reads; no traceback follows.

CommandError
├── BadInput    a file or an option is not what it should be
└── StackError  the database or a service could not be started, or ended by itself
"""


class CommandError(Exception):
    """The command could not do what it was asked to."""


class BadInput(CommandError):
    """A file or an option is not what it should be."""


class StackError(CommandError):
    """The database or a service could not be started, or ended by itself."""
