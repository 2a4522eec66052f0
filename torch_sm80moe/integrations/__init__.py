"""One file per framework, imported by the user; nothing in the package imports them."""
