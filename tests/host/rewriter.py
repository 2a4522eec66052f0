"""Turns the few things of CUDA that no header can express into C++, line for line.

    kernel<<<grid, block>>>(args);   kernel ->* simt::configure(grid, block)(args);
    extern __shared__ T name[];      T* const name = simt::dynamic_shared<T>();
    __shared__ T name[n];            auto& name = simt::static_shared<T[n]>("name");
    asm volatile("text" : ...);      simt::run_ptx("text", {...});     without volatile, too

Every other character stays, and so does every line number.
"""

import re

_LAUNCH = re.compile(r"<<<([^;]*?)>>>\s*\(", re.DOTALL)
_ALIGNED = r"(?:__align__\((?P<align>[^)]*)\)\s*)?"
_DYNAMIC = re.compile(rf"extern\s+__shared__\s+{_ALIGNED}(?P<type>[\w:]+)\s+(?P<name>\w+)\[\];")
_STATIC = re.compile(
    rf"(?<!extern )__shared__\s+{_ALIGNED}(?P<type>[\w:<>, ]+?)\s+(?P<name>\w+)"
    r"(?P<dims>(?:\[[^\];]*\])*);"
)
_ASM = re.compile(r"\basm\s*(?:volatile\s*)?\(")
_LEFTOVER = re.compile(r"<<<|__shared__|\basm\b")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[()\[\]{},:]|\n|[^"()\[\]{},:\n]+')
_OPERAND = re.compile(r'\s*("[^"]*")\s*\((.*)\)\s*', re.DOTALL)


class RewriteError(Exception):
    """The source has CUDA syntax of a form that is not known here."""


def rewrite(text: str, name: str) -> str:
    """The C++ of one source file, which debuggers and reports will call `name`."""
    result = _LAUNCH.sub(r" ->* simt::configure(\1)(", text)
    result = _DYNAMIC.sub(_dynamic_shared, result)
    result = _STATIC.sub(_static_shared, result)
    result = _rewrite_asm(result)
    if leftover := _LEFTOVER.search(_without_comments(result)):
        raise RewriteError(f"{name}: {leftover[0]} is used in a form that rewriter.py must learn")
    if result.count("\n") != text.count("\n"):
        raise RewriteError(f"{name}: the rewriter must keep every line")
    return f'# 1 "{name}"\n{result}'


def _without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|\"[^\"\n]*\"", "", text)


def _dynamic_shared(match: re.Match[str]) -> str:
    return "{type}* const {name} = simt::dynamic_shared<{type}>({align});".format(
        **{**match.groupdict(), "align": match["align"] or ""}
    )


def _static_shared(match: re.Match[str]) -> str:
    align = f", {match['align']}" if match["align"] else ""
    shared = f'simt::static_shared<{match["type"]}{match["dims"]}>("{match["name"]}"{align})'
    return f"auto& {match['name']} = {shared};"


def _rewrite_asm(text: str) -> str:
    while match := _ASM.search(text):
        sections, end = _sections(text, match.end())
        operands = [_operand(part) for section in sections[1:3] for part in section]
        # A new line cannot be lost: what is left out still counts.
        code = f"simt::run_ptx({','.join(sections[0])}"
        code += f", {{{', '.join(operands)}}})" if operands else ")"
        code += "\n" * (text[match.start() : end].count("\n") - code.count("\n"))
        text = text[: match.start()] + code + text[end:]
    return text


def _sections(text: str, start: int) -> tuple[list[list[str]], int]:
    """The comma-separated parts of each colon-separated section, and where the statement closes."""
    sections, depth, at = [[""]], 0, start
    while True:
        token = _TOKEN.match(text, at)
        if token is None:
            raise RewriteError("an asm statement never ends")
        at = token.end()
        if token[0] == ")" and depth == 0:
            return [[p for p in section if p.strip()] for section in sections], at
        depth += (token[0] in "([{") - (token[0] in ")]}")
        if token[0] == ":" and depth == 0:
            sections.append([""])
        elif token[0] == "," and depth == 0:
            sections[-1].append("")
        else:
            sections[-1][-1] += token[0]


def _operand(part: str) -> str:
    match = _OPERAND.fullmatch(part)
    if match is None:
        raise RewriteError(f'an asm operand must look like "r"(x), got {part.strip()!r}')
    constraint, value = match.groups()
    function = "write_back" if constraint[1] in "=+" else "pass"
    return f"simt::{function}({constraint}, {value})"
