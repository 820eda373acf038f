"""Errors that a person can fix."""


class UserError(Exception):
    """A mistake a person can fix: the message says what happened, which value was seen and what to do next.

    Entry points print it without a traceback and exit with code 2; HTTP routes answer with 4xx and the message.
    """


class Unavailable(UserError):
    """Nothing can be stored now (no room, shutting down); the same request is right later. HTTP routes answer with 503."""
