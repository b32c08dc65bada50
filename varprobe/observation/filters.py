"""Choose the modules to watch: by name pattern, by class, by a function of one's own.

Filters are asked once, before there is any hook: whatever they raise, the model is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from varprobe.errors import InvalidArgumentError, UnknownNameError
from varprobe.modules import ModuleName
from varprobe.recording import Unobserved

Predicate = Callable[[str, nn.Module], bool]
"""Called with the name of a module and the module."""

Filter = str | type[nn.Module] | Predicate
Filters = Filter | Sequence[Filter]


def is_leaf(name: str, module: nn.Module) -> bool:  # noqa: ARG001
    """Tell whether a module has no modules inside, other than parametrizations of its weights.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    >>> vp.profile(model, torch.ones(2, 4), include=vp.is_leaf).modules
    ('0', '1')
    """
    return all(part == "parametrizations" for part, _ in module.named_children())


def is_container(name: str, module: nn.Module) -> bool:
    """Tell whether a module has modules inside.

    Examples
    --------
    >>> import torch, varprobe as vp
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
    >>> vp.profile(model, torch.ones(2, 4), include=vp.is_container).modules
    ('',)
    """
    return not is_leaf(name, module)


@dataclass(frozen=True, slots=True)
class Choice:
    """The modules to watch, by name, and how they were chosen."""

    chosen: Mapping[nn.Module, str]
    left_out: int
    """Modules that could have been watched."""
    include: tuple[str, ...] | None
    exclude: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing was asked to be left out."""
        return self.include is None and not self.exclude

    def describe(self) -> dict[str, object]:
        """Return the filters as a fact for ``meta``; empty without any."""
        if self.is_whole:
            return {}
        include = None if self.include is None else list(self.include)
        parameters = sum(p.numel() for module in self.chosen for p in _own(module))
        return {
            "filters": {
                "include": include,
                "exclude": list(self.exclude),
                "left_out": self.left_out,
                "parameters": parameters,
            }
        }

    def list_unobserved(self) -> Iterator[Unobserved]:
        """Yield one line for all that was left out."""
        if self.left_out:
            asked = (("include", self.include), ("exclude", self.exclude))
            spelled = [f"{name}={_spell(filters)}" for name, filters in asked if filters]
            yield Unobserved(
                module="",
                reason=f"{self.left_out} modules were left out by {', '.join(spelled)}; operations "
                "between modules cannot be told from what these do",
            )


def choose_modules(
    names: Mapping[nn.Module, ModuleName], include: Filters | None, exclude: Filters
) -> Choice:
    """Return the modules that ``include`` matches and ``exclude`` does not.

    Raises
    ------
    UnknownNameError
        If a pattern matches no module that can be watched.
    InvalidArgumentError
        If no module is left, or something is no filter.
    """
    watchable = {module: known for module, known in names.items() if _can_be_watched(module)}
    wanted = None if include is None else _list_filters("include", include)
    unwanted = _list_filters("exclude", exclude)
    for pattern in [*(wanted or ()), *unwanted]:
        if isinstance(pattern, str):
            _check_pattern(pattern, names, watchable)
    chosen = {
        module: known.name
        for module, known in watchable.items()
        if (wanted is None or any(_matches(f, module, known) for f in wanted))
        and not any(_matches(f, module, known) for f in unwanted)
    }
    choice = Choice(
        # What nobody calls stays in the books of a probe that watches everything.
        chosen={m: k.name for m, k in names.items()} if wanted is None and not unwanted else chosen,
        left_out=len(watchable) - len(chosen),
        include=None if wanted is None else tuple(map(_name, wanted)),
        exclude=tuple(map(_name, unwanted)),
    )
    if not chosen and not choice.is_whole:
        raise InvalidArgumentError(
            f"No module is left to record: include={_spell(choice.include or ())} and "
            f"exclude={_spell(choice.exclude)} leave out all {len(watchable)}. Names are those of "
            'model.named_modules(), "" is the model itself.'
        )
    return choice


def _can_be_watched(module: nn.Module) -> bool:
    # ModuleList and its kin are never called; ParameterList has weights.
    return type(module).forward is not nn.Module.forward or bool(_own(module))


def _own(module: nn.Module) -> list[nn.Parameter]:
    held = list(module.parameters(recurse=False))
    # The weight itself lies deeper if something computes it.
    parametrizations = getattr(module, "parametrizations", None)
    if nn.utils.parametrize.is_parametrized(module) and parametrizations is not None:
        held += parametrizations.parameters()
    return held


def _list_filters(option: str, given: Filters) -> list[Filter]:
    filters = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    for item in filters:
        is_class = isinstance(item, type) and issubclass(item, nn.Module)
        is_predicate = callable(item) and not isinstance(item, type | nn.Module)
        if not (isinstance(item, str) or is_class or is_predicate):
            raise InvalidArgumentError(
                f"{option}={_name(item)} is no filter: give a pattern of names such as "
                '"encoder.*", a class of modules, a function of (name, module), or a sequence '
                "of these."
            )
    return filters


def _check_pattern(
    pattern: str,
    names: Mapping[nn.Module, ModuleName],
    watchable: Mapping[nn.Module, ModuleName],
) -> None:
    if any(_matches(pattern, module, known) for module, known in watchable.items()):
        return
    if any(_matches(pattern, module, known) for module, known in names.items()):
        raise InvalidArgumentError(
            f"{pattern!r} only holds other modules and is never called itself: there is nothing to "
            f'record of it. Its parts are "{pattern}.*".'
        )
    kind = next((type(module) for module in names if type(module).__name__ == pattern), None)
    if kind is not None:
        raise InvalidArgumentError(
            f"{pattern!r} is the name of a class, and a string is matched against the names of "
            f"modules. Give the class itself: {kind.__module__}.{kind.__qualname__}."
        )
    raise UnknownNameError.among("module", pattern, [known.name for known in watchable.values()])


def _matches(item: Filter, module: nn.Module, known: ModuleName) -> bool:
    if isinstance(item, str):
        return any(fnmatchcase(name, item) for name in (known.name, *known.aliases))
    if isinstance(item, type):
        return isinstance(module, item)
    return bool(item(known.name, module))


def _name(item: object) -> str:
    if isinstance(item, str):
        return item
    return str(getattr(item, "__qualname__", None) or type(item).__qualname__)


def _spell(filters: Sequence[str]) -> str:
    return repr(filters[0]) if len(filters) == 1 else repr(tuple(filters))
