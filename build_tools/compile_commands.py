"""Writes compile_commands.json, from which clangd learns how every source is compiled."""

import json
import subprocess

from build_tools.native import ROOT, ninja_command
from build_tools.ninja_file import CHECK_DEPFILE, LOG_REDIRECT


def compile_commands() -> list[dict[str, str]]:
    """ninja's list of compilations, without what the shell does after them."""
    command = ninja_command("-t", "compdb", "cu", "cpp")
    database: list[dict[str, str]] = json.loads(
        subprocess.run(command, capture_output=True, check=True).stdout
    )
    for entry in database:
        for rest in (LOG_REDIRECT, CHECK_DEPFILE):
            entry["command"] = entry["command"].split(rest.replace("$out", entry["output"]))[0]
    return database


if __name__ == "__main__":
    text = json.dumps(compile_commands(), indent=2)
    (ROOT / "compile_commands.json").write_text(text + "\n")
