from collections.abc import Callable

_kwargs_pairs: Callable[[object], frozenset[str]]
