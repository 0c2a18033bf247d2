"""Runs the command `vitlens` as `python -m vitlens`."""

from vitlens.cli.main import main

if __name__ == "__main__":
    main()
