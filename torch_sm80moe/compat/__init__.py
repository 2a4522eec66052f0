"""The interfaces of other packages, served by this one's operators.

One module a package, imported on demand; none imports the package whose names it has. See
`docs/interfaces.md`.
"""
