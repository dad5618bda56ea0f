"""``haloformer completion``."""

import importlib
import inspect
import typing
from collections.abc import Mapping
from typing import Literal

from haloformer.cli.registry import HOMES, Command
from haloformer.vocabulary import unknown_name

Shell = Literal["bash", "zsh", "fish"]

COMMAND = Command(
    "print what a shell needs to complete commands, options and names",
    positional=("shell",),
    text=True,
    examples=(
        'eval "$(haloformer completion bash)"',
        "haloformer completion zsh --out ~/.haloformer-completion.zsh",
        "haloformer completion fish --out ~/.config/fish/completions/haloformer.fish",
    ),
)


def completion(shell: Shell) -> str:
    """Prints a script that completes commands, options, and names of surveys, presets and models.

    The script holds all of them: a shell that has read it completes without starting Python. Make it
    anew after an update. For one line to put into the shell's own file see the examples.

    Args:
        shell: bash, zsh or fish.
    """
    shells = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if shell not in shells:
        raise unknown_name("shell", shell, shells)
    return shells[shell](_words()) + "\n"


class _Words(typing.NamedTuple):
    """What a command takes.

    Attributes:
        summary: Of the command.
        options: Option, with its dashes → what its value may be; None: a file or anything.
        first: What its first argument may be.
        open: Options whose value may also be a file.
    """

    summary: str
    options: Mapping[str, tuple[str, ...] | None]
    first: tuple[str, ...]
    open: frozenset[str]


def _words() -> dict[str, _Words]:
    from haloformer.cli.entry import COMMANDS
    from haloformer.cli.parsing import parser_of

    names = _names()
    found = {}
    for name, command in COMMANDS.items():
        function = getattr(importlib.import_module(HOMES[name]), command.function or name)
        parser = parser_of(name, command, function)
        options: dict[str, tuple[str, ...] | None] = {"--help": ()}
        for option, hint in parser.hints.items():
            options[f"--{option}"] = names.get(option) or _choices(hint)
        if not command.experiment:
            options["--config"] = None
        options["--print_config"] = ()
        for place in command.positional:
            options.pop(f"--{place}", None)
        known: tuple[str, ...] = ()
        if command.positional:
            place = command.positional[0]
            hint = inspect.signature(function).parameters[place].annotation
            known = names.get(_FIRST.get((name, place), place)) or _choices(hint) or ()
        found[name] = _Words(
            command.summary, options, known, frozenset(f"--{each}" for each in names)
        )
    return found


_FIRST = {
    ("surveys", "name"): "survey",
    ("presets", "name"): "preset",
    ("models", "name"): "model",
    ("study", "name"): "study",
    ("tune", "name"): "search",
    ("compare", "runs"): "run",
    ("export", "model"): "run",
}
"""(Command, argument) → which names it takes, where the argument's own name does not say it."""


def _names() -> dict[str, tuple[str, ...]]:
    """Returns names that come with the package: what they are of → themselves."""
    from importlib import resources

    from haloformer.models.table import model_table
    from haloformer.training.presets import list_presets

    root = resources.files("haloformer")

    def files(folder: str) -> tuple[str, ...]:
        entries = (root / "configs" / folder).iterdir()
        return tuple(
            sorted(e.name.removesuffix(".yaml") for e in entries if e.name.endswith(".yaml"))
        )

    surveys, models = files("surveys"), tuple(row["name"] for row in model_table())
    shipped = tuple(sorted(each.name for each in (root / "weights").iterdir() if each.is_dir()))
    return {
        "survey": surveys,
        "data": surveys,
        "like": surveys,
        "surveys": surveys,
        "preset": tuple(list_presets()),
        "model": models,
        "models": models,
        "study": files("studies"),
        "search": files("searches"),
        "run": shipped,
    }


def _choices(hint: object) -> tuple[str, ...] | None:
    """Returns the values of an option; empty for a switch, None where a file or anything may follow."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) is not Literal else (hint,)
    for kind in (*kinds, hint):
        if typing.get_origin(kind) is Literal:
            return tuple(map(str, typing.get_args(kind)))
    return () if hint is bool or bool in kinds else None


def _bash(words: Mapping[str, _Words]) -> str:
    """Returns the script for bash: a function that looks at the word before."""
    lines = [
        "# haloformer: completion for bash",
        "_haloformer() {",
        '  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"',
        '  [[ "$before" == "=" ]] && before="${COMP_WORDS[COMP_CWORD-2]}"',
        '  [[ "$current" == "=" ]] && current=""',
        "  local options='' values='' first='' only=''",
        "  COMPREPLY=()",
        "  if (( COMP_CWORD == 1 )); then",
        f'    COMPREPLY=($(compgen -W "{" ".join(words)} --help --version" -- "$current"))',
        "    return",
        "  fi",
        '  case "${COMP_WORDS[1]}" in',
    ]
    for name, each in words.items():
        lines.append(f"    {name})")
        lines.append(f'      options="{" ".join(each.options)}"')
        if each.first:
            lines.append(f'      first="{" ".join(each.first)}"')
        lines.append('      case "${before//-/_}" in')
        for option, values in each.options.items():
            if values:
                spelt = option.replace("-", "_")
                only = " only=1" if option not in each.open else ""
                lines.append(f'        {spelt}) values="{" ".join(values)}"{only} ;;')
        lines += ["      esac ;;"]
    lines += [
        "    *) return ;;",
        "  esac",
        '  if [[ "$current" == -* ]]; then',
        '    COMPREPLY=($(compgen -W "$options" -- "$current"))',
        '  elif [[ -n "$values" ]]; then',
        '    COMPREPLY=($(compgen -W "$values" -- "$current"))',
        '    [[ -n "$only" ]] || COMPREPLY+=($(compgen -f -- "$current"))',
        "  else",
        '    (( COMP_CWORD == 2 )) && COMPREPLY=($(compgen -W "$first" -- "$current"))',
        '    COMPREPLY+=($(compgen -f -- "$current"))',
        "  fi",
        "}",
        "complete -o filenames -F _haloformer haloformer",
    ]
    return "\n".join(lines)


def _zsh(words: Mapping[str, _Words]) -> str:
    """Returns the script for zsh: a file of its ``fpath``, which can also be sourced."""
    lines = [
        "#compdef haloformer",
        "# haloformer: completion for zsh",
        """_haloformer_or_file() { _alternative "names:name:($*)" 'files:file:_files' }""",
        "_haloformer() {",
        "  local -a commands options",
        "  if (( CURRENT == 2 )); then",
        "    commands=(",
        *(f"      {_quoted(f'{name}:{each.summary}')}" for name, each in words.items()),
        "    )",
        "    if [[ $PREFIX == -* ]]; then",
        "      compadd -- --help --version",
        "    else",
        "      _describe command commands",
        "    fi",
        "    return",
        "  fi",
        '  case "$words[2]" in',
    ]
    for name, each in words.items():
        lines.append(f"    {name}) options=(")
        lines += [f"      {_quoted(spec)}" for spec in _zsh_specs(each)]
        lines.append("    ) ;;")
    lines += [
        "    *) return 1 ;;",
        "  esac",
        "  shift words",
        "  (( CURRENT -= 1 ))",
        "  _arguments $options",
        "}",
        "if [[ $funcstack[1] == _haloformer ]]; then",
        '  _haloformer "$@"',
        "else",
        "  (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }",
        "  compdef _haloformer haloformer",
        "fi",
    ]
    return "\n".join(lines)


def _zsh_specs(words: _Words) -> list[str]:
    """Returns what zsh's ``_arguments`` asks for: each option, the first argument, and the others."""

    def action(values: tuple[str, ...] | None, also_files: bool) -> str:
        if not values:
            return "_files"
        listed = f"({' '.join(values)})"
        return f" _haloformer_or_file {' '.join(values)}" if also_files else listed

    specs = []
    for option, values in words.options.items():
        if values == ():
            specs.append(option)
            continue
        about = f"{option.removeprefix('--')}:{action(values, option in words.open)}"
        specs.append(f"{option}=:{about}")
        if "_" in option:  # spelt with hyphens it is known, too, and not shown
            specs.append(f"!{option.replace('_', '-')}=:{about}")
    if words.first:
        specs.append(f"1:name:{action(words.first, True)}")
    return [*specs, "*:file:_files"]


def _quoted(text: str) -> str:
    """Returns a text as a shell takes it for one word."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish(words: Mapping[str, _Words]) -> str:
    """Returns the script for fish: a line for each command and option."""
    start = "complete -c haloformer"
    lines = [
        "# haloformer: completion for fish",
        "function __haloformer_command -a name",
        "    set -l words (commandline -opc)",
        '    test "$words[2]" = $name',
        "end",
        "function __haloformer_first -a name",
        "    __haloformer_command $name; and test (count (commandline -opc)) -eq 2",
        "end",
        f"{start} -n __fish_use_subcommand -f -l help -s h",
        f"{start} -n __fish_use_subcommand -f -l version -s V",
    ]
    for name, each in words.items():
        summary = each.summary.replace("'", "\\'")
        lines.append(f"{start} -n __fish_use_subcommand -f -a {name} -d '{summary}'")
        inside = f"{start} -n '__haloformer_command {name}'"
        if each.first:
            lines.append(f"{start} -n '__haloformer_first {name}' -a '{' '.join(each.first)}'")
        for option, values in each.options.items():
            value = "" if values == () else " -r"
            if values:
                also_files = "-r" if option in each.open else "-x"
                value = f" {also_files} -a '{' '.join(values)}'"
            lines.append(f"{inside} -l {option.removeprefix('--')}{value}")
    return "\n".join(lines)
