"""The command line; the program lives in `vidsift.cli.app`."""


def main() -> None:
    """Run the `vidsift` program."""
    from vidsift.cli.app import run

    run()
