"""The errors of routebatch.

    RoutebatchError
    ├── ConfigurationError        the operator's configuration is wrong: named by file and key, raised at start-up
    ├── ArtifactError             a fitted router cannot be read or written: missing, damaged, of another format or kind
    ├── ScoringError              a router has no estimate to give: a model it cannot place, an encoder that fails
    ├── ClientError               what a client sent is refused; becomes OpenAI's error object and an HTTP status
    │   ├── InvalidRequestError   400
    │   ├── AuthenticationError   401
    │   ├── NotFoundError         404  (also for what belongs to another key)
    │   ├── ConflictError         409
    │   └── TooLargeError         413
    └── LeaseLostError            this pump no longer owns what it claimed: stop, write nothing

Errors of foreign libraries are translated into these where the library is called.
"""

from __future__ import annotations


class RoutebatchError(Exception):
    """Base of every error that routebatch raises on purpose."""


class ConfigurationError(RoutebatchError):
    """The configuration cannot be used; the message names the file and the key and says what to do."""


class ArtifactError(RoutebatchError):
    """A router's artifact cannot be used or written; the message names the file and what is wrong with it."""


class ScoringError(RoutebatchError):
    """A router cannot estimate these prompts or models; the message says which and what to do."""


class LeaseLostError(RoutebatchError):
    """The lease under which work was claimed has run out; somebody else may own that work now."""


class ClientError(RoutebatchError):
    """A client's request is refused. `status` is the HTTP status, the rest OpenAI's error object."""

    status = 400
    type = "invalid_request_error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param


class InvalidRequestError(ClientError):
    """The request cannot be understood or is not allowed."""


class AuthenticationError(ClientError):
    """No key, an unknown key or a revoked key."""

    status = 401
    type = "authentication_error"


class NotFoundError(ClientError):
    """No such object for this key."""

    status = 404


class ConflictError(ClientError):
    """The object's state does not allow this. Trying again cannot help."""

    status = 409


class TooLargeError(ClientError):
    """More bytes than the service accepts."""

    status = 413
