"""Makes `python -m resvision` the same as `resvision`."""

from resvision.cli import main

if __name__ == "__main__":
    main()
