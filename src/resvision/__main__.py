"""python -m resvision"""

from resvision.cli import main

if __name__ == "__main__":
    main()
