"""The list of words that ships, and lists from files."""

import pytest

from vitlens import InputError
from vitlens.text import load_vocabulary
from vitlens.text.vocabulary import SHIPPED


def test_the_list_that_ships_is_large_in_words_and_small_on_disk():
    words = load_vocabulary()
    assert len(words) >= 1500
    assert len({word.casefold() for word in words}) == len(words)
    assert (SHIPPED / "plain.csv").stat().st_size <= 100_000
    assert all(word == word.strip() and len(word) <= 40 for word in words)
    assert set(words.category_of) == set(words)
    assert len(words.categories) >= 20
    parts = [load_vocabulary(category=category) for category in words.categories]
    assert [word for part in parts for word in part] == words
    assert min(map(len, parts)) >= 25
    assert {"stripes", "polka dots"} <= set(load_vocabulary("plain", "pattern"))


def test_a_file_has_a_text_in_each_line(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("a stop sign\n\n  a blue, round thing \nÄpfel\n", encoding="utf-8")
    words = load_vocabulary(path)
    assert words == ["a stop sign", "a blue, round thing", "Äpfel"]
    assert words.category_of == {}
    assert words.categories == []
    with pytest.raises(InputError, match="has no category 'sign': the file has none"):
        load_vocabulary(path, category="sign")


def test_a_table_has_a_column_of_texts(tmp_path):
    path = tmp_path / "words.csv"
    path.write_text('text,note,category\n"a red, wet leaf",x,plant\nrust,,\nmoss,y,plant\n', encoding="utf-8-sig")
    assert load_vocabulary(path) == ["a red, wet leaf", "rust", "moss"]
    assert load_vocabulary(str(path), "plant") == ["a red, wet leaf", "moss"]
    with pytest.raises(InputError, match="has no category 'plants'; the nearest are plant"):
        load_vocabulary(path, category="plants")
    path.write_text('text\n"a leaf\nin the rain"\n')
    assert load_vocabulary(path) == ["a leaf in the rain"]
    path.write_text("text\n" + "a" * 200_000)
    with pytest.raises(InputError, match="cannot be read as a CSV file: field larger"):
        load_vocabulary(path)
    path.write_text("word\nrust\n")
    with pytest.raises(InputError, match="has no column called 'text'"):
        load_vocabulary(path)


def test_what_is_no_list_is_refused(tmp_path):
    path = tmp_path / "words.txt"
    cases = {
        b"": "has no texts",
        b"\n \n": "has no texts",
        b"rust\nrust\n": "'rust' 2 times",
        b"\xff\xfe\x00": "no text in UTF-8",
        b"rust\0moss": "is no list of texts",
    }
    for content, sentence in cases.items():
        path.write_bytes(content)
        with pytest.raises(InputError, match=sentence):
            load_vocabulary(path)
    table = tmp_path / "words.json"
    table.write_text('["rust", "moss"]')
    with pytest.raises(InputError, match="is no list of texts: one in each line, or a CSV file"):
        load_vocabulary(table)
    with pytest.raises(
        InputError, match=r"comes with vitlens \(plain\), and as a file it cannot be read: No such file"
    ):
        load_vocabulary("fancy")
