"""``dlm env``: versions, devices and plugins, for bug reports."""

import click


@click.command()
def env() -> None:
    """Print what an issue report needs: versions, devices, plugins. No names, paths or tokens."""
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from dlm_plugins.registry import Registry

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    packages = ("dlm", "torch", "transformers", "accelerate", "datasets", "bitsandbytes", "tokenizers", "peft")
    lines = {package: installed(package) for package in packages}
    lines["python"] = platform.python_version()
    lines["platform"] = platform.platform()
    lines["processors"] = f"{os.cpu_count()}, torch uses {torch.get_num_threads()} threads"
    lines["accelerators"] = _accelerators()
    width = max(map(len, lines))
    for name, value in lines.items():
        click.echo(f"{name:<{width}}  {value}")
    for plugin in Registry.discover().plugins:
        click.echo(f"{'plugin':<{width}}  {plugin.name}: {plugin.distribution} {plugin.version}, {plugin.status}")


def _accelerators() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return f"{', '.join(names)} (CUDA {torch.version.cuda})"
    return "Apple MPS" if torch.backends.mps.is_available() else "none"
