"""Vocabulary of the embedded data set: values of each attribute of a lighthouse.

Every pool is a triple: values of the training split, values unique to validation, values unique to test. A validation
or test record draws from its own pool and from that of training.
"""

_FIRST = (
    (
        "Heron Copper Widow's Otter Silver Maggie's Storm Plover Lantern Salt Gannet Amber Bishop's Raven Harbour Old "
        "Curlew Moon Anchor Smuggler's Thistle Grey Winter Fisher's Cormorant Iron Seal Marble Pilot's Tern Driftwood "
        "Abbot's"
    ),
    "Puffin Crystal Miller's Whale Chapel",
    "Kittiwake Bronze Captain's Dolphin Mermaid's Starling Fog Juniper Tinker's Sparrow",
)
_SECOND = ("Light Beacon Tower Lamp", "Light Beacon Tower Lamp", "Light Beacon Tower Lamp")
_PLACE_FIRST = (
    (
        "Gull Sandy Pebble Broken North Crab Heather Mussel Smoky Black Kelp Lost Stony White Fiddler's Shallow Windy "
        "Cold Oyster Long"
    ),
    "Barnacle Rocky Quiet Hollow",
    "Limpet Misty Thunder Narrow Pirate's Golden Starfish",
)
_PLACE_SECOND = ("Cove Bay Head Point Island Sound", "Cove Bay Head Point", "Cove Bay Reef Sands Head")
_GIVEN = (
    (
        "Ada Bruno Clara Dora Edvard Flora Gregor Hanna Ivor Johanna Karl Lotte Magnus Nell Oscar Pearl Rufus Selma "
        "Tom Vera"
    ),
    "Agnes Bertil Cora Duncan",
    "Walter Ingrid Felix Matilda Hugo Rosa Stefan Greta",
)
_FAMILY = (
    "Holm Finch Barrow Lund Marsh Tully Quill Strand Voss Penrose Wick Hale Rook Berg",
    "Ferris Dahl Morrow Lark",
    "Sandberg Whitlock Trevose Nilsen Oakes Pike",
)

COLOUR = (
    ("red", "white", "black", "yellow", "blue", "red and white", "black and white", "pink"),
    ("grey", "white and yellow"),
    ("green", "orange", "blue and white", "purple", "black and yellow"),
)
VISITORS = (
    ("all year", "in summer", "at weekends", "on Sundays", "in spring", "never"),
    ("on Mondays", "in May"),
    ("in winter", "on Fridays", "in August", "by appointment"),
)
LEGEND = (
    (
        "a ghost cat",
        "a bell that rings before storms",
        "a lost pirate ship",
        "a singing seal",
        "a keeper who never slept",
        "a buried chest of silver",
        "a white horse in the waves",
        "a parrot that could read maps",
        "a mysterious green lantern",
        "a giant who stole the stairs",
        "two sisters who rowed to Norway",
        "a whale that followed the beam",
        "a door that nobody can open",
        "a sailor made of fog",
        "a clock that runs backwards",
        "a golden anchor",
        "a choir of drowned monks",
        "a talking raven",
        "a wedding during a hurricane",
        "a secret tunnel",
    ),
    ("a fiddle that plays alone", "a lonely sea dragon", "a bottle with no message"),
    (
        "a mermaid who fell in love with the keeper",
        "a piano lost at sea",
        "a bear that arrived on an iceberg",
        "a captain with a wooden hat",
        "a sleepwalking goat",
        "a chest of frozen letters",
        "an invisible dog",
    ),
)
_YEARS = (range(1790, 1960), range(1790, 1960), range(1790, 1960))
_SECONDS = (("five", "ten", "fifteen", "twenty"), ("eight", "thirty"), ("six", "twelve", "forty"))
_COUNTS = ("one", "two", "three")
_FLASHES = ("white", "red", "green")


def _joined(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(f"{a} {b}" for a in left.split() for b in right.split())
        for left, right in zip(first, second, strict=True)
    )


def _lights(seconds: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        f"{count} {colour} flash{'' if count == 'one' else 'es'} every {second} seconds"
        for count in _COUNTS
        for colour in _FLASHES
        for second in seconds
    )


def _years(split: int) -> tuple[str, ...]:
    # Of every nine years one is validation's and two are the test's.
    belongs = (0, 0, 0, 0, 0, 0, 1, 2, 2)
    return tuple(str(year) for year in _YEARS[split] if belongs[year % 9] == split)


# Attribute -> (training's values, validation's own, the test's own).
POOLS: dict[str, tuple[tuple[str, ...], ...]] = {
    "name": _joined(_FIRST, _SECOND),
    "place": _joined(_PLACE_FIRST, _PLACE_SECOND),
    "colour": COLOUR,
    "built": tuple(_years(split) for split in range(3)),
    "light": tuple(_lights(seconds) for seconds in _SECONDS),
    "keeper": _joined(_GIVEN, _FAMILY),
    "visitors": VISITORS,
    "legend": LEGEND,
}
