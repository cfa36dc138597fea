"""Language-dependent settings of scorers: script, word boundaries and tokenizers."""

import importlib.util
import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from prefix_jax.options import check_bleu_tokenizer, language_code

# Scripts by the prefix of their letters' Unicode names, and the language suggested for each.
_BEGINNINGS = {
    "LATIN": "Latin", "FULLWIDTH LATIN": "Latin", "CYRILLIC": "Cyrillic", "GREEK": "Greek", "ARABIC": "Arabic",
    "HEBREW": "Hebrew", "DEVANAGARI": "Devanagari", "BENGALI": "Bengali", "TAMIL": "Tamil", "TELUGU": "Telugu",
    "GUJARATI": "Gujarati", "GURMUKHI": "Gurmukhi", "KANNADA": "Kannada", "MALAYALAM": "Malayalam",
    "SINHALA": "Sinhala", "ARMENIAN": "Armenian", "GEORGIAN": "Georgian", "ETHIOPIC": "Ethiopic", "THAI": "Thai",
    "LAO": "Lao", "KHMER": "Khmer", "MYANMAR": "Burmese", "TIBETAN": "Tibetan", "HANGUL": "Hangul", "CJK": "Chinese",
    "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HALFWIDTH KATAKANA": "Japanese",
}  # fmt: skip
_SUGGESTED = {
    "Latin": "en", "Cyrillic": "ru", "Greek": "el", "Arabic": "ar", "Hebrew": "he", "Devanagari": "hi",
    "Bengali": "bn", "Tamil": "ta", "Telugu": "te", "Gujarati": "gu", "Gurmukhi": "pa", "Kannada": "kn",
    "Malayalam": "ml", "Sinhala": "si", "Armenian": "hy", "Georgian": "ka", "Ethiopic": "am", "Thai": "th",
    "Lao": "lo", "Khmer": "km", "Burmese": "my", "Tibetan": "bo", "Hangul": "ko", "Chinese": "zh", "Japanese": "ja",
}  # fmt: skip
# Scripts of languages, unless they use exactly one of those above or the Latin script.
_WRITTEN = {code: {script} for script, code in _SUGGESTED.items()} | {
    "ja": {"Japanese", "Chinese"}, "ko": {"Hangul", "Chinese"}, "uk": {"Cyrillic"}, "bg": {"Cyrillic"},
    "be": {"Cyrillic"}, "mk": {"Cyrillic"}, "fa": {"Arabic"}, "ur": {"Arabic"}, "ps": {"Arabic"}, "yi": {"Hebrew"},
    "mr": {"Devanagari"}, "ne": {"Devanagari"}, "sa": {"Devanagari"}, "as": {"Bengali"}, "ti": {"Ethiopic"},
}  # fmt: skip
_LATIN = frozenset({
    "en", "de", "fr", "es", "pt", "it", "nl", "da", "sv", "no", "nb", "nn", "fi", "is", "et", "lv", "lt", "pl", "cs",
    "sk", "sl", "hr", "hu", "ro", "sq", "tr", "vi", "id", "ms", "tl", "sw", "ca", "gl", "eu", "ga", "cy", "mt", "af",
    "eo", "la",
})  # fmt: skip
_UNSPACED = frozenset({"Chinese", "Japanese", "Thai", "Lao", "Khmer", "Burmese", "Tibetan"})
_UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "km", "my", "bo"})
# METEOR 1.5's name of each language, and whether it can normalise texts.
_METEOR = {
    "en": ("en", True), "cs": ("cz", True), "de": ("de", True), "es": ("es", True), "fr": ("fr", True),
    "ru": ("ru", True), "da": ("da", False), "fi": ("fi", False), "hu": ("hu", False), "it": ("it", False),
    "nl": ("nl", False), "no": ("no", False), "nb": ("no", False), "pt": ("pt", False), "ro": ("ro", False),
    "sv": ("se", False), "tr": ("tr", False),
}  # fmt: skip
_PACKAGES = {"ja-mecab": "MeCab", "ko-mecab": "mecab_ko"}
# Number of characters from the first texts that determine the script.
_LOOKED_AT = 20_000


@dataclass(frozen=True)
class Language:
    """Scoring settings of a language.

    Attributes:
      code: ISO code.
      bleu_tokenizer: sacrebleu's tokenizer, for tasks without their own.
      fits: whether the references are in a script of the language.
      spaced: whether spaces separate words.
      notes: remarks for the user, one sentence each.
    """

    code: str = "en"
    bleu_tokenizer: str = "13a"
    fits: bool = True
    spaced: bool = True
    notes: tuple[str, ...] = ()

    @property
    def meteor(self) -> tuple[str, bool] | None:
        """Returns METEOR's name of the language and whether it normalises texts; None if it is not supported."""
        return _METEOR.get(self.code) if self.fits else None


ENGLISH = Language()


def language_of(code: str, bleu_tokenizer: str, references: Iterable[str]) -> Language:
    """Returns the scoring settings of references declared to be of the language `code`.

    Raises:
      UserError: the code or tokenizer does not exist.
    """
    code = language_code(code)
    check_bleu_tokenizer(bleu_tokenizer)
    script = main_script(references)
    expected = _WRITTEN.get(code) or ({"Latin"} if code in _LATIN else set())
    fits = not expected or script is None or script in expected
    notes = []
    if not fits:
        assert script is not None
        notes.append(
            f'most letters of the references are {script}, and the language is "{code}"; set '
            f"--config.data.language={_SUGGESTED[script]} (for `score`: --language {_SUGGESTED[script]}) or what it is"
        )
    chosen = bleu_tokenizer
    if not chosen:
        chosen, note = _default_tokenizer(code)
        notes += [note] if note else []
    spaced = code not in _UNSPACED_LANGUAGES if fits else script not in _UNSPACED
    return Language(code, chosen, fits, spaced, tuple(notes))


def _default_tokenizer(code: str) -> tuple[str, str]:
    """Returns sacrebleu's tokenizer for a language, and a sentence if it is not the usual one."""
    wanted = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}.get(code)
    if wanted is None:
        return ("char" if code in _UNSPACED_LANGUAGES else "13a"), ""
    package = _PACKAGES.get(wanted)
    if package is None or importlib.util.find_spec(package):
        return wanted, ""
    return "char", (
        f'BLEU\'s tokenizer for "{code}", {wanted}, is not installed (pip install "sacrebleu[{code}]"): BLEU counts '
        "characters (char)"
    )


def main_script(texts: Iterable[str]) -> str | None:
    """Returns the script of most letters of the texts; None if there is no majority."""
    letters = (character for text in texts for character in text if character.isalpha())
    counts = Counter(_script(letter) for letter in itertools.islice(letters, _LOOKED_AT))
    # Japanese mixes both: kana among Chinese characters identify it.
    if counts["Japanese"] * 10 > counts["Chinese"]:
        counts["Japanese"] += counts.pop("Chinese", 0)
    total = sum(counts.values())
    script, count = counts.most_common(1)[0] if total else ("", 0)
    return script if script and 2 * count > total else None


def other_letters(text: str) -> bool:
    """Returns whether a text has non-Latin letters."""
    return not text.isascii() and any(letter.isalpha() and _script(letter) != "Latin" for letter in text)


def _script(letter: str) -> str:
    if letter.isascii():
        return "Latin"
    name = unicodedata.name(letter, "")
    return next((script for beginning, script in _BEGINNINGS.items() if name.startswith(beginning)), "")
