"""Words that mean something in an answer: separators, units, number words, and words that change what they follow."""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SEPARATORS = frozenset({"and", "or", "and/or"})
GREEK = frozenset(
    "\\" + name
    for name in _words(
        """
        alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega
        Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega pi infty ell hbar aleph mho partial nabla
        """
    )
)
"""Commands that are a letter."""
SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
PERCENT_WORDS = frozenset({"percent", "percentage", "pct", "per cent", "percents"})
DEGREE_WORDS = frozenset({"degree", "degrees", "deg"})
BASES = {
    "two": 2, "binary": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "octal": 8, "nine": 9,
    "ten": 10, "decimal": 10, "eleven": 11, "twelve": 12, "sixteen": 16, "hexadecimal": 16, "hex": 16, "bin": 2,
}  # fmt: skip

CHANGING = _words(
    """
    not no none never neither nor or and more less fewer greater least most than over under above below beyond without
    except half halves quarter third thirds times is are was isn't aren't doesn't does cannot can't am pm a.m p.m noon
    midnight mod modulo base at from minus plus divided multiplied factorial root roots square-root power negative
    infinity  if unless when only between to through until before after of
    hundred thousand million billion trillion dozen score pair pairs bc ad bce ce north south east west n s e w
    hundreds thousands millions billions trillions dozens up down double twice triple squared cubed percent percentage
    undefined impossible wrong incorrect false reciprocal reciprocals inverse inverted negated conjugate complement
    rejected reject invalid untrue excluded excluding discarded inadmissible extraneous unacceptable unsuitable
    fails failed fail incorrectly contradiction contradictory omitted refuted disproved ruled out dismissed nope nah
    discard ignored ignore disregarded erroneous mistaken bogus fake spurious disallowed forbidden
    maybe perhaps possibly guess unsure oops sorry scrap scrapped cancelled canceled absurd nonsense
    doubtful unverified questionable otherwise else instead actually
    """
)
"""Words that change the value or the truth of the number before them. A text with one of them is no unit."""

_COUNTING = _words(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fourty fifty sixty seventy eighty ninety
    fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth
    eighteenth nineteenth twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth hundredth
    thousandth millionth billionth
    """
)
CHANGING_BEHIND = (
    _COUNTING
    | {f"{word}s" for word in _COUNTING}
    | _words(
        """
        quarters lakh lakhs crore crores quadrillion quintillion sextillion gross grosses scores point mille promille
        permille permil permyriad ppm ppb myriad
        larger
        smaller bigger higher
        lower longer shorter taller older younger faster slower earlier later better worse opposite short shy off
        binary ternary quaternary quinary senary octal nonary decimal duodecimal hexadecimal hex bin oct vigesimal
        sexagesimal
        """
    )
)
"""Words that change a number that they stand behind, but not the meaning of a name: `\\text{larger angle} = 30`."""

QUALIFIERS = frozenset(
    {"for", "where", "with", "when", "whenever", "if", "given", "such", "provided", "as", "on", "let", "subject"}
)
"""Words that begin a condition behind an answer."""

INTRODUCING = _words(
    """
    is are was were be equals equal get gets got have has had gives give leaves makes make obtain obtained find answer
    """
)
"""Words of a sentence that its result follows."""

HARMLESS_IN_PROSE = _words("is are was were of more at from when if only up to over before after times pair pairs")
"""Words that limit or change a number in an answer, but not in a sentence: `it comes to 12`, `12 more apples`."""

REMARKS = _words("which because since who whose")
"""Words that begin a remark on what stands before them."""

BARE_UNITS = _words(
    """
    mm cm dm km ft yd mi nm um mg kg lb lbs oz ml cl dl kl mph kph kmh rpm hz khz mhz kw kwh hp psi kpa mol cc sec secs
    min mins hr hrs msec usd eur rmb degree degrees deg unit units inch inches foot feet yard yards mile miles meter
    meters metre metres centimeter centimeters millimeter millimeters kilometer kilometers gram grams kilogram
    kilograms liter liters litre litres pound pounds ounce ounces cent cents dollar dollars euro euros yuan yen
    percent percentage pct square cubic sq
    """
)
"""Units that count without `\\text`, behind a number."""

SHORT_WORDS = BARE_UNITS | _words("am an as at be by do go he if in is it me my no of on or pm so to up us we")
"""Words of two letters that are no product in a sentence."""

UPRIGHT_UNITS = _words("m s g h l L A V N J W K C F T t d Ω")
"""Single letters that may be a unit if they are upright and stand behind a number."""

ANSWER_WORDS = _words(
    """
    yes no true false even odd both neither always never sometimes all some none zero east west north south left right
    red green blue black white convex concave increasing decreasing rational irrational prime composite positive
    negative infinite finite divergent convergent circle ellipse parabola hyperbola line point triangle square
    rectangle rhombus trapezoid monday tuesday wednesday thursday friday saturday sunday male female heads tails
    january february march april june july august september october november december one two three four five six
    seven eight nine ten
    """
)
"""Words that are an answer as they stand, so that their letters are no product."""

NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    )
}

_SENTINELS = re.compile(
    r"""
    (?: see\b.* | refer\b.* | proof\b.* | prove\b.* | proved | proven | q\.?e\.?d\.? | omitted | answers?\ (?:may|will|
    can|is|are)\b.* | the\ (?:answer|solution|result|value)s?\b.* | solution\b.* | none | null | nil | nan | n/?a |
    not\ ?found | not\ (?:available|given|applicable)\b.* | no\ answer\b.* | unknown | missing | unsolved | error |
    tbd | todo | empty | [^\w<>=]* )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]{2,}")
MAX_GOLD_WORDS = 8
"""Golds of more words than this are prose, of which no answer can be a copy."""


def is_no_answer(text: str) -> bool:
    """Whether a gold says that there is no answer (`proof`, `N/A`, `see solution`, `???`), or is prose.

    Args:
        text: Plain text, without LaTeX.
    """
    plain = text.strip().rstrip(".").strip()
    return _SENTINELS.fullmatch(plain) is not None or len(_WORD.findall(plain)) > MAX_GOLD_WORDS


def plain_words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation around them."""
    words = (word.strip(".,;:!?()[]\"'’“”") for word in text.lower().replace("~", " ").split())
    return [word for word in words if word]


def changes_number(text: str) -> bool:
    """Whether a text behind a number may change it, as `changes_meaning`, or by words that may be part of a name."""
    return changes_meaning(text) or any(word in CHANGING_BEHIND for word in plain_words(text.replace("-", " ")))


def changes_meaning(text: str) -> bool:
    """Whether a text behind a number may change its value or its truth, so that it is no unit that can be ignored."""
    return any(word in CHANGING or any(char.isdigit() for char in word) for word in plain_words(text))


def is_half_day(text: str) -> str:
    """`am` or `pm` if the text is one of these, in any spelling, else blank."""
    plain = text.lower().replace(".", "").replace(" ", "").strip("()")
    return plain if plain in ("am", "pm") else ""
