"""What led to what, as a graph that Graphviz draws."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator
from typing import Any, Protocol


class Text(Protocol):
    """A file to write text into."""

    def write(self, text: str, /) -> object:
        """Write."""
        ...


class DependencyGraph:
    """Results, and for each the results that it led to (`celery.utils.graph.DependencyGraph`)."""

    def __init__(self, formatter: Callable[[Any], str] | None = None) -> None:
        self._label = formatter or str
        self.adjacent: dict[Any, list[Any]] = {}

    def add_arc(self, obj: Any) -> None:
        """Add a node."""
        self.adjacent.setdefault(obj, [])

    def add_edge(self, A: Any, B: Any) -> None:  # noqa: N803  (Celery's names)
        """Note that `A` led to `B`."""
        self.adjacent.setdefault(A, []).append(B)

    def __getitem__(self, node: Any) -> list[Any]:
        return self.adjacent[node]

    def __len__(self) -> int:
        return len(self.adjacent)

    def __contains__(self, obj: Any) -> bool:
        return obj in self.adjacent

    def __iter__(self) -> Iterator[Any]:
        return iter(self.adjacent)

    def items(self) -> ItemsView[Any, list[Any]]:
        """Each node with those that it led to."""
        return self.adjacent.items()

    def edges(self) -> list[Any]:
        """The nodes that led to others."""
        return [node for node, led_to in self.adjacent.items() if led_to]

    def to_dot(self, fh: Text) -> None:
        """Write the graph in Graphviz' language."""
        fh.write("digraph dependencies {\n")
        for node, led_to in self.adjacent.items():
            fh.write(f'    "{self._quoted(node)}";\n')
            for other in led_to:
                fh.write(f'    "{self._quoted(node)}" -> "{self._quoted(other)}";\n')
        fh.write("}\n")

    def _quoted(self, node: Any) -> str:
        return self._label(node).replace("\\", "\\\\").replace('"', '\\"')
