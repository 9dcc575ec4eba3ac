"""The words of the simulated shop: what it sells, and how a taste speaks.

A taste in text is told by style words and brands only, a taste in pictures by palette and pattern only
(`hm4sr.data.drawing`), so no word here names a colour or a pattern.
"""

SEASONS = ("spring", "summer", "autumn", "winter", "all year")
"""A product kind sells in one of the first four, or alike on every day."""

SEASON_PEAKS = (105, 196, 288, 15)
"""Day of the year on which each of the four seasons is at its height."""

KINDS: dict[str, tuple[str, str, str, str, str]] = {
    "Kitchen > Cups": ("blossom tea cup", "iced tea glass", "cider mug", "mulled wine mug", "coffee mug"),
    "Kitchen > Plates": ("easter plate", "picnic plate", "soup plate", "gingerbread plate", "dinner plate"),
    "Kitchen > Bottles": ("cordial bottle", "lemonade bottle", "hiking flask", "thermos flask", "oil bottle"),
    "Clothing > Hats": ("rain hat", "sun hat", "walking hat", "bobble hat", "cap"),
    "Clothing > Scarves": ("spring scarf", "beach sarong", "autumn wrap", "winter scarf", "neckerchief"),
    "Clothing > Shoes": ("garden clogs", "sandals", "rain boots", "snow boots", "sneakers"),
    "Home > Lamps": ("balcony lamp", "garden lantern", "harvest lantern", "advent lamp", "table lamp"),
    "Home > Cushions": (
        "bench cushion",
        "deckchair cushion",
        "reading cushion",
        "fireside cushion",
        "sofa cushion",
    ),
    "Home > Vases": ("tulip vase", "sunflower vase", "dahlia vase", "amaryllis vase", "bud vase"),
    "Outdoor > Bags": ("bicycle bag", "beach bag", "foraging bag", "ski bag", "day bag"),
    "Outdoor > Umbrellas": (
        "shower umbrella",
        "parasol",
        "storm umbrella",
        "sleet umbrella",
        "travel umbrella",
    ),
    "Desk > Notebooks": (
        "gardening journal",
        "holiday journal",
        "school notebook",
        "new year planner",
        "notebook",
    ),
}
"""Category path to its product kinds, one for each of SEASONS."""

TEXT_TASTES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rustic": (
        ("rustic", "oak", "farmhouse", "whittled", "hessian", "cottage"),
        ("Fernhill", "Oldbarn", "Millbrook"),
    ),
    "minimalist": (
        ("minimalist", "pure", "slim", "understated", "matte", "seamless"),
        ("Linea", "Nord & Co", "Plano"),
    ),
    "vintage": (
        ("vintage", "retro", "antique", "brass", "heirloom", "nostalgic"),
        ("Hartwell", "Grandin", "Belle Époque"),
    ),
    "technical": (
        ("smart", "titanium", "modular", "carbon", "ergonomic", "precision"),
        ("Axiom", "Voltic", "Kinetik"),
    ),
    "ecological": (
        ("organic", "bamboo", "recycled", "fair-trade", "hemp", "compostable"),
        ("Terrafair", "Rootwise", "Mossway"),
    ),
    "luxurious": (
        ("luxury", "silk", "marble", "opulent", "couture", "cashmere"),
        ("Aurelle", "Maison Duval", "Castellane"),
    ),
    "playful": (
        ("playful", "quirky", "whimsical", "squishy", "cartoon", "cheerful"),
        ("Wobble", "Tiggy & Pip", "Jollybean"),
    ),
    "rugged": (
        ("rugged", "waxed", "heavy-duty", "expedition", "leather", "reinforced"),
        ("Ironpeak", "Basecamp 8", "Tundra"),
    ),
}
"""Name of a taste to its style words and its brands."""

FILLERS = ("", "", "", ", gift boxed", ", set of two", ", new edition", ", best price", ", easy care")
"""Ends of titles that tell nothing about anybody's taste."""
