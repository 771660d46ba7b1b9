"""`umbel completion`: what makes a shell complete commands, options and names."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from umbel.cli.options import common_options

SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
@common_options
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands, options and names.

    \b
    bash: eval "$(umbel completion bash)"        in ~/.bashrc
    zsh:  eval "$(umbel completion zsh)"         in ~/.zshrc, after compinit
    fish: umbel completion fish | source         in ~/.config/fish/config.fish
    """  # noqa: D301  (click's mark of lines that stay as they are)
    script = SHELLS[shell](ctx.find_root().command, {}, "umbel", "_UMBEL_COMPLETE")
    click.echo(script.source())
