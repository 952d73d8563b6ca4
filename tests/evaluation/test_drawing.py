"""The tools that pictures are drawn with."""

from cdmaa_jax.evaluation.drawing import broken, fits, fitted_font, font, spelled


def test_names_of_files_are_broken_where_they_are_too_long():
    title = "a_very_long-photo_name-as-phones-give-them_20261128_134500.png original"
    letters = font(12)
    lines = broken(title, letters, 144)
    assert len(lines) > 2 and all(fits(line, letters, 144) for line in lines)
    assert "".join(lines) == title.replace(" ", "")


def test_words_stay_whole_where_they_fit():
    letters = font(12)
    lines = broken("logarithmic gradient regularization of a long name", letters, 144)
    assert all(fits(line, letters, 144) for line in lines)
    assert " ".join(lines) == "logarithmic gradient regularization of a long name"
    assert broken("wide", letters, 1)[:4] == list("wide")


def test_letters_are_the_largest_that_fit():
    assert fitted_font("short", 100, 15, 9).size == 15
    text = "a caption that is rather long"
    letters = fitted_font(text, 136, 15, 5)
    assert fits(text, letters, 136) and not fits(text, font(int(letters.size) + 1), 136)
    assert fitted_font(10 * text, 136, 15, 9).size == 9


def test_letters_that_the_font_lacks_are_spelled_in_ascii():
    """Whatever the font has is left as it is; accents may be composed or not."""
    letters = font(12)
    assert spelled("A photo_1 (“x”).jpg", letters) == "A photo_1 (“x”).jpg"
    assert spelled("müller.jpg", letters) == spelled("mu\u0308ller.jpg", letters) == "muller.jpg"
    assert spelled("ε ≤ 写", letters) == r"\u03b5 \u2264 \u5199"
    assert spelled("\ud800\t\0", letters) == r"\ud800\t\x00"
