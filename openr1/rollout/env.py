"""Environments: how a prompt becomes a response. See `interfaces.Env` for the protocol."""

from typing import Any

from openr1.interfaces import Env, Generate
from openr1.runtime.import_path import import_function
from openr1.types import Prompt, Response

SINGLE_TURN = "single_turn"


class SingleTurn:
    """One call of the policy: the response is what it samples after the prompt."""

    async def run(self, prompt: Prompt, generate: Generate) -> Response:
        """Sample once."""
        return await generate(prompt.token_ids)


def build_env(name: str, tokenizer: Any) -> Env:
    """The environment of a name, `single_turn` or the import path of a class or function `(tokenizer) -> Env`.

    Raises:
        ConfigError: The import path cannot be resolved to something callable.
    """
    if name == SINGLE_TURN:
        return SingleTurn()
    env: Env = import_function(name)(tokenizer)
    return env
