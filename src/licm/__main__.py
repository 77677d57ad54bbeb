"""`python -m licm` is the command line."""

from licm.cli import main

main()
