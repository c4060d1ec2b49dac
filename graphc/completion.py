"""Completion scripts for bash, zsh and fish, written from the argument parser.  Knows shells, no command."""

from __future__ import annotations

import argparse

BASH = """_graphc() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}} words=
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands} --help --version" -- "$word")); return
    fi
    case $before in
{values}
    esac
    case $command in
{options}
    esac
    case $word in
        -*) COMPREPLY=($(compgen -W "$words" -- "$word")) ;;
        *) COMPREPLY=($(compgen -f -- "$word")) ;;
    esac
}}
complete -o filenames -F _graphc graphc
"""

ZSH = """#compdef graphc
_graphc() {{
    local -a commands
    commands=(
{commands}
    )
    if (( CURRENT == 2 )); then
        _describe command commands; return
    fi
    case $words[2] in
{options}
    esac
}}
if [ "$funcstack[1]" = _graphc ]; then _graphc "$@"; else compdef _graphc graphc; fi
"""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script that the shell sources."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](_commands(parser))


Commands = dict[str, tuple[str, list[argparse.Action]]]


def _commands(parser: argparse.ArgumentParser) -> Commands:
    """Per command its summary and arguments."""
    (choices,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    summaries = {a.dest: a.help or "" for a in choices._get_subactions()}
    return {name: (summaries[name], made._actions) for name, made in choices.choices.items()}


def _bash(commands: Commands) -> str:
    values: dict[str, str] = {}
    options = []
    for name, (_, actions) in commands.items():
        flags = [o for a in actions for o in a.option_strings]
        plain = [str(c) for a in actions if not a.option_strings for c in a.choices or ()]
        options.append(f'        {name}) words="{" ".join(flags)}" ;;')
        values.update({o: " ".join(map(str, a.choices)) for a in actions for o in a.option_strings if a.choices})
        if plain:
            values[name] = " ".join(plain)
    cases = [f'        {o}) COMPREPLY=($(compgen -W "{c}" -- "$word")); return ;;' for o, c in values.items()]
    return BASH.format(commands=" ".join(commands), values="\n".join(cases), options="\n".join(options))


def _zsh(commands: Commands) -> str:
    listed = "\n".join(f"        '{name}:{_escaped(summary)}'" for name, (summary, _) in commands.items())
    options = []
    for name, (_, actions) in commands.items():
        parts = []
        for action in actions:
            values = f"({' '.join(map(str, action.choices))})" if action.choices else "_files"
            takes = action.nargs != 0
            for flag in action.option_strings:
                repeat = "*" if isinstance(action, argparse._AppendAction) else ""
                note = _escaped(action.help or "").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
                parts.append(f"'{repeat}{flag}[{note}]" + (f":value:{values}'" if takes else "'"))
            if not action.option_strings:
                parts.append(f"'*:{action.dest}:{values}'")
        options.append(f"        {name}) _arguments " + " ".join(parts) + " ;;")
    return ZSH.format(commands=listed, options="\n".join(options))


def _fish(commands: Commands) -> str:
    lines = [f"complete -c graphc -n __fish_use_subcommand -f -a {name} -d '{_escaped(summary)}'"
             for name, (summary, _) in commands.items()]
    for name, (_, actions) in commands.items():
        here = f"complete -c graphc -n '__fish_seen_subcommand_from {name}'"
        for action in actions:
            values = f" -a '{' '.join(map(str, action.choices))}'" if action.choices else ""
            for flag in action.option_strings:
                kind = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                needs = "" if action.nargs == 0 else " -x" if action.choices else " -r"
                lines.append(f"{here} {kind}{needs}{values} -d '{_escaped(action.help or '')}'")
            if not action.option_strings and values:
                lines.append(f"{here} -f{values}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("%%", "%").replace("'", "")
