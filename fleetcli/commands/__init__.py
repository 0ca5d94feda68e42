"""The subcommands of `energyfleet`: a function for each, whose signature is its command line and docstring its help."""
