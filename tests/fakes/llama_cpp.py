"""llama.cpp's real server, with a tiny model of random weights.

python -m tests.fakes.llama_cpp --model tiny.gguf --port 8081 --alias tiny --slots 2
"""

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx

AVAILABLE = find_spec("xllamacpp") is not None and find_spec("gguf") is not None
CONTEXT = 4096
"""Tokens, in each slot."""

LONGEST = 4 * CONTEXT
"""Tokens for which the model is made."""

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
PATIENCE = 30.0


def write_tiny_model(path: Path, seed: int = 1, layers: int = 2) -> None:
    """Write a llama model that speaks gibberish in ASCII: half a megabyte, a token per byte.

    With more layers it reads more slowly.
    """
    import gguf
    import numpy as np

    width, hidden, heads = 64, 128, 4
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        return rng.normal(0.0, 0.1, shape).astype(np.float32)

    output = np.zeros((len(tokens), width), np.float32)
    printable = slice(3 + 32, 3 + 127)  # nothing else ever gets the highest score
    output[printable] = rng.normal(0.0, 1.0, (95, width))

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(LONGEST)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)
    writer.add_tensor("token_embd.weight", weights(len(tokens), width))
    for layer in range(layers):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", np.ones(width, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{block}.{name}.weight", weights(width, width))
        writer.add_tensor(f"{block}.ffn_norm.weight", np.ones(width, np.float32))
        writer.add_tensor(f"{block}.ffn_gate.weight", weights(hidden, width))
        writer.add_tensor(f"{block}.ffn_up.weight", weights(hidden, width))
        writer.add_tensor(f"{block}.ffn_down.weight", weights(width, hidden))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    writer.add_tensor("output.weight", output)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@contextlib.contextmanager
def llama_cpp(
    model: Path,
    port: int,
    *,
    alias: str = "tiny",
    slots: int = 2,
    sleep_after: int = -1,
    files: Path | None = None,
    ram: int = 8192,
    context: int = CONTEXT,
) -> Iterator[str]:
    """Run the server as a process of its own; gives its address once it answers.

    It falls asleep after so many idle seconds, unless that is negative; saves slots in `files`, if
    that is set; keeps so many MiB of prompts in RAM; and has so many tokens of context for each.
    """
    command = [sys.executable, "-m", "tests.fakes.llama_cpp", "--model", str(model)]
    command += ["--port", str(port), "--alias", alias, "--slots", str(slots)]
    command += ["--sleep-after", str(sleep_after), "--ram", str(ram)]
    command += ["--context", str(context)]
    command += [] if files is None else ["--files", f"{files}/"]
    url = f"http://127.0.0.1:{port}"
    log = model.with_suffix(f".{port}.log")
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output) as process,
    ):
        try:
            _await_answer(f"{url}/health", process, log)
            yield url
        finally:
            process.kill()


def _await_answer(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.02)
    raise RuntimeError(f"llama.cpp's server did not start:\n{log.read_text()[-2000:]}")


def _serve(arguments: argparse.Namespace) -> None:
    import signal

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.model_alias = {arguments.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = arguments.port
    params.n_parallel = arguments.slots
    params.n_ctx = arguments.context * arguments.slots
    params.n_predict = 32
    params.sampling.temp = 0.0
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.endpoint_slots = True
    params.endpoint_metrics = True
    params.sleep_idle_seconds = arguments.sleep_after
    params.slot_save_path = arguments.files
    params.cache_ram_mib = arguments.ram
    params.warmup = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--alias", default="tiny")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--sleep-after", type=int, default=-1)
    parser.add_argument("--context", type=int, default=CONTEXT)
    parser.add_argument("--files", default="")
    parser.add_argument("--ram", type=int, default=8192)
    _serve(parser.parse_args())
