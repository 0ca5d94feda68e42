"""What ends a command early, besides the client's errors. The operator reads the message, and no traceback follows."""


class CommandError(Exception):
    """The command could not do what it was asked to."""


class BadInput(CommandError):
    """A file or an option is not what it should be."""


class StackError(CommandError):
    """The database or a service could not be started, or ended by itself."""
