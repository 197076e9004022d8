"""Somebody who talks with a model."""

import httpx

SYSTEM = "You answer briefly, and you never repeat what somebody has said before. " * 8


class Conversation:
    """Somebody who says more and more; the answers come back in the next prompt."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        """The balancer's address."""
        self._messages = [{"role": "system", "content": SYSTEM}]
        self._name = name
        self.place: tuple[str, ...] = ()

    def front(self, text: str) -> None:
        """Put something before the system prompt."""
        self._messages[0] = {"role": "system", "content": text + SYSTEM}

    def body(self, text: str) -> dict[str, object]:
        said = {"role": "user", "content": f"{self._name} says: {text} " * 5}
        return {"model": "tiny", "max_tokens": 8, "messages": [*self._messages, said]}

    def say(self, text: str) -> tuple[int, int]:
        """Give the tokens of the prompt, and those of them that came from the cache."""
        body = self.body(text)
        answer = httpx.post(
            f"{self.url}/v1/chat/completions", json=body, timeout=60
        ).raise_for_status()
        told = answer.json()
        self._messages = [*body["messages"], told["choices"][0]["message"]]  # type: ignore[misc]
        self.place = tuple(answer.headers[f"x-balancer-{x}"] for x in ("server", "reason"))
        usage = told["usage"]
        return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]
