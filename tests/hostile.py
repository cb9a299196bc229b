"""Texts that users may give and that break what shows, keys or binds them: each is a text and nothing more."""

TEXTS = (
    *("a\tb", "a\nb", "\r\n", "a\x00b", "\x07", "\x1b[31mred", "\x1b]0;title\x07", "\x7f", "\x85", "\u2028"),
    *("\u202eback", "\u2066isolate", "\ufeffmark", "ab\ufffe", "\uffff", "e\u0301", "\U0001f469\u200d\U0001f680"),
    *("7", "007", "2024", "-1", "1e3", "NaN", "null", "true", " lead", "trail ", "%", "_"),
    *("'; drop table documents; --", '"quoted"', "it's", "$query_id", "{}", "{{ 7 * 7 }}", "${HOME}", "`id`"),
    *(
        "<script>alert(1)</script>",
        "&amp;",
        "]]>",
        "[bold]x[/bold]",
        "[/]",
        ":warning:",
        "\\x1b",
        "a|b",
        "a,b",
        "../up",
    ),
    "long " * 100,
)
