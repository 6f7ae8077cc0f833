"""The configuration file of a stack: which one it is, and whether it can be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.layout import StackError, StateDir

if TYPE_CHECKING:
    from routing_service.settings import Settings

CONFIG_HELP = """\
no routebatch.toml: write one beside this command, name it with --config, or put it into the state directory ({state}).
The least it needs:

[models.strong]
name = "gpt-6.1-sol"
base_url = "https://api.openai.com/v1"
api_key_env = "OPENAI_API_KEY"

[models.weak]
name = "gpt-6-luna"
base_url = "https://api.openai.com/v1"
api_key_env = "OPENAI_API_KEY"

[routing]
candidates = ["weak", "strong"]"""


def find_config(given: Path | None, state: StateDir) -> Path:
    """The configuration file: as given, else ./routebatch.toml, else the state directory's."""
    if given is not None:
        if not given.is_file():
            raise StackError(f"--config names {given}: there is no such file")
        return given.absolute()
    for candidate in (Path("routebatch.toml"), state.root / "routebatch.toml"):
        if candidate.is_file():
            return candidate.absolute()
    raise StackError(CONFIG_HELP.format(state=state.root))


def check_config(path: Path) -> Settings:
    """Read the file as our processes will; StackError naming the file and the key of a mistake."""
    from routing_service.errors import ConfigurationError
    from routing_service.money.pricing import price_book
    from routing_service.settings import load_settings

    with lent_environment(ROUTEBATCH_CONFIG=str(path)):
        try:
            settings = load_settings()
            price_book(settings)
        except ConfigurationError as error:
            raise StackError(str(error)) from error
    return settings


@contextmanager
def lent_environment(**changes: str) -> Iterator[None]:
    """The settings are read from the environment alone: lend them ours."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
