"""`python -m hm4sr.cli` is the command `hm4sr`."""

from hm4sr.cli import main

main()
