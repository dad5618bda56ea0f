"""The page of the leaderboard; those of the other reports are tested beside them."""

from haloformer.studies import leaderboard


def test_names_from_outside_are_text_on_the_leaderboard():
    hostile = "<script>alert(1)</script> {{ 7*7 }}"
    entry = {
        "survey": hostile,
        "rank": 1,
        "n_seeds": 1,
        "model": hostile,
        "family": hostile,
        "macro_auc": 0.9,
        "macro_auc_low": 0.8,
        "macro_auc_high": 0.95,
        "accuracy": 0.7,
        "published_macro_auc": None,
        "macs": None,
        "inference_images_per_second": None,
        "parameters": 1000,
        "seconds_per_run": 1.0,
    }
    page = leaderboard._page([entry], [(hostile, f"`{hostile}`")], {})
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; {{ 7*7 }}") == 5
