"""The one exception that a person is meant to read."""


class UserError(Exception):
    """Bad input: the message names the thing, the value and the way out.

    The command line prints it as one `error:` line and exits with code 2; inside a
    notebook it is an ordinary exception.
    """


class NotFinite(UserError):
    """A run whose loss or gradient is not finite; the state before it is saved.

    Attributes:
      step: the update that computed it.
      reason: which number was not finite.
    """

    def __init__(self, message: str, step: int, reason: str) -> None:
        super().__init__(message)
        self.step, self.reason = step, reason
