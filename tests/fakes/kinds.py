"""The kinds of model servers, by name."""

from app.upstream.introspection.introspection import KINDS

LLAMA_CPP = KINDS["llamacpp"].kind
LLAMA_SWAP = KINDS["llama-swap"].kind
OLLAMA = KINDS["ollama"].kind
VLLM = KINDS["vllm"].kind
