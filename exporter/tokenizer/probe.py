"""Texts that tokenizers get wrong: about two hundred, the same in every run.

A verification step encodes them with the source's tokenizer and with the artifact's, and expects the same ids. They
aim at what differs between implementations: word boundaries (digits, contractions, white space, marks), joins inside
words (repeats), characters outside the BMP, bytes that are no text, and names of special tokens inside plain text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

SEED = 20_000

LANGUAGES = (
    "The ferry leaves at a quarter past six, doesn't it? We'll see whether they've kept two seats.",
    "Größere Flüsse überschwemmen jährlich die Äcker; Straßenbahnfahrer wissen's natürlich längst.",
    "L'été dernier, j'ai cueilli des mûres près du vieux moulin où l'eau coulait à peine.",
    "Perché non c'è più caffè? Chissà, l'ho già bevuto tutto io stamattina, com'è d'abitudine.",
    "À beira do rio, as crianças não param: pulam, gritam e dão pão às gaivotas sem cerimônia.",
    "¿Quién pintó la pared añil del pingüino? ¡Ningún vecino lo confesó, según mi tía Begoña!",
    "नदी के किनारे बैठकर हमने चाय पी और पुरानी चिट्ठियाँ पढ़ीं; बारिश थोड़ी देर में रुक गई।",
    "เมื่อวานนี้ฝนตกหนักมาก เราจึงนั่งดื่มน้ำชาอยู่ที่บ้านและฟังเพลงเก่า ๆ ด้วยกัน",
    "昨天傍晚下了一场小雨，河边的柳树显得格外青翠。我们买了三斤橘子。",
    "駅前のパン屋は朝七時に開きます。メロンパンはすぐ売り切れるので、急いでください！",
    "어제 저녁에는 비가 조금 내렸지만, 우리는 우산 없이 강가를 천천히 걸었습니다.",
    "جلسنا قرب النافذة نقرأ الرسائل القديمة، ثمّ قالت: «لن يَطولَ المطرُ هذه الليلة».",
    'ישבנו ליד החלון וקראנו מכתבים ישנים; "הגשם יפסק בקרוב", אמרה סבתא.',
    "Вчера вечером шёл дождь, и мы читали вслух старые письма — то смеясь, то умолкая.",
    "Χθες το βράδυ έβρεχε κι εμείς διαβάζαμε φωναχτά παλιά γράμματα· ύστερα σωπάσαμε.",
    "Hôm qua trời mưa nhỏ, chúng tôi ngồi bên cửa sổ đọc những bức thư cũ.",
    "Zażółcony parasol i źdźbło trawy: ćma siadła na książce, a świt już pełzł ku łąkom.",
    "İğneli çalılıkta ılık rüzgâr esiyordu; şoför öğleden önce köprüye varmış mıydı?",
    "Вчора ми їли гречку з ґрибами, а дід розповідав про кам'яну мельницю.",
    "நேற்று மாலை சிறிய மழை பெய்தது; நாங்கள் பழைய கடிதங்களைப் படித்தோம்.",
    "গতকাল সন্ধ্যায় হালকা বৃষ্টি হয়েছিল, আমরা জানালার পাশে বসে পুরোনো চিঠি পড়ছিলাম।",
    "გუშინ საღამოს წვიმდა და ძველ წერილებს ვკითხულობდით ფანჯარასთან.",
    "Երեկ երեկոյան անձրև էր գալիս, և մենք հին նամակներ էինք կարդում։",
    "ትናንት ምሽት ዝናብ ዘነበ፤ እኛም የድሮ ደብዳቤዎችን አነበብን።",
)

DIGITS = (
    "7", "42", "365", "1024", "31415", "271828", "1234567", "12345678", "123456789", "1234567890123456789",
    "3.14159, 2,718.28 and -0.5e-12", "007 0x1F 0b1011 1_000_000", "tel. +49 30 1234567", "v1.2.3-rc4",
    "٣٤٥٦٧ ५६७८९ ๑๒๓๔", "½ ¾ ⅞ ² ³ ⁹ ₂ Ⅷ ⅻ ① ㊿ 〇 𝟜𝟚", "1a2b3c4d", "2024-02-29T23:59:60Z", "100%25°C", "९९९९९९९९",
)  # fmt: skip

CONTRACTIONS = (
    "I'm you're he's we've they'd she'll don't", "I'M YOU'RE HE'S WE'VE THEY'D SHE'LL DON'T",
    "i'M yOU'Re iT'S wE'vE", "'s 't 're 've 'm 'll 'd", "''s '''t ' s '\ts", "rock'n'roll o'clock 'tis y'all'd've",
    "It’s a typographic ’s, isn’t it?", "x's'd'll're", "l'l 'l 'll 'lll", "'Sunday 'thing 'really 'veil 'mine 'door",
)  # fmt: skip

WHITESPACE = (
    "", " ", "  ", "   ", "\t", "\t\t\t", "\n", "\n\n", "\n\n\n\n", "\r\n", "\r\n\r\n", "\r", " \n", "\n ", " \n \n ",
    "a  b", "a   b", "a    b ", " a", "  a", "   a", "a ", "a  ", "a\tb", "a\t\tb", "a \t b", "\ta", " \ta", "\t a",
    "a\nb", "a \n b", "a\r\nb", "a\n\n  b", "end.\n\n\nNext", "end. \n \nNext", "!\n", "!\n\n", "! \n", "?!\r\n\r\n",
    "a\u00a0b", "\u00a0\u00a0a", "a\u3000b", "\u3000\u3000", "a\u2003\u2009b", "a\u200bb", "a\u2028b\u2029c",
    "a\x0bb\x0cc", " " * 33, "\n" * 17, "\t" * 9 + "x", (" " * 8 + "\n") * 3, "\ufefftext", "a\u202fb\u205fc",
)  # fmt: skip

SYMBOLS = (
    "👩‍👩‍👧‍👦 🏳️‍🌈 👨🏿‍🚀 🧑🏽‍🤝‍🧑🏻", "🇩🇪🇫🇷🇮🇹🇵🇹🇮🇳🇪🇸🇹🇭", "☂️☂ ❤️‍🔥 1️⃣2️⃣ #️⃣", "🤷🏼‍♀️🤷🏾‍♂️ok🙂🙃", "😀" * 7,
    "e\u0301 n\u0303 a\u030a\u0301 o\u0302\u0323", "Z̷̡͎͝a̶͙͒l̸̙̚g̵̡̈ọ̷̓", "\u0301\u0301alone", "क\u094dष\u093f \u094d",
    "ﬁ ﬂ ﬃ Å K Ω ﷺ", "ŁÓDŹ straße STRASSE ẞ İIıi", "A\u0332B\u0332", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝓜𝓪𝓽𝓱 𝕏", "𐍈𐌰𐌹 𒀀𒁀 𓀀𓂀 𠀀𪛖",
    "\u202eright to left\u202c \u2066x\u2069", "soft\u00adhy\u00adphen", "∑_{i=1}^{∞} xᵢ² ≤ ∫₀¹ f(t)dt ⇒ ∀ε>0",
    "→←↑↓↔ ░▒▓█ ♠♣♥♦",
    "€£¥₹₿ §¶†‡ «» „“ ‚‘ ‹›", "…...‥ — – ‐ ‑ - −", "( [ { < > } ] )", "--- === *** ___ ~~~ ```", "\\\\ // || && ^^",
)  # fmt: skip

CONTROL = (
    "\x00", "a\x00b", "\x01\x02\x03\x1b[31mred\x1b[0m", "\x7f\x80\x9f", "bell\x07 back\x08space", "\ufffd\ufffd",
    "\ufffe\uffff", "\ue000\uf8ff", "\U0010ffff", "\x1c\x1d\x1e\x1f", "".join(map(chr, range(1, 33))), "\u0378\u0530",
)  # fmt: skip

LOOKALIKES = (
    "<|eot_id|>", "<|begin_of_text|>Hello", "a<|end_of_text|>b", "<|start_header_id|>system<|end_header_id|>\n\nObey",
    "<|im_start|>user\nHi<|im_end|>", "<|endoftext|>", "<|eot_id", "|eot_id|>", "< |eot_id|>", "<|eot_id |>",
    "<|<|eot_id|>|>", "<|EOT_ID|>", "<|reserved_special_token_0|>", "<|reserved_special_token_999|>", "<s>", "</s>",
    "<unk>", "<s></s><unk>", "[INST] <<SYS>> [/INST]", "<0x0A> <0xFF>", "[PAD128256]", "▁under▁score ▁",
    "Ġcapital Ċ ĉ", "<|eot_id|><|eot_id|>",
)  # fmt: skip

CODE = (
    "def f(x: int) -> int:\n    return x**2  # twice?\n\n\nclass A:\n\tpass\n",
    "for (size_t i = 0; i < n; ++i) { sum += a[i] & 0xFFu; }\r\n",
    "SELECT name, COUNT(*) FROM orders WHERE paid IS NOT NULL GROUP BY 1;",
    '{"key": [1, 2.5e3, null, true], "näme": "line\\nbreak\\u00e9"}',
    "<div class='row'><a href=\"/p?q=1&amp;r=%20\">link</a></div><!-- x -->",
    "https://user:pw@example.org:8080/a_b/c-d.html?x=1&y=%C3%A9#frag",
    "$ grep -rn 'TODO' --include=*.{c,h} . | awk -F: '{print $1}' | sort -u",
    "\\begin{align} a^2 &= b^2 + c^2 \\\\ \\end{align}",
    "camelCaseIdentifier snake_case_name SCREAMING_SNAKE kebab-case XMLHttpRequest2",
    "if(a&&!b||c==d){x=y?z:-w;}//comment\n/* block\n   comment */",
)

LONG = (
    "a" * 130, "ab" * 90, "abc" * 60, "=" * 77, "-" * 150, "." * 99, "ha" * 41 + "!", "ы" * 65, "水" * 50, "9" * 101,
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "pneumonoultramicroscopicsilicovolcanoconiosis" * 3, "x_" * 60, "()" * 40, "\\n" * 30, "аa" * 30,
)  # fmt: skip

ALPHABET = (
    "aaaaeeiotnsrhldAEST  \n\t0123456789'\".,;:!?()-_/<>|=+*#@"
    "éüñßœçãışжщяλωआकहกทم中日한字😀🏽\u200d\ufe0f\u0301\u094d\u3000\u00a0"
)

GENERATED = 24
"""Number of random texts at the end."""


def random_texts(seed: int, count: int, longest: int = 60) -> Iterator[str]:
    """Random strings over characters that meet at every kind of word boundary."""
    source = random.Random(seed)
    for _ in range(count):
        yield "".join(source.choices(ALPHABET, k=source.randint(1, longest)))


def probe_texts() -> list[str]:
    """All probe texts, in a fixed order."""
    curated = (*LANGUAGES, *DIGITS, *CONTRACTIONS, *WHITESPACE, *SYMBOLS, *CONTROL, *LOOKALIKES, *CODE, *LONG)
    return [*curated, *random_texts(SEED, GENERATED)]
