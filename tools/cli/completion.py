"""``steno completion``: a shell's completion script, derived from the arguments themselves."""

from __future__ import annotations

import argparse

EXAMPLES = """\
examples:
  steno completion bash > ~/.local/share/bash-completion/completions/steno
  steno completion zsh > "${fpath[1]}/_steno"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def run(args: argparse.Namespace) -> int:
    import shtab

    from tools.cli.main import build_parser

    print(shtab.complete(build_parser(None), shell=args.shell))
    return 0
