"""Text of tokens as they come, up to a stop string."""

from collections.abc import Callable, Sequence

# What an incomplete character is decoded to.
_BROKEN = "\ufffd"


class TextStream:
    """Turns tokens into text piece by piece; holds back what may still change, or may begin a stop string.

    Attributes:
      stopped: whether a stop string was found; the text ends before it.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = (), strip: bool = False):
        """Args:
        decode: returns the text of token ids.
        stops: the stop strings.
        strip: whether to leave out white space at both ends of the text.
        """
        self._decode, self._stops, self._strip = decode, [stop for stop in stops if stop], strip
        self._ids: list[int] = []
        self._seen, self._read = 0, 0  # the text of the first `_read` tokens is out; it is decoded from `_seen` on
        self._held = ""
        self._began = False
        self.stopped = False

    def add(self, token: int) -> str:
        """Returns the text that a token makes certain."""
        self._ids.append(token)
        before, now = self._decode(self._ids[self._seen : self._read]), self._decode(self._ids[self._seen :])
        if len(now) <= len(before) or now.endswith(_BROKEN):
            return ""
        self._seen, self._read = self._read, len(self._ids)
        return self._certain(now[len(before) :], final=False)

    def end(self) -> str:
        """Returns the rest of the text."""
        before, now = self._decode(self._ids[self._seen : self._read]), self._decode(self._ids[self._seen :])
        self._seen = self._read = len(self._ids)
        return self._certain(now[len(before) :], final=True)

    def _certain(self, more: str, final: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + more
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, final, text = True, True, text[: min(found)]
        if self._strip and not self._began:
            text = text.lstrip()
        keep = len(text) if final else len(text) - self._open_end(text)
        out, self._held = text[:keep], text[keep:]
        if self._strip:
            bare = out.rstrip()
            self._held, out = ("" if final else out[len(bare) :] + self._held), bare
        self._began = self._began or bool(out)
        return out

    def _open_end(self, text: str) -> int:
        """Returns the length of the longest end of a text that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
