"""An application as a user might write it, for the tests of the whole program."""
