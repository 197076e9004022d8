"""The command line: serve, check the settings, find model servers, and what else is done once."""

import argparse
import gc
import sys
from collections.abc import Sequence
from pathlib import Path

import app
from app.commands.check import check
from app.commands.init import init
from app.commands.keys import list_keys, new_key
from app.commands.reload import reload
from app.commands.scan import scan
from app.commands.server_list import import_list
from app.settings import SettingsError, Sources, load
from app.upstream.introspection.introspection import NAMES as KINDS


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; settings with mistakes are 2, a line for each."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="llama-balancer",
        description="Balance requests over OpenAI-compatible model servers. "
        "The settings come from the environment and .env; .env.example lists them.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {app.__version__}")
    parser.set_defaults(run=_serve)
    commands = parser.add_subparsers(metavar="command")
    command = commands.add_parser("serve", help="serve until stopped (the default)")
    command.set_defaults(run=_serve)
    command = commands.add_parser("init", help="write a first .env, from three answers")
    command.add_argument(
        "--scan", action="store_true", help="ask nothing: take what a scan of the networks finds"
    )
    command.set_defaults(run=init)
    command = commands.add_parser("demo", help="two modelled servers, and the balancer before them")
    command.add_argument("--port", type=int, default=18000, help="the balancer's (default: 18000)")
    command.add_argument("--once", action="store_true", help="stop after the first response")
    command.set_defaults(run=_demo)
    command = commands.add_parser(
        "check", help="validate the settings, and show them as understood"
    )
    command.add_argument(
        "--connect", action="store_true", help="ask every server, and say what is wrong with it"
    )
    command.set_defaults(run=check)
    command = commands.add_parser(
        "import", help="print the settings for .env that say the same as a server-list.json"
    )
    command.add_argument("file", type=Path, help="the server list")
    command.set_defaults(run=import_list)
    command = commands.add_parser(
        "reload", help="have the running balancer take in the settings of .env and the secrets"
    )
    command.set_defaults(run=reload)
    command = commands.add_parser(
        "scan", help="look for model servers on the local networks, and print the settings"
    )
    command.add_argument("network", nargs="?", help="a network, such as 192.168.1.0/24")
    command.add_argument(
        "--join", action="store_true", help="print what to run on each machine, so that it joins"
    )
    command.set_defaults(run=scan)
    command = commands.add_parser("key", help="make an API key, or list those that there are")
    actions = command.add_subparsers(metavar="action", required=True)
    command = actions.add_parser("new", help="make a key, and print it this once")
    command.add_argument("name", help="who has it")
    command.set_defaults(run=new_key)
    actions.add_parser("list", help="print the names").set_defaults(run=list_keys)
    return parser


def _serve(_: argparse.Namespace) -> None:
    sources = Sources()
    settings = load(KINDS, sources)
    gc.disable()  # imports leave no garbage, and to look for it takes a sixth of their time
    # The other commands need no web server.
    from app.main import serve

    gc.enable()
    serve(settings, lambda: load(KINDS, sources), sources.paths)


def _demo(arguments: argparse.Namespace) -> int:
    from app.demo.demo import run

    return run(arguments.port, once=arguments.once)


if __name__ == "__main__":
    sys.exit(main())
