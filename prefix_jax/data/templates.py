"""Templates over the columns of a row: `data.source_format="{title}: {body}"`.

A format with {source} (or {target}) frames the text of a column. One without is a template: what stands between its
first and its last column is the text, what stands around it frames that text, inside the model's default format unless
it has {bos} or {eos} itself.
"""

import re
from typing import NamedTuple

from prefix_jax.data.files import Row, text_field
from prefix_jax.errors import UserError

_NAME = re.compile(r"\{([^\s{}]+)\}")
_SPECIAL = ("bos", "eos")


class Template(NamedTuple):
    """A format taken apart.

    Attributes:
      text: the template of the text, over columns; "": the text is a column's.
      format: the format around the text; "": the default.
      whole: whether `format` takes the place of the default, or stands inside it.
    """

    text: str
    format: str
    whole: bool

    def within(self, default: str, side: str) -> str:
        """Returns the format of a model whose default is given."""
        if not self.format:
            return default
        return self.format if self.whole else default.replace(f"{{{side}}}", self.format)


def parse(format: str, side: str) -> Template:
    """Takes the format of the side "source" or "target" apart.

    Raises:
      UserError: a special token stands between two columns.
    """
    found = [match for match in _NAME.finditer(format) if match[1] not in _SPECIAL]
    if not found or side in (match[1] for match in found):
        return Template("", format, True)
    first, last = found[0].start(), found[-1].end()
    text, around = format[first:last], f"{format[:first]}{{{side}}}{format[last:]}"
    if special := next((match[1] for match in _NAME.finditer(text) if match[1] in _SPECIAL), None):
        raise UserError(f'data.{side}_format "{format}" has {{{special}}} between two columns; put it at an end')
    return Template(text, around, any(match[1] in _SPECIAL for match in _NAME.finditer(around)))


def filled(template: str, row: Row, side: str) -> str:
    """Returns the text of a row.

    Raises:
      UserError: a column is missing, or empty.
    """
    return _NAME.sub(lambda match: text_field(row, match[1], f"{side}_format").strip(), template)
