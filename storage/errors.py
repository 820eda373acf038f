"""The one error that a person can fix."""


class UserError(Exception):
    """A mistake a person can fix: the message says what happened, which value was seen and what to do next.

    Entry points print it without a traceback and exit with code 2; HTTP routes answer with 4xx and the message.
    """
