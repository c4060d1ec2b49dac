"""Pictures: what is drawn where, told apart how, and whether it can be read."""
