"""Rewrites of chat requests for models of the gpt-oss family, each of which can be switched off.

A name may carry more than the model: `gpt-oss:20b-high` asks for high reasoning effort, and
`…-edit` or `…-apply`, which editors use, for a response without the channels' marks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from app.apis.stable_prompts import known

EFFORTS: Final = ("low", "medium", "high")
EDIT_SUFFIXES: Final = ("-apply", "-edit")
SUFFIXES: Final = (*EDIT_SUFFIXES, *(f"-{effort}" for effort in EFFORTS))
AGENT_GREETINGS: Final = ("You are Cline", "You are Roo")

FINAL_CHANNEL_GRAMMAR: Final = r"""
root ::= thoughts? answer
thoughts ::= "<|channel|>analysis<|message|>" ( [^<] | "<" [^|] | "<|" [^e] )* "<|end|>" "<|start|>assistant"
answer ::= "<|channel|>final<|message|>" .+
""".strip()  # noqa: E501
"""llama.cpp grammar (GBNF): after its thoughts the model must answer in the final channel.

Agents that parse tool calls out of plain text find nothing where gpt-oss answers in its
commentary channel instead.
"""


@dataclass(frozen=True, slots=True)
class Rewrites:
    """Which rewrites are on."""

    reasoning: bool = True
    edit_suffix: bool = True
    grammar: bool = True
    stabilise: Callable[[bytes, str], bytes] = known
    """What makes the system text of a conversation's body stable, for which client."""

    def names(self, model: str) -> tuple[str, ...]:
        """List the names that a server may know the model by, the full one first."""
        if not model.endswith(SUFFIXES):
            return (model,)
        found = [model]
        name = model
        if self.edit_suffix:
            name = _without_edit_suffix(name)
            if name != model:
                found.append(name)
        if self.reasoning and _effort(name):
            found.append(name.rpartition("-")[0])
        return tuple(found)

    def effort(self, model: str) -> str | None:
        """Return which reasoning effort a name asks for."""
        name = _without_edit_suffix(model) if self.edit_suffix else model
        return _effort(name) if self.reasoning else None

    def changes(
        self, model: str, served: str, kwargs: object, system: str, *, has_grammar: bool
    ) -> dict[str, object]:
        """Return what to set in the body of a request for `model` that goes out as `served`.

        `kwargs` is the body's `chat_template_kwargs`; `system` the beginning of its system
        message; a `grammar` of the client's own is left alone.
        """
        if not model.endswith(SUFFIXES) and not system.startswith(AGENT_GREETINGS):
            return {}
        changes: dict[str, object] = {}
        name = _without_edit_suffix(model) if self.edit_suffix else model
        if name != model and not served.startswith(model):
            changes["reasoning_format"] = "auto"
        if effort := self.effort(model):
            kept = kwargs if isinstance(kwargs, dict) else {}
            changes["chat_template_kwargs"] = {**kept, "reasoning_effort": effort}
            changes["reasoning_effort"] = effort  # what Ollama and vLLM read
        if self.grammar and _is_gpt_oss(name) and system.startswith(AGENT_GREETINGS):
            changes["reasoning_format"] = "auto"
            if not has_grammar:
                changes["grammar"] = FINAL_CHANNEL_GRAMMAR
        return changes


def _is_gpt_oss(model: str) -> bool:
    return "gpt-oss" in model


def _effort(model: str) -> str | None:
    suffix = model.rpartition("-")[2]
    return suffix if suffix in EFFORTS and _is_gpt_oss(model) else None


def _without_edit_suffix(model: str) -> str:
    for suffix in EDIT_SUFFIXES:
        if model.endswith(suffix) and _is_gpt_oss(model):
            return model.removesuffix(suffix)
    return model
