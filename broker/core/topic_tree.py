"""Topic bindings as a tree of words: `*` is one word, `#` any number of them.

Matching costs what the key's words and the wildcards on the way cost, not the number of bindings.
Tests: tests/unit/broker/core/test_topic_tree.py, property test against a brute-force matcher.
"""

from __future__ import annotations

from typing import Generic, TypeVar, final

T = TypeVar("T")


@final
class _Node(Generic[T]):
    __slots__ = ("targets", "words")

    def __init__(self) -> None:
        self.words: dict[str, _Node[T]] = {}
        self.targets: dict[T, int] = {}


@final
class TopicTree(Generic[T]):
    """Patterns with targets; a target bound twice by one pattern counts twice."""

    __slots__ = ("_root",)

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, pattern: str, target: T) -> None:
        """Bind `target` by `pattern`."""
        node = self._root
        for word in pattern.split("."):
            following = node.words.get(word)
            if following is None:
                following = node.words[word] = _Node()
            node = following
        node.targets[target] = node.targets.get(target, 0) + 1

    def remove(self, pattern: str, target: T) -> None:
        """Undo one `add`; branches that hold nothing any more are cut off."""
        path = [self._root]
        words = pattern.split(".")
        for word in words:
            following = path[-1].words.get(word)
            if following is None:
                return
            path.append(following)
        last = path[-1]
        left = last.targets.get(target, 0) - 1
        if left > 0:
            last.targets[target] = left
        else:
            last.targets.pop(target, None)
        for index in range(len(words), 0, -1):
            if path[index].targets or path[index].words:
                break
            del path[index - 1].words[words[index - 1]]

    def match(self, key: str) -> set[T]:
        """All targets whose pattern matches the routing key."""
        words = key.split(".")
        found: set[T] = set()
        # States are (node, words consumed), each looked at once: many `#` in a row cannot blow up.
        seen: set[tuple[int, int]] = set()
        pending: list[tuple[_Node[T], int]] = [(self._root, 0)]
        count = len(words)
        while pending:
            node, index = pending.pop()
            state = (id(node), index)
            if state in seen:
                continue
            seen.add(state)
            if index == count:
                found.update(node.targets)
            any_number = node.words.get("#")
            if any_number is not None:
                pending.append((any_number, index))
                pending.extend((any_number, later) for later in range(index + 1, count + 1))
            if index < count:
                exact = node.words.get(words[index])
                # A key's own words `*` and `#` are plain text to a binding: only the pattern has wildcards.
                if exact is not None and words[index] not in ("*", "#"):
                    pending.append((exact, index + 1))
                one = node.words.get("*")
                if one is not None:
                    pending.append((one, index + 1))
        return found
