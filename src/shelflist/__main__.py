"""`python -m shelflist` is the command `shelflist`."""

from shelflist.cli.main import main

if __name__ == "__main__":
    main()
