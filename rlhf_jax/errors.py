"""The one exception that a person is meant to read."""


class UserError(Exception):
    """Bad input: the message names the thing, the value and the way out.

    The command line prints it as one `error:` line and exits with code 2; inside a
    notebook it is an ordinary exception.
    """
