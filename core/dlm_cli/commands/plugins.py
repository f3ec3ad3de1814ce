"""``dlm plugins``: what can be chosen by name, where it comes from, and whether it keeps the contract."""

import click

from dlm_cli.commands.plugins_check import check
from dlm_cli.commands.plugins_list import list_components
from dlm_cli.commands.plugins_new import new
from dlm_cli.commands.plugins_show import show


@click.group(
    epilog="Start with: dlm plugins list, then dlm plugins show loss guidelines",
)
def plugins() -> None:
    """List, show and check the components and the plugins that provide them; start a new one."""


for command in (list_components, show, check, new):
    plugins.add_command(command)
