"""Scores in other languages and of other shapes: the best for a perfect output, or none at all."""

import json

import pytest
from common import needs_java

from prefix_jax import cli
from prefix_jax import score as command
from prefix_jax.errors import UserError
from prefix_jax.metrics import bleu, coco, languages, rouge
from prefix_jax.tasks import TASKS, measure, score, try_out

# Of each, texts of a language, two a row.
TEXTS = {
    "en": ("The Eagle is a cheap coffee shop by the river.", "Blue Spice serves French food in the city centre."),
    "de": ("Der Adler ist ein günstiges Café am Fluss.", "Das blaue Gewürz serviert französische Küche."),
    "fr": ("L'Aigle est un café bon marché près de l'eau.", "On y sert de la cuisine française, très bonne."),
    "cs": ("Orel je levná kavárna u řeky ve městě.", "Modré koření podává francouzskou kuchyni v centru."),
    "tr": ("Kartal, nehrin kıyısında ucuz bir kahvecidir.", "İstanbul'da Fransız yemekleri sunan bir yer var."),
    "ru": ("Орёл - дешёвая кофейня у реки в городе.", "Синяя пряность подаёт французскую еду."),
    "el": ("Ο Αετός είναι ένα φθηνό καφέ δίπλα στο ποτάμι.", "Το μπλε μπαχάρι σερβίρει γαλλικό φαγητό."),
    "ar": ("النسر مقهى رخيص بجانب النهر في المدينة.", "يقدم المطعم الأزرق طعاما فرنسيا."),
    "he": ("הנשר הוא בית קפה זול ליד הנהר בעיר.", "התבלין הכחול מגיש אוכל צרפתי טוב."),
    "hi": ("ईगल नदी के किनारे एक सस्ती कॉफी की दुकान है।", "ब्लू स्पाइस शहर में फ्रेंच खाना परोसता है।"),
    "ko": ("이글은 강가에 있는 저렴한 커피숍입니다.", "블루 스파이스는 도심에서 프랑스 음식을 제공합니다."),
    "zh": ("老鹰是河边一家便宜的咖啡店。", "蓝香料在市中心供应法国菜。"),
    "ja": ("イーグルは川沿いの安いコーヒーショップです。", "ブルースパイスはフランス料理を出します。"),
    "th": ("อีเกิลเป็นร้านกาแฟราคาถูกริมแม่น้ำ", "บลูสไปซ์เสิร์ฟอาหารฝรั่งเศสในเมือง"),
}
SHAPES = {
    "one word": ("positive", "negative"),
    "one letter": ("A", "B"),
    "numbers": ("42", "3.14"),
    "emoji": ("🎉🎉", "🙂"),
    "punctuation": ("?!", "..."),
    "a word beside a sentence": ("positive", TEXTS["en"][0]),
    "an emoji beside a sentence": ("🎉", TEXTS["en"][0]),
    "scripts mixed": ("GPT-4 是一个 model 🎉 из города", "שלום and 안녕 and नमस्ते"),
    "no accents of its own": ("Cafe\u0301 près de l'eau", "naïve façade"),
    "line ends": ("a b c d\ne f g h", "i j k l\u2028m n o p"),
}
CASES = [(name, name, texts) for name, texts in TEXTS.items()]
CASES += [(name, "en", texts) for name, texts in [*SHAPES.items(), *TEXTS.items()] if name != "en"]
CASES += [(f"{name}, in zh", "zh", texts) for name, texts in SHAPES.items()]


def rows(outputs, references):
    return [
        {"hypothesis": output, "references": [text], "category": category}
        for output, text, category in zip(outputs, references, ("City", "Artist"), strict=True)
    ]


def best(name: str) -> float | None:
    """The score of a perfect output; None where it depends on the texts."""
    if name.startswith("TER"):
        return 0.0
    if name.startswith("METEOR"):
        return 1.0
    return {"NIST": None, "CIDEr": 10.0}.get(name, 100.0)


# Tasks with free texts; those with fixed labels and answers are held to the official figures of their own.
FREE = [name for name in TASKS if not name.startswith(("glue", "superglue", "squad", "gsm8k"))]


@pytest.mark.parametrize("task", FREE)
@pytest.mark.parametrize(("name", "language", "texts"), CASES, ids=[f"{n}-{code}" for n, code, _ in CASES])
def test_a_perfect_output_has_the_best_score_or_none(name, language, texts, task):
    found = measure(task, rows(texts, texts), java=False, language=language)
    for metric, value in found.scores.items():
        expected = best(metric)
        assert value == pytest.approx(expected) if expected is not None else value > 0, metric
    assert (
        set(found.scores) | set(found.unmeasured)
        >= {name for name in TASKS[task].decimals if name not in TASKS[task].java}
        or task == "webnlg"
    )
    assert all(found.unmeasured.values())
    # A worse output: the texts of the other row, and half of each text.
    for worse in (texts[::-1], tuple(text[: len(text) // 2] for text in texts)):
        below = measure(task, rows(worse, texts), java=False, language=language)
        assert set(below.scores) == set(found.scores)
        for metric, value in below.scores.items():
            lower = metric.startswith("TER")
            assert value >= found.scores[metric] if lower else value <= found.scores[metric] + 1e-9, metric


@needs_java
@pytest.mark.slow
@pytest.mark.parametrize("task", ["e2e", "dart"])
def test_a_perfect_output_has_the_best_score_or_none_with_java(task):
    every = [text for texts in [*TEXTS.values(), *SHAPES.values()] for text in texts]
    for texts in (TEXTS["en"], SHAPES["emoji"], every):
        found = measure(task, [{"hypothesis": text, "references": [text]} for text in texts])
        for metric, value in found.scores.items():
            assert metric == "NIST" or value == pytest.approx(
                best(metric) * (100 if task == "e2e" and metric == "METEOR" else 1)
            )
    json.dumps(found.scores, allow_nan=False)


def test_answers_of_one_word_have_an_exact_match_first_and_no_bleu():
    found = measure("text", [{"hypothesis": word, "references": [word]} for word in ("yes", "no", "yes")])
    assert found.scores == pytest.approx({"exact_match": 100, "chrF": 100, "rougeL": 100})
    assert next(iter(found.scores)) == "exact_match"
    assert found.unmeasured == {"BLEU": "it needs references of 4 tokens or more, which 0 of 3 have"}


def test_bleu_and_its_signature_are_sacrebleus():
    import sacrebleu

    for language, tokenizer in (("zh", "zh"), ("de", "13a"), ("th", "char"), ("ja", "char"), ("ar", "13a")):
        right = TEXTS[language]
        outputs = [text[:-4] + "x" for text in right]
        found = measure("translation", rows(outputs, right), language=language, bleu_tokenizer=tokenizer)
        metric = sacrebleu.BLEU(tokenize=tokenizer)
        assert found.scores["BLEU"] == metric.corpus_score(outputs, [list(right)]).score
        assert found.signatures["BLEU"] == str(metric.get_signature())
        assert found.scores["chrF"] == sacrebleu.CHRF().corpus_score(outputs, [list(right)]).score
    plain = sacrebleu.TER(normalized=True, asian_support=True)
    outputs = ["老鹰是河边的咖啡店。", "蓝香料供应法国菜。"]
    expected = plain.corpus_score(outputs, [list(TEXTS["zh"])]).score
    assert score("translation", rows(outputs, TEXTS["zh"]), language="zh")["TER"] == pytest.approx(expected)


def test_rouge_of_english_is_rouge_scores_own():
    from rouge_score.rouge_scorer import RougeScorer

    texts = ("The Eagles' café, near £20 running shops", "Ünder the rivers 3.5 stars running")
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    expected = [scorer.score(texts[i], texts[1 - i]) for i in (0, 1)]
    found = score("xsum", rows(texts[::-1], texts))
    for kind in ("rouge1", "rougeL"):
        assert found[kind] == 100 * sum(one[kind].fmeasure for one in expected) / 2


def test_words_of_any_script():
    assert rouge.words(True)("Der Café-Müller, 3.5") == ["der", "café", "müller", "3", "5"]
    assert rouge.words(True)("हिन्दी है।") == ["हिन्दी", "है"]
    assert rouge.words(False)("我有 iPhone 15。") == ["我", "有", "iphone", "15"]
    assert rouge.words(False)("กิน") == ["กิ", "น"]
    assert rouge.words(True)("🎉 !") == ["🎉", "!"]


@pytest.mark.parametrize("language", [name for name in TEXTS if name not in ("en", "de", "fr", "cs", "tr")])
def test_texts_of_another_script_than_said_are_noticed(language):
    right = TEXTS[language]
    found = measure("text", rows(right, right))
    suggested = languages._SUGGESTED[languages.main_script(right)]
    assert suggested == language
    assert found.notes[0].startswith("most letters of the references are ")
    assert f"--config.data.language={language} (for `score`: --language {language})" in found.notes[0]
    assert measure("text", rows(right, right), language=language, bleu_tokenizer="char").notes == ()


@pytest.mark.parametrize(
    "texts", [TEXTS["en"], TEXTS["tr"], SHAPES["numbers"], SHAPES["emoji"], ("π = 3.14", "β test")]
)
def test_texts_that_fit_are_not_noticed(texts):
    assert measure("text", rows(texts, texts)).notes == ()


def test_a_tokenizer_that_cannot_be_had_is_named(monkeypatch):
    with pytest.raises(UserError, match="ja-mecab cannot be had: pip install"):
        try_out("text", True, "ja", "ja-mecab")
    with pytest.raises(UserError, match='bleu_tokenizer is "13b"; it must be empty or one of none, 13a'):
        score("text", rows(TEXTS["en"], TEXTS["en"]), bleu_tokenizer="13b")
    monkeypatch.setattr(bleu, "_metric", lambda *_: (_ for _ in ()).throw(OSError("no route to host")))
    bleu.tokenizer.cache_clear()
    with pytest.raises(UserError, match=r"flores200 cannot be had \(no route to host\); put its model into .*models"):
        bleu.tokenizer("flores200")
    bleu.tokenizer.cache_clear()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("jp", "did you mean ja"),
        ("german", "did you mean de"),
        ("", "must be an ISO code"),
        ("e", "must be an ISO code"),
    ],
)
def test_a_language_that_is_no_code_is_refused(code, message):
    with pytest.raises(UserError, match=message):
        score("text", rows(TEXTS["en"], TEXTS["en"]), language=code)


def run(words):
    return cli.call(command.main, command.define_flags, words)


def test_the_command_takes_language_and_tokenizer(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows(TEXTS["zh"], TEXTS["zh"])]
    path.write_text("".join(lines), encoding="utf-8")
    words = ["--task", "text", "--file", str(path)]
    assert run([*words, "--language", "zh"]) == 0
    out, err = capsys.readouterr()
    assert "rougeL       100.00" in out and "tok:zh" in out and err == ""
    assert run(words) == 0
    out, err = capsys.readouterr()
    assert "BLEU              -" in out and "--config.data.language=zh" in err and "no BLEU" in err
    assert run([*words, "--bleu-tokenizer", "13b"]) == 2
    assert run([*words, "--language", "chinese"]) == 2
    assert capsys.readouterr().err.startswith("error: --bleu-tokenizer is")


GERMAN = ("de", True)  # without paraphrases METEOR starts at once
SURROUNDINGS = {
    "decimal commas": {"LANG": "de_DE.UTF-8", "LC_ALL": "de_DE.UTF-8", "LC_NUMERIC": "de_DE.UTF-8"},
    "options": {"JAVA_TOOL_OPTIONS": "-Duser.language=de -Duser.country=DE -Dfile.encoding=ISO-8859-1"},
    "options that are wrong": {"JAVA_TOOL_OPTIONS": "-Xbogus", "_JAVA_OPTIONS": "-XX:+Bogus"},
    "options of the JDK": {"JDK_JAVA_OPTIONS": "-Duser.language=ar", "_JAVA_OPTIONS": "-Duser.language=hi"},
    "no temporary directory": {"TMPDIR": "/nonexistent/here", "TEMP": "/nonexistent", "TMP": "/nonexistent"},
    "the plain locale": {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0"},
    "another class path": {"CLASSPATH": "/nonexistent.jar"},
}


@pytest.fixture(scope="module")
def undisturbed():
    return java_scores()


def java_scores():
    texts = [*TEXTS["de"], "1,5 Sterne für das Café Größe", "naïve 東京 кафе"]
    found = [{"hypothesis": text[:-3], "references": [text]} for text in texts]
    tokenized = coco.tokenize_rows(found)
    return tokenized, coco.meteor(tokenized, language=GERMAN), coco.rouge_l(tokenized), coco.cider(tokenized)


@needs_java
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_scores_of_java_do_not_depend_on_the_surroundings(name, monkeypatch, undisturbed):
    for variable, value in SURROUNDINGS[name].items():
        monkeypatch.setenv(variable, value)
    assert java_scores() == undisturbed


@needs_java
def test_meteor_in_languages_it_knows():
    for code in ("de", "cs", "it", "sv"):
        text = TEXTS.get(code, TEXTS["de"])[0]
        found = [{"hypothesis": text, "references": [text]}]
        assert coco.meteor(found, language=languages.language_of(code, "", [text]).meteor) == [1.0]
    assert languages.language_of("zh", "", TEXTS["zh"]).meteor is None
    assert languages.language_of("en", "", TEXTS["ar"]).meteor is None
