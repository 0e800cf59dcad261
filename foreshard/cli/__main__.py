"""Run the command line with `python -m foreshard.cli`."""

from foreshard.cli import main

if __name__ == "__main__":
    main()
